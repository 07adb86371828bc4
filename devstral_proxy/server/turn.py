"""The way of one chat completion request to vLLM, and of the answer back to the client."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any

import orjson

from devstral_proxy.dialects.base import Dialect
from devstral_proxy.dialects.chat import ChatAnswer, ask_again, error_events
from devstral_proxy.errors import BadRequest, ProxyError, UpstreamError, UpstreamRefused
from devstral_proxy.mistral.json_text import MAX_DEPTH, deep_path
from devstral_proxy.mistral.profiles import ModelProfile
from devstral_proxy.mistral.rewrites import REQUEST
from devstral_proxy.mistral.token_watch import AnswerLost
from devstral_proxy.mistral.translator import Translator
from devstral_proxy.server.exchange import Exchange, count_of, told
from devstral_proxy.server.feed import DRAIN, Feed
from devstral_proxy.server.reader import EventSink, Limits, Reader, raw
from devstral_proxy.server.services import Services
from devstral_proxy.server.shape import check_images
from devstral_proxy.server.watch import Watch
from devstral_proxy.upstream.attempts import Attempt, send
from devstral_proxy.upstream.capabilities import for_version
from devstral_proxy.upstream.fleet import Route
from devstral_proxy.upstream.head import Head
from devstral_proxy.upstream.sse import Event

_log = logging.getLogger("devstral_proxy.server")

PATH = "/v1/chat/completions"
BYTES_PER_TOKEN = 4
"""What a prompt's length says of its tokens, where vLLM has not told them: a client that leaves before the end of a
stream is not free of charge. A streamed event is taken for a token."""
GRACE = 5.0
"""Seconds after the request's time in which a client that reads slowly may still take the end of its answer."""


