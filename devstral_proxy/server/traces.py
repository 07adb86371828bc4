"""Traces: the client's W3C context goes on to upstream, and with OTEL_TRACES every request becomes two spans.

SERVER `POST /v1/chat/completions` is the request as the client sees it; CLIENT `chat devstral-small-2` is what upstream
has to do with it, from the first request sent there to the end, with the `gen_ai.*` attributes of OpenTelemetry's
semantic conventions. No attribute holds conversation content.

OpenTelemetry's SDK is imported when it is asked for. Where spans go, how many, and under what service's name, is told
by the standard variables (OTEL_EXPORTER_OTLP_ENDPOINT, OTEL_TRACES_SAMPLER, OTEL_SERVICE_NAME, OTEL_BSP_…).
"""

from __future__ import annotations

import asyncio
import threading
import time
from typing import TYPE_CHECKING, Any

from devstral_proxy import __version__
from devstral_proxy.config import ConfigError, Settings
from devstral_proxy.server.access import MODEL_LENGTH
from devstral_proxy.server.metrics import OPERATIONS, PROVIDER, error_type
from devstral_proxy.server.trace_context import Headers, trace_headers

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.trace import Span

    from devstral_proxy.server.exchange import Exchange

_KEY = "devstral_proxy.spans"
CLOSE_TIMEOUT = 2.0
"""Seconds that the last spans have to be sent in when the process ends: well below the MARGIN that it is given
beyond its deadlines."""

SERVER_ATTRIBUTES: dict[str, str] = {
    "http.request.method": "the method",
    "http.route": "the route's template, when there is such a route",
    "http.response.status_code": "the status sent",
    "error.type": "code of the error that the client got, or `client_gone`",
    "devstral_proxy.request_id": "the id in the log and in the header `x-request-id`",
    "devstral_proxy.api_key": "name of the API key",
    "devstral_proxy.queue_time": "seconds of waiting for admission, when it had to wait",
}
CLIENT_ATTRIBUTES: dict[str, str] = {
    "gen_ai.operation.name": "`chat`, `text_completion` or `embeddings`",
    "gen_ai.provider.name": "`vllm`",
    "gen_ai.request.model": "the model as the client asked, at most 128 characters",
    "gen_ai.request.stream": "the client asked for a stream",
    "gen_ai.response.model": "the model that upstream was asked for, when it answered",
    "gen_ai.response.finish_reasons": "the finish reason of the first choice",
    "gen_ai.response.time_to_first_chunk": "seconds from the request's head to the first content",
    "gen_ai.usage.input_tokens": "tokens of the prompt",
    "gen_ai.usage.output_tokens": "tokens of the answer",
    "gen_ai.usage.cache_read.input_tokens": "tokens of the prompt from upstream's prefix cache",
    "error.type": "as on the other span",
    "devstral_proxy.upstream": "name of the server that answered",
    "devstral_proxy.attempts": "requests sent upstream",
    "devstral_proxy.rewrites": "names of the changes of the request",
    "devstral_proxy.repairs": "names of the changes of the answer",
}


class Forwarding:
    """Without OpenTelemetry: the client's context goes to upstream as it is."""

    def begin(self, exchange: Exchange) -> None:
        """A request has come."""

    def upstream_headers(self, exchange: Exchange) -> Headers:
        """The headers that a request to upstream gets."""
        return trace_headers(exchange.scope["headers"]) if b"traceparent" in exchange.fields else []

    def finished(self, exchange: Exchange) -> None:
        """A request has ended."""

    async def aclose(self) -> None:
        """The process ends."""


class _Spans:
    __slots__ = ("client", "server")

    def __init__(self, server: Span) -> None:
        self.server = server
        self.client: Span | None = None


