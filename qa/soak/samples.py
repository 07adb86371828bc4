"""What could leak, looked at again and again: the proxy's processes in /proc, and its own gauges in /metrics."""

from __future__ import annotations

import os
import re
import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from qa.bench.process import field_kb

Sample = dict[str, float]
_STATES: Final = {"01": "established", "08": "close_wait", "0A": "listening"}
_PROC: Final = Path("/proc")
_GAUGE: Final = re.compile(r"^devstral_proxy_(\w+?)(?:\{([^}]*)\})? ([\d.e+]+)$", re.MULTILINE)
_STATE: Final = re.compile(r'state="(\w+)"')
SECONDS_JUDGED: Final = 100.0
"""A shorter run says nothing of memory: caches and arenas still fill."""


def processes(pids: Sequence[int]) -> Sample:
    """Memory, threads, descriptors and sockets, of all these processes together."""
    sample: Counter[str] = Counter(dict.fromkeys(("close_wait", "established", "sockets_else"), 0))
    inodes: set[str] = set()
    rss = 0
    for pid in pids:
        with suppress(OSError):
            status = (_PROC / str(pid) / "status").read_text("ascii", "replace")
            rss += field_kb(status, "VmRSS")
            for number in os.listdir(_PROC / str(pid) / "fd"):
                sample["fds"] += 1
                with suppress(OSError):
                    target = os.readlink(_PROC / str(pid) / "fd" / number)
                    if target.startswith("socket:["):
                        inodes.add(target[8:-1])
            sample["threads"] += len(os.listdir(_PROC / str(pid) / "task"))
    for line in _tcp(pids):
        fields = line.split()
        if fields[9] in inodes:
            sample[_STATES.get(fields[3], "sockets_else")] += 1
    return {"rss": rss / 1024, "processes": float(len(pids)), **{name: float(n) for name, n in sample.items()}}


def _tcp(pids: Iterable[int]) -> list[str]:
    """The lines of the kernel's tables of TCP sockets."""
    lines: list[str] = []
    for pid in pids:
        for name in ("tcp", "tcp6"):
            with suppress(OSError):
                lines += (_PROC / str(pid) / "net" / name).read_text("ascii").splitlines()[1:]
        if lines:
            break
    return lines


def gauges(page: str) -> Sample:
    """The gauges of /metrics: requests running and queued, upstream's connections, breakers that are not closed."""
    sample = dict.fromkeys(("running", "queued", "upstream_running", "busy", "idle", "waiting", "breakers"), 0.0)
    for name, labels, value in _GAUGE.findall(page):
        found = _STATE.search(labels)
        state = found[1] if found else ""
        if name in ("requests_running", "requests_queued"):
            sample[name.removeprefix("requests_")] += float(value)
        elif name == "upstream_running":
            sample[name] += float(value)
        elif name == "upstream_connections":
            sample[state] += float(value)
        elif name == "upstream_breaker" and state != "closed":
            sample["breakers"] += float(value)
    return sample


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table of leaks. `more`: by how much it may be higher at the end than at the start."""

    name: str
    says: str
    more: float


ROWS: Final = (
    Row("processes", "processes", 0),
    Row("threads", "threads", 4),
    Row("fds", "open file descriptors", 6),
    Row("established", "TCP sockets, established", 4),
    Row("close_wait", "TCP sockets, CLOSE_WAIT", 0),
    Row("sockets_else", "TCP sockets, other but listening", 0),
    Row("running", "requests admitted", 0),
    Row("queued", "requests waiting for admission", 0),
    Row("upstream_running", "requests at upstreams", 0),
    Row("busy", "upstream connections, busy", 0),
    Row("waiting", "requests waiting for a connection", 0),
    Row("idle", "upstream connections, idle", 3),
    Row("breakers", "breakers not closed", 0),
)


@dataclass(frozen=True, slots=True)
class Leak:
    """A row with its figures. `well`: it is within its bound."""

    says: str
    start: float
    highest: float
    end: float
    bound: float
    well: bool


def leaks(start: Sample, samples: Sequence[Sample], end: Sample, workers: int) -> list[Leak]:
    """What was there before the load, the most meanwhile, and what is there after the quiet period. What several
    workers have each may be higher by as much for each."""
    rows = []
    for row in ROWS:
        bound = start[row.name] + row.more * workers
        highest = max([sample[row.name] for sample in samples], default=0.0)
        rows.append(Leak(row.says, start[row.name], highest, end[row.name], bound, end[row.name] <= bound))
    return rows


@dataclass(frozen=True, slots=True)
class Memory:
    """Resident memory in MB. `growth`: over the second half of the run, by the line through its samples."""

    start: float
    half: float
    highest: float
    end: float
    growth: float
    bound: float
    judged: bool

    @property
    def well(self) -> bool:
        """It is within its bound, or cannot be judged."""
        return not self.judged or self.growth <= self.bound


def memory(start: Sample, samples: Sequence[tuple[float, Sample]], end: Sample) -> Memory:
    """From samples with their times, in seconds from the load's start. Growth may be 5 % of the memory, or 6 MB."""
    lasted = samples[-1][0] if samples else 0.0
    second = [(at, sample["rss"]) for at, sample in samples if at >= lasted / 2]
    growth = 0.0
    if len(second) > 1:
        line = statistics.linear_regression([at for at, _ in second], [rss for _, rss in second])
        growth = line.slope * (second[-1][0] - second[0][0])
    half = second[0][1] if second else start["rss"]
    highest = max([sample["rss"] for _, sample in samples], default=start["rss"])
    return Memory(start["rss"], half, highest, end["rss"], growth, max(6.0, half * 0.05), lasted >= SECONDS_JUDGED)
