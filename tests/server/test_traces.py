"""Spans as OpenTelemetry's SDK sees them, the W3C context on its way, and both without the SDK."""

from __future__ import annotations

import asyncio
import http.server
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from devstral_proxy.config import ConfigError
from devstral_proxy.server.exchange import Exchange
from devstral_proxy.server.trace_context import trace_headers
from devstral_proxy.server.traces import CLIENT_ATTRIBUTES, SERVER_ATTRIBUTES, Forwarding, Traces, tracing
from tests.server.exchanges import ended
from tests.server.upstreams import settings

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = f"00-{TRACE}-00f067aa0ba902b7-01".encode()
STATE = b"rojo=00f067aa0ba902b7,congo=t61rcWkgMzE"


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    for name in [name for name in os.environ if name.startswith("OTEL_")]:
        monkeypatch.delenv(name)


# ---------------------------------------------------------------- the context

GOOD = [PARENT, PARENT[:-2] + b"00", b"01" + PARENT[2:], b"fe" + PARENT[2:]]
BAD = [
    b"",
    PARENT.upper(),
    PARENT + b"-more",
    PARENT + b"\n",
    b" " + PARENT,
    b"ff" + PARENT[2:],
    PARENT[:-1],
    PARENT.replace(TRACE.encode(), b"0" * 32),
    PARENT.replace(b"00f067aa0ba902b7", b"0" * 16),
    PARENT.replace(b"-", b"_"),
]


@pytest.mark.parametrize("value", GOOD)
def test_a_valid_parent_is_passed_on(value: bytes) -> None:
    assert trace_headers([(b"accept", b"x"), (b"traceparent", value)]) == [(b"traceparent", value)]


@pytest.mark.parametrize("value", BAD)
def test_another_is_not(value: bytes) -> None:
    assert trace_headers([(b"traceparent", value), (b"tracestate", STATE)]) == []


def test_two_parents_are_none() -> None:
    assert trace_headers([(b"traceparent", PARENT), (b"traceparent", PARENT)]) == []


STATES: list[tuple[list[bytes], bytes]] = [
    ([STATE], STATE),
    ([b"a=1", b"b=2"], b"a=1,b=2"),
    ([b" a=1 ,\t, b=2"], b"a=1,b=2"),
    ([b"tenant@vendor=x y"], b"tenant@vendor=x y"),
    ([], b""),
    ([b""], b""),
    ([b"a=1,a=2"], b""),
    ([b"A=1"], b""),
    ([b"a"], b""),
    ([b"a="], b""),
    ([b"a=1\r\nx-evil: 1"], b""),
    ([b"a=\xff"], b""),
    ([",".join(f"k{n}=v" for n in range(33)).encode()], b""),
    ([b"a=" + b"v" * 600], b""),
]


@pytest.mark.parametrize(("values", "wanted"), STATES)
def test_the_state(values: list[bytes], wanted: bytes) -> None:
    headers = [(b"traceparent", PARENT), *((b"tracestate", value) for value in values)]
    assert trace_headers(headers) == [(b"traceparent", PARENT), *([(b"tracestate", wanted)] if wanted else [])]


@given(st.lists(st.tuples(st.sampled_from([b"traceparent", b"tracestate"]), st.binary(max_size=80) | st.just(PARENT))))
def test_nothing_that_could_end_a_header_is_passed_on(headers: list[tuple[bytes, bytes]]) -> None:
    for _, value in trace_headers(headers):
        assert all(32 <= code < 127 for code in value)


def test_without_the_sdk_the_context_goes_on_as_it_is() -> None:
    forwarding = tracing(settings())
    assert type(forwarding) is Forwarding
    exchange = ended((b"traceparent", PARENT), (b"tracestate", STATE), (b"baggage", b"x=1"))
    forwarding.begin(exchange)
    assert forwarding.upstream_headers(exchange) == [(b"traceparent", PARENT), (b"tracestate", STATE)]
    forwarding.finished(exchange)


# ---------------------------------------------------------------- spans


def traced(exchange: Exchange) -> tuple[list[ReadableSpan], dict[bytes, bytes]]:
    """The spans of a request, and the headers that went to upstream."""
    exporter = InMemorySpanExporter()
    traces = Traces(exporter)
    traces.begin(exchange)
    headers = traces.upstream_headers(exchange)
    assert traces.upstream_headers(exchange) == headers  # sent again: the same operation
    traces.finished(exchange)
    traces.finished(exchange)  # says nothing twice
    asyncio.run(traces.aclose())
    return list(exporter.get_finished_spans()), dict(headers)


def context(span: ReadableSpan) -> Any:
    assert span.context is not None
    return span.context


