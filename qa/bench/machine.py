"""The machine and the versions that a measurement was made with; no names, no paths."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

from devstral_proxy import __version__
from qa.bench.lab import ROOT
from qa.bench.process import CORES

LIBRARIES: Final = ("uvicorn", "uvloop", "httptools", "starlette", "httpx", "orjson")


def machine() -> dict[str, Any]:
    """Processor, kernel, Python, and the versions of what the proxy is built on."""
    libraries = {}
    for name in LIBRARIES:
        with suppress(PackageNotFoundError):
            libraries[name] = version(name)
    return {
        "processor": _processor(),
        "cores": len(CORES),
        "memory_gb": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30),
        "kernel": re.sub(r"[^\d.].*", "", platform.release()),
        "python": platform.python_version(),
        "project": _project(),
        "libraries": libraries,
    }


def _processor() -> str:
    with suppress(OSError):
        found = re.search(r"^model name\s*:\s*(.*)$", Path("/proc/cpuinfo").read_text("utf-8"), re.MULTILINE)
        if found:
            return found[1].strip()
    return platform.machine()


def _project() -> str:
    """The version, with the commit when the checkout has git's."""
    try:
        said = subprocess.run(
            ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True, check=False
        ).stdout.strip()
    except OSError:
        said = ""
    return f"{__version__} ({said})" if said else __version__
