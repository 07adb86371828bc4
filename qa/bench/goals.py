"""The goals that the proxy is held to, as rows: what, how much, and how a measurement answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from qa.bench.summary import Figures, figure


@dataclass(frozen=True)
class Goal:
    """One goal. `metric` is a figure of the project, `over` a peer that it is divided by."""

    says: str
    metric: str
    limit: float
    unit: str = ""
    least: bool = False
    """Whether the limit is the least that is wanted, not the most."""
    over: str = ""

    def measured(self, figures: Mapping[str, Figures]) -> float | None:
        """What was measured; None when it was not."""
        ours = figures.get("project", {}).get(self.metric)
        if not self.over:
            return ours
        theirs = figures.get(self.over, {}).get(self.metric)
        return ours / theirs if ours is not None and theirs else None

    def met(self, value: float) -> bool:
        return value >= self.limit if self.least else value <= self.limit

    def row(self, figures: Mapping[str, Figures]) -> list[str]:
        """Cells of the table: what, goal, measured, met."""
        value = self.measured(figures)
        wanted = f"{'≥' if self.least else '≤'} {figure(self.limit)}{self.unit}" if self.limit else "none"
        if value is None:
            return [self.says, wanted, "not measured", "–"]
        return [self.says, wanted, f"{figure(value)}{self.unit}", "yes" if self.met(value) else "**no**"]


GOALS: Final = (
    Goal("1 KB requests/s at 64 connections, over vllm-router", "c64 req/s", 1.3, " ×", True, "vllm-router"),
    Goal("… over LiteLLM", "c64 req/s", 90, " ×", True, "litellm"),
    Goal("… over the bare loop (limit)", "c64 req/s", 0.25, " ×", True, "limit"),
    Goal("CPU per request, 1 KB", "c64 cpu us/req", 150, " µs"),
    Goal("CPU per request, 60 KB", "60k cpu us/req", 400, " µs"),
    Goal("CPU per request, 600 KB", "600k cpu us/req", 2500, " µs"),
    Goal("added latency, one connection, p50", "c1 added p50 us", 300, " µs"),
    Goal("added latency, one connection, p99", "c1 added p99 us", 600, " µs"),
    Goal("200 streams of 50 deltas/s: lost or damaged", "s200 failed", 0),
    Goal("… added per event, p50", "s200 added p50 us", 100, " µs"),
    Goal("… added per event, p99", "s200 added p99 us", 3000, " µs"),
    Goal("… added time to first event, p50", "s200 added first p50 ms", 1, " ms"),
    Goal("CPU per streamed event, repair on", "s200 cpu us/delta", 60, " µs"),
    Goal("events/s of 50 streams without pause", "burst50 deltas/s", 100_000, "", True),
    Goal("resident memory, idle", "rss idle MB", 50, " MB"),
    Goal("resident memory, highest during the tests", "rss peak MB", 70, " MB"),
    Goal("growth over the long run, after its first tenth", "growth MB", 2, " MB"),
    Goal("start to the first right answer", "cold start s", 0.5, " s"),
    Goal("errors with 1,000 connections", "over1000 failed", 0),
    Goal("errors with 700 streams at once", "over700s failed", 0),
    Goal("errors after 300 clients left at once", "drop300 failed", 0),
    Goal("streams left open upstream after that", "drop300 left after 2 s", 0),
)


def with_memory(figures: Mapping[str, Figures], memory: Mapping[str, Any] | None) -> dict[str, Figures]:
    """The figures, with the long run's growth among the project's when there was one."""
    found = {name: dict(of) for name, of in figures.items()}
    if memory is not None and "project" in found:
        found["project"]["growth MB"] = memory["growth"]
    return found
