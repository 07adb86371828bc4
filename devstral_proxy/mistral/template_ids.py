"""Chunks with token ids, which the proxy asked for and does not pass on: read without parsing, and written again.

They differ in two places, the text and the ids; what goes out differs in one. `learn` finds both places in a chunk that
was parsed, and proves them as `template` does. How what goes out is written is learned from what went out.
"""

from __future__ import annotations

import re
from typing import Any, Final

import orjson

from devstral_proxy.mistral.template import MAX_LEARNT, PROBE, STRING, Template
from devstral_proxy.mistral.template import learn as learn_string
from devstral_proxy.upstream.sse import Event

CONTENT: Final = -1
"""Where a text goes that is no piece of a call's arguments."""
_IDS = re.compile(rb'"token_ids"\s*:\s*\[([0-9][0-9, ]*)\]')
_PROBE_IDS: Final = [0]


class TemplateWithIds:
    """`choice`: its index."""

    __slots__ = ("_end", "_head", "_middle", "_start", "_tail", "_written", "choice")

    def __init__(self, head: bytes, middle: bytes, tail: bytes, choice: int) -> None:
        self._head = b"data: " + head
        self._middle = middle
        self._tail = tail + b"\n\n"
        self._start = len(self._head)
        self._end = -len(self._tail)
        self._written: dict[int, Template] = {}
        self.choice = choice

    def read(self, raw: bytes) -> tuple[str, list[int]] | None:
        """The text and its ids, when the event is like the one learned from; `raw`: its bytes on the wire."""
        if raw[: self._start] != self._head or raw[self._end :] != self._tail:
            return None
        text, middle, ids = raw[self._start : self._end].rpartition(self._middle)
        if not middle:
            return None
        try:
            found = orjson.loads(b'["%b",[%b]]' % (text, ids))
        except orjson.JSONDecodeError:
            return None
        return (found[0], found[1]) if len(found) == 2 else None

    def write(self, where: int, text: str) -> Event | None:
        """The event that says this text, `where` being the index of a call or CONTENT; None: not known yet."""
        template = self._written.get(where)
        return None if template is None else template.write(text)

    def learn(self, out: Event) -> None:
        """From what a chunk of this form became."""
        choice = orjson.loads(out.data)["choices"][0]
        template = learn_string(self.choice, choice["delta"], out.data)
        if template is not None:
            self._written[CONTENT if template.call is None else template.call] = template


def learn(index: int, delta: dict[str, Any], data: bytes) -> TemplateWithIds | None:
    """The template of a chunk with one choice that says a text and its ids, or None."""
    if len(data) > MAX_LEARNT or b"\n" in data or not isinstance(delta.get("content"), str):
        return None
    if "role" in delta or any(value is not None for key, value in delta.items() if key != "content"):
        return None
    expected = orjson.loads(data)
    choice = expected["choices"][0]
    if choice.get("logprobs") is not None:
        return None
    choice["delta"]["content"], choice["token_ids"] = PROBE, _PROBE_IDS
    ids = _IDS.search(data)
    for match in STRING.finditer(data):
        if match[1] == b"content" and ids is not None and ids.start() > match.end():
            head, middle, tail = data[: match.start(2)], data[match.end(2) : ids.start(1)], data[ids.end(1) :]
            try:
                if orjson.loads(b"%b%b%b0%b" % (head, PROBE.encode(), middle, tail)) == expected:
                    return TemplateWithIds(head, middle, tail, index)
            except ValueError:
                continue
    return None
