"""A circuit breaker: a server that fails is left alone for a while, then tried with one request.

    closed ── failures in a row ──▶ open ── its time is over ──▶ half-open ── success ──▶ closed
                                     ▲                              │
                                     └────────── failure ───────────┘   each time for longer

Pure: the clock and the random source are passed in. Failures are counted in a row, not as a rate: a server that fails
every second request costs one more request elsewhere, and only one that answers nothing at all has to be left alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Literal

State = Literal["closed", "open", "half-open"]

LONGEST: Final = 6
"""The back-off grows to this many times BREAKER_OPEN."""
LONGEST_HOLD: Final = 120.0
"""Seconds for which a server's own Retry-After is believed at most."""


class Breaker:
    """One a server. All times are seconds of the same clock.

    `failures`: failures in a row that open it; 0: it never opens. `open_for`: seconds of the first opening. `random`
    gives numbers from 0 to 1: each opening is shortened by up to a quarter, so that several proxies do not ask at once.
    """

    __slots__ = ("_failed", "_failures", "_open_for", "_probe_until", "_random", "_trips", "_until", "state")

    def __init__(self, failures: int, open_for: float, random: Callable[[], float]) -> None:
        self._failures = failures
        self._open_for = open_for
        self._random = random
        self._failed = 0  # in a row
        self._trips = 0  # openings in a row
        self._until = 0.0  # end of the opening
        self._probe_until = 0.0  # while half-open: the probe under way is waited for until then
        self.state: State = "closed"

    @property
    def calm(self) -> bool:
        """Closed, and the last request did not fail: one that succeeds changes nothing."""
        return self.state == "closed" and not self._failed

    def ready(self, now: float) -> bool:
        """Whether `allow` would say yes. Changes nothing."""
        if self.state == "closed":
            return True
        return now >= (self._until if self.state == "open" else self._probe_until)

    def allow(self, now: float) -> bool:
        """Whether a request may go there. Half-open, the one that hears yes is the probe: the others hear no until
        `succeeded`, `failed` or `released`, or until the first opening's time has passed once more."""
        if self.state == "closed":
            return True
        if not self.ready(now):
            return False
        self.state = "half-open"
        self._probe_until = now + self._open_for
        return True

    def succeeded(self, now: float) -> None:
        """It answered: closed, whatever it was. A server told to be left alone by its own Retry-After stays so."""
        self._failed = 0
        if self.state == "closed" or (self.state == "open" and self._trips == 0 and now < self._until):
            return
        self.state = "closed"
        self._trips = 0

    def failed(self, now: float) -> None:
        """It did not answer. While open nothing changes: those were sent before."""
        if self.state == "open" or not self._failures:
            return
        self._failed += 1
        if self.state == "half-open" or self._failed >= self._failures:
            self.trip(now)

    def trip(self, now: float) -> None:
        """Open it, however few failures there were. Nothing changes where it is open."""
        if self.state == "open" or not self._failures:
            return
        seconds = self._open_for * min(2 ** min(self._trips, 16), LONGEST)
        self._trips += 1
        self._failed = 0
        self._until = now + seconds * (0.75 + 0.25 * self._random())
        self.state = "open"

    def hold(self, now: float, seconds: float) -> None:
        """It asked to be left alone for so long (Retry-After of a 429 or 503)."""
        if not self._failures or seconds <= 0:
            return
        until = now + min(seconds, LONGEST_HOLD)
        if self.state != "open":
            self._trips = 0
        self._until = max(until, self._until) if self.state == "open" else until
        self.state = "open"

    def released(self) -> None:
        """The probe ended without a verdict, as when its client left: the next may go."""
        self._probe_until = 0.0

    def recovered(self, now: float) -> None:
        """A health check that failed before has passed: the next request is the probe, without waiting any longer.
        What the server's own Retry-After said stays."""
        if self.state == "open" and self._trips:
            self._until = min(self._until, now)

    def retry_after(self, now: float) -> float:
        """Seconds until `ready`; 0 when it is."""
        if self.ready(now):
            return 0.0
        return (self._until if self.state == "open" else self._probe_until) - now
