"""A bounded, fair queue in front of vLLM: so many requests at a time, so many that wait, and keys take turns."""

from __future__ import annotations

import asyncio
import sys
from collections import OrderedDict
from functools import partial

from devstral_proxy.config import Settings
from devstral_proxy.errors import Overloaded, RateLimited

RETRY_AFTER = "5"
"""Seconds after which a client that found no room may ask again."""

_Line = OrderedDict[asyncio.Future[None], None]


class Admission:
    """Whoever comes through `enter` holds one of `max_concurrent` places (0: any number) until `leave`.

    A free place goes to the key whose turn it is, within a key to the first that came. So when nobody holds back
    the number of places that are free and that of those who wait are never both above 0. One event loop only.
    """

    def __init__(self, max_concurrent: int, max_queue: int, timeout: float, per_key: int = 0) -> None:
        self.running = 0
        self.waiting = 0
        self._places = max_concurrent or sys.maxsize
        self._max_queue = max_queue
        self._timeout = timeout
        self._per_key = per_key
        self._held: dict[str, int] = {}  # running and waiting requests by key, where they are counted
        self._lines: OrderedDict[str, _Line] = OrderedDict()  # keys in the order of their turns; none is empty

    def free(self, key: str) -> bool:
        """Take a place, if there is one and nothing has to be looked at: nearly always. If not, `enter` tells."""
        if self._per_key or self.running >= self._places:
            return False
        self.running += 1
        return True

    async def enter(self, key: str) -> None:
        """Wait for a place. Raises RateLimited when the key has too many requests already, Overloaded when there
        is no room to wait, or none came free in time. Whoever gets an exception holds no place.
        """
        if self._per_key:
            held = self._held.get(key, 0)
            if held >= self._per_key:
                raise _too_many(self._per_key)
            self._held[key] = held + 1
        if self.running < self._places:
            self.running += 1
            return
        try:
            await self._wait(key)
        except BaseException:
            self._forget(key)
            raise

    def leave(self, key: str) -> None:
        """Give the place back: once for each `enter` that returned."""
        self._forget(key)
        self._pass_on()

    def _forget(self, key: str) -> None:
        if self._per_key:
            held = self._held[key] - 1
            if held:
                self._held[key] = held
            else:
                del self._held[key]

    async def _wait(self, key: str) -> None:
        if self.waiting >= self._max_queue and not self._made_room(key):
            raise _full()
        loop = asyncio.get_running_loop()
        place: asyncio.Future[None] = loop.create_future()
        self._lines.setdefault(key, OrderedDict())[place] = None
        self.waiting += 1
        timer = loop.call_later(self._timeout, partial(self._refuse, key, place, _late(self._timeout)))
        try:
            await place
        except asyncio.CancelledError:
            if place.cancelled():
                self._remove(key, place)
            elif place.exception() is None:
                self._pass_on()  # the place was given in the same moment
            raise
        finally:
            timer.cancel()

    def _made_room(self, key: str) -> bool:
        """One key must not fill the queue: the last of the longest line goes, if that line is the longer one by two."""
        if not self._lines:
            return False
        longest, line = max(self._lines.items(), key=lambda item: len(item[1]))
        if len(line) < len(self._lines.get(key, ())) + 2:
            return False
        self._refuse(longest, next(reversed(line)), _full())
        return True

    def _refuse(self, key: str, place: asyncio.Future[None], error: Overloaded) -> None:
        self._remove(key, place)
        if not place.done():
            place.set_exception(error)

    def _remove(self, key: str, place: asyncio.Future[None]) -> None:
        line = self._lines.get(key)
        if line is not None and place in line:
            del line[place]
            self.waiting -= 1
            if not line:
                del self._lines[key]

    def _pass_on(self) -> None:
        """The place of somebody who has gone, to the next who waits."""
        while self._lines:
            key, line = next(iter(self._lines.items()))
            place = next(iter(line))
            self._lines.move_to_end(key)
            self._remove(key, place)
            if not place.done():  # else cancelled, and its task has not run yet
                place.set_result(None)
                return
        self.running -= 1


def admission(settings: Settings) -> Admission:
    """The queue that the settings ask for."""
    return Admission(
        settings.max_concurrent, settings.max_queue, settings.queue_timeout, settings.max_concurrent_per_key
    )


def _full() -> Overloaded:
    return _overloaded("the proxy's queue is full; please try again later")


def _late(timeout: float) -> Overloaded:
    return _overloaded(f"no place came free within {timeout:g} seconds; please try again later")


def _overloaded(message: str) -> Overloaded:
    error = Overloaded(message)
    error.headers.append(("Retry-After", RETRY_AFTER))
    return error


def _too_many(limit: int) -> RateLimited:
    error = RateLimited(f"Too many concurrent requests with this API key: Limit {limit}. Please try again later.")
    error.headers.append(("Retry-After", "1"))
    return error
