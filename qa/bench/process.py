"""Processes of a measurement: started on one core, watched through /proc, ended with all their children."""

from __future__ import annotations

import http.client
import os
import random
import re
import signal
import socket
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, Final

from devstral_proxy.config import Settings

LINUX: Final = Path("/proc/self/stat").exists() and hasattr(os, "sched_getaffinity")
CORES: Final = sorted(os.sched_getaffinity(0)) if LINUX else [0]
TARGET_CORE: Final = CORES[0]
LOAD_CORE: Final = CORES[min(1, len(CORES) - 1)]
_PROC: Final = Path("/proc")
_given: set[int] = set()

Child = subprocess.Popen[Any]


def clean_environment() -> dict[str, str]:
    """The environment without HTTP proxies, settings of ours, or Python's own."""
    ours = Settings.model_fields.keys()
    kept = {name: value for name, value in os.environ.items() if name.lower() not in ours and name != "PYTHONPATH"}
    kept = {name: value for name, value in kept.items() if not name.lower().endswith("_proxy")}
    return kept | {"NO_PROXY": "127.0.0.1,localhost"}


def free_port() -> int:
    """A port of loopback that is given once, below those that outgoing connections get by themselves."""
    low = 32768
    with suppress(OSError):
        low = int((_PROC / "sys/net/ipv4/ip_local_port_range").read_text("ascii").split()[0])
    while True:
        port = random.randrange(10000, low if low > 15000 else 65000)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            if port not in _given:
                _given.add(port)
                return port


def spawn(
    command: Sequence[str | Path],
    core: int | None,
    output: IO[bytes] | int = subprocess.DEVNULL,
    *,
    more: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> Child:
    """Starts a process in a group of its own, on that core (None: anywhere). Raises OSError."""
    if core is not None:
        os.sched_setaffinity(0, {core})  # inherited, so that no thread of it begins elsewhere
    try:
        return subprocess.Popen(
            [str(part) for part in command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=clean_environment() | dict(more or {}),
            cwd=cwd,
            start_new_session=True,
        )
    finally:
        os.sched_setaffinity(0, CORES)


def stop(child: Child | None) -> None:
    """Ends a process that `spawn` started, and its group."""
    if child is None:
        return
    for number in signal.SIGTERM, signal.SIGKILL:
        if child.poll() is None:
            with suppress(ProcessLookupError):
                os.killpg(child.pid, number)
            with suppress(subprocess.TimeoutExpired):
                child.wait(5)


def tree(pid: int) -> list[int]:
    """The process and all that descend from it."""
    found = [pid]
    with suppress(OSError):
        for thread in (_PROC / str(pid) / "task").iterdir():
            for child in (thread / "children").read_text("ascii").split():
                found += tree(int(child))
    return found


def cpu_us(pid: int) -> float:
    """The scheduler's CPU time of the tree so far, in microseconds: it holds on a machine that others use too."""
    total = 0.0
    for process in tree(pid):
        with suppress(OSError):
            for thread in (_PROC / str(process) / "task").iterdir():
                total += _thread_us(thread)
    return total


def _thread_us(thread: Path) -> float:
    try:
        return int((thread / "schedstat").read_text("ascii").split()[0]) / 1e3
    except (OSError, ValueError, IndexError):  # a kernel without it: clock ticks, of ten milliseconds mostly
        return sum(ticks(thread)) * 1e6 / os.sysconf("SC_CLK_TCK")


def ticks(folder: Path) -> tuple[int, int]:
    """Clock ticks in user mode and in the kernel, of a process or thread by its folder in /proc. Raises OSError."""
    fields = (folder / "stat").read_text("utf-8", "replace").rpartition(")")[2].split()
    return int(fields[11]), int(fields[12])


def field_kb(text: str, name: str) -> int:
    """A field of /proc/PID/status or smaps_rollup (`VmRSS`, `Pss`, …) in kB; 0 when it is not there."""
    found = re.search(rf"^{name}:\s+(\d+) kB", text, re.MULTILINE)
    return int(found[1]) if found else 0


def memory_mb(pid: int, name: str, file: str = "status") -> float:
    """A memory field, summed over the tree, in MB."""
    total = 0
    for process in tree(pid):
        with suppress(OSError):
            total += field_kb((_PROC / str(process) / file).read_text("ascii"), name)
    return round(total / 1024, 2)


def busy_seconds() -> float:
    """CPU seconds that the whole machine has worked so far."""
    spent = [int(field) for field in (_PROC / "stat").read_text("ascii").split("\n", 1)[0].split()[1:9]]
    return (sum(spent) - spent[3] - spent[4]) / os.sysconf("SC_CLK_TCK")


def ask(port: int, method: str, path: str, body: bytes | None = None, timeout: float = 20) -> tuple[int, bytes]:
    """One request of loopback: status and body. Raises OSError or http.client.HTTPException."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    try:
        headers = {"content-type": "application/json", "authorization": "Bearer sk-1234"}
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()
