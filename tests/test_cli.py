"""The commands, as a user types them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn

from devstral_proxy import __version__, cli
from devstral_proxy.commands.serve import bind
from devstral_proxy.simulator.app import create_simulator
from devstral_proxy.simulator.options import SimulatorOptions
from tests.server.upstreams import request

ROOT = Path(__file__).parent.parent
SCRIPT = ROOT / "devstral_proxy" / "main.py"
WAYS = {"script": [str(SCRIPT)], "module": ["-m", "devstral_proxy"], "cli": ["-m", "devstral_proxy.cli"]}
ENVIRONMENT = {"PATH": os.environ.get("PATH", ""), "PYTHONUNBUFFERED": "1"}


@pytest.mark.parametrize("way", WAYS)
def test_every_way_in_is_the_same(way: str, tmp_path: Path) -> None:
    told = subprocess.run(
        [sys.executable, *WAYS[way], "--version"],
        cwd=tmp_path,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (told.returncode, told.stdout) == (0, f"devstral-proxy {__version__}\n")


def test_the_script_does_not_shadow_others_modules(tmp_path: Path) -> None:
    probe = (
        "import runpy, sys; sys.argv = ['main.py', '--version']; runpy.run_path(sys.argv.pop(0) and {!r}, run_name='x')"
    )
    code = (
        probe.format(str(SCRIPT)) + "; import importlib.util as u; print(u.find_spec('simulator'), u.find_spec('cli'))"
    )
    told = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(SCRIPT.parent)!r}); {code}"],
        cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert told.stdout == "None None\n", told.stderr


def test_the_console_script_is_declared() -> None:
    assert 'devstral-proxy = "devstral_proxy.cli:main"' in (ROOT / "pyproject.toml").read_text()


@pytest.mark.parametrize(
    "arguments", [["nonsense"], ["explain"], ["serve", "--port", "x"], ["simulate", "--tokenizer", "v8"]]
)
def test_a_wrong_command_line_is_code_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    assert caught.value.code == 2


@pytest.mark.parametrize("way", WAYS)
def test_it_serves_until_it_is_told_to_stop(way: str, tmp_path: Path) -> None:
    probe = bind("127.0.0.1", 0)
    port = probe.getsockname()[1]
    probe.close()
    environment = {**ENVIRONMENT, "PROXY_PORT": str(port), "LOG_FILE": "logs/proxy.log"}
    with subprocess.Popen(
        [sys.executable, *WAYS[way]], cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            health = _wait_for(f"http://127.0.0.1:{port}/health")
            assert health["upstream"]["reachable"] is False
        finally:
            process.send_signal(signal.SIGTERM)
            _, said = process.communicate(timeout=30)
    assert process.returncode == 0
    assert f"listening on http://127.0.0.1:{port}/v1" in said
    assert "path=/health status=200" in said
    assert said.splitlines()[-1].endswith("stopped")
    assert (tmp_path / "logs" / "proxy.log").read_text() == said


def test_a_taken_port_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    taken = bind("127.0.0.1", 0)
    taken.listen()
    port = taken.getsockname()[1]
    assert cli.main(["--host", "127.0.0.1", "--port", str(port)]) == 2
    taken.close()
    said = capsys.readouterr().err
    assert said == f"devstral-proxy: PROXY_PORT: cannot listen on 127.0.0.1 port {port} (Address already in use)\n"


def _wait_for(url: str) -> Any:
    for _ in range(200):
        try:
            return httpx.get(url, timeout=5, trust_env=False).json()
        except httpx.TransportError:
            time.sleep(0.05)
    raise AssertionError(f"nothing answers at {url}")


# ---------------------------------------------------------------- explain

ODD = request(
    messages=[
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "name": "ada", "content": "Look."},
        {"role": "assistant", "tool_calls": [
            {"id": "call_1", "index": 0, "type": "function", "function": {"name": "look", "arguments": "{}"}},
        ]},
        {"role": "tool", "tool_call_id": "call_1", "content": "UNIQUE-RESULT"},
    ],
)  # fmt: skip


def test_explain_names_rewrites_paths_reasons_and_the_prompt(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "request.json"
    path.write_text(json.dumps(ODD))
    assert cli.main(["explain", str(path)]) == 0
    said = capsys.readouterr().out
    assert "profile    devstral-small-2: tokenizer v13" in said
    assert "developer_role: " in said
    assert "messages[2].tool_calls[0].id" in said
    assert "[TOOL_RESULTS]UNIQUE-RESULT[/TOOL_RESULTS]" in said


def test_explain_for_another_profile_and_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "request.json"
    path.write_text(json.dumps(ODD))
    assert cli.main(["explain", str(path), "--profile", "strictest"]) == 0
    assert "profile    strictest: tokenizer v3" in capsys.readouterr().out
    assert cli.main(["explain", str(path), "--model", "mistralai/Devstral-Small-2507"]) == 0
    assert "tokenizer v11" in capsys.readouterr().out
    assert cli.main(["explain", str(path), "--profile", "nonsense"]) == 1
    assert "there is no profile 'nonsense'" in capsys.readouterr().err


def test_explain_as_json_is_the_translation_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "request.json"
    path.write_text(json.dumps(ODD))
    assert cli.main(["explain", "--json", str(path)]) == 0
    translated = json.loads(capsys.readouterr().out)
    assert translated["messages"][0] == {"role": "system", "content": "Be brief."}


def test_explain_shows_images_as_such(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    parts = [{"type": "text", "text": "See:"}, image]
    path = tmp_path / "request.json"
    path.write_text(json.dumps(request(messages=[{"role": "user", "content": parts}])))
    assert cli.main(["explain", str(path)]) == 0
    assert "[image]" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"{", "no valid JSON"),
        (b"[]", "must be a JSON object"),
        (b'{"model": "m"}', "refused with status 400 (messages)"),
    ],
)
def test_explain_says_what_is_wrong(
    content: bytes, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "request.json"
    path.write_bytes(content)
    assert cli.main(["explain", str(path)]) == 1
    assert says in capsys.readouterr().err


def test_explain_without_the_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["explain", "/no/such/file"]) == 1
    assert "/no/such/file cannot be read: No such file" in capsys.readouterr().err


def test_explain_reads_standard_input(tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-m", "devstral_proxy", "explain", "-"],
        input=json.dumps(request()), cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert run.returncode == 0
    assert "rewrites   none" in run.stdout


# ---------------------------------------------------------------- demo, simulate, doctor


def test_the_demo_ends_with_an_answer(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["demo", "--once", "--port", "0"]) == 0
    said = capsys.readouterr().out
    for mark in (
        "without the proxy vLLM says: 400",
        "proxy     developer_role",
        "call      ",
        "result    ",
        "model     Done",
    ):
        assert mark in said
    assert "error" not in said


def test_the_demo_takes_another_port_when_its_own_is_taken(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = bind("127.0.0.1", 0)
    taken.listen()
    monkeypatch.setenv("PROXY_PORT", str(taken.getsockname()[1]))
    assert cli.main(["demo", "--once"]) == 0
    taken.close()


@pytest.fixture
def simulator() -> Iterator[Any]:
    servers: list[tuple[uvicorn.Server, threading.Thread]] = []

    def start(options: SimulatorOptions) -> str:
        listener = bind("127.0.0.1", 0)
        server = uvicorn.Server(uvicorn.Config(create_simulator(options), log_config=None, lifespan="off", ws="none"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        servers.append((server, thread))
        thread.start()
        return f"http://127.0.0.1:{listener.getsockname()[1]}"

    yield start
    for server, thread in servers:
        server.should_exit = True
        thread.join()


def test_the_doctor_on_a_healthy_vllm(
    simulator: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("VLLM_BASE", simulator(SimulatorOptions()))
    assert cli.main(["doctor"]) == 0
    said = capsys.readouterr().out
    assert "ok    reachable" in said
    assert "ok    version: 0.32.0" in said
    assert "profile devstral-small-2, tokenizer v13, images" in said
    assert "ok    model devstral-small-2: context of 131072 tokens" in said
    assert "ok    model devstral-small-2: takes requests with tools" in said
    assert "FAIL" not in said


def test_the_doctor_on_an_old_one_with_a_name_that_says_nothing(
    simulator: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = SimulatorOptions(version="0.12.0", model="coder", root="/models/coder", max_model_len=8192)
    monkeypatch.setenv("VLLM_BASE", simulator(options))
    assert cli.main(["doctor"]) == 0
    said = capsys.readouterr().out
    assert "warn  version: 0.12.0" in said
    assert "warn  model coder (root /models/coder): profile strictest" in said
    assert "warn  model coder: context of 8192 tokens" in said


def test_the_doctor_without_the_key(
    simulator: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("VLLM_BASE", simulator(SimulatorOptions(api_key="seCret")))
    assert cli.main(["doctor"]) == 1
    assert "FAIL  reachable: /v1/models answers with status 401; set VLLM_API_KEY" in capsys.readouterr().out
    monkeypatch.setenv("VLLM_API_KEY", "seCret")
    assert cli.main(["doctor"]) == 0
    assert "seCret" not in capsys.readouterr().out


def test_the_doctor_when_nobody_is_there(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("VLLM_BASE", "http://127.0.0.1:1")
    assert cli.main(["doctor"]) == 1
    assert "FAIL  reachable: connection error: cannot connect to vLLM at 127.0.0.1:1" in capsys.readouterr().out


def test_the_simulator_alone(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "devstral_proxy", "simulate", "--port", "0", "--vllm-version", "0.12.0"],
        cwd=tmp_path, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            port = line.split()[-1]
            assert _wait_for(f"http://127.0.0.1:{port}/version") == {"version": "0.12.0"}
        finally:
            process.terminate()
            process.wait(30)
