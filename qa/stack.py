"""A proxy and its upstream as processes of their own, on free ports of loopback, for the length of a `with` block."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from devstral_proxy.config import Settings
from qa.models import PROFILES

ROOT: Final = Path(__file__).parents[1]
START: Final = 60.0
"""Seconds in which a process has to be up."""
STOP: Final = 10.0


@dataclass(frozen=True)
class Stack:
    """Where the proxy serves, and the upstream behind it (None: nothing answers there)."""

    base: str
    upstream: str | None


@contextmanager
def stack(vllm_version: str = "0.32.0", key: str | None = None) -> Iterator[Stack]:
    """The proxy in front of simulated models of that vLLM; clients need the `key`, if one is given.

    Raises RuntimeError when one of them does not start.
    """
    with _process("qa.fleet", "--version", vllm_version, ready=rb"fleet on port (\d+)") as port:
        upstream = f"http://127.0.0.1:{port}"
        with _proxy(upstream, key) as base:
            yield Stack(base, upstream)


@contextmanager
def lonely() -> Iterator[Stack]:
    """The proxy with nothing behind it."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # nobody listens there, and nobody else can
        with _proxy(f"http://127.0.0.1:{taken.getsockname()[1]}") as base:
            yield Stack(base, None)


@contextmanager
def _proxy(upstream: str, key: str | None = None) -> Iterator[str]:
    settings = {"VLLM_BASE": upstream, "PROXY_PORT": "0", "MODEL_PROFILES": json.dumps(PROFILES), "LOG_LEVEL": "info"}
    if key is not None:
        settings["API_KEYS"] = json.dumps({"qa": key})
    ready = rb"listening on http://127\.0\.0\.1:(\d+)/v1"
    with _process("devstral_proxy", "serve", ready=ready, settings=settings) as port:
        yield f"http://127.0.0.1:{port}"


@contextmanager
def _process(module: str, *arguments: str, ready: bytes, settings: Mapping[str, str] | None = None) -> Iterator[str]:
    """`python -m module`; gives what `ready` finds in its output. No setting of the caller's, and no .env, gets in."""
    kept = {name: value for name, value in os.environ.items() if name.lower() not in Settings.model_fields}
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "output"
        with log.open("wb") as output:
            child = subprocess.Popen(
                [sys.executable, "-m", module, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=folder,
                env={**kept, "PYTHONPATH": path, **(settings or {})},
            )
        try:
            yield _found(child, log, re.compile(ready))
        finally:
            child.terminate()
            try:
                child.wait(STOP)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()


def _found(child: subprocess.Popen[bytes], log: Path, ready: re.Pattern[bytes]) -> str:
    until = time.monotonic() + START
    while True:
        alive = child.poll() is None
        output = log.read_bytes()
        found = ready.search(output)
        if found and _accepts(int(found[1])):
            return found[1].decode()
        if not alive or time.monotonic() > until:
            raise RuntimeError(f"it did not start: {output[-2000:].decode(errors='replace').strip()}")
        time.sleep(0.05)


def _accepts(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True
