"""StreamRepair: upstream's chunks in, a correct OpenAI stream out.

Each chunk's deltas are said to a `Choice`, and what it makes of them goes out. Where that is nothing else than what
upstream said, upstream's own bytes go out: an event whose text may still turn out to be markup is held, whole, until
that is known. Most chunks of a stream differ from the one before in one string only; those are read without parsing
the rest (`template`).

However it ends, it ends: with `[DONE]`, once, and with an error event before it unless upstream said of each choice
that it was finished (F63, F69). A call that max_tokens cut is finished by `length`, and its arguments are closed, so
that they are an object: what was there of a value stays, half a key goes (F67).
"""

from __future__ import annotations

from typing import Any, Final

import orjson

from devstral_proxy.errors import ProxyError, UpstreamProtocolError, render
from devstral_proxy.mistral.choice import Choice
from devstral_proxy.mistral.context import AnswerContext
from devstral_proxy.mistral.envelope import Envelope
from devstral_proxy.mistral.refusals import translated
from devstral_proxy.mistral.rewrites import RewriteLog
from devstral_proxy.mistral.template import Template, learn
from devstral_proxy.mistral.template_ids import TemplateWithIds
from devstral_proxy.mistral.template_ids import learn as learn_with_ids
from devstral_proxy.mistral.token_watch import AnswerLost
from devstral_proxy.mistral.tool_markup import Names
from devstral_proxy.upstream.sse import DONE, Event, encode

MAX_CHOICES: Final = 128
MAX_LESSONS: Final = 256
"""Most templates that are learned: where every chunk is of another form, learning is of no use."""
MAX_HELD: Final = 256
"""Most events that are held as they are; what is held longer goes out rewritten, as far as it can."""


class _Line:
    """One choice, and its events that are held."""

    __slots__ = ("choice", "clear", "dirty", "extra", "held", "logprobs", "quiet", "role_sent")

    def __init__(self, choice: Choice) -> None:
        self.choice = choice
        self.clear = False  # the last event went out as it came, and nothing is left of those before it
        self.quiet = False  # nothing is left of the events so far, and something has gone out
        self.held: list[Event] = []
        self.dirty = False  # something held was part of an event that went out rewritten
        self.role_sent = False
        self.logprobs: list[Any] = []
        self.extra: dict[str, Any] = {}

    def take_logprobs(self) -> dict[str, Any] | None:
        """The log probabilities that have not gone out."""
        entries, self.logprobs = self.logprobs, []
        return {"content": entries} if entries else None


