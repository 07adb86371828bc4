"""The circuit breaker: by table, and by rules that hold whatever happens."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from devstral_proxy.upstream.breaker import LONGEST, LONGEST_HOLD, Breaker

# Three failures open it for ten seconds. A step: (at, what, answer of `allow` or None, state after it).
Step = tuple[float, str, bool | None, str]
CASES: dict[str, list[Step]] = {
    "two failures are not enough": [(0, "failed", None, "closed")] * 2 + [(0, "allow", True, "closed")],
    "a success in between": [
        (0, "failed", None, "closed"),
        (0, "failed", None, "closed"),
        (0, "succeeded", None, "closed"),
        (0, "failed", None, "closed"),
        (0, "failed", None, "closed"),
        (0, "failed", None, "open"),
    ],
    "one probe, which succeeds": [
        (0, "trip", None, "open"),
        (9.9, "allow", False, "open"),
        (10, "allow", True, "half-open"),
        (10, "allow", False, "half-open"),
        (11, "succeeded", None, "closed"),
        (11, "allow", True, "closed"),
    ],
    "each failed probe doubles it": [
        (0, "trip", None, "open"),
        (10, "allow", True, "half-open"),
        (10, "failed", None, "open"),
        (29.9, "allow", False, "open"),
        (30, "allow", True, "half-open"),
        (30, "failed", None, "open"),
        (69.9, "allow", False, "open"),
        (70, "allow", True, "half-open"),
        (70, "succeeded", None, "closed"),
        (70, "trip", None, "open"),
        (80, "allow", True, "half-open"),
    ],
    "failures of those sent before count for nothing": [
        (0, "trip", None, "open"),
        (5, "failed", None, "open"),
        (5, "failed", None, "open"),
        (10, "allow", True, "half-open"),
    ],
    "an answer to one sent before proves that it is there": [
        (0, "trip", None, "open"),
        (1, "succeeded", None, "closed"),
    ],
    "a probe whose client left": [
        (0, "trip", None, "open"),
        (10, "allow", True, "half-open"),
        (11, "allow", False, "half-open"),
        (12, "released", None, "half-open"),
        (12, "allow", True, "half-open"),
    ],
    "a probe that nobody hears of again": [
        (0, "trip", None, "open"),
        (10, "allow", True, "half-open"),
        (19.9, "allow", False, "half-open"),
        (20, "allow", True, "half-open"),
    ],
    "a health check passes": [
        (0, "trip", None, "open"),
        (1, "recovered", None, "open"),
        (1, "allow", True, "half-open"),
        (1, "allow", False, "half-open"),
    ],
    "a health check passes while all is well": [(0, "recovered", None, "closed"), (0, "allow", True, "closed")],
    "Retry-After": [
        (0, "hold", None, "open"),
        (1, "succeeded", None, "open"),
        (1, "recovered", None, "open"),
        (29.9, "allow", False, "open"),
        (30, "allow", True, "half-open"),
        (30, "succeeded", None, "closed"),
    ],
    "Retry-After prolongs": [
        (0, "trip", None, "open"),
        (5, "hold", None, "open"),
        (34.9, "allow", False, "open"),
        (35, "allow", True, "half-open"),
    ],
    "Retry-After does not shorten": [
        (0, "hold", None, "open"),
        (0, "hold-1", None, "open"),
        (29.9, "allow", False, "open"),
    ],
}


def act(breaker: Breaker, what: str, now: float) -> bool | None:
    if what == "released":
        breaker.released()
    elif what.startswith("hold"):
        breaker.hold(now, float(what[5:] or 30))
    elif what == "allow":
        ready = breaker.ready(now)
        assert breaker.allow(now) == ready
        return ready
    else:
        getattr(breaker, what)(now)
    return None


@pytest.mark.parametrize("case", CASES)
def test_steps(case: str) -> None:
    breaker = Breaker(3, 10.0, lambda: 1.0)
    for number, (now, what, answer, state) in enumerate(CASES[case]):
        assert act(breaker, what, now) == answer, number
        assert breaker.state == state, number


def test_the_back_off_has_an_end_and_jitter() -> None:
    spans = []
    for random in (0.0, 1.0):
        breaker, now = Breaker(1, 10.0, lambda random=random: random), 0.0  # type: ignore[misc]
        for _ in range(50):
            breaker.failed(now)
            spans.append(breaker.retry_after(now))
            now += spans[-1]
            assert breaker.retry_after(now) == 0
            assert breaker.allow(now)
    assert spans[:4] == [7.5, 15, 30, 45]
    assert spans[50:54] == [10, 20, 40, 60]
    assert max(spans) == 10 * LONGEST


def test_none_at_all() -> None:
    breaker = Breaker(0, 10.0, lambda: 1.0)
    for _ in range(100):
        breaker.failed(0)
    breaker.trip(0)
    breaker.hold(0, 30)
    assert breaker.state == "closed"
    assert breaker.allow(0)


def test_a_retry_after_of_a_day_is_not_believed() -> None:
    breaker = Breaker(3, 10.0, lambda: 1.0)
    breaker.hold(0, 86400)
    assert breaker.retry_after(0) == LONGEST_HOLD


class Machine(RuleBasedStateMachine):
    """Whatever happens: it opens only for a reason, lets one through at a time, and never stays shut for good."""

    @initialize(failures=st.integers(1, 4), random=st.floats(0, 1))
    def begin(self, failures: int, random: float) -> None:
        self.breaker = Breaker(failures, 5.0, lambda: random)
        self.failures = failures
        self.now = 0.0
        self.in_a_row = 0
        self.probes: list[float] = []

    @rule(seconds=st.floats(0, 40))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule(what=st.sampled_from(["succeeded", "failed", "recovered", "released"]))
    def hear(self, what: str) -> None:
        before = self.breaker.state
        act(self.breaker, what, self.now)
        if what == "failed":
            self.in_a_row += 1
        elif what == "succeeded":
            self.in_a_row = 0
            assert self.breaker.state != "half-open"
        if before == "closed" and self.breaker.state == "open":
            assert self.in_a_row >= self.failures
        if what != "recovered":
            self.probes.clear()

    @rule(seconds=st.floats(0.1, 200))
    def hold(self, seconds: float) -> None:
        self.breaker.hold(self.now, seconds)
        assert self.breaker.retry_after(self.now) >= min(seconds, LONGEST_HOLD) - 1e-6
        self.in_a_row = self.failures  # it may be open now
        self.probes.clear()

    @precondition(lambda self: self.breaker.state != "closed")
    @rule()
    def ask(self) -> None:
        ready, wait = self.breaker.ready(self.now), self.breaker.retry_after(self.now)
        assert ready == (wait == 0)
        assert self.breaker.allow(self.now) == ready
        if ready:
            assert all(self.now - begun >= 5.0 - 1e-6 for begun in self.probes)
            self.probes.append(self.now)
            assert not self.breaker.allow(self.now)

    @invariant()
    def never_for_good(self) -> None:
        wait = self.breaker.retry_after(self.now)
        assert 0 <= wait <= LONGEST_HOLD + 1e-6
        assert self.breaker.ready(self.now + wait + 1e-6)


TestMachine: Any = Machine.TestCase
