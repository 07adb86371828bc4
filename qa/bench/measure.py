"""One load against one target: what `load` counted, with the CPU time that the scheduler gave the target meanwhile."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from qa.bench.lab import body, program
from qa.bench.process import LOAD_CORE, Child, ask, busy_seconds, cpu_us, spawn, stop
from qa.bench.targets import Target

LONGEST: Final = 90.0
"""Seconds after which a load is given up, beyond those that it was asked to take."""

DROPPED: Final = 300
"""Streams of the test `drop300`."""


@dataclass
class Record:
    """What was measured of a target: figures by name, one of each round, and in words what failed."""

    runs: dict[str, list[float]] = field(default_factory=dict)
    why: set[str] = field(default_factory=set)

    def keep(self, **figures: float | None) -> None:
        """Adds a round's figures. Negative ones are the load client's way to say that there was nothing to count."""
        self.add(figures)

    def add(self, figures: dict[str, float | None]) -> None:
        """The same, for names that are no identifiers."""
        for name, value in figures.items():
            if value is not None and value >= 0:
                self.runs.setdefault(name, []).append(value)


def files(arguments: Sequence[str]) -> list[str]:
    """The arguments of `load` with the names of bodies replaced by their files."""
    before = ["", *arguments]
    return [str(body(name)) if before[at] == "-b" else name for at, name in enumerate(arguments)]


def simulator(ports: Sequence[int]) -> Child:
    """Starts the simulated vLLM on these ports."""
    return spawn([program("sim"), *map(str, ports)], LOAD_CORE)


def run_load(port: int, arguments: Sequence[str], seconds: float = 0) -> dict[str, Any]:
    """Runs the load client; its figures. Raises RuntimeError or subprocess.TimeoutExpired."""
    child = spawn([program("load"), "-p", str(port), *files(arguments)], LOAD_CORE, subprocess.PIPE)
    try:
        output, _ = child.communicate(timeout=LONGEST + seconds)
    finally:
        stop(child)
    if child.returncode:
        raise RuntimeError(f"load: {output.decode('utf-8', 'replace')[:300]}")
    counted: dict[str, Any] = json.loads(output)
    return counted


def stats(target: Target) -> dict[str, int]:
    """What the simulator counted on the target's own port. Raises OSError or http.client.HTTPException."""
    counted: dict[str, int] = json.loads(ask(target.up, "GET", "/_stats")[1])
    return counted


class Bench:
    """Runs loads. `sim` is the simulator's process, `quiet` the seconds that may be spent on waiting for quiet."""

    def __init__(self, sim: Child, quiet: float) -> None:
        self._sim = sim
        self._quiet = quiet

    def measure(self, target: Target, record: Record, test: str, arguments: list[str]) -> None:
        """One round of a test; its figures go into the record. Raises as `run_load` does, or OSError."""
        self._wait()
        counted = self._load(target, record, arguments)
        cpu = counted["cpu_us"] if target.pid else None
        if test == "drop300":
            self._drop(target, record, counted)
            return
        record.add({f"{test} failed": counted["err"] + counted["hung"], f"{test} upstream": counted["upstream"]})
        if "-s" in arguments:
            record.add({
                f"{test} deltas/s": counted["ev_s"],
                f"{test} cpu us/delta": cpu and cpu / max(1, counted["events"]),
                f"{test} hop p50 us": counted["hop50"],
                f"{test} hop p99 us": counted["hop99"],
                f"{test} first p50 ms": counted["ttft50"] / 1e3,
            })  # fmt: skip
        else:
            record.add({
                f"{test} req/s": counted["rps"],
                f"{test} cpu us/req": cpu and cpu / max(1, counted["all"]),
                f"{test} p50 us": counted["lat50"],
                f"{test} p99 us": counted["lat99"],
                f"{test} p99 ms": counted["lat99"] / 1e3,
            })  # fmt: skip

    def _load(self, target: Target, record: Record, arguments: list[str]) -> dict[str, Any]:
        pid = target.pid
        busy, sim, begun = busy_seconds(), cpu_us(self._sim.pid), time.monotonic()
        before, asked = cpu_us(pid) if pid else 0.0, stats(target)["requests"]
        counted = run_load(target.port, arguments)
        counted["cpu_us"] = cpu_us(pid) - before if pid else 0.0
        wall = time.monotonic() - begun
        counted["upstream"] = (stats(target)["requests"] - asked) / max(1, counted["all"])
        ours = (counted["cpu_us"] + cpu_us(self._sim.pid) - sim) / 1e6 + counted["cpu_s"]
        record.keep(other=max(0.0, (busy_seconds() - busy - ours) / wall))
        if counted["err"] or counted["hung"]:
            reason = counted["why"] or "too slow"
            record.why.add(f"{counted['err']} failed, {counted['hung']} unfinished: {reason} ({' '.join(arguments)})")
        return counted

    def _drop(self, target: Target, record: Record, counted: dict[str, Any]) -> None:
        """300 streams were dropped just now: does the upstream see it, and is the proxy whole?"""

        begun = time.monotonic()
        while (left := stats(target)["streaming"]) and time.monotonic() - begun < 2:
            time.sleep(0.02)
        closed = time.monotonic() - begun
        if left:
            ask(target.up, "GET", "/_kill")
        after = self._load(target, record, ["-b", "1k", "-c16", "-N1000", "-d20"])
        lost = max(0, 1000 - after["all"] - after["err"]) + max(0, DROPPED - counted["fed"])
        record.add({
            "drop300 open": counted["fed"],
            "drop300 closed s": closed,
            "drop300 left after 2 s": left,
            "drop300 failed": counted["err"] + after["err"] + lost,
        })  # fmt: skip

    def _wait(self) -> None:
        """Until the machine does nothing else, or the seconds for that are spent."""
        while self._quiet > 0:
            busy, begun = busy_seconds(), time.monotonic()
            time.sleep(0.1)
            wall = time.monotonic() - begun
            if (busy_seconds() - busy) / wall < 0.3:
                return
            self._quiet -= wall