class StreamRepair:
    """One instance an exchange: `feed` each event of upstream's, `finish` at the end of its body."""

    def __init__(self, context: AnswerContext, log: RewriteLog) -> None:
        self._context = context
        self._log = log
        self._hides_ids = context.raw_text or context.token_ids
        self._names: Names | None = None
        self._lines: dict[int, _Line] = {}
        self._templates: list[Template] = []
        self._with_ids: list[TemplateWithIds] = []
        self._lessons = MAX_LESSONS
        self._envelope = Envelope(context, log)
        self._usage: Event | None = None
        self._begun = False  # something has gone out
        self.usage: dict[str, Any] | None = None
        """The tokens that upstream counted, once it has told them."""
        self.finish_reason = ""
        """The first choice's, once it has ended."""
        self._done = False

    def feed(self, event: Event) -> list[Event]:
        """The client's events for one of upstream's. After the end there are none.

        Raises AnswerLost where the token ids say that a part of the answer is missing, as long as nothing of it has
        gone out; later that is an error event, like any other.
        """
        out: list[Event] = []
        self.feed_into(event, out)
        return out

    def feed_into(self, event: Event, out: list[Event]) -> None:
        """`feed`, for many events: what goes out is appended."""
        if self._done or self.feed_raw(event.raw, out, event):
            return
        data = event.data
        if data == b"[DONE]" or data.strip() == b"[DONE]":
            out += self._end()
        else:
            out += self._read(event)

    def feed_raw(self, raw: bytes, out: list[Event], event: Event | None = None) -> bool:
        """`feed_into`, for one event of which nothing is known but its bytes on the wire. False: it is not like one
        that came before, so that they do not tell what it is; then nothing is done.

        So nearly every event is read: it is text, and goes out as it came.
        """
        for template in self._templates:
            text = template.read(raw)
            if text is None:
                continue
            line = self._lines[template.choice]
            choice = line.choice
            if line.clear and choice.passes(text, template.call):
                out.append(event or Event(raw[6:-2], raw))
                return True
            if choice.finished:
                break
            if template.call is None:
                choice.text(text)
            elif not choice.more(template.call, text):
                break
            out += self._settle(line, event or Event(raw[6:-2], raw), None)
            return True
        return bool(self._with_ids) and self._feed_with_ids(raw, out)

    def _feed_with_ids(self, raw: bytes, out: list[Event]) -> bool:
        """`feed_raw`, for text with token ids that do not go out."""
        for template in self._with_ids:
            found = template.read(raw)
            if found is None:
                continue
            text, ids = found
            line = self._lines[template.choice]
            place = line.choice.place(text, ids) if line.quiet else None
            event = None if place is None else template.write(place, text)
            if place is None or event is None or not line.choice.passes_with_ids(text, ids, place):
                return False
            if text:
                out.append(event)
            return True
        return False

    def finish(self, error: ProxyError | None = None) -> list[Event]:
        """Upstream's body has ended, or `error` ended it. Nothing when `[DONE]` was there before.

        An answer that lacks nothing but `[DONE]` is whole: an error behind it would only make agents ask once more.
        """
        if self._done:
            return []
        if len(self._lines) >= self._context.choices and all(line.choice.finished for line in self._lines.values()):
            self._note("done_added", "")
            return self._end()
        if error is None:
            error = UpstreamProtocolError("vLLM's stream ended early, without [DONE]", code="upstream_stream_ended")
        return self._fail(error)

    def _read(self, event: Event) -> list[Event]:
        try:
            chunk = orjson.loads(event.data)
        except orjson.JSONDecodeError:
            chunk = None
        if not isinstance(chunk, dict):
            return self._fail(UpstreamProtocolError("vLLM sent a stream event that is no JSON object"))
        if chunk.get("error") is not None or chunk.get("object") == "error":
            return self._fail(translated(_status(chunk), event.data, None))
        choices = chunk.get("choices")
        if choices is None and isinstance(chunk.get("usage"), dict):
            choices = []
        if not isinstance(choices, list) or not all(isinstance(choice, dict) for choice in choices):
            return self._fail(UpstreamProtocolError("vLLM sent a stream event that is no chat completion chunk"))
        clean = self._envelope.open(chunk) and not event.type
        if not choices:
            if isinstance(chunk.get("usage"), dict):
                self.usage = chunk["usage"]
                self._usage = event if clean else self._envelope.event(chunk, [])
            return []
        out: list[Event] = []
        for choice in choices:
            out += self._choice(choice, chunk, event, clean and len(choices) == 1)
            if self._done:
                break
        return out

    def _choice(self, piece: dict[str, Any], chunk: dict[str, Any], event: Event, clean: bool) -> list[Event]:
        index = piece.get("index", 0)
        if type(index) is not int or not 0 <= index < MAX_CHOICES:
            return self._fail(UpstreamProtocolError("vLLM sent a choice without a usable index"))
        line = self._lines.get(index)
        if line is None:
            if self._names is None:
                self._names = self._context.markup or Names(self._context.tools)
            line = self._lines[index] = _Line(Choice(index, self._context, self._names, self._log))
            line.choice.answer.seed = self._envelope.id
        choice, answer = line.choice, line.choice.answer
        if choice.finished:
            self._note("chunk_after_finish", answer.where)
            return []
        delta = piece.get("delta")
        if not isinstance(delta, dict):
            delta = {}
            answer.note("chunk_completed")
        ids = piece.get("token_ids")
        clean = clean and "index" in piece and "finish_reason" in piece
        if not clean or (ids is not None and self._hides_ids):
            answer.touched = True
        self._role(line, delta)
        for key in delta.keys() - _KNOWN:
            if delta[key] is not None:
                line.extra[key] = delta[key]
        logprobs = piece.get("logprobs")
        if isinstance(logprobs, dict) and isinstance(logprobs.get("content"), list):
            line.logprobs += logprobs["content"]
        choice.delta(delta, ids if isinstance(ids, list) else None)
        reason = piece.get("finish_reason")
        if reason == "":  # some servers' null
            answer.touched = True
        elif reason is not None:
            return self._finish(line, event, chunk, piece, reason)
        out = self._settle(line, event, chunk)
        if out and self._lessons:
            if ids is None and out[-1] is event:
                self._learn(index, delta, event)
            elif ids is not None and self._hides_ids and len(out) == 1:
                self._learn_with_ids(index, delta, event, out[0])
        return out

    def _role(self, line: _Line, delta: dict[str, Any]) -> None:
        role = delta.get("role")
        told, line.choice.role = line.choice.role, True
        if ("role" in delta) == told or ("role" in delta and role != "assistant"):
            line.choice.answer.note("role_completed")

    def _settle(self, line: _Line, event: Event, chunk: dict[str, Any] | None) -> list[Event]:
        """What goes out after an event."""
        choice, answer, held = line.choice, line.choice.answer, line.held
        line.clear = line.quiet = False
        if not answer.touched and not line.dirty:
            if choice.waiting:
                held.append(event)
                if len(held) < MAX_HELD:
                    return []
            else:
                answer.drop()
                line.role_sent = line.clear = True
                line.extra.clear()
                line.logprobs.clear()
                if not held:
                    return [event]
                out = [*held, event]
                held.clear()
                return out
        held.clear()
        line.dirty = choice.waiting
        out = self._written(line, chunk or orjson.loads(event.data))
        line.quiet = line.role_sent and not (line.dirty or line.extra or line.logprobs)
        return out

    def _written(self, line: _Line, chunk: dict[str, Any]) -> list[Event]:
        """The deltas that are due, in chunks of ours."""
        deltas = line.choice.answer.take()
        if not deltas and not line.role_sent and self._context.lossy and not line.choice.finished:
            line.dirty = True
            return []  # until it is known whether the answer has to be asked for again
        self._begun = True
        if not line.role_sent:
            if not deltas or "tool_calls" in deltas[0]:
                deltas.insert(0, {"content": ""})
            deltas[0] = {"role": "assistant", **deltas[0]}
            line.role_sent = True
        if not deltas:
            return []
        deltas[0].update(line.extra)
        line.extra.clear()
        logprobs = line.take_logprobs()
        index = line.choice.answer.index
        out = []
        for delta in deltas:
            out.append(self._envelope.event(chunk, [self._piece(index, delta, logprobs)]))
            logprobs = None
        return out

    @staticmethod
    def _piece(index: int, delta: dict[str, Any], logprobs: dict[str, Any] | None = None) -> dict[str, Any]:
        return {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": None}

    def _finish(
        self, line: _Line, event: Event, chunk: dict[str, Any], piece: dict[str, Any], reason: object
    ) -> list[Event]:
        """The choice's last chunk: the finish reason goes out alone (F71)."""
        if reason in ("abort", "error"):
            return self._fail(UpstreamProtocolError(f"vLLM ended the answer: finish_reason {reason!r}"))
        choice, answer, held = line.choice, line.choice.answer, line.held
        line.clear = line.quiet = False
        try:
            right = choice.finish(reason, piece.get("stop_reason"))
        except AnswerLost as lost:
            if self._begun:
                return self._fail(lost)
            self._stop()
            raise
        self.finish_reason = self.finish_reason or right
        if isinstance(chunk.get("usage"), dict):
            self.usage = chunk["usage"]
        delta = piece.get("delta")
        full = isinstance(delta, dict) and any(delta.get(key) for key in _SAYING)
        if not answer.touched and not line.dirty and not full:
            answer.drop()
            line.role_sent = True
            out = [*held, event]
            held.clear()
            return out
        if full:
            answer.note("finish_split")
        held.clear()
        out = self._written(line, chunk)
        last = {key: value for key, value in piece.items() if key != "token_ids"}
        last.update(self._piece(answer.index, {}, line.take_logprobs()), finish_reason=right)
        out.append(self._envelope.event(chunk, [last]))
        return out

    def _learn(self, index: int, delta: dict[str, Any], event: Event) -> None:
        self._lessons -= 1
        template = learn(index, delta, event.data)
        if template is not None:
            self._templates = [
                template,
                *(old for old in self._templates if (old.choice, old.call) != (index, template.call)),
            ]

    def _learn_with_ids(self, index: int, delta: dict[str, Any], event: Event, out: Event) -> None:
        self._lessons -= 1
        template = next((one for one in self._with_ids if one.choice == index and one.read(event.raw)), None)
        if template is None:
            template = learn_with_ids(index, delta, event.data)
            if template is None or event.type:
                return
            self._with_ids = [template, *(old for old in self._with_ids if old.choice != index)]
        template.learn(out)

    def _end(self) -> list[Event]:
        """`[DONE]`: clean when every choice has finished; calls that are whole may lack their finish reason (F70)."""
        if not self._lines:
            return self._fail(UpstreamProtocolError("vLLM's stream ended without an answer"))
        out: list[Event] = []
        for line in self._lines.values():
            if line.choice.finished:
                continue
            if not line.choice.complete:
                return out + self._fail(
                    UpstreamProtocolError("vLLM's stream ended without a finish reason", code="upstream_stream_ended")
                )
            reason = line.choice.finish(None)
            line.held.clear()
            out += self._written(line, {})
            piece = self._piece(line.choice.answer.index, {})
            out.append(self._envelope.event({}, [{**piece, "finish_reason": reason}]))
        self._stop()
        usage = self._usage or self._envelope.usage_event()
        if usage is not None:
            if self._envelope.wants_usage:
                out.append(usage)
            else:
                self._note("usage_hidden", "usage")
        out.append(DONE)
        return out

    def _fail(self, error: ProxyError) -> list[Event]:
        """What is certain goes out, then the error, then the end."""
        self._stop()
        out: list[Event] = []
        for line in self._lines.values():
            if line.choice.finished:
                continue
            line.held.clear()
            if line.role_sent or line.choice.answer.says:
                out += self._written(line, {})
        out.append(encode(orjson.dumps(render(error))))
        out.append(DONE)
        return out

    def _stop(self) -> None:
        """Nothing that follows concerns the client."""
        self._done = True
        self._templates = []
        self._with_ids = []

    def _note(self, name: str, where: str) -> None:
        if (name, where) not in self._log.entries:
            self._log.add(name, where)


_KNOWN: Final = frozenset(("role", "content", "reasoning", "reasoning_content", "tool_calls"))
_SAYING: Final = ("content", "reasoning", "reasoning_content", "tool_calls")


def _status(chunk: dict[str, Any]) -> int:
    error = chunk.get("error")
    code = error.get("code") if isinstance(error, dict) else chunk.get("code")
    return code if isinstance(code, int) and 400 <= code < 600 else 500