class Turn:
    """One exchange. `run` is called once."""

    def __init__(
        self,
        services: Services,
        exchange: Exchange,
        request: dict[str, Any],
        dialect: Dialect | None,
        watch: Watch,
        keep: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        """`keep` is awaited when the answer is whole, before the client gets its end."""
        settings = services.settings
        self._services = services
        self._settings = settings
        self._exchange = exchange
        self._dialect = dialect
        self._watch = watch
        self._keep = keep
        self._sink: EventSink | None = None
        self._request: dict[str, Any] | None = request
        self._made_for: tuple[str | None, ...] | None = None
        self._upstream = b""
        self._translator: Translator
        self._answer: ChatAnswer
        self._asked = 0
        self._events = 0
        exchange.stream = bool(request.get("stream"))
        self.limits = Limits(settings.request_timeout, exchange.task.get_loop())

    async def run(self, route: Route, affinity: bytes) -> None:
        """Send it, and answer the client. Raises ProxyError as long as no byte of an answer has gone out."""
        services, exchange = self._services, self._exchange
        if exchange.stream:
            self._sink = EventSink(exchange.write, self._settings.keepalive, self.limits.loop)
            if services.metrics is not None:
                exchange.gaps = services.metrics.gaps()
        try:
            await send(services.fleet, route, affinity, self._once, deadline=self.limits.ends_at)
        except (Exception, asyncio.CancelledError) as raised:
            error = exchange.block.told(raised)
            try:
                if self._sink is None or not self._sink.started or not isinstance(error, Exception):
                    if error is raised:
                        raise
                    raise error from None
                await self._break_off(self._sink, told(error, exchange))
            finally:
                del error  # it refers to this frame
        finally:
            self._account()

    async def _once(self, attempt: Attempt) -> None:
        """Ask one server: once, and again for each failure that can be mended (see `dialects.chat.ask_again`)."""
        await self._translate(attempt)
        exchange, translator = self._exchange, self._translator
        exchange.upstream = attempt.target.name
        upstream, streamed = self._upstream, translator.streamed
        tried: set[type[ProxyError]] = set()
        while True:
            self._answer = ChatAnswer(translator, self._settings.max_event_bytes)
            exchange.attempts += 1
            try:
                await self._attempt(attempt, upstream, streamed)
                return
            except (UpstreamRefused, AnswerLost) as error:
                kind = type(error)
                again = None
                if kind not in tried and (kind is AnswerLost or error.status == 400):
                    again = ask_again(translator, orjson.loads(upstream), error)
                if again is None:
                    self._note_failure(attempt, error)
                    raise
                tried.add(kind)
                upstream, streamed = _dumped(again), bool(again.get("stream"))
            except UpstreamError as error:
                self._note_failure(attempt, error)
                raise

    async def _translate(self, attempt: Attempt) -> None:
        """The request as this server takes it. What was made for another one of the same kind is used again."""
        services, exchange, request = self._services, self._exchange, self._request
        sent = attempt.model or exchange.model
        facts = await attempt.target.facts.facts()
        known = facts.models.get(sent)
        length = known.max_model_len if known else None
        made_for = (attempt.name, sent, facts.version, known.root if known else None, str(length))
        if self._made_for == made_for or request is None:
            return
        self._made_for = made_for
        exchange.served = attempt.model or (sent if known else "")
        profile = services.profiles.find(attempt.name or sent, (known.root if known else None) or attempt.model or None)
        exchange.profile = profile.name
        translator = Translator(
            profile, capabilities=for_version(facts.version), max_model_len=length, memo=services.tools
        )
        self._translator = translator
        entries = translator.rewrites.entries
        if self._dialect is not None:
            entries += self._dialect.rewrites.entries
        exchange.rewrites = entries
        if attempt.model and request.get("model") != attempt.model:
            request = {**request, "model": attempt.model}
        upstream = translator.request(request)
        self._asked = len(entries)
        if services.images is not None:
            check_images(upstream["messages"], services.images)
        if profile.strict:
            await _check(upstream, profile)
        if profile.timeout is not None:
            self.limits.of_profile(profile.timeout)
        self._watch.end_by(self.limits.total + GRACE)
        self._upstream = _dumped(upstream)
        if services.fleet.single is not None:
            self._request = None  # only the bytes that go upstream are kept

    async def _attempt(self, attempt: Attempt, upstream: bytes, streamed: bool) -> None:
        """One request to vLLM, and the answer to the client."""
        settings, limits, exchange = self._settings, self.limits, self._exchange
        if streamed:
            limits.first_byte, limits.idle = settings.first_byte_timeout, settings.idle_timeout
        else:
            limits.first_byte = limits.idle = None
        extra = self._services.traces.upstream_headers(exchange)
        with Feed(attempt.target.client, "POST", PATH, upstream, limits.request, extra) as feed:
            reader = Reader(feed, limits, self._sink)
            head = await reader.head()
            attempt.answered(head.status, head.retry_after)
            if head.status != 200:
                raise self._refusal(head, await reader.whole(settings.answer_limit))
            await self._deliver(attempt, reader, head)
            if not feed.ended:
                await feed.drain(DRAIN)

    def _refusal(self, head: Head, body: bytes) -> UpstreamRefused:
        refusal = self._translator.error(head.status, body)
        if head.retry_after is not None:
            refusal.headers.append(("retry-after", head.retry_after))
        return refusal

    async def _deliver(self, attempt: Attempt, reader: Reader, head: Head) -> None:
        answer = self._answer
        if head.is_stream and self._sink is not None:
            await self._stream(attempt, reader, self._sink)
        elif head.is_stream:
            await self._reply(attempt, answer.folded(await self._collect(reader)))
        else:
            body = answer.whole(await reader.whole(self._settings.answer_limit), head.content_type)
            if self._sink is None:
                await self._reply(attempt, body)
            else:
                attempt.committed = True
                await self._end(self._sink, answer.unfolded(body))

    async def _stream(self, attempt: Attempt, reader: Reader, sink: EventSink) -> None:
        """Events to events: what one wake-up brought is one write."""
        answer = self._answer
        while chunks := await reader.next():
            answer.committed = sink.started
            events = answer.feed(chunks)
            if answer.done:
                break
            if events:
                attempt.committed = True
                await self._write(sink, events)
        else:
            answer.committed = sink.started
            events = answer.eof()
        events += answer.finish()
        attempt.committed = True
        await self._end(sink, events)

    async def _collect(self, reader: Reader) -> list[Event]:
        """The repaired events of the whole stream."""
        answer = self._answer
        events: list[Event] = []
        while chunks := await reader.next():
            events += answer.feed(chunks)
            if answer.done:
                break
        else:
            events += answer.eof()
        return events + answer.finish()

    async def _reply(self, attempt: Attempt, completion: dict[str, Any]) -> None:
        attempt.committed = True
        body = self._answer.body_for_client(completion)
        if self._dialect is not None:
            body = self._dialect.body(body)
            if self._keep is not None:
                await self._keep()
        self._over()
        await self._exchange.reply_json(200, body)

    async def _write(self, sink: EventSink, events: list[Event]) -> None:
        self._events += len(events)
        events = self._for_client(events)
        if events:
            exchange, now = self._exchange, time.perf_counter()
            if exchange.gaps is not None:
                exchange.gaps.add(now)
            exchange.first_token = exchange.first_token or now
            await sink.write(raw(events))

    async def _end(self, sink: EventSink, events: list[Event]) -> None:
        """The last write."""
        events = self._for_client(events)
        if self._keep is not None:
            await self._keep()
        exchange, now = self._exchange, time.perf_counter()
        if exchange.gaps is not None:
            exchange.gaps.add(now)
        exchange.first_token = exchange.first_token or now
        self._over()
        await sink.write(raw(events), more=False)

    def _for_client(self, events: list[Event]) -> list[Event]:
        events = self._answer.events_for_client(events)
        return events if self._dialect is None else self._dialect.events(events)

    def _over(self) -> None:
        """What comes now is the end of the answer: neither the client nor the end of the process breaks it off."""
        self._watch.over()
        self._exchange.block.over()

    async def _break_off(self, sink: EventSink, error: ProxyError) -> None:
        """End a stream that has begun with an error event, and whatever ends a stream of this dialect."""
        self._exchange.broken(error)
        try:
            events = self._for_client(self._answer.finish(error))
            if self._dialect is not None:
                events += self._dialect.broken(error)
                if self._keep is not None:
                    await self._keep()  # it may have lacked nothing but its end
        except Exception as defect:
            ours = told(defect, self._exchange)
            events = error_events(ours) if self._dialect is None else self._dialect.broken(ours)
        self._over()
        await sink.write(raw(events), more=False)

    def _note_failure(self, attempt: Attempt, error: ProxyError) -> None:
        if self._services.metrics is not None:
            self._services.metrics.upstream_failed(attempt.target.name, error.code or error.type)

    def _account(self) -> None:
        """What the answer told of itself, for the log and the metrics."""
        exchange = self._exchange
        if not exchange.attempts:
            return
        answer, entries = self._answer, self._translator.rewrites.entries
        if len(entries) > self._asked:
            later, exchange.rewrites = entries[self._asked :], entries[: self._asked]
            exchange.repairs = [entry for entry in later if entry[0] not in REQUEST]
            if len(exchange.repairs) < len(later):
                exchange.rewrites += [entry for entry in later if entry[0] in REQUEST]
        usage = answer.usage
        if usage is not None:
            exchange.input_tokens = count_of(usage.get("prompt_tokens"))
            exchange.output_tokens = count_of(usage.get("completion_tokens"))
            details = usage.get("prompt_tokens_details")
            if isinstance(details, dict):
                exchange.cached_tokens = count_of(details.get("cached_tokens"))
        elif self._events:
            exchange.estimated = len(self._upstream) // BYTES_PER_TOKEN + self._events
        exchange.finish = answer.finish_reason
        if _log.isEnabledFor(logging.DEBUG):
            for name, where in (*exchange.rewrites, *exchange.repairs):
                _log.debug("request %s: %s at %s", exchange.id, name, where)


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
