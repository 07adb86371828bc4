"""Tool calls out of the model's text the way vLLM 0.32.0 finds them (its Mistral parser, v11 and later tokenizers).

Streamed, a marker is one only where its token came; without streaming the text alone decides, so that text that spells
`[TOOL_CALLS]` splits a call.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import string
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

_ALPHANUMERIC = string.ascii_letters + string.digits
_CALLS, _ARGS, _THINK, _UNTHINK = "[TOOL_CALLS]", "[ARGS]", "[THINK]", "[/THINK]"
_KEPT = {_THINK, _UNTHINK}


def call_id() -> str:
    """Nine alphanumerics, at random, as vLLM's."""
    return "".join(secrets.choice(_ALPHANUMERIC) for _ in range(9))


@dataclass(slots=True)
class _Slot:
    id: str = field(default_factory=call_id)
    name: str = ""
    arguments: str = ""
    named: bool = False


class Parser:
    """Feed it steps; it gives the delta of each, or None where vLLM sends no chunk for it.

    spelled     id -> marker
    reasoning   `[THINK]` parts go to `reasoning`
    suppress    tool_choice is none: calls are swallowed
    by_text     no ids: a marker's spelling is a marker (answers without streaming)
    special     all control tokens, spelling -> id: text that may be the start of one is held back
    """

    def __init__(
        self,
        spelled: dict[int, str],
        special: dict[str, int],
        *,
        reasoning: bool = False,
        suppress: bool = False,
        by_text: bool = False,
    ) -> None:
        self._spelled = spelled
        self._special = special.keys()
        self._silent = set(special.values()) - set(spelled) | {
            number for number, name in spelled.items() if name == "</s>"
        }
        self._longest = max(map(len, special))
        self._by_text = by_text
        self._suppress = suppress
        self._markers = (_CALLS, _ARGS, _THINK, _UNTHINK) if reasoning else (_CALLS, _ARGS)
        self._due: list[str] = []
        self._state = "content"
        self._buffer = ""
        self._pending = ""
        self._depth = 0
        self._quoted = self._escaped = False
        self._deferred = ""
        self._spoken = False
        self.slots: list[_Slot] = []

    def feed(self, ids: list[int], text: str, finished: bool) -> dict[str, Any] | None:
        delta = _Delta()
        found = self._spelled_out(text) if self._by_text else self._marked(ids, text)
        for before, marker in found:
            self._plain(delta, before, hold=False)
            self._enter(delta, marker)
        self._plain(delta, found.rest, hold=not finished)
        self._settle(delta, finished)
        if finished:
            self._finish(delta)
        return delta.json()

    def _marked(self, ids: list[int], text: str) -> _Cut:
        """The text cut at the markers whose ids came, in their order.

        vLLM looks for them from the left; where a control token without text is among the ids (the end, in a delta of
        several tokens), from the right: text that spells a marker then takes the place of a real one before it.
        """
        self._due += [marker for number in ids if (marker := self._spelled.get(number)) in self._markers and marker]
        backwards = len(ids) > 1 and any(number in self._silent for number in ids)
        places: list[tuple[int, str]] = []
        limit = len(text) if backwards else 0
        for marker in reversed(self._due) if backwards else self._due:
            at = text.rfind(marker, 0, limit) if backwards else text.find(marker, limit)
            if at < 0:
                break
            places.append((at, marker))
            limit = at if backwards else at + len(marker)
        self._due = self._due[len(places) :]
        return _Cut(text, sorted(places))

    def _spelled_out(self, text: str) -> _Cut:
        """The text cut at all spellings of markers; other control tokens' spellings are lost, as vLLM loses them."""
        for spelling in sorted(self._special - set(self._markers) - _KEPT, key=len, reverse=True):
            text = text.replace(spelling, "")
        places, at = [], 0
        while found := min(
            ((where, marker) for marker in self._markers if (where := text.find(marker, at)) >= 0), default=None
        ):
            places.append(found)
            at = found[0] + len(found[1])
        return _Cut(text, places)

    def _finish(self, delta: _Delta) -> None:
        """What was held back comes in entries of its own, even for the same call."""
        last = _Delta()
        if self._state in ("name", "args"):
            self._arguments(last, self._pending)
            self._pending = ""
            if not self.slots[-1].named:
                self._name(last, "")
        delta.more = list(last.calls.values())

    def _plain(self, delta: _Delta, text: str, *, hold: bool) -> None:
        self._buffer += text
        ready = len(self._buffer) - (self._held() if hold else 0)
        text, self._buffer = self._buffer[:ready], self._buffer[ready:]
        self._say(delta, text)

    def _held(self) -> int:
        """How many characters at the end may be the start of a control token's spelling."""
        for size in range(min(self._longest - 1, len(self._buffer)), 0, -1):
            tail = self._buffer[-size:]
            if tail[0] in "[<" and any(text.startswith(tail) and text != tail for text in self._special):
                return size
        return 0

    def _enter(self, delta: _Delta, marker: str) -> None:
        if marker == _CALLS:
            if self._state == "name":  # a name does not end here: the marker is part of it
                self.slots[-1].name += marker
                return
            if self._state == "args":
                self._arguments(delta, self._pending)
                self._pending = ""
                if not self.slots[-1].named:
                    self._name(delta, "")
            self._state = "name"
            self.slots.append(_Slot())
            delta.touched = not self._suppress
            self._depth, self._quoted, self._escaped = 0, False, False
        elif marker == _ARGS:
            if self._state == "name":
                self._state = "args"
            else:
                self._say(delta, marker)
        elif marker == _THINK:
            if self._state == "content":
                self._state = "think"
        elif self._state == "think":
            self._state = "content"

    def _say(self, delta: _Delta, text: str) -> None:
        if not text:
            return
        if self._state == "content":
            if delta.touched:
                self._deferred += text
            else:
                delta.content += self._deferred + text
                self._deferred = ""
        elif self._state == "think":
            delta.reasoning += text
        elif self._state == "name":
            name, brace, rest = text.partition("{")
            self.slots[-1].name += name
            if brace:
                # vLLM does not count this brace: inner ones that close wait as if they were the outermost.
                self._state = "args"
                self._arguments(delta, brace)
                self._say(delta, rest)
        else:
            self._pending += text
            self._arguments(delta, self._ready(text))

    def _ready(self, text: str) -> str:
        """What may go out of the arguments: a closing brace of the outermost object waits for what follows it."""
        safe = len(self._pending) - len(text)
        for offset, char in enumerate(text, start=safe + 1):
            if self._quoted:
                if self._escaped:
                    self._escaped = False
                elif char == "\\":
                    self._escaped = True
                elif char == '"':
                    self._quoted = False
            elif char == '"':
                self._quoted = True
            elif char in "{[":
                self._depth += 1
            elif char in "}]":
                self._depth = max(0, self._depth - 1)
                if self._depth == 0:
                    continue
            safe = offset
        start = len(self._pending) - len(text)
        if safe <= start:
            return ""
        ready, self._pending = self._pending[:safe], self._pending[safe:]
        return ready

    def _arguments(self, delta: _Delta, text: str) -> None:
        if not text:
            return
        slot = self.slots[-1]
        slot.arguments += text
        if not slot.named:
            self._name(delta, text)
        elif not self._suppress:
            delta.call(len(self.slots) - 1)["function"]["arguments"] += text

    def _name(self, delta: _Delta, arguments: str) -> None:
        slot = self.slots[-1]
        slot.named = True
        if not self._suppress:
            delta.start(len(self.slots) - 1, slot, arguments)

    def _settle(self, delta: _Delta, finished: bool) -> None:
        """Text behind a call waits for a delta without one; white space alone waits for text, and goes before calls."""
        if self._deferred and not (delta.touched and delta.calls):
            delta.content += self._deferred
            self._deferred = ""
        if not self._spoken and delta.content:
            if delta.content.strip():
                self._spoken = True
            elif self.slots:
                delta.content = ""
            elif not finished:
                self._deferred, delta.content = delta.content, ""

    def calls(self) -> list[dict[str, Any]]:
        """The calls of a whole answer: of each one's arguments the first JSON value, what follows is dropped."""
        found = []
        for slot in self.slots:
            text = slot.arguments.strip()
            if not slot.name and not slot.arguments:
                continue
            if text:
                with contextlib.suppress(json.JSONDecodeError):
                    text = text[: json.JSONDecoder().raw_decode(text)[1]]
            function = {"name": slot.name.strip(), "arguments": text or "{}"}
            found.append({"id": slot.id, "type": "function", "function": function})
        return found


