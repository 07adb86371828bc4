"""Memory over many requests: does the proxy grow?

    python -m qa.bench.memory [--requests 1000000] [--out .bench/memory.json]

The load is a mix in turns: 1 KB not streamed, streams of ten deltas, histories of 60 KB. Between turns the proxy's
resident memory is read. Growth is what it has at the end over what it had after the first tenth, when pools and caches
are warm.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

from qa.bench.lab import LAB, Missing
from qa.bench.machine import machine
from qa.bench.measure import run_load, simulator
from qa.bench.process import free_port, memory_mb, stop
from qa.bench.targets import Target

MIX: Final = (
    (0.60, "1 KB, not streamed", "-b 1k -c64"),
    (0.37, "streams of 10 deltas", "-b 1k_s -s -c50 -n10 -k3 -m0"),
    (0.03, "60 KB, not streamed", "-b 60k -c16"),
)
"""Shares of the requests, and the load of each."""
TURNS: Final = 50
LIMIT: Final = 500
"""Seconds that one load may take."""


def slope(samples: list[tuple[int, float]]) -> float:
    """MB for each million requests: the straight line through the samples (requests so far, MB)."""
    if len(samples) < 2:
        return 0.0
    line = statistics.linear_regression([count for count, _ in samples], [memory for _, memory in samples])
    return line.slope * 1e6


def growth(samples: list[tuple[int, float]]) -> dict[str, float]:
    """MB idle, after the first tenth, at the end, the difference of these two; the slope of the second half."""
    warm = next(index for index, (count, _) in enumerate(samples) if count >= samples[-1][0] / 10)
    half = [sample for sample in samples if sample[0] >= samples[-1][0] / 2]
    return {
        "idle": samples[0][1],
        "warm": samples[warm][1],
        "end": samples[-1][1],
        "growth": samples[-1][1] - samples[warm][1],
        "slope": slope(half),
    }


def run(requests: int, folder: Path) -> dict[str, Any]:
    """Samples and failures of a whole run. Raises Missing, OSError, RuntimeError, subprocess.TimeoutExpired."""
    target = Target("project", free_port(), folder / "project")
    sim = simulator([target.up])
    turns = min(TURNS, max(2, requests // 1000))
    failed, done = 0, 0
    try:
        target.start()
        assert target.pid is not None
        samples = [(0, memory_mb(target.pid, "VmRSS"))]
        for turn in range(turns):
            for share, _, load in MIX:
                count = max(1, round(requests * share / turns))
                counted = run_load(target.port, [*load.split(), f"-N{count}", f"-d{LIMIT}"], LIMIT)
                failed += counted["err"] + max(0, count - counted["all"] - counted["err"])
                done += counted["all"]
            samples.append((done, memory_mb(target.pid, "VmRSS")))
            if turn % max(1, turns // 10) == 0:
                print(f"{done:>9,} requests  {samples[-1][1]:.1f} MB", flush=True)
        peak = memory_mb(target.pid, "VmHWM")
    finally:
        target.stop()
        stop(sim)
    return {"requests": done, "failed": failed, "peak": peak, "samples": samples, **growth(samples)}


def main(arguments: list[str]) -> int:
    """The command line; 1 when something is missing, or requests failed."""
    parser = argparse.ArgumentParser(prog="python -m qa.bench.memory")
    parser.add_argument("--requests", type=int, default=1_000_000)
    parser.add_argument("--out", type=Path, default=LAB / "memory.json")
    chosen = parser.parse_args(arguments)
    LAB.mkdir(exist_ok=True)
    begun = time.monotonic()
    try:
        with tempfile.TemporaryDirectory(prefix="memory-", dir=LAB) as folder:
            found = run(chosen.requests, Path(folder))
    except (Missing, RuntimeError) as error:
        print(f"qa.bench.memory: {error}", file=sys.stderr)
        return 1
    found |= {"date": time.strftime("%Y-%m-%d"), "machine": machine(), "seconds": round(time.monotonic() - begun)}
    chosen.out.write_text(json.dumps(found, indent=1), "utf-8")
    print(f"{found['requests']:,} requests in {found['seconds']} s, {found['failed']} failed")
    names = "idle", "warm", "end", "peak", "growth"
    print(", ".join(f"{name} {found[name]:.1f} MB" for name in names) + f", {found['slope']:+.1f} MB per million")
    return 1 if found["failed"] else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
