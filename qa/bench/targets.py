"""What is measured: the proxy, its peers, and the yardsticks; how each is started and known to be ready."""

from __future__ import annotations

import http.client
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from qa.bench.lab import PACKAGES, ROOT, Missing, body, environment
from qa.bench.process import TARGET_CORE, Child, ask, free_port, spawn, stop

Started = tuple[list[str | Path], dict[str, str]]
"""A command, and what it needs in its environment."""
NONCE: Final = "00000000deadbeef"
READY: Final = 90.0
"""Seconds in which a target has to answer."""

_NGINX = """worker_processes 1; daemon off; pid {run}/nginx.pid; error_log {run}/nginx.err warn;
events {{ worker_connections 8192; }}
http {{ access_log off; client_max_body_size 64m; client_body_buffer_size 2m; keepalive_requests 1000000;
  client_body_temp_path {run}/t1; proxy_temp_path {run}/t2; fastcgi_temp_path {run}/t3;
  uwsgi_temp_path {run}/t4; scgi_temp_path {run}/t5;
  upstream u {{ server 127.0.0.1:{up}; keepalive 1024; keepalive_requests 1000000; }}
  server {{ listen 127.0.0.1:{port} backlog=2048; location / {{ proxy_pass http://u; proxy_http_version 1.1;
    proxy_set_header Connection ""; proxy_buffering off; }} }} }}
"""
_LITELLM = """model_list:
  - model_name: devstral
    litellm_params: {{model: openai/devstral, api_base: "http://127.0.0.1:{up}/v1", api_key: x}}
litellm_settings: {{telemetry: false, drop_params: true}}
"""


def _nginx_command() -> str:
    command = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
    if command is None:
        raise Missing("nginx is not on PATH")
    return command


def _nginx(port: int, up: int, run: Path) -> Started:
    config = run / "nginx.conf"
    config.write_text(_NGINX.format(run=run, up=up, port=port), "utf-8")
    return [_nginx_command(), "-p", run, "-c", config], {}


def _vllm_router(port: int, up: int, run: Path) -> Started:
    command: list[str | Path] = [environment("vllm-router") / "vllm-router"]
    command += ["--worker-urls", f"http://127.0.0.1:{up}", "--host", "127.0.0.1", "--port", str(port)]
    return [*command, "--prometheus-port", str(free_port()), "--log-level", "warning"], {}


def _vllm_router_rr(port: int, up: int, run: Path) -> Started:
    command, more = _vllm_router(port, up, run)
    return [*command, "--policy", "round_robin"], more


def _litellm(port: int, up: int, run: Path) -> Started:
    config = run / "litellm.yaml"
    config.write_text(_LITELLM.format(up=up), "utf-8")
    command: list[str | Path] = [environment("litellm") / "litellm", "--config", config]
    return [*command, "--host", "127.0.0.1", "--port", str(port), "--num_workers", "1"], {
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "LITELLM_LOG": "ERROR",
        "LITELLM_TELEMETRY": "False",
        "LITELLM_MASTER_KEY": "sk-1234",
        "LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true",
    }


def _limit(port: int, up: int, run: Path) -> Started:
    return [sys.executable, "-m", "qa.bench.limit", str(port), str(up)], {"PYTHONPATH": str(ROOT)}


def _project(port: int, up: int, run: Path) -> Started:
    return [sys.executable, "-m", "devstral_proxy", "serve"], {
        "PYTHONPATH": str(ROOT),
        "PROXY_HOST": "127.0.0.1",
        "PROXY_PORT": str(port),
        "VLLM_BASE": f"http://127.0.0.1:{up}",
        "LOG_LEVEL": "warning",
    }


TARGETS: Final[dict[str, Callable[[int, int, Path], Started] | None]] = {
    "direct": None,
    "nginx": _nginx,
    "vllm-router": _vllm_router,
    "vllm-router-rr": _vllm_router_rr,
    "litellm": _litellm,
    "limit": _limit,
    "project": _project,
}
SAYS: Final = {
    "direct": "no proxy: what simulator and load client cost by themselves",
    "nginx": "one worker, keep-alive upstream, no buffering; passes bytes on",
    "vllm-router": "the Rust router of the vLLM project, as it comes (its policy: cache_aware)",
    "vllm-router-rr": "the same with `--policy round_robin`: cache_aware was seen to send each request twice",
    "litellm": "LiteLLM's proxy, one worker",
    "limit": "`qa/bench/limit.py`: asyncio protocols, uvloop, httptools, orjson, no more: the most that Python can do",
    "project": "this proxy as `devstral-proxy serve`, one worker, translation and repair on",
}


@dataclass
class Target:
    """One of TARGETS while it is measured. `up` is the simulator's port that is this target's own."""

    name: str
    up: int
    run: Path
    more: dict[str, str] = field(default_factory=dict)
    """Settings beside those of its kind."""
    flags: tuple[str, ...] = ()
    core: int | None = TARGET_CORE
    child: Child | None = None
    port: int = 0
    cold: list[float] = field(default_factory=list)
    """Seconds from each start to the first right answer."""

    def start(self) -> None:
        """Starts it and waits for its first right answer. Raises Missing, OSError, or RuntimeError with its output."""
        make = TARGETS[self.name]
        if make is None:
            self.port = self.up
            self._wait(None)
            return
        self.run.mkdir(parents=True, exist_ok=True)
        self.port = free_port()
        command, more = make(self.port, self.up, self.run)
        log = self.run / "log"
        with log.open("wb") as output:
            begun = time.monotonic()
            self.child = spawn([*command, *self.flags], self.core, output, more=more | self.more, cwd=self.run)
        self._wait(log)
        self.cold.append(time.monotonic() - begun)

    def stop(self) -> None:
        """Ends it."""
        stop(self.child)
        self.child = None

    def said(self) -> list[str]:
        """The lines that its last process wrote."""
        log = self.run / "log"
        return log.read_text("utf-8", "replace").splitlines() if log.exists() else []

    @property
    def pid(self) -> int | None:
        """Of the first process, while there is one."""
        return self.child.pid if self.child else None

    def _wait(self, log: Path | None) -> None:
        request = body("1k").read_bytes().replace(b"0" * 16, NONCE.encode())
        end, healthy, last = time.monotonic() + READY, self.name != "project", ""
        while time.monotonic() < end:
            if self.child and self.child.poll() is not None:
                last = f"it ended with {self.child.returncode}"
                break
            try:
                healthy = healthy or ask(self.port, "GET", "/health")[0] == 200
                if healthy:
                    status, data = ask(self.port, "POST", "/v1/chat/completions", request)
                    if status == 200 and f"ans:{NONCE}".encode() in data:
                        return
                    last = f"{status} {data[:200]!r}"
            except (OSError, http.client.HTTPException) as error:
                last = repr(error)
            time.sleep(0.005)
        output = log.read_text("utf-8", "replace")[-1500:] if log else ""
        raise RuntimeError(f"{self.name} does not answer: {last}\n{output}")


def versions() -> dict[str, str]:
    """The peers that this machine has, with their versions."""
    found = {}
    for name in ("vllm-router", "litellm"):
        with suppress(Missing):
            environment(name)
            found[name] = PACKAGES[name].rpartition("==")[2]
    with suppress(Missing):
        said = subprocess.run([_nginx_command(), "-v"], capture_output=True, text=True, check=False)
        found["nginx"] = (said.stderr or said.stdout).strip().rpartition("/")[2]
    return found
