"""Responses kept in memory: gone with the process, and not seen by another one."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from devstral_proxy.stores.base import Record, check_chain, pack, unpack

_OVERHEAD: Final = 512
"""Bytes that a record takes beside its content, roughly: many small ones are bounded too."""

Key = tuple[str, str]


@dataclass(slots=True)
class _Kept:
    created: float
    previous: str | None
    body: bytes


class MemoryStore:
    """At most `max_bytes` of records, none older than `ttl` seconds; the least recently used goes first.

    A chain that is asked for is used as a whole, so a conversation that goes on does not lose its beginning to others.
    A record that alone is over `max_bytes` is not kept.
    """

    def __init__(self, max_bytes: int, ttl: float, clock: Callable[[], float] = time.time) -> None:
        self._max_bytes = max_bytes
        self._ttl = ttl
        self._clock = clock
        self._used: OrderedDict[Key, _Kept] = OrderedDict()  # by last use
        self._ages: dict[Key, float] = {}  # by time of putting: what expires first comes first
        self._bytes = 0

    async def put(self, record: Record) -> None:
        """Keep a record, at the cost of the least recently used ones."""
        kept = _Kept(record.created, record.previous, pack(record))
        key = (record.owner, record.id)
        self._forget(key)
        self._purge()
        size = _size(kept)
        if size > self._max_bytes:
            return
        while self._bytes + size > self._max_bytes:
            self._forget(next(iter(self._used)))
        self._used[key] = kept
        self._ages[key] = record.created
        self._bytes += size

    async def get(self, id: str, owner: str) -> Record | None:
        """The record, which counts as used now."""
        kept = self._find((owner, id))
        return unpack(id, owner, kept.created, kept.previous, kept.body) if kept is not None else None

    async def chain(self, id: str, owner: str) -> list[Record] | None:
        """The chain, oldest first; all of it counts as used now."""
        links: list[tuple[str, _Kept]] = []

        def sizes() -> Iterator[int]:
            following: str | None = id
            while following is not None and (kept := self._find((owner, following))) is not None:
                links.append((following, kept))
                yield len(kept.body)
                following = kept.previous

        check_chain(sizes())
        if not links or links[-1][1].previous is not None:
            return None
        return [unpack(link, owner, kept.created, kept.previous, kept.body) for link, kept in reversed(links)]

    async def delete(self, id: str, owner: str) -> bool:
        """Forget a record."""
        there = self._find((owner, id)) is not None
        self._forget((owner, id))
        return there

    async def aclose(self) -> None:
        """Forget everything."""
        self._used.clear()
        self._ages.clear()
        self._bytes = 0

    def _find(self, key: Key) -> _Kept | None:
        kept = self._used.get(key)
        if kept is None or kept.created <= self._clock() - self._ttl:
            return None
        self._used.move_to_end(key)
        return kept

    def _forget(self, key: Key) -> None:
        kept = self._used.pop(key, None)
        if kept is not None:
            del self._ages[key]
            self._bytes -= _size(kept)

    def _purge(self) -> None:
        oldest = self._clock() - self._ttl
        while self._ages:
            key = next(iter(self._ages))
            if self._ages[key] > oldest:
                return
            self._forget(key)


def _size(kept: _Kept) -> int:
    return len(kept.body) + _OVERHEAD
