"""Chat completions, sans-IO: vLLM's answer to one translated request, whatever its form, as the client's answer.

The client may ask for a stream or not, and vLLM may be asked for a stream or not (see capabilities): four ways, one
result. The server feeds in what arrives and sends on what comes out; it decides nothing about the answer.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import orjson

from devstral_proxy.errors import ProxyError, UpstreamProtocolError, UpstreamRefused, render
from devstral_proxy.mistral.fold import fold, unfold
from devstral_proxy.mistral.legacy import renamed, renamed_event
from devstral_proxy.mistral.stream import StreamRepair
from devstral_proxy.mistral.token_watch import AnswerLost
from devstral_proxy.mistral.translator import Translator
from devstral_proxy.upstream import capabilities, sse


class ChatAnswer:
    """One exchange. `translator.request` has been called."""

    def __init__(self, translator: Translator, max_event_bytes: int = sse.DEFAULT_MAX_EVENT_BYTES) -> None:
        self._translator = translator
        self._most = max_event_bytes
        self._parser: sse.Parser | None = None
        self._repair: StreamRepair | None = None
        self._usage: dict[str, Any] | None = None
        self._finish = ""
        self.committed = False
        """The client's status has gone out. Until then an error event of vLLM's is raised, and becomes the status."""
        self.done = False
        """vLLM said `[DONE]`: nothing that follows concerns the client."""
        self.begun = False
        """At least one event came."""

    def _begin(self) -> tuple[sse.Parser, StreamRepair]:
        """What reads a stream; most answers are none."""
        parser, repair = self._parser, self._repair
        if parser is None or repair is None:
            parser, repair = self._parser, self._repair = sse.Parser(self._most), self._translator.stream()
        return parser, repair

    @property
    def usage(self) -> dict[str, Any] | None:
        """The tokens that vLLM counted, once it has told them."""
        if self._usage is not None or self._repair is None:
            return self._usage
        return self._repair.usage

    @property
    def finish_reason(self) -> str:
        """The first choice's, once it is known."""
        return self._finish or ("" if self._repair is None else self._repair.finish_reason)

    def feed(self, chunks: Iterable[bytes]) -> list[sse.Event]:
        """Pieces of vLLM's stream in, repaired events out.

        Raises EventTooLarge, and UpstreamRefused for an error event while `committed` is false; the events that came
        before it are then lost, which nobody has seen.
        """
        events: list[sse.Event] = []
        parser, repair = self._begin()
        feed_raw, most = repair.feed_raw, self._most
        try:
            for chunk in chunks:
                # Nearly every piece is one event like the one before, and need not be parsed.
                if not (parser.idle and len(chunk) <= most and feed_raw(chunk, events)):
                    self._repaired(parser.feed(chunk), repair, events)
        except sse.EventTooLarge:
            if not events:  # else the client gets them first; the parser will say it again
                raise
        return events

    def eof(self) -> list[sse.Event]:
        """The end of vLLM's body: an event that lacked its blank line. Raises what `feed` raises, and
        UpstreamProtocolError when there was no event at all."""
        events: list[sse.Event] = []
        parser, repair = self._begin()
        self._repaired(parser.eof(), repair, events)
        if not self.begun:
            raise UpstreamProtocolError("connection lost: vLLM's stream ended without an event")
        return events

    def finish(self, error: ProxyError | None = None) -> list[sse.Event]:
        """The last events, `[DONE]` included; with `error` when the stream broke."""
        _, repair = self._begin()
        return repair.finish(error)

    def whole(self, body: bytes, content_type: str) -> dict[str, Any]:
        """vLLM's answer without streaming, repaired.

        Raises UpstreamRefused for an error with status 200, UpstreamProtocolError for what is no chat completion.
        """
        try:
            value = orjson.loads(body)
        except orjson.JSONDecodeError:
            value = None
        if isinstance(value, dict):
            if isinstance(value.get("choices"), list):
                repaired = self._translator.response(value)
                usage, choices = repaired.get("usage"), repaired["choices"]
                if isinstance(usage, dict):
                    self._usage = usage
                if choices:
                    self._finish = str(choices[0]["finish_reason"])
                return repaired
            if "error" in value:
                raise self._translator.error(_status_of(body), body)
        kind = content_type.partition(";")[0].strip()[:80] or "no content type"
        raise UpstreamProtocolError(f"vLLM's answer is no chat completion ({kind}); check VLLM_BASE")

    def folded(self, events: Iterable[sse.Event]) -> dict[str, Any]:
        """A repaired stream, for a client that asked for none. Raises the error that an error event tells."""
        try:
            return fold(events)
        except UpstreamRefused as error:
            if error.body["error"].get("code") == AnswerLost.default_code:
                raise AnswerLost from None  # the events told it, but nobody has seen them
            raise

    def unfolded(self, body: dict[str, Any]) -> list[sse.Event]:
        """A repaired whole answer, for a client that asked for a stream."""
        return unfold(body, self._translator.context.include_usage)

    def events_for_client(self, events: list[sse.Event]) -> list[sse.Event]:
        """The last step of a stream: the words of a client that sent the legacy `functions`."""
        return [renamed_event(event) for event in events] if self._translator.legacy else events

    def body_for_client(self, body: dict[str, Any]) -> dict[str, Any]:
        """The same for a whole answer."""
        return renamed(body) if self._translator.legacy else body

    def _repaired(self, upstream: list[sse.Event], repair: StreamRepair, events: list[sse.Event]) -> None:
        if upstream:
            self.begun = True
        for event in upstream:
            if self.done:
                return
            if not self.committed and event.data.startswith(b'{"error"'):
                raise self._translator.error(_status_of(event.data), event.data)
            repair.feed_into(event, events)
            if event.data == b"[DONE]":
                self.done = True


def ask_again(translator: Translator, upstream: dict[str, Any], error: ProxyError) -> dict[str, Any] | None:
    """A second request worth sending after this failure, or None. Nothing of an answer may have gone out."""
    if isinstance(error, UpstreamRefused):
        return translator.retry(upstream, error)
    if isinstance(error, AnswerLost):
        again = capabilities.ask_again(upstream, translator.capabilities)
        if again is not None:
            translator.rewrites.add("asked_again")
        translator.context = replace(translator.context, lossy=False)  # what comes now is taken as it is
        return again
    return None


def error_events(error: ProxyError) -> list[sse.Event]:
    """How a stream ends when nothing is left that could end it: the error, and `[DONE]`."""
    return [sse.encode(orjson.dumps(render(error))), sse.DONE]


def _status_of(body: bytes) -> int:
    """The status that an error object names, 500 when it names none."""
    try:
        code = orjson.loads(body)["error"]["code"]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return 500
    return code if isinstance(code, int) and 400 <= code < 600 else 500
