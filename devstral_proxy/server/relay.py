"""Pass-through endpoints: what vLLM serves beside chat, as it comes, by an allow-list (see `app.routes`)."""

from __future__ import annotations

import asyncio
import time
from functools import partial
from typing import Any

import orjson
from starlette.types import Receive, Scope, Send

from devstral_proxy.dialects.chat import error_events
from devstral_proxy.errors import ProxyError, UpstreamError, UpstreamProtocolError, UpstreamRefused
from devstral_proxy.mistral import refusals
from devstral_proxy.server.body import parse_object, read_body
from devstral_proxy.server.chat import admitted, served_name, with_room
from devstral_proxy.server.exchange import Exchange, count_of, of, told
from devstral_proxy.server.feed import DRAIN, Feed
from devstral_proxy.server.reader import EventSink, Limits, Reader, raw
from devstral_proxy.server.services import Services
from devstral_proxy.server.shape import check_images, check_shape
from devstral_proxy.server.watch import Watch
from devstral_proxy.upstream import sse
from devstral_proxy.upstream.affinity import affinity_of
from devstral_proxy.upstream.attempts import Attempt
from devstral_proxy.upstream.attempts import send as send_upstream
from devstral_proxy.upstream.catalog import entry_of, listing
from devstral_proxy.upstream.fleet import no_model
from devstral_proxy.upstream.head import Head


class Relay:
    """An ASGI application that passes a POST on. The path upstream is this one, never the client's."""

    def __init__(self, services: Services, path: str) -> None:
        self._services = services
        self._path = path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        services, settings, exchange = self._services, self._services.settings, of(scope)
        exchange.dialect = "relay"
        body = await read_body(scope, receive, settings.body_limit)
        request = parse_object(body)
        check_shape(request, settings)
        if services.images is not None:
            check_images(request.get("messages"), services.images)
        model = request.get("model")
        exchange.model = model if isinstance(model, str) else ""
        route = await admitted(services, exchange)
        affinity = affinity_of(request, exchange.key) if services.fleet.models else b""
        limits = Limits(settings.request_timeout, exchange.task.get_loop())
        sink: EventSink | None = None
        if request.get("stream") is True:
            exchange.stream = True
            sink = EventSink(exchange.write, settings.keepalive, limits.loop)
            limits.first_byte, limits.idle = settings.first_byte_timeout, settings.idle_timeout
        with Watch(scope, receive) as watch:
            watch.end_by(limits.total + 5)
            exchange.served = served_name(services, route, exchange.model)
            try:
                once = partial(self._once, body, request, limits, sink, exchange, watch)
                work = send_upstream(services.fleet, route, affinity, once, deadline=limits.ends_at)
                await with_room(services, exchange, route, work)
            except (Exception, asyncio.CancelledError) as raised:
                error = exchange.block.told(raised)
                try:
                    if sink is None or not sink.started or not isinstance(error, Exception):
                        if error is raised:
                            raise
                        raise error from None
                    await _break_off(exchange, watch, sink, told(error, exchange))
                finally:
                    del error  # it refers to this frame

    async def _once(
        self,
        body: bytes,
        request: dict[str, Any],
        limits: Limits,
        sink: EventSink | None,
        exchange: Exchange,
        watch: Watch,
        attempt: Attempt,
    ) -> None:
        services = self._services
        exchange.upstream = attempt.target.name
        exchange.served = attempt.model or exchange.served
        exchange.attempts += 1
        changes: dict[str, Any] = {}
        if attempt.model and attempt.model != exchange.model:
            changes["model"] = attempt.model
        options = request.get("stream_options")
        wanted = isinstance(options, dict) and options.get("include_usage") is True
        if sink is not None and not wanted and self._path == "/v1/completions":
            changes["stream_options"] = {**(options if isinstance(options, dict) else {}), "include_usage": True}
        if changes:
            body = orjson.dumps({**request, **changes})
        extra = services.traces.upstream_headers(exchange)
        try:
            with Feed(attempt.target.client, "POST", self._path, body, limits.request, extra) as feed:
                reader = Reader(feed, limits, sink)
                head = await reader.head()
                attempt.answered(head.status, head.retry_after)
                if head.status != 200:
                    raise await _refusal(services, head, reader)
                if sink is not None and head.is_stream:
                    await self._stream(attempt, reader, sink, watch, exchange, "stream_options" in changes)
                    if not feed.ended:
                        await feed.drain(DRAIN)
                    return
                whole = await reader.whole(services.settings.answer_limit)
                _account(exchange, _checked(head, whole))
                if sink is not None and sink.started:
                    raise UpstreamProtocolError("vLLM did not answer with a stream")
                attempt.committed = True
                watch.over()
                await exchange.reply(200, whole, [(b"content-type", _content_type(head))])
        except UpstreamError as error:
            if services.metrics is not None:
                services.metrics.upstream_failed(attempt.target.name, error.code or error.type)
            raise

    async def _stream(
        self, attempt: Attempt, reader: Reader, sink: EventSink, watch: Watch, exchange: Exchange, hide: bool
    ) -> None:
        """Events as they are, but only whole ones, and `[DONE]` or an error at the end. `hide`: the chunk with the
        usage alone, which was asked for on the proxy's own account (F74)."""
        parser = sse.Parser(self._services.settings.max_event_bytes)
        while chunks := await reader.next():
            events = [event for chunk in chunks for event in parser.feed(chunk)]
            if not events:
                continue
            attempt.committed = True
            exchange.first_token = exchange.first_token or time.perf_counter()
            exchange.estimated += len(events)
            for event in [event for event in events if _tells_usage(event.data)]:
                chunk = _object(event.data)
                _account(exchange, chunk)
                if hide and isinstance(chunk, dict) and not chunk.get("choices"):
                    events.remove(event)
            if not events:
                continue
            if any(event.data == b"[DONE]" for event in events):
                watch.over()
                await sink.write(raw(events), more=False)
                return
            await sink.write(raw(events))
        raise UpstreamProtocolError("connection lost: vLLM's stream ended without [DONE]")


