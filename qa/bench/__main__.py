"""The command line of the measurement: see `qa.bench`."""

from __future__ import annotations

import argparse
import http.client
import json
import shlex
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from qa.bench.lab import LAB, Missing, environment
from qa.bench.machine import machine
from qa.bench.measure import Bench, Record, simulator
from qa.bench.plan import BUDGET, OVERLOAD, PLANS, QUIET, TESTS
from qa.bench.process import LOAD_CORE, TARGET_CORE, free_port, memory_mb, stop
from qa.bench.summary import aligned, ratios, summary, table
from qa.bench.targets import TARGETS, Target, versions

FAILURES = (OSError, RuntimeError, http.client.HTTPException, subprocess.TimeoutExpired)
NOISY = 0.3
"""Cores of other work from which on a measurement says nothing about requests a second."""


def options(arguments: list[str]) -> argparse.Namespace:
    """The command line, read."""
    parser = argparse.ArgumentParser(prog="python -m qa.bench", description=__doc__)
    parser.add_argument("--plan", choices=PLANS, default="quick")
    parser.add_argument("--targets", default=",".join(TARGETS), help="some of: %(default)s")
    parser.add_argument("--peers", choices=("present", "all"), default="present", help="all: install what is missing")
    parser.add_argument("--rounds", type=int, default=99, help="at most so many of each test")
    parser.add_argument("--out", type=Path, default=LAB / "result.json")
    found = parser.parse_args(arguments)
    unknown = set(found.targets.split(",")) - TARGETS.keys()
    if unknown:
        parser.error(f"no such target: {', '.join(sorted(unknown))}")
    return found


class Session:
    """One measurement: starts what it can, measures in turns, says what was left out."""

    def __init__(self, plan: str, names: list[str], rounds: int, folder: Path) -> None:
        self.plan, self.rounds, self.begun = plan, rounds, time.monotonic()
        self.targets = [Target(name, free_port(), folder / name) for name in names]
        self.records = {name: Record() for name in names}
        self.left_out: dict[str, str] = {}
        self.cut: set[str] = set()
        self.said: list[str] = []
        """What the project logged: nothing, when all goes well."""

    def run(self) -> None:
        """All of it. Ends what it started, whatever happens."""
        sim = simulator([target.up for target in self.targets])
        try:
            self._start()
            bench = Bench(sim, QUIET[self.plan])
            time.sleep(0.3)
            self._memory("rss idle MB", "VmRSS")
            self._turns(bench, [name for name in TESTS if name not in OVERLOAD])
            self._memory("rss after MB", "VmRSS")
            self._memory("rss peak MB", "VmHWM")
            self._turns(bench, list(OVERLOAD))
            self._memory("overload rss MB", "VmRSS", OVERLOAD[0])
        finally:
            for target in self.targets:
                target.stop()
                if target.name == "project":
                    self.said = target.said()
            stop(sim)

    def _start(self) -> None:
        """Three cold starts of each, one of those who are slow; the last one stays up."""
        for _ in range(3):
            for target in list(self.targets):
                if (target.cold and target.cold[0] > 1.5) or (target.name == "direct" and target.port):
                    continue
                target.stop()
                try:
                    target.start()
                except (Missing, *FAILURES) as error:
                    target.stop()
                    self.targets.remove(target)
                    self.left_out[target.name] = str(error).strip()
                    del self.records[target.name]
                    print(f"left out: {target.name}: {error}", flush=True)
        for target in self.targets:
            if target.cold:
                self.records[target.name].runs["cold start s"] = target.cold

    def _memory(self, name: str, field: str, after: str = "") -> None:
        """Reads everybody's memory; with `after`: of those that took part in that test."""
        for target in self.targets:
            record = self.records[target.name]
            if target.pid and (not after or f"{after} failed" in record.runs):
                record.add({name: memory_mb(target.pid, field)})

    def _pairs(self, names: list[str]) -> Iterator[tuple[Target, str]]:
        for turn in range(max(TESTS[name].times(self.plan) for name in names)):
            for name in names:
                if turn >= min(self.rounds, TESTS[name].times(self.plan)) or (turn and self._spent() > 1):
                    continue
                for target in self.targets:
                    slow = target.name == "litellm" and turn > (self.plan == "full")
                    absent = self.plan == "quick" and target.name in TESTS[name].absent
                    if not (slow or absent or (name == "drop300" and target.name == "direct")):
                        yield target, name

    def _turns(self, bench: Bench, names: list[str]) -> None:
        for target, name in self._pairs(names):
            record = self.records[target.name]
            if self._spent() > 1.5:
                self.cut.add(f"{name} of {target.name}")
                continue
            try:
                bench.measure(target, record, name, TESTS[name].arguments(self.plan))
            except FAILURES as error:
                record.add({f"{name} failed": 1})
                record.why.add(f"{name}: {error!r}")

    def _spent(self) -> float:
        return (time.monotonic() - self.begun) / BUDGET[self.plan]

    def result(self, command: str) -> dict[str, Any]:
        """Everything that was measured, as it is written."""
        other = [value for record in self.records.values() for value in record.runs.get("other", [])]
        return {
            "plan": self.plan,
            "date": time.strftime("%Y-%m-%d"),
            "command": command,
            "seconds": round(time.monotonic() - self.begun),
            "machine": machine(),
            "peers": versions(),
            "other_cores": round(statistics.median(other), 3) if other else 0.0,
            "left_out": self.left_out,
            "cut": sorted(self.cut),
            "why": {name: sorted(record.why) for name, record in self.records.items() if record.why},
            "figures": summary({name: record.runs for name, record in self.records.items()}),
            "runs": {name: record.runs for name, record in self.records.items()},
        }


def main(arguments: list[str]) -> int:
    """Measures, prints the tables, writes the result; 1 when the project could not be measured."""
    chosen = options(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    LAB.mkdir(exist_ok=True)
    if chosen.peers == "all":
        for name in "vllm-router", "litellm":
            try:
                environment(name, install=True)
            except Missing as error:
                print(f"note: {error}", flush=True)
    command = shlex.join(["python", "-m", "qa.bench", *arguments])
    with tempfile.TemporaryDirectory(prefix="run-", dir=LAB) as folder:
        session = Session(chosen.plan, chosen.targets.split(","), chosen.rounds, Path(folder))
        try:
            session.run()
        except Missing as error:
            print(f"qa.bench: {error}", file=sys.stderr)
            return 1
    result = session.result(command)
    print(aligned(table(result["figures"])))
    if result["figures"].get("project") and (compared := ratios(result["figures"])):
        print("\n" + aligned(compared))
    for name, reasons in result["why"].items():
        print("\n".join(f"failures: {name}: {reason}" for reason in reasons))
    if session.said:
        print(f"the project logged {len(session.said)} lines, the first: {session.said[0]}")
    if result["cut"]:
        print("cut short, a round left out of: " + ", ".join(result["cut"]))
    noisy = " - NOISY: only CPU times mean something" if result["other_cores"] > NOISY else ""
    cores = f"targets on core {TARGET_CORE}, load and simulator on core {LOAD_CORE}"
    print(f"{chosen.plan}, {result['seconds']} s; {cores}; other work: {result['other_cores']:.2f} cores{noisy}")
    chosen.out.parent.mkdir(parents=True, exist_ok=True)
    chosen.out.write_text(json.dumps(result, indent=1), "utf-8")
    return 0 if "project" in result["figures"] else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
