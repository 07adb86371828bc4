"""One choice of upstream's answer: its deltas in, what they mean said to an `Answer`, and how it ends."""

from __future__ import annotations

from typing import Any, Final

from devstral_proxy.mistral.answer import MAX_NAME, Answer, Call
from devstral_proxy.mistral.arguments import ARGS
from devstral_proxy.mistral.call_reader import CallReader
from devstral_proxy.mistral.context import AnswerContext
from devstral_proxy.mistral.json_mender import MARKER
from devstral_proxy.mistral.rewrites import RewriteLog
from devstral_proxy.mistral.schema_types import required
from devstral_proxy.mistral.token_reader import TokenReader
from devstral_proxy.mistral.token_watch import AnswerLost, TokenWatch
from devstral_proxy.mistral.tool_markup import Names, TextReader

FINISHES: Final = frozenset(("stop", "length", "tool_calls", "content_filter", "function_call"))
_SPLIT: Final = (ARGS, "{")


class _Upstream:
    """A call that upstream tells apart from the text: under its own index, in its own pieces."""

    __slots__ = ("call", "early", "id", "index", "name", "text")

    def __init__(self, index: object, id: object) -> None:
        self.index = index
        self.id = id
        self.name = ""
        self.early = ""  # arguments that came before the name was known to be whole
        self.call: Call | None = None
        self.text = False
        """It is none: its pieces are text, for the reader."""

    @property
    def whole(self) -> bool:
        """Its arguments have come to their end."""
        return self.text or (self.call is not None and self.call.arguments.ended)


