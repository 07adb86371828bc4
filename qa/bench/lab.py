"""What a measurement needs, made under `.bench/` when it is not there yet: programs, request bodies, peers."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

from qa.bench import bodies
from qa.bench.process import LINUX

ROOT: Final = Path(__file__).parents[2]
HERE: Final = Path(__file__).parent
LAB: Final = ROOT / ".bench"
PACKAGES: Final = {
    "vllm-router": "vllm-router==0.1.17",
    "litellm": "litellm[proxy]==1.106.2",
    "py-spy": "py-spy==0.4.3",
}
"""Virtual environments by name: what is installed into each."""


class Missing(Exception):
    """Something that a measurement needs is not on this machine; one line says what, and how it is had."""


def program(name: str) -> Path:
    """A compiled program of `c/`: `sim` or `load`. Raises Missing without a C compiler."""
    if not LINUX:
        raise Missing("Linux is needed: the simulator uses epoll, and CPU time is read from /proc")
    source, made = HERE / "c" / f"{name}.c", LAB / "bin" / name
    if not made.exists() or made.stat().st_mtime < source.stat().st_mtime:
        compiler = os.environ.get("CC") or shutil.which("gcc") or shutil.which("cc")
        if compiler is None:
            raise Missing("a C compiler (gcc, or CC) is needed for the simulator and the load client")
        made.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run([compiler, "-O2", "-Wall", "-Wextra", "-o", str(made), str(source)], check=True)
    return made


def body(name: str) -> Path:
    """The file of a request body (`1k`, `60k`, `600k`, with `_s`: streamed)."""
    path = LAB / "bodies" / f"{name}.json"
    if not path.exists() or path.stat().st_mtime < Path(bodies.__file__).stat().st_mtime:
        bodies.write(path.parent)
    return path


def environment(name: str, *, install: bool = False) -> Path:
    """The `bin` of the virtual environment of a package, installed when `install` is set. Raises Missing otherwise."""
    wanted = PACKAGES[name]
    folder = LAB / "venvs" / name
    stamp = folder / ".done"
    if stamp.exists() and stamp.read_text("utf-8") == wanted:
        return folder / "bin"
    if not install:
        raise Missing(f"{name} is not installed")
    shutil.rmtree(folder, ignore_errors=True)
    pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", wanted]
    try:
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        subprocess.run(pip, check=True)
    except subprocess.CalledProcessError as error:
        raise Missing(f"{wanted} could not be installed (pip ended with {error.returncode})") from None
    stamp.write_text(wanted, "utf-8")
    return folder / "bin"
