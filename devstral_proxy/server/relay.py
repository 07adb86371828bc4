"""Pass-through endpoints: what vLLM serves beside chat, as it comes, by an allow-list (see `app.routes`)."""

from __future__ import annotations

from functools import partial
from typing import Any

import orjson
from starlette.types import Receive, Scope, Send

from devstral_proxy.dialects.chat import error_events
from devstral_proxy.errors import NotFound, UpstreamProtocolError, UpstreamRefused, UpstreamUnavailable
from devstral_proxy.mistral import refusals
from devstral_proxy.server.body import parse_object, read_body
from devstral_proxy.server.exchange import Exchange, of, send_body, send_json, told
from devstral_proxy.server.feed import Feed
from devstral_proxy.server.reader import EventSink, Limits, Reader, raw
from devstral_proxy.server.services import Services
from devstral_proxy.server.watch import Watch
from devstral_proxy.upstream import sse
from devstral_proxy.upstream.client import Answer


class Relay:
    """An ASGI application that passes one method and path on. The path upstream is this one, never the client's."""

    def __init__(self, services: Services, method: str, path: str) -> None:
        self._services = services
        self._method = method
        self._path = path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        services, settings, exchange = self._services, self._services.settings, of(scope)
        body: bytes | None = await read_body(scope, receive, settings.body_limit)
        sink: EventSink | None = None
        limits = Limits(settings.request_timeout)
        if self._method == "POST":
            request = parse_object(body or b"")
            model = request.get("model")
            exchange.model = model if isinstance(model, str) else ""
            if request.get("stream") is True:
                sink = EventSink(send, settings.keepalive, exchange.send_body)
                limits.first_byte, limits.idle = settings.first_byte_timeout, settings.idle_timeout
        else:
            body = None
        open_ = partial(services.client.open, self._method, self._path, body, first_byte=limits.request)
        async with Watch(receive) as watch, Feed(open_) as feed:
            reader = Reader(feed, limits, sink)
            try:
                await self._pass_on(reader, sink, exchange, send, watch)
            except Exception as error:
                if isinstance(error, UpstreamUnavailable):
                    services.upstream.forget()
                if sink is None or not sink.started:
                    raise
                ours = told(error, exchange)
                exchange.broken(ours)
                watch.over()
                await sink.write(raw(error_events(ours)), more=False)

    async def _pass_on(
        self, reader: Reader, sink: EventSink | None, exchange: Exchange, send: Send, watch: Watch
    ) -> None:
        head = await reader.head()
        if head.status != 200:
            raise await _refusal(self._services, exchange, head, reader)
        if sink is not None and head.is_stream:
            await self._stream(reader, sink, watch)
            return
        whole = await reader.whole(self._services.settings.answer_limit)
        if sink is not None and sink.started:
            raise UpstreamProtocolError("vLLM did not answer with a stream")
        watch.over()
        await send_body(send, 200, whole, [(b"content-type", _content_type(head))])

    async def _stream(self, reader: Reader, sink: EventSink, watch: Watch) -> None:
        """Events as they are, but only whole ones, and `[DONE]` or an error at the end."""
        parser = sse.Parser(self._services.settings.max_event_bytes)
        async for chunks in reader.batches():
            events = [event for chunk in chunks for event in parser.feed(chunk)]
            if any(event.data == b"[DONE]" for event in events):
                watch.over()
                await sink.write(raw(events), more=False)
                return
            if events:
                await sink.write(raw(events))
        raise UpstreamProtocolError("connection lost: vLLM's stream ended without [DONE]")


class OneModel:
    """GET /v1/models/{id}, which vLLM does not serve: the entry of /v1/models with this id."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        services, exchange = self._services, of(scope)
        settings = services.settings
        exchange.model = scope["path_params"]["model"]
        open_ = partial(services.client.open, "GET", "/v1/models", first_byte=settings.request_timeout)
        async with Watch(receive) as watch, Feed(open_) as feed:
            reader = Reader(feed, Limits(settings.request_timeout))
            try:
                head = await reader.head()
                if head.status != 200:
                    raise await _refusal(services, exchange, head, reader)
                found = _entry(await reader.whole(settings.answer_limit), exchange.model)
            except UpstreamUnavailable:
                services.upstream.forget()
                raise
            watch.over()
            await send_json(send, 200, found)


async def _refusal(services: Services, exchange: Exchange, head: Answer, reader: Reader) -> UpstreamRefused:
    """vLLM's error answer as ours: status and text kept."""
    if head.retry_after is not None:
        exchange.header(b"retry-after", head.retry_after)
    return refusals.translated(head.status, await reader.whole(services.settings.answer_limit), None)


def _content_type(head: Answer) -> bytes:
    return head.content_type.encode("latin-1", "ignore") or b"application/json"


def _entry(listing: bytes, model: str) -> Any:
    try:
        entries = {entry["id"]: entry for entry in orjson.loads(listing)["data"]}
    except (orjson.JSONDecodeError, KeyError, TypeError):
        raise UpstreamProtocolError("vLLM's /v1/models is no list of models; check VLLM_BASE") from None
    if model not in entries:
        raise NotFound(f"the model {model[:200]!r} does not exist", param="model", code="model_not_found")
    return entries[model]
