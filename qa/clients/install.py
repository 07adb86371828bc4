"""Puts pinned clients into `.clients/` with npm's and pip's ordinary commands."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from qa.clients.model import ROOT, Package

CACHE: Final = ROOT / ".clients"
NODE: Final = 20
"""The oldest Node that all clients of the table take."""
LIMIT: Final = 900
"""Seconds that one installation may take."""
_STAMP: Final = ".installed.json"


class Missing(Exception):
    """The client cannot be had on this machine; says why, in one line."""


def folder_of(package: Package) -> Path:
    """Where the package is, installed or not."""
    return CACHE / package.kind / package.folder


def installed(package: Package) -> bool:
    """Whether exactly these versions are there."""
    try:
        return bool(json.loads((folder_of(package) / _STAMP).read_text("utf-8")) == list(package.specs))
    except (OSError, ValueError):
        return False


def install(package: Package) -> Path:
    """The folder of the package's commands; installs it first when it is not there. Raises Missing."""
    folder = folder_of(package)
    if package.kind == "npm":
        check_node()
    if not installed(package):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        if package.kind == "npm":
            (folder / "package.json").write_text('{"private": true}\n', "utf-8")
            _run(["npm", "install", "--no-audit", "--no-fund", "--loglevel=error", *package.specs], folder)
        else:
            _run([python_for(package), "-m", "venv", str(folder)], folder)
            command = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
            _run([*command, *package.specs], folder)
        (folder / _STAMP).write_text(json.dumps(package.specs), "utf-8")
    return folder / package.bin


def check_node() -> None:
    """Raises Missing when there is no Node and npm, or an old one."""
    if not shutil.which("node") or not shutil.which("npm"):
        raise Missing(f"needs Node {NODE} or later with npm, which is not installed")
    said = subprocess.run(["node", "--version"], capture_output=True, text=True, check=False).stdout.strip()
    if not said.lstrip("v").split(".")[0].isdigit() or int(said.lstrip("v").split(".")[0]) < NODE:
        raise Missing(f"needs Node {NODE} or later; `node --version` says {said!r}")


def python_for(package: Package) -> str:
    """An interpreter that the package takes. Raises Missing."""
    if not package.python:
        return sys.executable
    for version in package.python:
        for candidate in _interpreters(version):
            asked = [candidate, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"]
            try:
                said = subprocess.run(asked, capture_output=True, text=True, check=False, timeout=20).stdout.strip()
            except (OSError, subprocess.TimeoutExpired):
                continue
            if said == version:
                return candidate
    raise Missing(f"needs Python {' or '.join(package.python)}")


def _interpreters(version: str) -> Iterator[str]:
    if f"{sys.version_info[0]}.{sys.version_info[1]}" == version:
        yield sys.executable
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    yield from (str(found) for found in sorted(pyenv.glob(f"{version}.*/bin/python")))
    found = shutil.which(f"python{version}")
    if found:
        yield found


def _run(command: list[str], folder: Path) -> None:
    try:
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, errors="replace", timeout=LIMIT, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Missing(f"was not installed: {error}") from None
    if done.returncode:
        lines = [line for line in (done.stdout + done.stderr).splitlines() if "rror" in line]
        raise Missing(f"was not installed: {(lines or ['no reason given'])[-1][:300]}")
