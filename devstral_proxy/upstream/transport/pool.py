"""A bounded pool: first come, first served; what was used last is used next."""

from __future__ import annotations

import asyncio
import math
from collections import deque

import httpx

from devstral_proxy.upstream.transport.connection import Connection, Origin


class _Place:
    """Somebody in the queue. The future gets a connection, or None: the right to open one."""

    __slots__ = ("future", "origin")

    def __init__(self, origin: Origin, future: asyncio.Future[Connection | None]) -> None:
        self.origin = origin
        self.future = future


class Pool:
    """Places for connections. A place is taken by `acquire` and given back by `release` or `free`, exactly once.

    Somebody waits only while all places are taken, so what is given back goes to the first in the queue, and an idle
    connection never stands beside a queue.
    """

    __slots__ = ("_closed", "_expiry", "_idle", "_most", "_most_idle", "_queue", "busy")

    def __init__(self, most: int | None, most_idle: int | None, expiry: float | None) -> None:
        self._most = math.inf if most is None else most
        self._most_idle = math.inf if most_idle is None else most_idle
        self._expiry = expiry
        self._idle: list[Connection] = []  # the one used last at the end
        self._queue: deque[_Place] = deque()
        self._closed = False
        self.busy = 0
        """Places that are taken."""

    @property
    def idle(self) -> int:
        """Connections that nobody uses."""
        return len(self._idle)

    @property
    def waiting(self) -> int:
        """Requests in the queue."""
        return sum(not place.future.done() for place in self._queue)

    async def acquire(self, origin: Origin, seconds: float | None) -> Connection | None:
        """A place, with an idle connection to this origin if there is one. Raises PoolTimeout."""
        if self._closed:
            raise httpx.ConnectError("the transport is closed")
        if self.busy < self._most:
            self.busy += 1
            return self._take(origin)
        loop = asyncio.get_running_loop()
        place = _Place(origin, loop.create_future())
        self._queue.append(place)
        timer = None if seconds is None else loop.call_later(seconds, _late, place.future)
        try:
            connection = await place.future
        except asyncio.CancelledError:
            # It may have been given a place in the same moment: that goes to the next.
            if place.future.done() and not place.future.cancelled() and place.future.exception() is None:
                self.release(place.future.result())
            raise
        finally:
            if timer is not None:
                timer.cancel()
            if self._queue and self._queue[0] is place:
                self._queue.popleft()
        if connection is not None and connection.closed:
            return None  # it went in between; the place stays
        return connection

    def acquire_idle(self, origin: Origin) -> Connection | None:
        """A place with an idle connection to this origin, or nothing."""
        if self._closed or self.busy >= self._most:
            return None
        idle = self._idle
        for at in range(len(idle) - 1, -1, -1):
            if idle[at].origin == origin:
                self.busy += 1
                return idle.pop(at)
        return None

    def _take(self, origin: Origin) -> Connection | None:
        idle = self._idle
        for at in range(len(idle) - 1, -1, -1):
            if idle[at].origin == origin:
                return idle.pop(at)
        if idle and self.busy + len(idle) > self._most:
            idle.pop(0).abort()  # to another origin, and it stands in the way
        return None

    def release(self, connection: Connection | None) -> None:
        """Give a place back, with a connection that can be used again if there is one."""
        if connection is not None and (connection.closed or self._closed):
            connection.abort()
            connection = None
        while self._queue:
            place = self._queue.popleft()
            if place.future.done():
                continue
            if connection is not None:
                if connection.origin == place.origin:
                    connection.rest(None)
                else:
                    connection.abort()
                    connection = None
            place.future.set_result(connection)
            return
        self.busy -= 1
        if connection is not None:
            if len(self._idle) < self._most_idle:
                connection.rest(self._expiry)
                self._idle.append(connection)
            else:
                connection.abort()

    def gone(self, connection: Connection) -> None:
        """An idle connection has closed or expired. One that is just being handed over is not in the list."""
        if connection in self._idle:
            self._idle.remove(connection)

    def close(self) -> None:
        """Close what is idle, and send the queue away."""
        self._closed = True
        for connection in self._idle:
            connection.abort()
        self._idle.clear()
        for place in self._queue:
            if not place.future.done():
                place.future.set_exception(httpx.ConnectError("the transport is closed"))
        self._queue.clear()


def _late(future: asyncio.Future[Connection | None]) -> None:
    if not future.done():
        future.set_exception(httpx.PoolTimeout(""))
