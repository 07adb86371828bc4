"""What deploy/ names is there: settings, paths, files, ports; and systemd finds the unit well hardened."""

from __future__ import annotations

import json
import re
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

from devstral_proxy import __version__
from devstral_proxy.app import create_app
from devstral_proxy.config import Settings, load

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
FIELDS = {name.upper(): name for name in Settings.model_fields}
OTHERS = {"CREDENTIALS_DIRECTORY", "PATH", "PYTHONDONTWRITEBYTECODE", "PYTHON"}
"""Variables that are no settings: systemd's, and those of the system and of Python."""
MANIFESTS = sorted((DEPLOY / "kubernetes").glob("*.yaml"))
UNIT = DEPLOY / "systemd" / "devstral-proxy.service"
SECURITY = 2.0
"""The most exposure that systemd-analyze may find: from 0 to 10, where under 5 is its good range."""


def section(path: str, begin: str, end: str = r"\Z") -> str:
    """A part of a file, from one pattern to another."""
    found = re.search(f"{begin}(.*?){end}", (DEPLOY / path).read_text("utf-8"), re.DOTALL)
    assert found, path
    return found[1]


def assignments(text: str, pattern: str) -> dict[str, str]:
    return {name: value.strip().strip("\"'") for name, value in re.findall(pattern, text, re.MULTILINE)}


MAPPED = r"^ +([A-Z][A-Z_]+): *(.*)$"
VARIABLES = {
    "compose.yaml": assignments(section("compose.yaml", "  proxy:\n", "  prometheus:\n"), MAPPED),
    "kubernetes/configmap.yaml": assignments(section("kubernetes/configmap.yaml", "data:\n"), MAPPED),
    "systemd/devstral-proxy.env": assignments(section("systemd/devstral-proxy.env", ""), r"^#?([A-Z_]+)=(.*)$"),
    "Dockerfile": assignments(section("Dockerfile", "ENV "), r"^(?:ENV)? *([A-Z_]+)=([^ \\]*)"),
}


@pytest.mark.parametrize("name", VARIABLES)
def test_variables_are_settings(name: str) -> None:
    given = VARIABLES[name]
    assert given
    assert given.keys() <= FIELDS.keys() | OTHERS
    # UPSTREAMS is the one that stands on the lines below.
    values = {FIELDS[name]: value for name, value in given.items() if name in FIELDS and value != "|"}
    load(**values)


def test_the_upstreams_of_the_manifests_are_read() -> None:
    text = section("kubernetes/configmap.yaml", r"UPSTREAMS: \|\n", r"\n  [A-Z#]")
    assert load(upstreams=text).served_models
    assert json.loads(text)


def test_secrets_are_settings() -> None:
    unit = UNIT.read_text("utf-8")
    names = set(re.findall(r"^LoadCredential=(\w+):", unit, re.MULTILINE))
    names |= set(re.findall(r"^  (\w+): ", section("kubernetes/secret.example.yaml", "stringData:\n"), re.MULTILINE))
    names |= set(re.findall(r"^  (\w+):$", section("compose.yaml", "\nsecrets:\n", "\nvolumes:"), re.MULTILINE))
    assert {"api_keys", "vllm_api_key", "redis_url"} == names
    assert names <= set(FIELDS.values())


def test_paths_are_routes() -> None:
    served = {getattr(route, "path", "") for route in create_app(load()).routes}
    asked = set(re.findall(r"path: (/[\w/]+)", section("kubernetes/deployment.yaml", "")))
    asked |= set(re.findall(r"\}(/health/\w+)", section("Dockerfile", "")))
    asked |= {f"/{name}" for name in re.findall(r"location ~ \^/\+(\w+)/", section("nginx/devstral-proxy.conf", ""))}
    assert asked == {"/health/live", "/health/ready", "/metrics"}
    assert asked <= served


