"""One choice of upstream's answer: its deltas in, what they mean said to an `Answer`, and how it ends."""

from __future__ import annotations

from typing import Any, Final

from devstral_proxy.mistral.answer import Answer
from devstral_proxy.mistral.context import AnswerContext
from devstral_proxy.mistral.rewrites import RewriteLog
from devstral_proxy.mistral.structured_calls import StructuredCalls
from devstral_proxy.mistral.template_ids import CONTENT
from devstral_proxy.mistral.token_reader import TokenReader
from devstral_proxy.mistral.token_watch import AnswerLost, TokenWatch
from devstral_proxy.mistral.tool_markup import Names, Reading

FINISHES: Final = frozenset(("stop", "length", "tool_calls", "content_filter"))


class Choice:
    """`delta` and `finish` take what upstream says; `answer` holds what it means."""

    def __init__(self, index: int, context: AnswerContext, names: Names, log: RewriteLog) -> None:
        self.answer = Answer(index, context, log)
        self.role = False
        """The client has been told the role."""
        self.finished = False
        self._context = context
        self._reads_text = context.reads_text
        self._reading = Reading(self.answer, names)
        self._calls = StructuredCalls(self.answer, context, self._reading)
        self._watch = TokenWatch() if context.token_ids and not context.raw_text else None

    @property
    def waiting(self) -> bool:
        """Something that came has not been said yet."""
        reader = self._reading.reader
        return self._calls.waiting or (reader is not None and reader.waiting)

    @property
    def complete(self) -> bool:
        """There are calls, all of them whole, and nothing is left over."""
        reader = self._reading.reader
        inside = reader is not None and reader.inside
        return self.answer.calls > 0 and self._calls.whole and not inside and not self.waiting

    def delta(self, delta: dict[str, Any], ids: list[int] | None = None) -> None:
        """One delta, or a whole message, which is all of them in one. `ids`: the tokens of its text."""
        if ids and self._watch is not None:
            self._watch.see(ids, delta, len(self._calls))
        thought = delta.get("reasoning_content")
        if thought is None:
            thought = delta.get("reasoning")
        if thought is not None or "reasoning" in delta:
            self._thought(delta, thought)
        content = delta.get("content")
        if isinstance(content, str):
            self.text(content, ids)
        elif content is not None:
            self.text(self._joined(content), ids)
        calls = delta.get("tool_calls")
        if isinstance(calls, list) and calls:
            for call in calls:
                if isinstance(call, dict):
                    self._calls.add(call)
                else:
                    self.answer.note("call_form")
        elif "tool_calls" in delta:
            self.answer.note("empty_calls_dropped")

    def _thought(self, delta: dict[str, Any], thought: object) -> None:
        said = isinstance(thought, str) and thought != ""
        if delta.get("reasoning") != delta.get("reasoning_content"):
            self.answer.touched = True
            if said:
                self.answer.note("reasoning_named")
        if said:
            self.answer.reasoning(str(thought))

    def _joined(self, parts: object) -> str:
        """Content in parts, which only a server that is not vLLM sends."""
        self.answer.note("content_joined")
        texts = [part.get("text") for part in parts if isinstance(part, dict)] if isinstance(parts, list) else []
        return "".join(text for text in texts if isinstance(text, str))

    def text(self, text: str, ids: list[int] | None = None) -> None:
        """A piece of the content."""
        if not self._reads_text:
            self.answer.text(text)
            return
        reader = self._reading.reader
        if reader is None:
            if not text and not ids:
                return
            if ids is not None and self._context.raw_text:
                reader = self._reading.reader = TokenReader(self.answer, self._context.tools)
            else:
                reader = self._reading.by_text()
        if isinstance(reader, TokenReader):
            reader.feed_tokens(text, ids or ())
        else:
            reader.feed(text)

    def passes(self, text: str, call: int | None = None) -> bool:
        """Whether a piece of the content, or of the arguments of upstream's call, is text and nothing else. Then it has
        been read, and is not said again: it goes out as it came. To be asked only while nothing waits."""
        if call is not None:
            return self._calls.passes(call, text)
        if self._reads_text:
            reader = self._reading.reader
            if reader is None or not reader.passes(text):
                return False
        if text:
            self.answer.last = text[-1]
        return True

    def place(self, text: str, ids: list[int]) -> int | None:
        """Where a piece of the content goes that is nothing else than it seems: into the arguments of one of our calls,
        by its index, or CONTENT. None: it has to be read."""
        reader = self._reading.reader
        return reader.place(text, ids) if isinstance(reader, TokenReader) else CONTENT

    def passes_with_ids(self, text: str, ids: list[int], place: int) -> bool:
        """`passes`, for a piece whose `place` is known, with its tokens."""
        if not isinstance(self._reading.reader, TokenReader) and not self.passes(text):
            return False
        if self._watch is not None:
            self._watch.see(ids, {"content": text}, len(self._calls))
        if text and place == CONTENT:
            self.answer.last = text[-1]
        return True

    def more(self, index: int, text: str) -> bool:
        """A piece of the arguments of upstream's call `index`, if that is the one that goes on."""
        return self._calls.more(index, text)

    def finish(self, reason: object, stop_reason: object = None) -> str:
        """The choice has ended; the finish reason for the client, given upstream's.

        Raises AnswerLost when the token ids say that a part of it is missing.
        """
        answer = self.answer
        self.finished = True
        cut = reason == "length"
        if self._watch is not None:
            if self._context.lossy and self._watch.lost(self._calls.indices):
                raise AnswerLost
            cut = cut or (reason == "tool_calls" and stop_reason is None and self._watch.cut)
        if self._reading.reader is not None:
            self._reading.reader.end(cut)
        self._calls.finish(cut)
        right = self._reason(reason, cut)
        if right != reason:
            answer.note("finish_reason")
        return right

    def _reason(self, reason: object, cut: bool) -> str:
        if cut or self.answer.cut:
            return "length"  # F67
        if self.answer.calls:
            return "tool_calls"  # F68
        if reason == "tool_calls":
            return "length"  # calls that never came: no clean end
        return reason if isinstance(reason, str) and reason in FINISHES else "stop"
