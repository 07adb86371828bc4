"""Memory of each worker process of `devstral-proxy serve --workers N`, idle and after load.

    python -m qa.bench.workers [--workers 2] [--out .bench/workers.json]

RSS counts shared pages in every process, PSS divides them among those that share them: N workers cost N times PSS.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from qa.bench.lab import LAB, ROOT, Missing
from qa.bench.machine import machine
from qa.bench.measure import run_load, simulator
from qa.bench.process import CORES, clean_environment, field_kb, free_port, stop, tree
from qa.bench.targets import Target

LOADS: Final = ("-b 1k -c64 -N4000 -d60", "-b 1k_s -s -c64 -n50 -k10 -m0 -N400 -d60", "-b 60k -c16 -N400 -d60")


def processes(pid: int) -> list[dict[str, Any]]:
    """RSS and PSS in MB of each process of the tree, the parent first."""
    found: list[dict[str, Any]] = []
    for process in tree(pid):
        with suppress(OSError):
            folder = Path("/proc") / str(process)
            text = (folder / "smaps_rollup").read_text("ascii", "replace")
            command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
            if "resource_tracker" not in command:  # multiprocessing's own helper
                found.append({name.lower(): round(field_kb(text, name) / 1024, 1) for name in ("Rss", "Pss")})
    return found


def supported() -> bool:
    """Whether this version's `serve` takes `--workers`."""
    command = [sys.executable, "-m", "devstral_proxy", "serve", "--help"]
    said = subprocess.run(command, cwd=ROOT, env=clean_environment(), capture_output=True, text=True, check=False)
    return "--workers" in said.stdout


def run(workers: int, folder: Path) -> dict[str, Any]:
    """Memory idle and after load. Raises Missing, OSError, RuntimeError, subprocess.TimeoutExpired."""
    if not supported():
        raise Missing("`devstral-proxy serve` has no --workers")
    target = Target("project", free_port(), folder / "project", flags=("--workers", str(workers)), core=None)
    sim = simulator([target.up])
    failed = 0
    try:
        target.start()
        assert target.pid is not None
        time.sleep(1)  # the last worker may still be loading
        idle = processes(target.pid)
        for load in LOADS:
            counted = run_load(target.port, load.split(), 60)
            failed += counted["err"] + counted["hung"]
        after = processes(target.pid)
    finally:
        target.stop()
        stop(sim)
    return {"workers": workers, "cores": len(CORES), "failed": failed, "idle": idle, "after": after}


def main(arguments: list[str]) -> int:
    """The command line; 1 when something is missing, or requests failed."""
    parser = argparse.ArgumentParser(prog="python -m qa.bench.workers")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--out", type=Path, default=LAB / "workers.json")
    chosen = parser.parse_args(arguments)
    LAB.mkdir(exist_ok=True)
    try:
        with tempfile.TemporaryDirectory(prefix="workers-", dir=LAB) as folder:
            found = run(chosen.workers, Path(folder))
    except (Missing, RuntimeError) as error:
        print(f"qa.bench.workers: {error}", file=sys.stderr)
        return 1
    found |= {"date": time.strftime("%Y-%m-%d"), "machine": machine()}
    chosen.out.write_text(json.dumps(found, indent=1), "utf-8")
    for when in "idle", "after":
        sizes = ", ".join(f"{each['rss']} RSS / {each['pss']} PSS" for each in found[when])
        print(f"{when}: {sizes} (MB, the parent first)")
    return 1 if found["failed"] else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
