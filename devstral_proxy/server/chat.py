"""POST /v1/chat/completions: one exchange, from the client's request to its last byte."""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from typing import Any

import orjson
from starlette.types import Receive, Scope, Send

from devstral_proxy.dialects.chat import ChatAnswer, ask_again, error_events
from devstral_proxy.errors import BadRequest, ProxyError, UpstreamRefused, UpstreamUnavailable
from devstral_proxy.mistral.json_text import MAX_DEPTH, deep_path
from devstral_proxy.mistral.profiles import ModelProfile
from devstral_proxy.mistral.token_watch import AnswerLost
from devstral_proxy.mistral.translator import Translator
from devstral_proxy.server.body import parse_object, read_body
from devstral_proxy.server.exchange import ClientGone, Exchange, of, send_json, told
from devstral_proxy.server.feed import Feed
from devstral_proxy.server.reader import EventSink, Limits, Reader, raw
from devstral_proxy.server.services import Services
from devstral_proxy.server.watch import Watch
from devstral_proxy.upstream.capabilities import for_version
from devstral_proxy.upstream.client import Answer
from devstral_proxy.upstream.sse import Event

_log = logging.getLogger("devstral_proxy.server")

PATH = "/v1/chat/completions"
DRAIN = 0.5
"""Seconds that vLLM has after its `[DONE]` to end the body, so that the connection can be used again."""
GRACE = 5.0
"""Seconds after REQUEST_TIMEOUT in which a client that reads slowly may still take the end of its answer."""


class ChatCompletions:
    """The endpoint, as an ASGI application."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange = of(scope)
        body = await read_body(scope, receive, self._services.settings.body_limit)
        request = parse_object(body)
        async with Watch(receive) as watch:
            translator, profile = await self._translator(request, exchange)
            upstream = translator.request(request)
            if translator.rewrites:
                exchange.header(b"x-devstral-rewrites", translator.rewrites.header())
            if profile.strict:
                await _check(upstream, profile)
            turn = _Turn(self._services, exchange, translator, send, watch, profile.timeout)
            try:
                async with asyncio.timeout_at(turn.limits.total + GRACE) as limit:
                    await turn.run(upstream)
            except TimeoutError:
                if not limit.expired():
                    raise
                exchange.note = "client reads too slowly"
                raise ClientGone from None
            except UpstreamUnavailable:
                self._services.upstream.forget()
                raise
            finally:
                if _log.isEnabledFor(logging.DEBUG):
                    for name, where in translator.rewrites.entries:
                        _log.debug("request %s: %s at %s", exchange.id, name, where)

    async def _translator(self, request: dict[str, Any], exchange: Exchange) -> tuple[Translator, ModelProfile]:
        """The translator for the model that is asked for, as far as the request names one."""
        services = self._services
        model = request.get("model")
        exchange.model = model if isinstance(model, str) else ""
        facts = await services.upstream.facts()
        known = facts.models.get(exchange.model)
        profile = services.profiles.find(exchange.model, known.root if known else None)
        exchange.header(b"x-devstral-profile", profile.name)
        length = known.max_model_len if known else None
        translator = Translator(profile, capabilities=for_version(facts.version), max_model_len=length)
        exchange.rewrites = translator.rewrites.entries
        return translator, profile


def _dumped(upstream: dict[str, Any]) -> bytes:
    """The request's JSON. Raises BadRequest for what orjson reads and cannot write: very deep nesting."""
    try:
        return orjson.dumps(upstream)
    except TypeError:
        path = deep_path(upstream)
        if path is None:
            raise
        raise BadRequest(f"The request is nested over {MAX_DEPTH} levels deep.", param=path) from None


async def _check(upstream: dict[str, Any], profile: ModelProfile) -> None:
    from devstral_proxy.validation import check  # mistral-common is loaded only for those who ask for it

    await asyncio.to_thread(check, upstream, profile.tokenizer)


