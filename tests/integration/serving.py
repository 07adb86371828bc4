"""`devstral-proxy serve` as a process of its own, for tests of its start and its end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

SECONDS = 20
# systemd hands sockets over from descriptor 3 on, and names the process that they are for.
ACTIVATED = """
import os, sys
given = int(sys.argv[1])
if given != 3:
    os.dup2(given, 3)
os.set_inheritable(3, True)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1", LISTEN_FDNAMES="devstral-proxy.socket")
os.execv(sys.executable, [sys.executable, *sys.argv[2:]])
"""
SERVE = ["-m", "devstral_proxy", "serve"]


class Serving:
    """The process, and what it has logged so far."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.log = ""

    @property
    def pid(self) -> int:
        return self._process.pid

    async def line(self, pattern: str) -> str:
        """The first group of the next line that holds the pattern. Fails when the log ends before."""
        assert self._process.stderr is not None
        async with asyncio.timeout(SECONDS):
            while line := (await self._process.stderr.readline()).decode():
                self.log += line
                if found := re.search(pattern, line):
                    return found[1] if found.re.groups else found[0]
        raise AssertionError(f"no {pattern!r} in:\n{self.log}")

    async def base(self) -> str:
        """Its URL."""
        return await self.line(r"listening on (\S+)/v1")

    async def workers(self, count: int) -> list[int]:
        """Process ids of the next workers to serve."""
        return [int(await self.line(r"worker (\d+) serves")) for _ in range(count)]

    def signal(self, number: int) -> None:
        self._process.send_signal(number)

    async def end(self) -> int:
        """The exit code, when it has ended."""
        assert self._process.stderr is not None
        async with asyncio.timeout(SECONDS):
            self.log += (await self._process.stderr.read()).decode()
            return await self._process.wait()


@asynccontextmanager
async def serving(folder: Path, values: Mapping[str, object], fd: int | None = None) -> AsyncIterator[Serving]:
    """Start it with these settings in this folder; `fd`: a listening socket, handed over as systemd does."""
    environ: Mapping[str, str] = {
        "PATH": os.defpath,
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "PROXY_PORT": "0",
        **{name.upper(): str(value) for name, value in values.items()},
    }
    command = SERVE if fd is None else ["-c", ACTIVATED, str(fd), *SERVE]
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *command,
        cwd=folder,
        env=environ,
        stderr=asyncio.subprocess.PIPE,
        pass_fds=() if fd is None else (fd,),
        start_new_session=True,
    )
    try:
        yield Serving(process)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.communicate()
