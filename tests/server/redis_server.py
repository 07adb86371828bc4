"""A real Redis that is shared, killed, stopped and brought back."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest


class RedisServer:
    """A redis-server of its own behind a unix socket, without persistence."""

    def __init__(self, program: str, folder: Path) -> None:
        self._command = [program, "--port", "0", "--unixsocket", str(folder / "s"), "--save", "", "--dir", str(folder)]
        self._socket = folder / "s"
        self._process: subprocess.Popen[bytes] | None = None
        self.url = f"unix://{folder / 's'}"

    def start(self) -> None:
        self._socket.unlink(missing_ok=True)
        self._process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        until = time.monotonic() + 10
        while not self._answers():
            assert self._process.poll() is None, "redis-server does not start"
            assert time.monotonic() < until
            time.sleep(0.01)

    def _answers(self) -> bool:
        with socket.socket(socket.AF_UNIX) as client:
            return client.connect_ex(str(self._socket)) == 0

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def hang(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)


@pytest.fixture(scope="module")
def redis_server() -> Iterator[RedisServer]:
    """One for the module's tests; `redis` starts it."""
    program = shutil.which("redis-server")
    if program is None:
        pytest.skip("there is no redis-server on this machine")
    pytest.importorskip("coredis", reason="the extra [redis] is not installed")
    with tempfile.TemporaryDirectory(prefix="r") as folder:  # short: a socket's path has 107 bytes at most
        server = RedisServer(program, Path(folder))
        yield server
        server.kill()


@pytest.fixture
def redis(redis_server: RedisServer) -> RedisServer:
    """Up, and empty: counters of other tests are gone with the process."""
    redis_server.kill()
    redis_server.start()
    return redis_server
