"""Tools that have been translated before.

An agent sends the same tools with each turn, and their schemas are most of what there is to walk through. The result
depends on nothing but the definitions themselves, so it is kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import orjson

from devstral_proxy.mistral.tool_markup import Names
from devstral_proxy.mistral.tools import ToolSet

MAX_BYTES: Final = 128 * 1024
"""Definitions over this are translated anew each time."""
MAX_TOTAL: Final = 512 * 1024
"""Bytes of all definitions that are kept. What is made of them takes some twenty times as much."""


@dataclass(frozen=True, slots=True)
class _Entry:
    tools: list[dict[str, Any]]
    schemas: dict[str, dict[str, Any]]
    own: dict[str, str]
    custom: set[str]
    back: dict[str, str]
    rewrites: list[tuple[str, str]]
    markup: Names


class ToolMemo:
    """`add_all` does what `ToolSet.add_all` does, by memory where it can. What it hands out must not be changed."""

    __slots__ = ("_entries", "_total")

    def __init__(self) -> None:
        self._entries: dict[bytes, _Entry] = {}
        self._total = 0

    def add_all(self, into: ToolSet, defined: Any) -> Names | None:
        """Translate the request's `tools` into an empty set; the names are those of the set, made ready for
        `tool_markup`, where they are known. Raises BadRequest."""
        try:
            key = orjson.dumps(defined)
        except TypeError:  # nested too deeply: it will be refused
            key = b""
        if not 2 < len(key) <= MAX_BYTES:
            into.add_all(defined, "tools")
            return None
        entries = self._entries
        entry = entries.pop(key, None)
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
            self._total += len(key)
            while self._total > MAX_TOTAL:
                oldest = next(iter(entries))
                del entries[oldest]
                self._total -= len(oldest)
        else:
            into.tools, into.schemas, into.own, into.custom = entry.tools, entry.schemas, entry.own, entry.custom
            into.names.back.update(entry.back)
            into.log.entries += entry.rewrites
        entries[key] = entry  # the one used last at the end
        return entry.markup
