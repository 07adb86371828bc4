"""The tools that the programs give to the model, and what the runner told them. Standard library only."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

BASE_URL: Final = os.environ.get("BASE_URL", "http://127.0.0.1:9000")
MODEL: Final = os.environ.get("MODEL", "devstral-small-2")
TASK: Final = os.environ.get("TASK", "Read hello.txt.")
PICTURE: Final = os.environ.get("PICTURE", "")
"""A data URL to show to the model, or nothing."""
STEPS: Final = 8


def read_file(path: str) -> str:
    """Read a file."""
    return Path(path).read_text("utf-8")


def write_file(path: str, content: str) -> str:
    """Write a file."""
    Path(path).write_text(content, "utf-8")
    return "ok"


def edit_file(path: str, old_string: str, new_string: str) -> str:
    """Replace a text in a file."""
    text = Path(path).read_text("utf-8")
    if old_string not in text:
        return "error: the old text is not in the file"
    Path(path).write_text(text.replace(old_string, new_string), "utf-8")
    return "ok"


def bash(command: str) -> str:
    """Run a shell command."""
    return subprocess.run(command, shell=True, capture_output=True, text=True, check=False).stdout


FUNCTIONS: Final[dict[str, Callable[..., str]]] = {
    function.__name__: function for function in (read_file, write_file, edit_file, bash)
}
PARAMETERS: Final = {
    "read_file": ("path",),
    "write_file": ("path", "content"),
    "edit_file": ("path", "old_string", "new_string"),
    "bash": ("command",),
}


def schema_of(name: str) -> dict[str, Any]:
    """The JSON schema of a tool's arguments."""
    names = PARAMETERS[name]
    properties = {key: {"type": "string"} for key in names}
    return {"type": "object", "properties": properties, "required": list(names), "additionalProperties": False}