class _Cut:
    """A text cut at markers: iterates as pairs of the text before each and the marker; `rest`: behind the last."""

    def __init__(self, text: str, places: list[tuple[int, str]]) -> None:
        self._pairs: list[tuple[str, str]] = []
        start = 0
        for at, marker in places:
            self._pairs.append((text[start:at], marker))
            start = at + len(marker)
        self.rest = text[start:]

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return iter(self._pairs)


class _Delta:
    def __init__(self) -> None:
        self.content = self.reasoning = ""
        self.calls: dict[int, dict[str, Any]] = {}
        self.more: list[dict[str, Any]] = []
        self.touched = False

    def start(self, index: int, slot: _Slot, arguments: str) -> None:
        function = {"name": slot.name, "arguments": arguments}
        self.calls[index] = {"id": slot.id, "type": "function", "index": index, "function": function}

    def call(self, index: int) -> dict[str, Any]:
        return self.calls.setdefault(index, {"index": index, "function": {"arguments": ""}})

    def json(self) -> dict[str, Any] | None:
        made: dict[str, Any] = {}
        if self.content:
            made["content"] = self.content
        if self.reasoning:
            made["reasoning"] = self.reasoning
        if self.calls or self.more:
            made["tool_calls"] = [*self.calls.values(), *self.more]
        return made or None