class _Turn:
    """The way of one translated request to vLLM and of the answer back."""

    def __init__(
        self,
        services: Services,
        exchange: Exchange,
        translator: Translator,
        send: Send,
        watch: Watch,
        timeout: float | None,
    ) -> None:
        settings = services.settings
        self._services = services
        self._settings = settings
        self._exchange = exchange
        self._translator = translator
        self._send = send
        self._watch = watch
        self._answer = ChatAnswer(translator, settings.max_event_bytes)
        self._sink = EventSink(send, settings.keepalive, exchange.send_body) if translator.context.stream else None
        self.limits = Limits(timeout or settings.request_timeout)

    async def run(self, upstream: dict[str, Any]) -> None:
        """Send it, and answer the client. Raises ProxyError as long as no byte of an answer has gone out."""
        try:
            await self._attempts(upstream)
        except Exception as error:
            if self._sink is None or not self._sink.started:
                raise
            await self._break_off(self._sink, told(error, self._exchange))

    async def _attempts(self, upstream: dict[str, Any]) -> None:
        """Once, and once more for each way in which the failure can be mended (see `dialects.chat.ask_again`)."""
        tried: set[type[ProxyError]] = set()
        while True:
            self._answer = ChatAnswer(self._translator, self._settings.max_event_bytes)
            try:
                await self._attempt(upstream)
                return
            except (UpstreamRefused, AnswerLost) as error:
                kind = type(error)
                again = ask_again(self._translator, upstream, error) if kind not in tried else None
                if again is None:
                    raise
                tried.add(kind)
                upstream = again

    async def _attempt(self, upstream: dict[str, Any]) -> None:
        """One request to vLLM, and the answer to the client."""
        settings = self._settings
        streamed = bool(upstream.get("stream"))
        self.limits.first_byte = settings.first_byte_timeout if streamed else None
        self.limits.idle = settings.idle_timeout if streamed else None
        open_ = partial(self._services.client.open, "POST", PATH, _dumped(upstream), first_byte=self.limits.request)
        async with Feed(open_) as feed:
            reader = Reader(feed, self.limits, self._sink)
            head = await reader.head()
            if head.status != 200:
                body = await reader.whole(settings.answer_limit)
                if head.retry_after is not None:
                    self._exchange.header(b"retry-after", head.retry_after)
                raise self._translator.error(head.status, body)
            await self._deliver(reader, head)
            await feed.drain(DRAIN)

    async def _deliver(self, reader: Reader, head: Answer) -> None:
        answer = self._answer
        if head.is_stream and self._sink is not None:
            await self._stream(reader, self._sink)
        elif head.is_stream:
            await self._reply(answer.folded(await self._collect(reader)))
        else:
            body = answer.whole(await reader.whole(self._settings.answer_limit), head.content_type)
            if self._sink is None:
                await self._reply(body)
            else:
                self._watch.over()
                await self._write(self._sink, answer.unfolded(body), more=False)

    async def _stream(self, reader: Reader, sink: EventSink) -> None:
        """Events to events: what one wake-up brought is one write."""
        answer = self._answer
        async for chunks in reader.batches():
            answer.committed = sink.started
            events = answer.feed(chunks)
            if answer.done:
                break
            if events:
                await self._write(sink, events)
        else:
            answer.committed = sink.started
            events = answer.eof()
        events += answer.finish()
        self._watch.over()
        await self._write(sink, events, more=False)

    async def _collect(self, reader: Reader) -> list[Event]:
        """The repaired events of the whole stream."""
        answer = self._answer
        events: list[Event] = []
        async for chunks in reader.batches():
            events += answer.feed(chunks)
            if answer.done:
                break
        else:
            events += answer.eof()
        return events + answer.finish()

    async def _reply(self, body: dict[str, Any]) -> None:
        self._watch.over()
        await send_json(self._send, 200, self._answer.body_for_client(body))

    async def _write(self, sink: EventSink, events: list[Event], more: bool = True) -> None:
        await sink.write(raw(self._answer.events_for_client(events)), more)

    async def _break_off(self, sink: EventSink, error: ProxyError) -> None:
        """End a stream that has begun with an error event and `[DONE]`."""
        self._exchange.broken(error)
        if isinstance(error, UpstreamUnavailable):
            self._services.upstream.forget()
        try:
            events = self._answer.finish(error)
        except Exception as defect:
            events = error_events(told(defect, self._exchange))
        self._watch.over()
        await self._write(sink, events, more=False)
