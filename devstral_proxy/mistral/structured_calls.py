"""Calls that upstream tells apart from the text, under its own indices and in its own pieces."""

from __future__ import annotations

from collections import deque
from typing import Any, Final

import orjson

from devstral_proxy.mistral.answer import MAX_NAME, Answer, Call
from devstral_proxy.mistral.arguments import ARGS
from devstral_proxy.mistral.context import AnswerContext
from devstral_proxy.mistral.json_mender import MARKER
from devstral_proxy.mistral.schema_types import required
from devstral_proxy.mistral.tool_markup import Reading

_SPLIT: Final = (ARGS, "{")


class _Upstream:
    """One of them. `call` is there once its name is whole: when arguments have come, or the next call's have."""

    __slots__ = ("call", "early", "id", "index", "name", "proper", "text")

    def __init__(self, index: int | None, id: str | None, proper: bool) -> None:
        self.index = index
        self.id = id
        self.proper = proper  # its first delta has OpenAI's form
        self.name = ""
        self.early = ""
        self.call: Call | None = None
        self.text = False  # it is none: its pieces are text, for the reader


class StructuredCalls:
    """`add` each entry of a `tool_calls` list; `finish` when the choice ends.

    `reading`: has the reader of the choice's text. It gets what upstream took for part of a call and is none (F62), and
    what it took for a call and is text.
    """

    def __init__(self, answer: Answer, context: AnswerContext, reading: Reading) -> None:
        self._answer = answer
        self._context = context
        self._reading = reading
        self._calls: list[_Upstream] = []
        self._by_index: dict[int | None, _Upstream] = {}
        self._by_id: dict[str, _Upstream] = {}
        self._unbegun: deque[_Upstream] = deque()
        self._interleaved = False

    def __len__(self) -> int:
        return len(self._calls)

    @property
    def indices(self) -> list[int]:
        """Upstream's own; where it tells none, the places."""
        return [number if call.index is None else call.index for number, call in enumerate(self._calls)]

    @property
    def waiting(self) -> bool:
        """Something that came has not been said yet."""
        if self._unbegun:
            return True
        call = self._calls[-1].call if self._calls else None
        return call is not None and call.arguments.waiting and not call.arguments.ended

    @property
    def whole(self) -> bool:
        """The arguments of all of them have come to their end."""
        return all(entry.text or (entry.call is not None and entry.call.arguments.ended) for entry in self._calls)

    def more(self, index: int, text: str) -> bool:
        """A piece of the arguments of call `index`, and nothing else; False when that is not the one that goes on."""
        if not self._calls or self._interleaved:
            return False
        call = self._calls[-1].call
        if call is None or self._calls[-1].index != index or call.index != index:
            return False
        self._arguments(call, text)
        return True

    def passes(self, index: int, text: str) -> bool:
        """Whether `more` would find nothing but what goes out as it came; it need not be called then."""
        if not self._calls or self._interleaved:
            return False
        entry = self._calls[-1]
        call = entry.call
        if call is None or call.index < 0 or call.index != index or entry.index != index or call.closed or call.custom:
            return False
        return call.arguments.passes(text)

    def add(self, entry: dict[str, Any]) -> None:
        """One entry of a delta's, or a message's, `tool_calls`."""
        answer = self._answer
        function = entry.get("function")
        if not isinstance(function, dict):
            function = {}
        name = function.get("name")
        text = _text(function.get("arguments"))
        index = entry.get("index") if type(entry.get("index")) is int else None
        id = entry.get("id")
        id = id if isinstance(id, str) and id not in ("", "null") else None
        proper = (
            isinstance(name, str) and isinstance(function.get("arguments"), str) and entry.get("type") == "function"
        )
        name = name if isinstance(name, str) else ""
        found = self._find(index, id, name, text)
        if found is None:
            found = self._new(index, id, proper)
        else:
            if "id" in entry or "type" in entry or "name" in function:
                answer.note("call_form")
            self._interleaved = self._interleaved or found is not self._calls[-1]
        if index is None:
            answer.note("call_form")
        elif self._interleaved:
            answer.touched = True
        if found.text:
            self._as_text(found, name, text)
        elif found.call is None:
            found.name += name
            found.early += text
            self._maybe_begin(found)
        else:
            if name and id is None and name != found.name:
                text = name + text  # F61: pieces of the arguments in the name's place
            if found.call.index != index:
                answer.touched = True
            self._arguments(found.call, text)

    def finish(self, cut: bool) -> None:
        """No more comes: what has not begun by now has no arguments."""
        while self._unbegun:
            entry = self._unbegun[0]
            schema = self._context.tools.get(entry.name.strip())
            if entry.name and (entry.early or (schema is not None and not cut and not required(schema))):
                self._begin(entry)
            else:
                self._leave_out(self._unbegun.popleft())
        for entry in self._calls:
            if entry.call is not None:
                self._answer.end(entry.call)

    def _find(self, index: int | None, id: str | None, name: str, text: str) -> _Upstream | None:
        """The call that this entry goes on with; None when it begins one (F76: some servers give all the index 0)."""
        if index is not None:
            found = self._by_index.get(index)
        elif id is not None:
            found = self._by_id.get(id)
        else:
            found = self._calls[-1] if self._calls else None
        if found is None or not name:
            return found
        if id is not None and id != found.id:
            return None
        ended = found.call is not None and found.call.arguments.ended
        return None if ended and (id is None or text) else found

    def _new(self, index: int | None, id: str | None, proper: bool) -> _Upstream:
        self._interleaved = self._interleaved or self.waiting  # the one before is not done
        entry = _Upstream(index, id, proper)
        self._calls.append(entry)
        self._by_index[index] = entry
        if id is not None:
            self._by_id[id] = entry
        if self._context.reads_text:
            reader = self._reading.by_text()
            # 0.28 and later take the first marker for text, and its spelling in a string for the call
            entry.text = reader.in_string
            if entry.text:
                reader.feed(MARKER)
                return entry
            reader.other_call()
        self._unbegun.append(entry)
        return entry

    def _as_text(self, entry: _Upstream, name: str, text: str) -> None:
        reader = self._reading.by_text()
        self._answer.touched = True
        reader.feed(name)
        if text:
            if not entry.early and reader.in_string:
                reader.feed(ARGS)
            entry.early = text[0]
            reader.feed(text)

    def _maybe_begin(self, entry: _Upstream) -> None:
        if self._context.reads_text and (entry.name == "[" or any(mark in entry.name for mark in _SPLIT)):
            # markup taken for a name: the older array form, `name[ARGS]{…`
            self._unbegun.remove(entry)
            entry.text = True
            early, entry.early = entry.early, ""
            self._reading.by_text().marker()
            self._as_text(entry, entry.name, early)
        elif entry.name and entry.early:
            self._begin(entry)

    def _begin(self, entry: _Upstream) -> None:
        """Begin it, and before it those that came before it."""
        first = None
        while first is not entry:
            first = self._unbegun.popleft()
            name = first.name.strip()[:MAX_NAME]
            if not name:
                self._leave_out(first)
                continue
            call = first.call = self._answer.begin(name, first.id)
            if not first.proper or first.index != call.index or name != first.name:
                self._answer.note("call_form")
            text, first.early = first.early, ""
            self._arguments(call, text)

    def _leave_out(self, entry: _Upstream) -> None:
        entry.text = True
        self._answer.note("call_cut_in_name")
        self._answer.cut = True

    def _arguments(self, call: Call, text: str) -> None:
        if call.closed:
            self._rest(text, after=False)
            return
        rest = self._answer.arguments(call, text)
        if rest and call.arguments.broken:
            self._answer.arguments(call, rest)
        elif rest:
            self._answer.end(call)
            self._rest(rest, after=True)

    def _rest(self, text: str, after: bool) -> None:
        """What upstream took for the end of a call's arguments."""
        self._answer.note("text_after_arguments")
        if not self._context.reads_text:
            self._answer.text(text)
        elif after:
            self._reading.by_text().after_call(text)
        else:
            self._reading.by_text().feed(text)


def _text(arguments: object) -> str:
    """Arguments as text; some servers send the object itself."""
    if isinstance(arguments, str):
        return arguments
    return "" if arguments is None else orjson.dumps(arguments).decode()
