"""Deadlines of many connections, kept by one timer."""

from __future__ import annotations

import asyncio
from typing import Protocol


class Limited(Protocol):
    """Something with deadlines in the loop's time."""

    def check(self, now: float) -> None:
        """Act on the deadlines that have passed."""


class Deadlines:
    """Has every connection look at its deadlines each `interval` seconds: setting one costs an assignment, and no timer
    of its own.

    A deadline is met up to `interval` late. The timer runs only while there is something to watch.
    """

    __slots__ = ("_interval", "_limited", "_loop", "_timer")

    def __init__(self, interval: float) -> None:
        self._interval = interval
        self._limited: set[Limited] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None

    def add(self, limited: Limited, loop: asyncio.AbstractEventLoop) -> None:
        """Watch it from now on."""
        self._limited.add(limited)
        if self._timer is None:
            self._loop = loop
            self._timer = loop.call_later(self._interval, self._look)

    def discard(self, limited: Limited) -> None:
        """Watch it no longer."""
        self._limited.discard(limited)
        if not self._limited and self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        loop = self._loop
        if loop is None:
            return
        self._timer = loop.call_later(self._interval, self._look)
        now = loop.time()
        for limited in tuple(self._limited):
            limited.check(now)
