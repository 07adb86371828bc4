"""From the runs of a measurement to its figures: medians, sums, differences and ratios. Pure functions."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

Runs = Mapping[str, list[float]]
"""A target's figures by name, one of each round."""
Figures = dict[str, float]


@dataclass(frozen=True)
class Row:
    """A figure of the table."""

    name: str
    says: str
    ratio: bool = True
    """Whether a ratio to a peer means something."""


ROWS: Final = (
    Row("cold start s", "start to first right answer, s"),
    Row("rss idle MB", "resident memory, idle, MB"),
    Row("rss after MB", "resident memory, after the tests, MB"),
    Row("rss peak MB", "resident memory, highest, MB"),
    Row("c1 req/s", "1 KB, 1 connection: requests/s"),
    Row("c1 p50 us", "… latency p50, µs"),
    Row("c1 p99 us", "… latency p99, µs"),
    Row("c1 added p50 us", "… added latency p50, µs", False),
    Row("c1 added p99 us", "… added latency p99, µs", False),
    Row("c1 cpu us/req", "… CPU per request, µs"),
    Row("c64 req/s", "1 KB, 64 connections: requests/s"),
    Row("c64 p99 ms", "… latency p99, ms"),
    Row("c64 cpu us/req", "… CPU per request, µs"),
    Row("c64 upstream", "… requests upstream for each", False),
    Row("60k req/s", "60 KB, 16 connections: requests/s"),
    Row("60k cpu us/req", "… CPU per request, µs"),
    Row("600k req/s", "600 KB, 8 connections: requests/s"),
    Row("600k cpu us/req", "… CPU per request, µs"),
    Row("s200 deltas/s", "200 streams of 50 deltas/s: deltas/s"),
    Row("s200 first p50 ms", "… time to first event p50, ms"),
    Row("s200 added first p50 ms", "… added time to first event p50, ms", False),
    Row("s200 added p50 us", "… added per delta p50, µs", False),
    Row("s200 added p99 us", "… added per delta p99, µs", False),
    Row("s200 upstream", "… requests upstream for each", False),
    Row("s200 cpu us/delta", "… CPU per delta, µs"),
    Row("burst50 deltas/s", "50 streams without pause: deltas/s"),
    Row("burst50 cpu us/delta", "… CPU per delta, µs"),
    Row("drop300 closed s", "300 streams dropped: s until upstream has none left", False),
    Row("drop300 left after 2 s", "… streams left after 2 s", False),
    Row("over1000 req/s", "1,000 connections: requests/s"),
    Row("over700s deltas/s", "700 streams at once: deltas/s"),
    Row("overload rss MB", "resident memory after overload, MB"),
    Row("failed", "failed or unfinished requests, all tests", False),
)
ADDED: Final = {
    "c1 added p50 us": "c1 p50 us",
    "c1 added p99 us": "c1 p99 us",
    "s200 added p50 us": "s200 hop p50 us",
    "s200 added p99 us": "s200 hop p99 us",
    "s200 added first p50 ms": "s200 first p50 ms",
}
"""What a proxy adds: its figure less the same one of `direct`."""
PEERS: Final = ("nginx", "vllm-router", "vllm-router-rr", "litellm", "limit")
_WORST: Final = ("drop300 left after 2 s",)


def figures_of(runs: Runs) -> Figures:
    """Medians of the rounds; failures are summed, streams that were left are the worst round's."""
    figures: Figures = {}
    for name, values in runs.items():
        if values:
            join = sum if name.endswith("failed") else max if name in _WORST else statistics.median
            figures[name] = float(join(values))
    figures["failed"] = sum(value for name, value in figures.items() if name.endswith("failed"))
    return figures


def summary(runs: Mapping[str, Runs]) -> dict[str, Figures]:
    """The figures of each target, with what it adds to `direct` when that was measured."""
    figures = {target: figures_of(of) for target, of in runs.items()}
    direct = figures.get("direct", {})
    for target, of in figures.items():
        if target != "direct":
            of.update({new: of[old] - direct[old] for new, old in ADDED.items() if old in of and old in direct})
    return figures


def ratio(figures: Mapping[str, Figures], row: Row, peer: str) -> float | None:
    """The project's figure over a peer's; None where there is none, or it means nothing."""
    ours, theirs = figures.get("project", {}).get(row.name), figures.get(peer, {}).get(row.name)
    return ours / theirs if row.ratio and ours is not None and theirs else None


def figure(value: float | None) -> str:
    """A number with about three significant digits; "–" for none."""
    if value is None:
        return "–"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return (
        f"{value:.0f}"
        if abs(value) >= 100 or value == int(value)
        else f"{value:.1f}"
        if abs(value) >= 10
        else f"{value:.2f}"
    )


def table(figures: Mapping[str, Figures]) -> list[list[str]]:
    """Head and rows of all figures that some target has."""
    present = [row for row in ROWS if any(row.name in of for of in figures.values())]
    return [["", *figures], *([row.says, *(figure(of.get(row.name)) for of in figures.values())] for row in present)]


def ratios(figures: Mapping[str, Figures]) -> list[list[str]]:
    """Head and rows of the project's figures over its peers'; empty without project or peers."""
    peers = [peer for peer in PEERS if peer in figures]
    if "project" not in figures or not peers:
        return []
    rows = []
    for row in ROWS:
        of = [ratio(figures, row, peer) for peer in peers]
        if any(value is not None for value in of):
            rows.append([row.says, *(figure(value) for value in of)])
    return [["project /", *peers], *rows]


def aligned(rows: Iterable[list[str]]) -> str:
    """A table for a terminal: the first column to the left, the others to the right."""
    rows = list(rows)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = (
        "  ".join(
            cell.rjust(width) if at else cell.ljust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    )
    return "\n".join(line.rstrip() for line in lines)
