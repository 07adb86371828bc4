"""Chunks of a stream that differ in one string only, read without parsing the rest.

`learn` finds the string in a chunk that was parsed, and proves by parsing once more that the bytes before and after it
are all there is to know. After that an event with the same bytes around a valid JSON string is that chunk with another
string.
"""

from __future__ import annotations

import re
from typing import Any, Final

import orjson

from devstral_proxy.upstream.sse import Event

STRING = re.compile(rb'"(content|arguments)"\s*:\s*"((?:[^"\\]++|\\.)*+)"')
MAX_LEARNT: Final = 16 * 1024
"""Bytes of a chunk that is worth learning from: a larger one is no token of a stream."""
PROBE: Final = "probe"


class Template:
    """`choice`: its index; `call`: upstream's index of the call whose arguments the string is, None for content."""

    __slots__ = ("_end", "_head", "_least", "_start", "_tail", "call", "choice")

    def __init__(self, head: bytes, tail: bytes, choice: int, call: int | None) -> None:
        self._head = b"data: " + head
        self._tail = tail + b"\n\n"
        self._start = len(self._head)
        self._end = -len(self._tail)
        self._least = len(self._head) + len(self._tail)
        self.choice = choice
        self.call = call

    def read(self, raw: bytes) -> str | None:
        """The string, when the event is like the one learned from; `raw`: its bytes on the wire."""
        if raw[: self._start] != self._head or raw[self._end :] != self._tail or len(raw) < self._least:
            return None
        inner = raw[self._start : self._end]
        try:
            text = inner.decode()
            if text.isprintable() and '"' not in text and "\\" not in text:
                return text  # it means itself
            if "\n" in text:  # several events
                return None
            escaped: str = orjson.loads(b'"%b"' % inner)
        except ValueError:  # of both: no UTF-8, no JSON string
            return None
        return escaped

    def write(self, text: str) -> Event:
        """The event with this string."""
        raw = b"%b%b%b" % (self._head, orjson.dumps(text)[1:-1], self._tail)
        return Event(raw[6:-2], raw)


def learn(index: int, delta: dict[str, Any], data: bytes) -> Template | None:
    """The template of a chunk with one choice whose delta says one string, or None."""
    if len(data) > MAX_LEARNT or b"\n" in data:  # of several lines: no form that events have on the wire
        return None
    calls = delta.get("tool_calls")
    content = delta.get("content")
    if "role" in delta or any(value for key, value in delta.items() if key not in ("content", "tool_calls")):
        return None
    call = None
    if isinstance(content, str) and not calls:
        key = b"content"
    elif content is None and isinstance(calls, list) and len(calls) == 1:
        key = b"arguments"
        call = calls[0].get("index")
        if type(call) is not int or "id" in calls[0] or set(calls[0].get("function", ())) != {"arguments"}:
            return None
    else:
        return None
    expected = orjson.loads(data)
    said = expected["choices"][0]["delta"]
    if call is None:
        said["content"] = PROBE
    else:
        said["tool_calls"][0]["function"]["arguments"] = PROBE
    for match in STRING.finditer(data):
        if match[1] == key:
            head, tail = data[: match.start(2)], data[match.end(2) :]
            try:
                if orjson.loads(head + PROBE.encode() + tail) == expected:
                    return Template(head, tail, index, call)
            except ValueError:
                continue
    return None