class Choice:
    """`delta` and `finish` take what upstream says; `answer` holds what it means."""

    def __init__(self, index: int, context: AnswerContext, names: Names, log: RewriteLog) -> None:
        self.answer = Answer(index, context, log)
        self.role = False
        """The client has been told the role."""
        self.finished = False
        self._context = context
        self._names = names
        self._reader: CallReader | None = None
        self._watch = TokenWatch() if context.token_ids and not context.raw_text else None
        self._calls: list[_Upstream] = []
        self._structured = False  # upstream's own call is the one that was begun last

    @property
    def waiting(self) -> bool:
        """Something that came has not been said yet."""
        if self._reader is not None and self._reader.waiting:
            return True
        if not self._calls:
            return False
        last = self._calls[-1]
        call = last.call
        if call is None:
            return not last.text
        return not call.arguments.ended and call.arguments.waiting

    def delta(self, delta: dict[str, Any], ids: list[int] | None = None) -> None:
        """One delta, or a whole message, which is all of them in one. `ids`: the tokens of its text."""
        if ids and self._watch is not None:
            self._watch.see(ids, delta, len(self._calls))
        thought = delta.get("reasoning_content")
        if thought is None:
            thought = delta.get("reasoning")
        if isinstance(thought, str) and thought:
            self._thought(delta, thought)
        content = delta.get("content")
        if content is not None:
            self.text(content if isinstance(content, str) else self._flat(content), ids)
        calls = delta.get("tool_calls")
        if calls:
            for call in calls if isinstance(calls, list) else ():
                if isinstance(call, dict):
                    self._call(call)
                else:
                    self.answer.touched = True
        if "tool_calls" in delta and not calls:
            self.answer.note("empty_calls_dropped")

    def _thought(self, delta: dict[str, Any], thought: str) -> None:
        if delta.get("reasoning") != delta.get("reasoning_content"):
            self.answer.note("reasoning_named")
        self.answer.reasoning(thought)

    def _flat(self, parts: object) -> str:
        """Content in parts, which only a server that is not vLLM sends."""
        self.answer.note("content_joined")
        texts = [part.get("text") for part in parts if isinstance(part, dict)] if isinstance(parts, list) else []
        return "".join(text for text in texts if isinstance(text, str))

    @property
    def complete(self) -> bool:
        """There are calls, all of them whole, and nothing is left over."""
        return (
            bool(self.answer.calls)
            and not self.waiting
            and all(call.whole for call in self._calls)
            and (self._reader is None or not self._reader.inside)
        )

    def more(self, index: int, text: str) -> bool:
        """A piece of the arguments of upstream's call `index`, if that is the one that goes on."""
        call = self._calls[-1] if self._calls else None
        if call is None or call.index != index or call.call is None or call.call.index != index:
            return False
        self._arguments(call.call, text)
        return True

    def text(self, text: str, ids: list[int] | None = None) -> None:
        """A piece of the content."""
        context = self._context
        if not context.tools or context.tool_choice == "none":
            self.answer.text(text)
            return
        reader = self._reader
        if reader is None:
            if not text and not ids:
                return
            reader = self._make_reader(ids)
        if isinstance(reader, TokenReader):
            reader.feed_tokens(text, ids or ())
        else:
            reader.feed(text)

    def _make_reader(self, ids: list[int] | None) -> CallReader:
        if ids is not None and self._context.raw_text:
            self._reader = TokenReader(self.answer, self._context.tools)
        else:
            self._reader = TextReader(self.answer, self._names)
        return self._reader

    # Calls that upstream tells apart

    def _call(self, entry: dict[str, Any]) -> None:
        function = entry.get("function")
        function = function if isinstance(function, dict) else {}
        name, text, id = function.get("name"), function.get("arguments"), entry.get("id")
        name = name if isinstance(name, str) else ""
        if not isinstance(text, str):
            text = self._dumped(text)
        if any(key in entry and entry[key] is None for key in ("id", "type")) or function.get("name", "") is None:
            self.answer.touched = True
        call = self._find(entry.get("index"), id, name)
        if call is None:
            call = self._new(entry.get("index"), id)
        elif name and call.call is None:
            self.answer.touched = True
        if call.text:
            self._as_text(call, name, text)
        elif call.call is None:
            call.name += name
            call.early += text
            self._maybe_begin(call, entry)
        else:
            if name or id or call.call.index != entry.get("index"):
                self.answer.touched = True
            if name and not id and name != call.call.name:
                text = name + text  # F61: pieces of the arguments in the name's place
            self._arguments(call.call, text)

    def _dumped(self, value: object) -> str:
        return "" if value is None else str(value)

    def _find(self, index: object, id: object, name: str) -> _Upstream | None:
        """The call that this delta goes on with; None when it begins one (F76: some servers give all the index 0)."""
        known = isinstance(id, str) and id not in ("", "null")
        for call in reversed(self._calls):
            if call.index != index and index is not None:
                continue
            if known and call.id != id and (name or index is None):
                if index is None:
                    continue
                return None
            if name and not known and call.call is not None and call.call.arguments.ended:
                return None
            return call
        return None

    def _new(self, index: object, id: object) -> _Upstream:
        self._settle_calls()
        call = _Upstream(index, id)
        self._calls.append(call)
        reader = self._reader
        if reader is not None:
            # 0.28 and later take the first marker for text, and its spelling in a string for the call
            call.text = reader.in_string
            if call.text:
                reader.feed(MARKER)
            else:
                reader.other_call()
        return call

    def _as_text(self, call: _Upstream, name: str, text: str) -> None:
        reader = self._reader or self._make_reader(None)
        self.answer.touched = True
        reader.feed(name)
        if text and not call.early and reader.in_string:
            reader.feed(ARGS)
        call.early = call.early or text[:1]
        reader.feed(text)

    def _maybe_begin(self, call: _Upstream, entry: dict[str, Any]) -> None:
        """Begin it when its name is whole, that is when arguments have come."""
        name = call.name
        if name == "[" or any(mark in name for mark in _SPLIT):
            # markup taken for a name: the older array form, `name[ARGS]{…`
            call.text = True
            call.early, text = "", call.early
            self._as_text(call, MARKER + name, text)
        elif name and call.early:
            self._begin(call, entry)

    def _begin(self, call: _Upstream, entry: dict[str, Any] | None) -> None:
        answer = self.answer
        text, call.early = call.early, ""
        begun = call.call = answer.begin(call.name[:MAX_NAME], call.id)
        if entry is None or entry.get("type") != "function" or entry.get("index") != begun.index:
            answer.touched = True
        if entry is not None and "arguments" not in (entry.get("function") or {}):
            answer.touched = True
        self._arguments(begun, text)

    def _arguments(self, call: Call, text: str) -> None:
        if call.closed:
            self._rest(text, after=False)
            return
        rest = self.answer.arguments(call, text)
        if rest:
            self.answer.end(call)
            self._rest(rest, after=True)

    def _rest(self, text: str, after: bool) -> None:
        """What upstream took for the end of a call's arguments."""
        self.answer.note("text_after_arguments")
        if not self._context.tools:
            self.answer.text(text)
            return
        reader = self._reader or self._make_reader(None)
        if after:
            reader.after_call(text)
        else:
            reader.feed(text)

    def _settle_calls(self, cut: bool = False) -> None:
        """Another call begins, or the choice ends: what is known of the last one is all there is."""
        for call in self._calls:
            if call.call is None and not call.text:
                schema = self._context.tools.get(call.name)
                if call.early or (schema is not None and not cut and not required(schema)):
                    self._begin(call, None)
                else:
                    call.text = True
                    self.answer.note("call_cut_in_name")
                    self.answer.cut = True

    # The end

    def finish(self, reason: object, stop_reason: object = None) -> str:
        """The choice has ended; the finish reason for the client, given upstream's.

        Raises AnswerLost when the token ids say that a part of it is missing.
        """
        answer = self.answer
        self.finished = True
        cut = reason == "length"
        if self._watch is not None:
            told = [number if call.index is None else call.index for number, call in enumerate(self._calls)]
            if self._context.lossy and self._watch.lost(told):
                raise AnswerLost
            cut = cut or (reason == "tool_calls" and stop_reason is None and self._watch.cut)
        self._settle_calls(cut)
        if self._reader is not None:
            self._reader.end(cut)
        for call in self._calls:
            if call.call is not None:
                answer.end(call.call)
        if answer.cut or cut:
            right = "length"
        elif answer.calls:
            right = "tool_calls"
        elif reason in ("tool_calls", "function_call"):
            right = "length"
        else:
            right = reason if isinstance(reason, str) and reason in FINISHES else "stop"
        if right != reason:
            answer.note("finish_reason")
        return right
