"""Tools, and the frames of requests that have them, translated before.

An agent sends the same tools with each turn, and their schemas are most of what there is to walk through; the fields
beside them hardly ever change either. The result depends on nothing but what was sent, so it is kept.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

import orjson

from devstral_proxy.mistral.fields import DROPPED
from devstral_proxy.mistral.frame import Frame, frame_of
from devstral_proxy.mistral.profiles import ModelProfile
from devstral_proxy.mistral.rewrites import RewriteLog
from devstral_proxy.mistral.tool_markup import Names
from devstral_proxy.mistral.tools import ToolSet
from devstral_proxy.upstream.capabilities import Capabilities

MAX_BYTES: Final = 128 * 1024
"""Definitions over this are translated anew each time."""
MAX_TOTAL: Final = 512 * 1024
"""Bytes of all definitions that are kept. What is made of them takes some twenty times as much."""
MAX_FIELDS: Final = 1024
"""Bytes of the fields beside messages and tools; with more the frame is made anew each time."""
MAX_FRAMES: Final = 512
"""Frames that are kept, of some kilobytes each. When there are more, all are forgotten."""

_Key = tuple[bytes, int, int, int | None]
_DROPPED: Final = frozenset(DROPPED)


@dataclass(frozen=True, slots=True)
class _Entry:
    tools: list[dict[str, Any]]
    schemas: dict[str, dict[str, Any]]
    own: dict[str, str]
    custom: set[str]
    back: dict[str, str]
    rewrites: list[tuple[str, str]]
    markup: Names
    frames: dict[_Key, Frame] = field(default_factory=dict)


class ToolMemo:
    """`add_all` does what `ToolSet.add_all` does, `frame` what `frame_of` does, by memory where they can. What they
    hand out must not be changed."""

    __slots__ = ("_entries", "_frames", "_toolless", "_total")

    def __init__(self) -> None:
        self._entries: dict[bytes, _Entry] = {}
        self._total = 0
        self._toolless: dict[_Key, Frame] = {}  # of requests without tools
        self._frames = 0

    def add_all(self, into: ToolSet, defined: Any) -> Names | None:
        """Translate the request's `tools` into an empty set; the names are those of the set, made ready for
        `tool_markup`, where they are known. Raises BadRequest."""
        key = _tools_key(defined)
        if key is None:
            into.add_all(defined, "tools")
            return None
        entry = self._entry(key)
        if entry is None:
            before = len(into.log.entries)
            into.add_all(defined, "tools")
            entry = _Entry(
                into.tools,
                into.schemas,
                into.own,
                into.custom,
                dict(into.names.back),
                into.log.entries[before:],
                Names(into.schemas),
            )
            self._keep(key, entry)
        else:
            into.tools, into.schemas, into.own, into.custom = entry.tools, entry.schemas, entry.own, entry.custom
            into.names.back.update(entry.back)
            into.log.entries += entry.rewrites
        return entry.markup

    def frame(
        self,
        given: dict[str, Any],
        profile: ModelProfile,
        capabilities: Capabilities,
        max_model_len: int | None,
        log: RewriteLog,
    ) -> Frame:
        """The frame of a request whose messages do not end with the assistant's. Raises BadRequest."""
        fields, defined = _fields_key(given), given.get("tools")
        tools = _tools_key(defined) if defined else b""
        if fields is None or tools is None:
            return frame_of(given, profile, capabilities, max_model_len, self.add_all, log)
        key = (fields, id(profile), id(capabilities), max_model_len)  # a frame refers to both: no other has their ids
        frames = self._toolless
        if tools:
            entry = self._entry(tools)
            frames = {} if entry is None else entry.frames
        frame = frames.get(key)
        if frame is not None:
            log.entries += frame.before
            return frame
        frame = frame_of(given, profile, capabilities, max_model_len, self.add_all, log)
        if self._frames >= MAX_FRAMES:
            self._forget_frames()
        self._frames += 1
        frames = self._entries[tools].frames if tools else self._toolless
        frames[key] = frame
        return frame

    def _entry(self, key: bytes) -> _Entry | None:
        entries = self._entries
        entry = entries.pop(key, None)
        if entry is not None:
            entries[key] = entry  # the one used last at the end
        return entry

    def _keep(self, key: bytes, entry: _Entry) -> None:
        entries = self._entries
        self._total += len(key)
        while self._total > MAX_TOTAL:
            oldest = next(iter(entries))
            self._frames -= len(entries.pop(oldest).frames)
            self._total -= len(oldest)
        entries[key] = entry

    def _forget_frames(self) -> None:
        self._frames = 0
        self._toolless.clear()
        for entry in self._entries.values():
            entry.frames.clear()


def _tools_key(defined: Any) -> bytes | None:
    """What tells these definitions from others; None for what is not kept."""
    try:
        key = orjson.dumps(defined)
    except TypeError:  # nested too deeply: it will be refused
        return None
    return key if 2 < len(key) <= MAX_BYTES else None


def _fields_key(given: dict[str, Any]) -> bytes | None:
    """What tells a request's fields, and their order, from others, tools and messages left aside."""
    if "messages" not in given:
        return None
    fields = given.copy()
    fields["messages"] = 0
    if fields.get("tools"):
        fields["tools"] = 0
    if not _DROPPED.isdisjoint(fields):  # their values are of no account, but for null
        for name in _DROPPED.intersection(fields):
            fields[name] = None if fields[name] is None else 0
    try:
        key = orjson.dumps(fields)
    except TypeError:
        return None
    return key if len(key) <= MAX_FIELDS else None
