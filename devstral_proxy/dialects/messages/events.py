"""The stream: repaired chat chunks in, Anthropic's events out.

message_start, ping; for each block of the content its start, deltas and stop, one after the other; message_delta with
the stop reason and the counts; message_stop. Blocks do not overlap: when a call is still open while another begins,
the later one waits until the first is a whole object, or the answer has ended.
"""

from __future__ import annotations

import re
from typing import Any, Final

import orjson

from devstral_proxy.dialects.messages import answer
from devstral_proxy.upstream.sse import DONE, Event, encode

_PING: Final = encode(b'{"type":"ping"}', b"ping")
"""Stands once in each stream, behind `message_start`, as in those of Anthropic's own servers."""

_SAID: Final = {"text": ("text_delta", "text"), "thinking": ("thinking_delta", "thinking")}
_CALL: Final = ("input_json_delta", "partial_json")
_MARKS: Final = re.compile(r'["\\{}\[\]]')


class _Object:
    """Watches the text of a JSON object, in pieces, for its end; remembers none of it."""

    __slots__ = ("_depth", "_escaped", "_quoted", "whole")

    def __init__(self) -> None:
        self._depth = 0
        self._quoted = False
        self._escaped = False  # the next piece begins with an escaped character
        self.whole = False

    def feed(self, text: str) -> None:
        past = 1 if self._escaped and text else 0
        self._escaped = self._escaped and not text
        for match in _MARKS.finditer(text):
            at = match.start()
            if at < past:
                continue
            mark = text[at]
            if self._quoted:
                if mark == "\\":
                    past = at + 2
                    self._escaped = past > len(text)
                elif mark == '"':
                    self._quoted = False
            elif mark == '"':
                self._quoted = True
            elif mark in "{[":
                self._depth += 1
            elif mark in "}]":
                self._depth -= 1
                self.whole = self.whole or self._depth == 0


class _Waiting:
    """A block that may not begin yet: its start, and the pieces of it that have come."""

    __slots__ = ("pieces", "start")

    def __init__(self, start: dict[str, Any]) -> None:
        self.start = start
        self.pieces: list[str] = []


class MessageStream:
    """One answer's events. `begin` and `feed` give them; after `fail`, or the end, there are none."""

    def __init__(self, seed: str, model: str) -> None:
        self._seed = seed
        self._model = model
        self._begun = False
        self.done = False
        self._index = -1
        self._key: str | int | None = None  # of the open block: "text", "thinking" or the call's index
        self._object: _Object | None = None  # of the open call
        self._waiting: dict[str | int, _Waiting] = {}
        self._finish: Any = None
        self._stopped_by: Any = None
        self._usage: Any = None

    def begin(self) -> list[Event]:
        """message_start and a ping, once."""
        if self._begun or self.done:
            return []
        self._begun = True
        return [_event("message_start", {"message": answer.head(self._seed, self._model)}), _PING]

    def feed(self, event: Event) -> list[Event]:
        """The events for one chunk, or for `[DONE]`. An error event is the caller's affair."""
        if self.done:
            return []
        out = self.begin()
        if event.data == DONE.data:
            self._end(out)
            return out
        chunk = orjson.loads(event.data)
        if chunk.get("usage") is not None:
            self._usage = chunk["usage"]
        for choice in chunk["choices"][:1]:
            self._delta(choice["delta"], out)
            if choice.get("finish_reason") is not None:
                self._finish, self._stopped_by = choice["finish_reason"], choice.get("stop_reason")
                self._drain(out, ended=True)
                self._close(out)
        return out

    def fail(self, error: dict[str, Any]) -> list[Event]:
        """The error event with this JSON, which ends the stream; nothing when it has ended."""
        if self.done:
            return []
        self.done = True
        return [encode(orjson.dumps(error), b"error")]

    def _delta(self, delta: dict[str, Any], out: list[Event]) -> None:
        thought = delta.get("reasoning_content") or delta.get("reasoning")
        if thought:
            self._say("thinking", {"type": "thinking", "thinking": "", "signature": ""}, thought, out)
        if delta.get("content"):
            self._say("text", {"type": "text", "text": ""}, delta["content"], out)
        for entry in delta.get("tool_calls") or ():
            function = entry.get("function") or {}
            key: int = entry["index"]
            arguments = function.get("arguments") or ""
            if entry.get("id") is not None:
                start: dict[str, Any] = {"type": "tool_use", "id": entry["id"], "name": function["name"], "input": {}}
                self._say(key, start, arguments, out)
            elif arguments and key == self._key:
                self._piece(arguments, out)
                self._drain(out)
            elif key in self._waiting:
                self._waiting[key].pieces.append(arguments)

    def _say(self, key: str | int, start: dict[str, Any], piece: str, out: list[Event]) -> None:
        """A piece of a block that is open, may begin now, or has to wait."""
        if key == self._key:
            self._piece(piece, out)
            return
        if self._object is not None and not self._object.whole:
            self._waiting.setdefault(key, _Waiting(start)).pieces.append(piece)
            return
        self._open(key, start, out)
        self._piece(piece, out)

    def _drain(self, out: list[Event], ended: bool = False) -> None:
        """Blocks that waited, as far as they may begin."""
        while self._waiting and (ended or self._object is None or self._object.whole):
            key = next(iter(self._waiting))
            waiting = self._waiting.pop(key)
            self._open(key, waiting.start, out)
            self._piece("".join(waiting.pieces), out)

    def _open(self, key: str | int, start: dict[str, Any], out: list[Event]) -> None:
        self._close(out)
        self._index += 1
        self._key = key
        self._object = _Object() if isinstance(key, int) else None
        out.append(_event("content_block_start", {"index": self._index, "content_block": start}))

    def _piece(self, text: str, out: list[Event]) -> None:
        if not text:
            return
        if self._object is not None:
            self._object.feed(text)
        kind, member = _SAID.get(str(self._key), _CALL)
        data = b'{"type":"content_block_delta","index":%d,"delta":{"type":"%b","%b":%b}}' % (
            self._index, kind.encode(), member.encode(), orjson.dumps(text),
        )  # fmt: skip
        out.append(encode(data, b"content_block_delta"))

    def _close(self, out: list[Event]) -> None:
        if self._key is None:
            return
        if self._key == "thinking":
            delta = {"type": "signature_delta", "signature": answer.signature(self._seed)}
            out.append(_event("content_block_delta", {"index": self._index, "delta": delta}))
        out.append(_event("content_block_stop", {"index": self._index}))
        self._key = self._object = None

    def _end(self, out: list[Event]) -> None:
        self._drain(out, ended=True)
        self._close(out)
        delta = answer.ending(self._finish, self._stopped_by)
        out.append(_event("message_delta", {"delta": delta, "usage": answer.usage_of(self._usage)}))
        out.append(_event("message_stop", {}))
        self.done = True


def _event(kind: str, members: dict[str, Any]) -> Event:
    return encode(orjson.dumps({"type": kind, **members}), kind.encode())