def test_a_request_is_two_spans() -> None:
    exchange = ended(
        (b"traceparent", PARENT),
        (b"tracestate", STATE),
        key="alice",
        upstream="gpu-1",
        stream=True,
        model="Devstral\n" + "x" * 500,
        input_tokens=7,
        output_tokens=5,
        cached_tokens=3,
        finish="tool_calls",
        attempts=2,
        queued=0.5,
        first_token=0.25,
        rewrites=[("tool_call_id", "a"), ("tool_call_id", "b")],
        repairs=[("usage_hidden", "")],
    )
    (client, server), headers = traced(exchange)
    assert (server.name, server.kind) == ("POST /v1/chat/completions", SpanKind.SERVER)
    assert (client.name, client.kind) == ("chat devstral", SpanKind.CLIENT)
    assert server.parent is not None
    assert f"{server.parent.trace_id:032x}-{server.parent.span_id:016x}" == f"{TRACE}-00f067aa0ba902b7"
    assert client.parent is not None
    assert client.parent.span_id == context(server).span_id
    assert headers == {
        b"traceparent": f"00-{TRACE}-{context(client).span_id:016x}-01".encode(),
        b"tracestate": STATE,
    }
    assert dict(server.attributes or {}) == {
        "http.request.method": "POST",
        "http.route": "/v1/chat/completions",
        "http.response.status_code": 200,
        "devstral_proxy.request_id": "request-1",
        "devstral_proxy.api_key": "alice",
        "devstral_proxy.queue_time": 0.5,
    }
    assert dict(client.attributes or {}) == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "vllm",
        "gen_ai.request.model": ("Devstral\n" + "x" * 500)[:128],
        "gen_ai.request.stream": True,
        "gen_ai.response.model": "devstral",
        "gen_ai.response.finish_reasons": ("tool_calls",),
        "gen_ai.response.time_to_first_chunk": pytest.approx(0.25),
        "gen_ai.usage.input_tokens": 7,
        "gen_ai.usage.output_tokens": 5,
        "gen_ai.usage.cache_read.input_tokens": 3,
        "devstral_proxy.upstream": "gpu-1",
        "devstral_proxy.attempts": 2,
        "devstral_proxy.rewrites": ("tool_call_id",),
        "devstral_proxy.repairs": ("usage_hidden",),
    }
    assert server.resource.attributes["service.name"] == "devstral-proxy"
    assert server.status.status_code is client.status.status_code is StatusCode.UNSET


@pytest.mark.parametrize(
    ("changes", "error", "server_status"),
    [
        ({"status": 502, "error": "upstream_unavailable"}, "upstream_unavailable", StatusCode.ERROR),
        ({"status": 400, "error": "bad_request"}, "bad_request", StatusCode.UNSET),
        ({"status": 200, "error": "upstream_timeout"}, "upstream_timeout", StatusCode.ERROR),
        ({"status": 499, "model": "\ud800"}, "client_gone", StatusCode.UNSET),
    ],
)
def test_failures(changes: dict[str, Any], error: str, server_status: StatusCode) -> None:
    (client, server), _ = traced(ended(**changes))
    for span, known in ((client, CLIENT_ATTRIBUTES), (server, SERVER_ATTRIBUTES)):
        assert (span.attributes or {})["error.type"] == error
        assert set(span.attributes or {}) <= set(known)
    assert client.status.status_code is StatusCode.ERROR
    assert server.status.status_code is server_status


def test_what_is_no_operation_is_one_span() -> None:
    (server,), headers = traced(ended(path="/tokenize"))
    assert server.name == "POST /tokenize"
    assert server.parent is None
    assert f"{context(server).span_id:016x}".encode() in headers[b"traceparent"]


def test_a_request_that_never_got_upstream() -> None:
    exporter = InMemorySpanExporter()
    traces = Traces(exporter)
    exchange = ended(path="", status=404, error="not_found")
    traces.begin(exchange)
    traces.finished(exchange)
    (server,) = exporter.get_finished_spans()
    assert server.name == "POST"


def test_what_is_not_sampled_is_not_sent_and_passed_on_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "always_off")
    spans, headers = traced(ended((b"traceparent", PARENT)))
    assert spans == []
    assert headers[b"traceparent"].startswith(f"00-{TRACE}-".encode())
    assert headers[b"traceparent"].endswith(b"-00")


def test_the_sdk_can_be_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    spans, headers = traced(ended((b"traceparent", PARENT)))
    assert spans == []
    assert headers[b"traceparent"] == PARENT


def test_the_service_s_name_can_be_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_SERVICE_NAME", "gateway")
    spans, _ = traced(ended())
    assert spans[0].resource.attributes["service.name"] == "gateway"


# ---------------------------------------------------------------- over the wire


class Collector(http.server.BaseHTTPRequestHandler):
    received: list[tuple[str, bytes]]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.received.append((self.path, body))
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def collector() -> Iterator[tuple[str, list[tuple[str, bytes]]]]:
    received: list[tuple[str, bytes]] = []
    handler = type("Handler", (Collector,), {"received": received})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", received
        server.shutdown()
        thread.join()


def test_spans_reach_a_collector(
    collector: tuple[str, list[tuple[str, bytes]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    address, received = collector
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", address)
    traces = tracing(settings(otel_traces=True))
    exchange = ended()
    traces.begin(exchange)
    traces.upstream_headers(exchange)
    traces.finished(exchange)
    asyncio.run(traces.aclose())
    ((path, body),) = received
    assert path == "/v1/traces"
    request = ExportTraceServiceRequest.FromString(body)
    (resource,) = request.resource_spans
    assert {span.name for span in resource.scope_spans[0].spans} == {"POST /v1/chat/completions", "chat devstral"}


def test_a_collector_that_is_not_there_keeps_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("devstral_proxy.server.traces.CLOSE_TIMEOUT", 0.05)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
    before = set(threading.enumerate())
    traces = tracing(settings(otel_traces=True))
    exchange = ended()
    traces.begin(exchange)
    traces.finished(exchange)
    asyncio.run(traces.aclose())
    for thread in set(threading.enumerate()) - before:  # it draws random numbers, which other tests do not expect
        thread.join(10)


def test_without_the_extra_the_start_fails_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(ConfigError, match=r"^OTEL_TRACES: .*\[otel\]"):
        tracing(settings(otel_traces=True))


def test_a_wrong_variable_is_a_wrong_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "0")
    with pytest.raises(ConfigError, match=r"^OTEL_TRACES: "):
        tracing(settings(otel_traces=True))