@pytest.mark.parametrize(
    ("name", "variables", "grace"),
    [
        ("kubernetes/deployment.yaml", "kubernetes/configmap.yaml", r"terminationGracePeriodSeconds: (\d+)"),
        ("compose.yaml", "compose.yaml", r"stop_grace_period: (\d+)s"),
    ],
)
def test_there_is_time_to_drain(name: str, variables: str, grace: str) -> None:
    given = VARIABLES[variables]
    needed = float(given.get("SHUTDOWN_DELAY", 0)) + float(given["DRAIN_TIMEOUT"])
    found = re.search(grace, section(name, ""))
    assert found
    assert int(found[1]) > needed + 5


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
def test_the_keys_that_the_compose_file_asks_for_can_be_read_by_the_images_user(tmp_path: Path) -> None:
    """A secret of Docker's is the host's file, with the host's mode."""
    (tmp_path / "deploy").mkdir()
    steps = re.findall(r"^#     (.*deploy/secrets.*)$", section("compose.yaml", ""), re.MULTILINE)
    subprocess.run(["sh", "-euc", "umask 077\n" + "\n".join(steps)], cwd=tmp_path, check=True, timeout=60)
    file = tmp_path / "deploy" / section("compose.yaml", r"file: \./", r"\n")
    assert stat.S_IMODE(file.stat().st_mode) == 0o444
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    assert load(api_keys_file=str(file)).client_keys.keys() == {"alice"}
    assert "deploy/secrets/" in (ROOT / ".gitignore").read_text("utf-8").splitlines()


def test_the_unit_lets_the_process_read_its_own_metrics() -> None:
    """prometheus-client reads /proc/stat, which `ProcSubset=pid` takes away."""
    assert "ProcSubset=pid" not in UNIT.read_text("utf-8")


def test_metrics_are_not_public_behind_an_ingress() -> None:
    assert VARIABLES["kubernetes/configmap.yaml"]["METRICS_PUBLIC"] == "false"


def test_files_that_are_mounted_or_copied_exist() -> None:
    compose = section("compose.yaml", "")
    for path in re.findall(r"^ +- \./(\S+?):", compose, re.MULTILINE):
        assert (DEPLOY / path).exists(), path
    dockerfile = section("Dockerfile", "AS build\n", "\nFROM")
    copied = [name for line in re.findall(r"^COPY (.+) \S+$", dockerfile, re.MULTILINE) for name in line.split()]
    let_through = set(re.findall(r"^!(.+)$", (ROOT / ".dockerignore").read_text("utf-8"), re.MULTILINE))
    assert set(copied) == let_through
    for path in copied:
        assert (ROOT / path).exists(), path


def test_the_version_and_the_port() -> None:
    assert f"image: devstral-proxy:{__version__}\n" in section("kubernetes/deployment.yaml", "")
    port = str(load().proxy_port)
    assert f"EXPOSE {port}\n" in section("Dockerfile", "")
    assert f"containerPort: {port}}}" in section("kubernetes/deployment.yaml", "")
    assert f"ListenStream=127.0.0.1:{port}\n" in section("systemd/devstral-proxy.socket", "")


def test_labels_are_selected() -> None:
    """What a Service, a budget or a policy selects is a label that some pod has, or vLLM's or the cluster's own."""
    text = "\n".join(path.read_text("utf-8") for path in MANIFESTS)
    selected = set(re.findall(r"(?:matchLabels|selector): \{app\.kubernetes\.io/name: ([\w-]+)\}", text))
    labelled = set(re.findall(r"    labels: \{app\.kubernetes\.io/name: ([\w-]+)\}", text))
    assert selected == labelled | {"vllm"}


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_the_unit_is_hardened() -> None:
    command = ["systemd-analyze", "security", "--offline=yes", "--no-pager", str(UNIT)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    found = re.search(r"Overall exposure level for \S+: ([\d.]+)", done.stdout)
    assert found, done.stdout + done.stderr
    assert float(found[1]) <= SECURITY


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_systemd_reads_the_units(tmp_path: Path) -> None:
    """`verify` wants the program to be there."""
    program = shutil.which("true")
    assert program
    for path in UNIT.parent.glob("devstral-proxy.*[te]"):
        text = re.sub(r"^ExecStart=.*$", f"ExecStart={program}", path.read_text("utf-8"), flags=re.MULTILINE)
        (tmp_path / path.name).write_text(text)
    units = [str(tmp_path / f"devstral-proxy.{kind}") for kind in ("service", "socket")]
    command = ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", *units]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    complaints = [line for line in done.stderr.splitlines() if "devstral-proxy" in line]
    assert complaints == []
