"""The processes of a soak: three upstreams that can be killed and started again, and the proxy before them."""

from __future__ import annotations

import json
import os
import re
import secrets
import signal
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from qa.bench.process import Child, free_port, spawn, stop, tree
from qa.soak.directive import CLIENT_KEY, MODEL, RAW, SIMULATORS

ROOT: Final = Path(__file__).parents[2]
SERVERS: Final = {"a": "qa.soak.simulated", "b": "qa.soak.simulated", "c": "qa.soak.raw"}
SERVERS_OF: Final = {MODEL: ("a", "b", "c"), SIMULATORS: ("a", "b"), RAW: ("c",)}
CLIENTS: Final = ("alice", "bob", "carol")
CROWDS: Final = ("crowd", "throng")
"""The keys of those who send more than there is room for."""
BODY_LIMIT: Final = 2_000_000
PATIENCE: Final = 40.0
"""Seconds in which every request has ended: REQUEST_TIMEOUT, and more for a machine that has other work."""
SETTINGS: Final[dict[str, Any]] = {
    "proxy_port": 0,
    "rate_limit_requests": 100_000,
    "rate_limit_tokens": 1_000_000_000,
    "max_concurrent": 24,
    "max_concurrent_per_key": 28,
    "max_queue": 12,
    "queue_timeout": 8,
    "responses_store": "sqlite",
    "responses_store_path": "responses.db",
    "connect_timeout": 2,
    "first_byte_timeout": 6,
    "idle_timeout": 3,
    "request_timeout": 15,
    "keepalive": 0.7,
    "drain_timeout": 20,
    "header_timeout": 2,
    "body_timeout": 2,
    "send_timeout": 3,
    "body_limit": BODY_LIMIT,
    "answer_limit": 4_000_000,
    "max_event_bytes": 1_000_000,
    "max_messages": 1000,
    "health_interval": 2,
    "breaker_open": 1,
    "facts_ttl": 10,
}
"""What the proxy runs with, beside keys and UPSTREAMS: every guard on, and times short enough to be met in a run."""
_START: Final = 60.0
_AFTER: Final = 4.0
"""Seconds after its start for which a server still counts as troubled: the breaker has yet to hear of it."""
_TROUBLE: Final = 12.0


@dataclass
class Upstream:
    """One upstream's process. `dead`: from when to when it was, the end open while it is."""

    name: str
    port: int
    key: str
    child: Child | None = None
    dead: list[list[float]] = field(default_factory=list)
    troubled: float = 0.0

    def start(self) -> None:
        """Raises OSError."""
        more = {"PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-m", SERVERS[self.name], "--port", str(self.port), "--name", self.name]
        self.child = spawn([*command, "--api-key", self.key], None, more=more)

    def kill(self) -> None:
        """SIGKILL."""
        self.dead.append([time.monotonic(), float("inf")])
        if self.child is not None:
            os.kill(self.child.pid, signal.SIGKILL)
            self.child.wait()

    def ready(self) -> bool:
        """It takes connections; if it was dead it is no longer."""
        try:
            socket.create_connection(("127.0.0.1", self.port), 1).close()
        except OSError:
            return False
        if self.dead and self.dead[-1][1] == float("inf"):
            self.dead[-1][1] = time.monotonic() + _AFTER
        return True

    def trouble(self) -> None:
        """A fault of it makes the proxy leave it alone for a while, perhaps."""
        self.troubled = max(self.troubled, time.monotonic() + _TROUBLE)

    def was_dead(self, since: float) -> bool:
        """It was dead at some time since then."""
        return any(end >= since for _, end in self.dead)

    def was_down(self, since: float) -> bool:
        """It was dead, or the proxy may have left it alone, at some time since then."""
        return self.troubled >= since or self.was_dead(since)


@dataclass
class Stack:
    """All of them."""

    folder: Path
    workers: int
    upstreams: dict[str, Upstream]
    keys: dict[str, str]
    upstream_key: str
    proxy: Child
    port: int

    @property
    def log(self) -> str:
        """What the proxy has logged."""
        return (self.folder / "log").read_text("utf-8", "replace")

    def processes(self) -> list[int]:
        """The proxy's processes."""
        return tree(self.proxy.pid)

    def hang_up(self) -> None:
        """SIGHUP: the workers are replaced."""
        os.kill(self.proxy.pid, signal.SIGHUP)


@contextmanager
def stack(folder: Path, workers: int) -> Iterator[Stack]:
    """Start everything in this folder, and end it. Raises RuntimeError when something does not start."""
    key = "sk-upstream-" + secrets.token_hex(12)
    keys = {name: CLIENT_KEY + secrets.token_hex(12) for name in (*CLIENTS, *CROWDS)}
    upstreams = {name: Upstream(name, free_port(), key) for name in SERVERS}
    proxy: Child | None = None
    try:
        for upstream in upstreams.values():
            upstream.start()
        _await(lambda: all(upstream.ready() for upstream in upstreams.values()), "an upstream")
        with (folder / "log").open("wb") as output:
            command = [sys.executable, "-m", "devstral_proxy", "serve"]
            more = _environment(upstreams, keys, key, workers)
            proxy = spawn(command, None, output, more=more, cwd=folder)
        found: list[str] = []

        def listening() -> bool:
            log = (folder / "log").read_text("utf-8", "replace")
            found[:] = re.findall(r"listening on http://[\d.]+:(\d+)", log)
            served = len(re.findall(r"worker \d+ serves", log)) >= workers if workers > 1 else True
            return bool(found) and served

        _await(listening, "the proxy")
        yield Stack(folder, workers, upstreams, keys, key, proxy, int(found[0]))
    finally:
        stop(proxy)
        for upstream in upstreams.values():
            stop(upstream.child)


def _environment(upstreams: dict[str, Upstream], keys: dict[str, str], key: str, workers: int) -> dict[str, str]:
    servers = {name: {"url": f"http://127.0.0.1:{one.port}", "name": name} for name, one in upstreams.items()}
    entries = {
        entry: {"servers": [servers[name] for name in names], "served": MODEL} for entry, names in SERVERS_OF.items()
    }
    values = {
        **SETTINGS,
        "workers": workers,
        "api_keys": json.dumps(keys),
        "vllm_api_key": key,
        "upstreams": json.dumps(entries),
    }
    return {"PYTHONPATH": str(ROOT), **{name.upper(): str(value) for name, value in values.items()}}


def _await(condition: Any, what: str) -> None:
    until = time.monotonic() + _START
    while not condition():
        if time.monotonic() > until:
            raise RuntimeError(f"{what} did not start")
        time.sleep(0.1)
