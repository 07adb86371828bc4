"""The plans: which loads, for how long, how often, and what each one's figures are called."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

PLANS: Final = ("quick", "full")


@dataclass(frozen=True)
class Test:
    """A load: arguments of `load` for each plan, in turn with the other targets so many rounds."""

    __test__ = False  # no test of pytest's

    quick: str
    full: str
    rounds: tuple[int, int]
    says: str
    absent: tuple[str, ...] = ()
    """Targets that sit this out in the quick plan."""

    def arguments(self, plan: str) -> list[str]:
        return (self.full if plan == "full" else self.quick).split()

    def times(self, plan: str) -> int:
        return self.rounds[PLANS.index(plan)]


_STREAM: Final = "-b 1k_s -s"
_SLOW: Final = ("litellm", "nginx", "vllm-router-rr")
TESTS: Final[dict[str, Test]] = {
    "c1": Test(
        "-b 1k -c1 -d.4 -w.1", "-b 1k -c1 -d1 -w.2", (2, 4),
        "not streamed, 1 KB with a tool and a call already made, one connection",
    ),
    "c64": Test(
        "-b 1k -c64 -d.5 -w.2", "-b 1k -c64 -d1.2 -w.3", (3, 4), "the same over 64 connections"
    ),
    "s200": Test(
        f"{_STREAM} -c200 -n50 -k10 -m20 -r950 -w1 -d1", f"{_STREAM} -c200 -n100 -k20 -m20 -r1900 -w2 -d2", (1, 3),
        "200 streams of 50 deltas a second, every 4th with deltas of a tool call",
        ("litellm", "nginx"),
    ),
    "drop300": Test(
        f"{_STREAM} -X -c300 -n1000 -k200 -m40 -d10", f"{_STREAM} -X -c300 -n1000 -k200 -m40 -d10", (1, 2),
        "300 streams, each has had a delta, all dropped at once (half FIN, half RST); then 1,000 requests",
        _SLOW,
    ),
    "60k": Test("-b 60k -c16 -d.35 -w.1", "-b 60k -c16 -d.8 -w.2", (2, 3),
        "not streamed, an agent's history of 60 KB with 20 tools, 16 connections", ("litellm",)),
    "600k": Test("-b 600k -c8 -d.4 -w.1", "-b 600k -c8 -d.8 -w.2", (2, 3), "600 KB, 8 connections", ("litellm",)),
    "burst50": Test(
        f"{_STREAM} -c50 -n100 -k20 -m0 -d.4 -w.1", f"{_STREAM} -c50 -n100 -k20 -m0 -d.8 -w.2", (1, 3),
        "50 connections, streams of 100 deltas without a pause", _SLOW,
    ),
    "over1000": Test(
        "-b 1k -c1000 -d.5 -w.5", "-b 1k -c1000 -d1.5 -w.5", (1, 2),
        "1,000 connections at once, not streamed: more than POOL_SIZE", _SLOW,
    ),
    "over700s": Test(
        f"{_STREAM} -c700 -n20 -k5 -m20 -d.5 -w.5", f"{_STREAM} -c700 -n20 -k5 -m20 -d2 -w.5", (1, 2),
        "700 streams at once: more than POOL_SIZE", _SLOW,
    ),
}  # fmt: skip
OVERLOAD: Final = ("over1000", "over700s")
"""Run after the others, and after the memory was read: they are for what fails, not for how fast."""
BUDGET: Final = {"quick": 100.0, "full": 470.0}
"""Seconds after which no further round begins; half as long again, and no further test."""
QUIET: Final = {"quick": 6.0, "full": 60.0}
"""Seconds in all that may be spent waiting for a moment in which the machine does nothing else."""
