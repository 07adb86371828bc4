"""Sampled stacks, as py-spy writes them (`frame;frame;… count`), summed up by component and by function. Pure."""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

_FRAME = re.compile(r"(?P<name>.*) \((?P<file>[^()]*?)(?::\d+)?\)$")
_CALLS: Final = (
    "read write writev readv send sendto sendmsg recv recvfrom recvmsg epoll_wait epoll_pwait epoll_ctl accept4 "
    "accept connect socket close shutdown getsockname getpeername setsockopt getpid getrandom syscall"
)
_SYSCALLS: Final = frozenset(_CALLS.split())
NATIVE: Final = (
    ("orjson (JSON)", re.compile(r"orjson/")),
    ("httptools (HTTP parser)", re.compile(r"^(parser|llhttp|api|url_parser|http_parser)\.c$|httptools/")),
    ("asyncio (tasks, futures; C)", re.compile(r"^_asynciomodule\.c(\.h)?$")),
    (
        "uvloop (event loop)",
        re.compile(r"^(loop|loop-watcher|core|linux|stream|tcp|timer)\.c$|^queue\.h$|\.pyx$|uvloop/"),
    ),
)
"""Components by the source file of a C frame; what fits none belongs to the Python function that called it."""


@dataclass
class Profile:
    """Samples by component, by function, and in all."""

    components: Counter[str] = field(default_factory=Counter)
    functions: Counter[tuple[str, str]] = field(default_factory=Counter)
    samples: int = 0


def parsed(frame: str) -> tuple[str, str]:
    """A frame's function and file: `Feed._run (devstral_proxy/server/feed.py:99)`."""
    found = _FRAME.match(frame)
    return (found["name"], found["file"]) if found else (frame, "")


def is_python(file: str) -> bool:
    return file.endswith(".py") or file.startswith("<")


def package(file: str) -> str:
    """The component that a Python file belongs to: a layer of ours, another package, or the standard library."""
    parts = file.split("/")
    if parts[0] == "devstral_proxy":
        return f"devstral_proxy/{parts[1].removesuffix('.py')}" if len(parts) > 1 else parts[0]
    top = parts[0].removesuffix(".py")
    if top == "asyncio":
        return "asyncio (Python)"
    return "standard library" if top in sys.stdlib_module_names or file.startswith("<") else top


def component(stack: Sequence[tuple[str, str]]) -> str:
    """Whose time a sample is: of the C code that ran, where it is known, else of the innermost Python function."""
    native = []
    for name, file in reversed(stack):
        if is_python(file):
            break
        native.append((name, file))
    if any(name.startswith("gc_collect") for name, _ in native):
        return "garbage collector"
    for name, file in native:
        if file.startswith("libc") and name in _SYSCALLS:
            return "system calls"
        for said, pattern in NATIVE:
            if pattern.search(file):
                return said
        if name.startswith(("sre_", "_sre_")):
            return "regular expressions"
    python = innermost(stack)
    return package(python[1]) if python else "interpreter"


def innermost(stack: Sequence[tuple[str, str]]) -> tuple[str, str] | None:
    """The innermost Python function and its file."""
    return next(((name, file) for name, file in reversed(stack) if is_python(file)), None)


def summed(lines: Iterable[str], thread: str = "MainThread") -> Profile:
    """The samples of one thread (others wait, or write logs), by component and by function."""
    profile = Profile()
    for line in lines:
        text, _, count = line.rstrip().rpartition(" ")
        frames = text.split(";")
        if not count.isdigit() or (frames[0].startswith("thread (") and not frames[0].endswith(thread)):
            continue
        stack = [parsed(frame) for frame in frames if not frame.startswith("thread (")]
        profile.samples += int(count)
        profile.components[component(stack)] += int(count)
        if function := innermost(stack):
            profile.functions[function[1], function[0]] += int(count)
    return profile
