"""Where the proxy's time goes under load: py-spy's samples of the process, summed up by component and function.

    python -m qa.bench.profile [--seconds 4] [--out .bench/profile.json]

py-spy is installed into .bench when it is not there. It needs the right to trace: root, or kernel.yama.ptrace_scope=0.
Time in the kernel is the scheduler's own count: a sampler that stops the process sees little of it.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

from qa.bench.lab import LAB, Missing, environment, program
from qa.bench.machine import machine
from qa.bench.measure import files, simulator
from qa.bench.process import LOAD_CORE, free_port, spawn, stop, ticks
from qa.bench.stacks import Profile, summed
from qa.bench.targets import Target

LOADS: Final = {
    "c64": "-b 1k -c64",
    "60k": "-b 60k -c16",
    "s200": "-b 1k_s -s -c200 -n50 -k10 -m20 -r950",
}
RATE: Final = 250
FUNCTIONS: Final = 25


def kernel_share(pid: int, seconds: float) -> float:
    """The kernel's share of what a process works in the next seconds."""
    folder = Path("/proc") / str(pid)
    before = ticks(folder)
    time.sleep(seconds)
    user, kernel = (now - then for now, then in zip(ticks(folder), before, strict=True))
    return kernel / max(1, user + kernel)


def sampled(pid: int, seconds: float, folder: Path) -> Profile:
    """Samples a process. Raises Missing when py-spy cannot."""
    out = folder / "stacks.txt"
    command = [environment("py-spy", install=True) / "py-spy", "record", "--pid", str(pid), "--format", "raw"]
    command += ["--threads", "--rate", str(RATE), "--duration", str(round(seconds)), "--output", out]
    said = ""
    for more in (["--native"], []):  # without C frames where py-spy cannot read them
        done = subprocess.run([str(part) for part in [*command, *more]], capture_output=True, text=True, check=False)
        if done.returncode == 0:
            return summed(out.read_text("utf-8", "replace").splitlines())
        said = done.stderr.strip()[-200:]
    raise Missing(f"py-spy could not look into the process: {said}")


def profiled(load: str, seconds: float, folder: Path) -> dict[str, Any]:
    """One load against a fresh proxy. Raises Missing, OSError or RuntimeError."""
    target = Target("project", free_port(), folder / "project")
    sim = simulator([target.up])
    client = None
    try:
        target.start()
        assert target.pid is not None
        arguments = files([*LOADS[load].split(), "-w1", f"-d{seconds * 2 + 6:.0f}"])
        client = spawn([program("load"), "-p", str(target.port), *arguments], LOAD_CORE)
        time.sleep(2)
        kernel = kernel_share(target.pid, 2)
        profile = sampled(target.pid, seconds, folder)
    finally:
        stop(client)
        target.stop()
        stop(sim)
    return {
        "samples": profile.samples,
        "kernel": kernel,
        "components": [[name, count / profile.samples] for name, count in profile.components.most_common()],
        "functions": [
            [file, name, count / profile.samples] for (file, name), count in profile.functions.most_common(FUNCTIONS)
        ],
    }


def main(arguments: list[str]) -> int:
    """The command line; 1 when something is missing."""
    parser = argparse.ArgumentParser(prog="python -m qa.bench.profile")
    parser.add_argument("--seconds", type=float, default=4, help="sampled, of each load")
    parser.add_argument("--out", type=Path, default=LAB / "profile.json")
    chosen = parser.parse_args(arguments)
    LAB.mkdir(exist_ok=True)
    os.sched_setaffinity(0, {LOAD_CORE})  # py-spy's own work is not to be the proxy's
    loads = {}
    try:
        for load in LOADS:
            with tempfile.TemporaryDirectory(prefix="profile-", dir=LAB) as folder:
                loads[load] = profiled(load, chosen.seconds, Path(folder))
            print(f"{load}: {loads[load]['samples']} samples, {loads[load]['kernel']:.0%} of the time in the kernel")
            for name, share in loads[load]["components"][:14]:
                print(f"  {share:6.1%}  {name}")
            for file, name, share in loads[load]["functions"][:12]:
                print(f"    {share:6.1%}  {name}  {file}")
    except (Missing, RuntimeError) as error:
        print(f"qa.bench.profile: {error}", file=sys.stderr)
        return 1
    found = {"date": time.strftime("%Y-%m-%d"), "machine": machine(), "loads": loads}
    chosen.out.write_text(json.dumps(found, indent=1), "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