async def _break_off(exchange: Exchange, watch: Watch, sink: EventSink, error: ProxyError) -> None:
    """End a stream that has begun with an error event."""
    exchange.broken(error)
    watch.over()
    await sink.write(raw(error_events(error)), more=False)


class Models:
    """GET /v1/models, and of one model, which vLLM does not serve: the entry of the list with this id."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        services, exchange = self._services, of(scope)
        exchange.dialect = "relay"
        await read_body(scope, receive, services.settings.body_limit)
        model: str | None = scope.get("path_params", {}).get("model")
        if model is not None:
            exchange.path = "/v1/models/{model}"
            exchange.model = model
        with Watch(scope, receive) as watch:
            if services.fleet.single is not None and services.fleet.aliases is None:
                kind, body = await self._listing(exchange)
            else:
                kind, body = b"application/json", orjson.dumps(await listing(services.fleet))
            watch.over()
            if model is None:
                await exchange.reply(200, body, [(b"content-type", kind)])
            else:
                await exchange.reply_json(200, _entry(body, model))

    async def _listing(self, exchange: Exchange) -> tuple[bytes, bytes]:
        """VLLM_BASE's own list, as it comes."""
        services = self._services
        route = services.fleet.resolve("")
        limits = Limits(services.settings.request_timeout, exchange.task.get_loop())

        async def once(attempt: Attempt) -> tuple[bytes, bytes]:
            exchange.attempts += 1
            exchange.upstream = attempt.target.name
            with Feed(attempt.target.client, "GET", "/v1/models", None, limits.request) as feed:
                reader = Reader(feed, limits)
                head = await reader.head()
                attempt.answered(head.status, head.retry_after)
                if head.status != 200:
                    raise await _refusal(services, head, reader)
                whole = await reader.whole(services.settings.answer_limit)
                _checked(head, whole)
                return _content_type(head), whole

        return await send_upstream(services.fleet, route, b"", once, deadline=limits.ends_at)


async def _refusal(services: Services, head: Head, reader: Reader) -> UpstreamRefused:
    """vLLM's error answer as ours: status and text kept."""
    refusal = refusals.translated(head.status, await reader.whole(services.settings.answer_limit), None)
    if head.retry_after is not None:
        refusal.headers.append(("retry-after", head.retry_after))
    return refusal


def _tells_usage(data: bytes) -> bool:
    return b'"usage"' in data and b'"usage":null' not in data


def _checked(head: Head, body: bytes) -> Any:
    """The JSON of a whole answer; None for what says that it is something else, as embeddings in bytes. Raises
    UpstreamProtocolError for a page of a gateway, and for half a JSON."""
    kind = head.content_type.partition(";")[0].strip().lower()
    if kind != "application/json" and (head.is_stream or not kind.startswith("text/")):
        return None
    try:
        if kind == "application/json":
            return orjson.loads(body)
    except orjson.JSONDecodeError:
        pass
    raise UpstreamProtocolError(f"vLLM's answer is no JSON ({kind[:80]}); check VLLM_BASE")


def _object(data: bytes) -> Any:
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        return None


def _account(exchange: Exchange, answer: Any) -> None:
    """The tokens that an answer tells of, for limits, log and metrics."""
    usage = answer.get("usage") if isinstance(answer, dict) else None
    if isinstance(usage, dict):
        exchange.input_tokens = count_of(usage.get("prompt_tokens"))
        exchange.output_tokens = count_of(usage.get("completion_tokens"))


def _content_type(head: Head) -> bytes:
    return head.content_type.encode("latin-1", "ignore") or b"application/json"


def _entry(body: bytes, model: str) -> Any:
    try:
        found = entry_of(orjson.loads(body), model)
    except (orjson.JSONDecodeError, KeyError, TypeError):
        raise UpstreamProtocolError("vLLM's /v1/models is no list of models; check VLLM_BASE") from None
    if found is None:
        raise no_model(model)
    return found
