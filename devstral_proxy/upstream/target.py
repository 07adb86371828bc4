"""One vLLM server as the fleet sees it: how to reach it, what it is, whether it answers, how much it has to do."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from email.utils import parsedate_to_datetime
from typing import Final

from devstral_proxy.errors import ProxyError, UpstreamError, UpstreamRefused, UpstreamUnavailable
from devstral_proxy.upstream.breaker import Breaker
from devstral_proxy.upstream.client import UpstreamClient
from devstral_proxy.upstream.models import Upstream

_log = logging.getLogger("devstral_proxy.upstream")

FAILING: Final = frozenset((502, 503, 504))
"""Statuses that say that vLLM, or the way to it, is down. 500 is not among them: it may be the request's own doing."""


class Target:
    """`name` is stable and fit for logs and metrics; `running` counts requests that are under way."""

    __slots__ = ("_changed", "_clock", "breaker", "check", "checked", "client", "facts", "name", "running")

    def __init__(
        self,
        name: str,
        client: UpstreamClient,
        facts: Upstream,
        breaker: Breaker,
        clock: Callable[[], float],
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        """`changed` is called when the breaker has opened or closed."""
        self.name = name
        self.client = client
        self.facts = facts
        self.breaker = breaker
        self.running = 0
        self.checked: bool | None = None
        """What the last health check said; None before the first."""
        self.check = "/health"
        """The path that health checks ask."""
        self._clock = clock
        self._changed = changed

    @property
    def doubtful(self) -> bool:
        """It may be tried again by the breaker, but a health check has just said that it fails."""
        return self.checked is False and self.breaker.state != "closed"

    def answered(self, status: int, retry_after: str | None = None) -> None:
        """The head of an answer has come: what it says of the server."""
        if status == 200 and self.breaker.calm and self.checked is not False and retry_after is None:
            return  # as nearly always: nothing is news
        now = self._clock()
        if status in FAILING:
            self._judged(self.breaker.failed, now, f"status {status}")
        else:
            if self.checked is False:
                self.checked = None  # a real answer says more than a health check
            self._judged(self.breaker.succeeded, now, "")
        if retry_after is not None and status in (429, 503):
            self.breaker.hold(now, seconds_of(retry_after, time.time()))

    def failed(self, error: ProxyError) -> None:
        """No head of an answer came, for this reason. Errors that are not the server's count for nothing."""
        if isinstance(error, UpstreamRefused) or not isinstance(error, UpstreamError):
            return
        if error.phase in ("pool", "total"):
            return
        if isinstance(error, UpstreamUnavailable):
            self.facts.forget()
        self._judged(self.breaker.failed, self._clock(), error.code or "")

    def passed(self, well: bool, why: str = "") -> None:
        """A health check has ended. One that fails is a failure, a second without an answer between opens the breaker.
        One that passes closes nothing, since a real request may fail all the same: it only ends the waiting, and only
        when the one before had failed."""
        before, self.checked = self.checked, well
        now = self._clock()
        if not well:
            self._judged(self.breaker.trip if before is False else self.breaker.failed, now, f"health check, {why}")
        elif before is False:
            self.facts.forget()  # it may be another version now, with other models
            self.breaker.recovered(now)
            _log.info("server %s passes its health check again", self.name)

    def _judged(self, verdict: Callable[[float], None], now: float, why: str) -> None:
        before = self.breaker.state
        verdict(now)
        after = self.breaker.state
        if after == before:
            return
        if after == "open":
            seconds = self.breaker.retry_after(now)
            _log.warning("server %s is left alone for %.1f s after failures, the last: %s", self.name, seconds, why)
        else:
            _log.info("server %s answers again", self.name)
        self._changed()


def seconds_of(retry_after: str, now: float) -> float:
    """A Retry-After header (RFC 9110 10.2.3: seconds, or a date) in seconds from `now` (Unix time); 0 for what is
    neither, or has passed."""
    text = retry_after.strip()
    if text.isascii() and text.isdigit():
        return float(text[:9])
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - now)
    except (ValueError, OverflowError):
        return 0.0
