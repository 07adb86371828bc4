"""One client, one scenario: scripted upstream, proxy, client, verdict."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from qa.bench.process import clean_environment, stop
from qa.clients.install import folder_of
from qa.clients.model import MODEL, Client, Place, command_of, environment_of, text_of
from qa.clients.scenarios import Scenario
from qa.clients.script import TASK, Script
from qa.clients.upstream import Upstream, serving
from qa.clients.verdict import Outcome, Verdict, judge

LIMIT: Final = 60.0
"""Seconds that a client may take."""
START: Final = 30.0
SDK: Final = Path(__file__).parent / "sdk"
SETTINGS: Final = {"LOG_FORMAT": "json", "MODEL_ALIASES": json.dumps({"claude-*": MODEL, "gpt-*": MODEL})}
"""The proxy's own, in every run: some clients ask for models of their own names beside the one they are told."""
_LISTENING: Final = re.compile(rb"listening on http://127\.0\.0\.1:(\d+)")
PICTURE: Final = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAACAAAAAgCAIAAAD8GO2jAAAAKklEQVR4nGM4ISdHU8QwasGoBaMWjFowasGoBaMWjFowasGoBaMWDBUL"
    "ACXLED3NSh4NAAAAAElFTkSuQmCC"
)


def run(client: Client, name: str, scenario: Scenario, bin_folder: Path, logs: Path, keep: bool, code: Path) -> Verdict:
    """One run of the scenario called `name`; on FAIL, or with `keep`, what was said stays in the folder `logs`.

    `code`: the checkout whose proxy runs. Raises RuntimeError when the proxy does not start.
    """
    with tempfile.TemporaryDirectory(prefix="client-", ignore_cleanup_errors=True) as scratch:
        root = Path(scratch).resolve()
        home, work = root / "home", root / "work"
        home.mkdir()
        workspace(work)
        script = Script(work, scenario.image and client.image_read, scenario.rich, client.tools)
        upstream = Upstream(script, scenario)
        with serving(upstream) as vllm, proxy(vllm, scenario.settings, root, code) as base:
            place = Place(home, work, bin_folder, programs(client), base)
            begun = time.monotonic()
            exit_code = _drive(client, scenario, place, root)
            seconds = time.monotonic() - begun
            time.sleep(0.2)  # the last log line
        written = work / "out.txt"
        outcome = Outcome(
            exit=exit_code,
            output=(root / "client.log").read_text("utf-8", "replace"),
            written=written.read_text("utf-8", "replace") if written.is_file() else None,
            seen=upstream.seen,
            access=access_lines((root / "proxy.log").read_text("utf-8", "replace")),
        )
        verdict = judge(client, name, scenario, outcome, seconds)
        shutil.rmtree(logs, ignore_errors=True)
        if verdict.status == "FAIL" or keep:
            _keep(logs, root, upstream)
        return verdict


def programs(client: Client) -> Path:
    """Where the SDK programs are. Those for Node are put beside the packages, where Node looks for them."""
    if client.package.kind == "pip" or not any("{sdk}" in part for part in client.command):
        return SDK
    for program in SDK.glob("*.mjs"):
        shutil.copy(program, folder_of(client.package))
    return folder_of(client.package)


def workspace(work: Path) -> None:
    """A small repository to work in."""
    work.mkdir()
    (work / "hello.txt").write_text("hello world\n", "utf-8")
    (work / "README.md").write_text("# demo\n", "utf-8")
    (work / "pic.png").write_bytes(PICTURE)
    author = ["-c", "user.name=t", "-c", "user.email=t@example.invalid"]
    for step in (["init", "-q"], ["add", "-A"], [*author, "commit", "-qm", "init"]):
        subprocess.run(["git", *step], cwd=work, check=True, capture_output=True, env=clean_environment())


@contextmanager
def proxy(vllm: str, settings: Mapping[str, str], folder: Path, code: Path) -> Iterator[str]:
    """The proxy as a process, its log in `folder`; gives its address. Raises RuntimeError when it does not start."""
    log = folder / "proxy.log"
    environment = clean_environment() | SETTINGS | dict(settings)
    environment |= {"VLLM_BASE": vllm, "PROXY_HOST": "127.0.0.1", "PROXY_PORT": "0", "PYTHONPATH": str(code)}
    with log.open("wb") as output:
        child = subprocess.Popen(
            [sys.executable, "-m", "devstral_proxy", "serve"],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd=folder,
            env=environment,
            start_new_session=True,
        )
    try:
        until = time.monotonic() + START
        while not (found := _LISTENING.search(log.read_bytes())):
            if child.poll() is not None or time.monotonic() > until:
                raise RuntimeError(f"the proxy did not start: {log.read_text('utf-8', 'replace')[-500:]}")
            time.sleep(0.05)
        yield f"http://127.0.0.1:{int(found[1])}"
    finally:
        stop(child)


def access_lines(log: str) -> list[dict[str, Any]]:
    """The proxy's lines about requests out of its log."""
    found = []
    for line in log.splitlines():
        with suppress(ValueError):
            entry = json.loads(line)
            if isinstance(entry, dict) and "status" in entry and "method" in entry:
                found.append(entry)
    return found


def _drive(client: Client, scenario: Scenario, place: Place, root: Path) -> int | None:
    """The client's exit code, None when it took too long. What it starts is ended with it."""
    for file in client.files:
        path = place.home / file.path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text_of(file, place), "utf-8")
    command = command_of(client, place, TASK, scenario.image)
    picture = "data:image/png;base64," + base64.b64encode(PICTURE).decode() if scenario.image else ""
    environment = environment_of(client, place, os.environ.get("PATH", os.defpath), picture)
    with (root / "client.log").open("wb") as output:
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd=place.work,
            env=environment,
            start_new_session=True,
        )
    try:
        return child.wait(LIMIT)
    except subprocess.TimeoutExpired:
        return None
    finally:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()
        for process in started_in(place.home):
            with suppress(ProcessLookupError, PermissionError):
                os.kill(process, signal.SIGKILL)


def started_in(home: Path) -> list[int]:
    """Processes whose HOME is that folder: what a client left running in a session of its own. Needs /proc."""
    wanted, found = f"HOME={home}".encode(), []
    for environment in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):
            if wanted in environment.read_bytes().split(b"\0"):
                found.append(int(environment.parent.name))
    return found


def _keep(logs: Path, root: Path, upstream: Upstream) -> None:
    logs.mkdir(parents=True)
    for name in ("client.log", "proxy.log"):
        shutil.copy(root / name, logs / name)
    with (logs / "requests.jsonl").open("w", encoding="utf-8") as file:
        for seen in upstream.seen:
            entry = {"status": seen.status, "fault": seen.fault, "refusal": seen.refusal, "body": seen.body}
            file.write(json.dumps(entry) + "\n")