class Traces(Forwarding):
    """With OpenTelemetry: spans, whose context goes to upstream."""

    def __init__(self, exporter: SpanExporter | None = None) -> None:
        """`exporter` replaces OTLP over HTTP, in tests. Raises ImportError without the extra [otel]."""
        from opentelemetry import trace
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        resource = Resource.create({"service.version": __version__})
        if str(resource.attributes.get("service.name", "")).startswith("unknown_service"):
            resource = resource.merge(Resource({"service.name": "devstral-proxy"}))
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        if exporter is not None:
            self._provider.add_span_processor(SimpleSpanProcessor(exporter))
        else:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

            self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        self._tracer = self._provider.get_tracer("devstral_proxy", __version__)
        self._propagator = TraceContextTextMapPropagator()
        self._trace = trace

    def begin(self, exchange: Exchange) -> None:
        """Start the SERVER span, as a child of the client's if that says so."""
        carrier = {name.decode(): value.decode() for name, value in trace_headers(exchange.scope["headers"])}
        parent = self._propagator.extract(carrier) if carrier else None
        attributes = {"http.request.method": exchange.method, "devstral_proxy.request_id": exchange.id}
        exchange.scope[_KEY] = _Spans(
            self._tracer.start_span(exchange.method, parent, self._trace.SpanKind.SERVER, attributes)
        )

    def upstream_headers(self, exchange: Exchange) -> Headers:
        """Start the CLIENT span if there is none yet: what is sent again belongs to the same operation."""
        spans: _Spans | None = exchange.scope.get(_KEY)
        if spans is None:
            return super().upstream_headers(exchange)
        operation = OPERATIONS.get(exchange.path)
        if spans.client is None and operation is not None:
            attributes = {"gen_ai.operation.name": operation, "gen_ai.provider.name": PROVIDER}
            parent = self._trace.set_span_in_context(spans.server)
            spans.client = self._tracer.start_span(operation, parent, self._trace.SpanKind.CLIENT, attributes)
        carrier: dict[str, str] = {}
        self._propagator.inject(carrier, self._trace.set_span_in_context(spans.client or spans.server))
        return [(name.encode(), value.encode()) for name, value in carrier.items()] or super().upstream_headers(
            exchange
        )

    def finished(self, exchange: Exchange) -> None:
        """End the spans with what is known at the end."""
        spans: _Spans | None = exchange.scope.pop(_KEY, None)
        if spans is None:
            return
        error = error_type(exchange)
        end = time.time_ns()
        if (client := spans.client) is not None:
            if client.is_recording():
                operation = OPERATIONS[exchange.path]
                client.update_name(f"{operation} {exchange.served}" if exchange.served else operation)
                client.set_attributes(_client_attributes(exchange, error))
                self._mark(client, error)
            client.end(end)
        server = spans.server
        if server.is_recording():
            if exchange.path:
                server.update_name(f"{exchange.method} {exchange.path}")
            server.set_attributes(_server_attributes(exchange, error))
            # Of a server's span only a failure of the server's is an error.
            self._mark(server, error if exchange.status >= 500 or exchange.status < 400 else "")
        server.end(end)

    def _mark(self, span: Span, error: str) -> None:
        if error:
            span.set_status(self._trace.StatusCode.ERROR)

    async def aclose(self) -> None:
        """Send the last spans, and wait no longer than CLOSE_TIMEOUT for it."""
        thread = threading.Thread(target=self._provider.shutdown, daemon=True)
        thread.start()
        await asyncio.to_thread(thread.join, CLOSE_TIMEOUT)


def tracing(settings: Settings) -> Forwarding:
    """What OTEL_TRACES asks for. Raises ConfigError when that is not installed, or wrongly set."""
    if not settings.otel_traces:
        return Forwarding()
    try:
        return Traces()
    except ImportError:
        raise ConfigError("OTEL_TRACES: needs OpenTelemetry: pip install 'devstral-proxy[otel]'") from None
    except ValueError:
        raise ConfigError("OTEL_TRACES: one of the OTEL_* variables has a wrong value") from None


def _server_attributes(exchange: Exchange, error: str) -> dict[str, Any]:
    return _known(
        {
            "http.route": exchange.path,
            "http.response.status_code": exchange.status,
            "error.type": error,
            "devstral_proxy.api_key": exchange.key,
            "devstral_proxy.queue_time": exchange.queued,
        }
    )


def _client_attributes(exchange: Exchange, error: str) -> dict[str, Any]:
    first = exchange.first_token
    return _known(
        {
            "gen_ai.request.model": exchange.model[:MODEL_LENGTH].encode("utf-8", "replace").decode(),
            "gen_ai.request.stream": exchange.stream,
            "gen_ai.response.model": exchange.served if exchange.status == 200 else "",
            "gen_ai.response.finish_reasons": [exchange.finish] if exchange.finish else None,
            "gen_ai.response.time_to_first_chunk": first - exchange.started if first else None,
            "gen_ai.usage.input_tokens": exchange.input_tokens,
            "gen_ai.usage.output_tokens": exchange.output_tokens,
            "gen_ai.usage.cache_read.input_tokens": exchange.cached_tokens,
            "error.type": error,
            "devstral_proxy.upstream": exchange.upstream,
            "devstral_proxy.attempts": exchange.attempts,
            "devstral_proxy.rewrites": list(dict.fromkeys(name for name, _ in exchange.rewrites)),
            "devstral_proxy.repairs": list(dict.fromkeys(name for name, _ in exchange.repairs)),
        }
    )


def _known(attributes: dict[str, Any]) -> dict[str, Any]:
    """Those that say something."""
    return {name: value for name, value in attributes.items() if value or value is False}
