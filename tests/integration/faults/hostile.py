"""Hostile text, and what holds readers to linear time on it."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest

from devstral_proxy.dialects.chat import ChatAnswer
from devstral_proxy.errors import ProxyError
from devstral_proxy.mistral.profiles import Profiles
from devstral_proxy.mistral.translator import Translator
from devstral_proxy.upstream.capabilities import for_version
from tests.server.upstreams import DONE, MODEL, chunk

SMALL = 8 * 1024
LARGE = 10 * 1024 * 1024
TIMES = 8
MOST = 3 * TIMES
"""Three times what is linear, and far from the 64 of what is quadratic."""
UNSEEN = 0.015
"""Seconds. What takes less is not slow, whatever its growth."""

# Text of a model, or of a client, that makes readers look far ahead, go back, or nest: repeated to the size wanted.
HOSTILE = {
    "calls": "[TOOL_CALLS]",
    "calls with names": "[TOOL_CALLS]look[ARGS]",
    "calls that are whole": '[TOOL_CALLS]look[ARGS]{"path": "a"}',
    "calls without end": '[TOOL_CALLS]look[ARGS]{"a":',
    "argument marks": "look[ARGS]",
    "half marks": "[TOOL_CALL",
    "ends": "[/THINK]</s>",
    "thoughts": "[THINK]",
    "thoughts that end": "[THINK]a[/THINK]",
    "envelopes": '<tool_call>{"name": "look", "arguments": {}}',
    "code fences": "```json\n{",
    "braces": "{",
    "brackets": "[",
    "brackets and braces": '[{"name":',
    "braces that close": "{}",
    "closing": "}]",
    "quotes": '"',
    "escapes": "\\",
    "escaped quotes": '\\"',
    "keys": '{"a":',
    "half numbers": "-1e",
    "commas": ",",
    "line ends": "\n",
    "blanks": " ",
    "emoji": "\U0001f600",
    "a word": "x",
    "NaN": "NaN,",
    "unicode escapes": "\\ud83d",
    "angles": "<|",
}
PREFIXES = {
    "": "",
    "in a call": '[TOOL_CALLS]look[ARGS]{"path": "',
    "in an array": '[TOOL_CALLS][{"name": "look", "x": ',
}
TOOLS: list[Any] = [
    {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {"path": {}}}}}
]

Make = Callable[[int], Callable[[], object]]
"""The work on an input of about so many bytes. What it takes to make the input is not counted."""


@pytest.fixture
def no_collector() -> Iterator[None]:
    """Its rounds are not the readers' time."""
    gc.disable()
    yield
    gc.enable()


def hostile(unit: str, size: int) -> str:
    return unit * (size // len(unit))


def spent(work: Callable[[], object], times: int = 2) -> float:
    """Processor seconds, the best of so many."""
    best = 1e9
    for _ in range(times):
        started = time.process_time()
        with suppress(ProxyError):
            work()
        best = min(best, time.process_time() - started)
    return best


def linear(make: Make) -> None:
    """A step that is too steep must be followed by another one to count: one alone may be a buffer that outgrows a
    cache, or the machine's other work."""
    size = SMALL
    took = [spent(make(size * TIMES))]
    if took[0] < UNSEEN:
        return
    took.insert(0, spent(make(size)))
    while took[-1] > MOST * max(took[-2], UNSEEN / TIMES):
        assert len(took) < 3, f"{took} s for {SMALL} bytes, {TIMES} times that, and so on"
        size *= TIMES
        took.append(spent(make(size * TIMES)))


def linear_to_10_mb(make: Make) -> None:
    """The same up to LARGE, in three steps, so that what is not linear is found before it takes hours."""
    took: list[float] = []
    for size in (LARGE // TIMES**2, LARGE // TIMES, LARGE):
        work = make(size)
        took.append(spent(work, 1))
        if len(took) > 1 and took[-1] > (most := MOST * max(took[-2], UNSEEN)):
            took[-1] = spent(work, 1)  # the machine may have had other work
            assert took[-1] <= most, f"{took} s up to {size} bytes, each {TIMES} times the one before"


def translator(version: str = "0.32.0") -> Translator:
    return Translator(Profiles({}).find(MODEL, None), capabilities=for_version(version))


def answered(body: dict[str, Any], pieces: list[bytes], version: str = "0.32.0") -> object:
    """A stream through parser and repair; a folded answer is made of the same events."""
    made = translator(version)
    made.request(body)
    answer = ChatAnswer(made)
    answer.committed = True
    events = []
    for piece in pieces:
        events += answer.feed([piece])
    return answer.finish() + events


def stream(text: str, step: int) -> list[bytes]:
    cut = [text[start : start + step] for start in range(0, len(text), step)]
    return [
        chunk({"role": "assistant", "content": ""}),
        *(chunk({"content": one}) for one in cut),
        chunk({}, "stop"),
        DONE,
    ]
