"""Waiting for upstream: how long, and what the client hears meanwhile."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Iterable

from devstral_proxy.errors import UpstreamProtocolError, UpstreamTimeout
from devstral_proxy.server.feed import Feed
from devstral_proxy.upstream.head import Head
from devstral_proxy.upstream.sse import KEEPALIVE, Event


class EventSink:
    """The client's end of a stream. Its head goes out with the first bytes, be they a comment (F82)."""

    __slots__ = ("_interval", "_last", "_loop", "_write", "started")

    def __init__(
        self, write: Callable[[bytes, bool], Awaitable[None]], keepalive: float, loop: asyncio.AbstractEventLoop
    ) -> None:
        """`write`: as `Exchange.write`; `keepalive`: seconds of silence after which a comment is due, 0: never."""
        self._write = write
        self._loop = loop
        self._interval = keepalive or math.inf
        self._last = self._loop.time()
        self.started = False

    @property
    def due(self) -> float:
        """When the next comment is due, in the loop's time."""
        return self._last + self._interval

    async def keepalive(self) -> None:
        """Write the comment."""
        await self.write(KEEPALIVE)

    async def write(self, data: bytes, more: bool = True) -> None:
        """Write to the client; waits while it does not read."""
        self.started = True
        await self._write(data, more)
        self._last = self._loop.time()


def raw(events: Iterable[Event]) -> bytes:
    """The bytes of events, for one write."""
    return b"".join([event.raw for event in events])


class Limits:
    """How long one exchange may take, in seconds: in all, until the first byte, between two. `total` is the end of it
    all in the loop's time; it starts now."""

    __slots__ = ("_began", "first_byte", "idle", "loop", "name", "request", "total")

    def __init__(self, request: float, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._began = loop.time()
        self.request = request
        self.total = self._began + request
        self.name = "REQUEST_TIMEOUT"
        self.first_byte: float | None = None
        self.idle: float | None = None

    def of_profile(self, seconds: float) -> None:
        """The profile's own limit for the whole, in the place of the setting's; it began when this one did."""
        self.name = "the profile's timeout"
        self.request = seconds
        self.total = self._began + seconds

    def ends_at(self) -> float:
        """`total`, for whoever asks later."""
        return self.total


class Reader:
    """A `Feed` read with patience: `sink`, if there is one, gets a comment whenever it has been silent for too long."""

    __slots__ = ("_feed", "_late", "_limits", "_loop", "_name", "_silent", "_sink", "_until")

    def __init__(self, feed: Feed, limits: Limits, sink: EventSink | None = None) -> None:
        self._feed = feed
        self._limits = limits
        self._sink = sink
        self._loop = limits.loop
        self._late = False
        self._name = "FIRST_BYTE_TIMEOUT"
        self._silent = limits.first_byte
        self._until = math.inf if self._silent is None else self._loop.time() + self._silent

    async def head(self) -> Head:
        """The head of the answer. Raises UpstreamTimeout, or what kept it away."""
        while (answer := await self._feed.head(self._deadline())) is None:
            await self._waited()
        return answer

    async def next(self) -> list[bytes]:
        """The next pieces of the body; none at its end. Raises UpstreamTimeout, or what broke it."""
        if self._late:
            await self._waited()
        while True:
            chunks = await self._feed.take(self._deadline())
            if chunks:
                now = self._loop.time()
                self._late = now >= self._limits.total
                self._name = "IDLE_TIMEOUT"
                self._silent = self._limits.idle
                self._until = math.inf if self._silent is None else now + self._silent
                return chunks
            if self._feed.ended:
                return chunks
            await self._waited()

    async def whole(self, limit: int) -> bytes:
        """The whole body. Raises UpstreamProtocolError over the limit, and what `next` raises."""
        parts: list[bytes] = []
        size = 0
        while chunks := await self.next():
            parts += chunks
            size += sum(map(len, chunks))
            if size > limit:
                raise UpstreamProtocolError(f"vLLM's answer is over {limit} bytes (ANSWER_LIMIT)")
            if self._feed.ended:
                break
        return b"".join(parts)

    def _deadline(self) -> float:
        until = min(self._until, self._limits.total)
        sink = self._sink
        return until if sink is None or sink.due > until else sink.due

    async def _waited(self) -> None:
        """A deadline may have passed: which?"""
        now = self._loop.time()
        if now >= self._limits.total:
            limits = self._limits
            over = UpstreamTimeout(f"timed out: the request took longer than {limits.request:g} s ({limits.name})")
            over.phase = "total"
            raise over
        if now >= self._until:
            raise UpstreamTimeout(f"timed out: vLLM sent nothing for {self._silent:g} s ({self._name})")
        if self._sink is not None and now >= self._sink.due:
            await self._sink.keepalive()
