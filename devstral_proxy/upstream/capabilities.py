"""What each vLLM release needs: one row for each range of versions, and how a request is asked by it.

`plan` changes only how a request is asked, never what: whether the answer comes as a stream, whether vLLM's own parser
of tool calls stands between the model and the proxy, and whether token ids come with it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

Ask = Literal["as-client", "stream", "whole"]


@dataclass(frozen=True, slots=True)
class Capabilities:
    """One row. It holds for vLLM from `since` up to the next row's."""

    since: tuple[int, int, int]
    why: str
    """What this release does to tool calls: the reason for the row."""
    ask: Ask = "as-client"
    """How to ask when the model may call tools of its own choice: as the client does, always or never as a stream."""
    raw_text: bool = False
    """Ask for the model's own text (`tool_choice: none`, tools kept, with token ids), and read the calls out of it. The
    server must not run with --exclude-tools-when-tool-choice-none, which takes the tools out of the prompt."""
    token_ids: bool = False
    """Ask for token ids: they tell when a part of the answer was lost, and then it is asked for in the other way."""


ROWS: tuple[Capabilities, ...] = (
    Capabilities(
        (0, 0, 0),
        "the stream loses every call, and there are no token ids",
        ask="whole",
    ),
    Capabilities(
        (0, 10, 2),
        "the stream loses every call (to 0.12), or ends in an error when a call is cut or deltas merge (from 0.13 on); "
        "the model's own text holds all of it",
        raw_text=True,
    ),
    Capabilities(
        (0, 20, 0),
        "the stream ends in an error when a call is cut or deltas merge; the whole answer lacks what follows a marker "
        "that the model spelled out",
        ask="whole",
        token_ids=True,
    ),
    Capabilities(
        (0, 21, 0),
        "the stream loses calls, and text before them, that come in one piece with its end",
        ask="stream",
        token_ids=True,
    ),
    Capabilities(
        (0, 24, 0),
        "the stream is right; without streaming a marker that the model spelled out splits a call",
        ask="stream",
    ),
)

UNKNOWN = Capabilities((0, 0, 0), "the server tells no version: it is asked as the client asks, and its answer mended")
"""The row of a server that is no vLLM, or hides what it is."""

_VERSION = re.compile(r"v?(\d+)\.(\d+)(?:\.(\d+))?")


@lru_cache(maxsize=64)
def for_version(version: str | None) -> Capabilities:
    """The row of a vLLM version as `/version` tells it (`0.12.0`, `0.11.1rc2.dev3+g123`).

    None or unreadable: `UNKNOWN`.
    """
    found = _VERSION.match(version.strip()) if version else None
    if found is None:
        return UNKNOWN
    number = (int(found[1]), int(found[2]), int(found[3] or 0))
    return next(row for row in reversed(ROWS) if row.since <= number)


def plan(body: dict[str, Any], capabilities: Capabilities) -> dict[str, Any]:
    """The translated request as this server must be asked.

    Where nothing changes the same dict comes back, else a new one; the caller's is never touched. A choice of
    `required` or of one tool makes the model write JSON by grammar, not markup: those are asked as the client asked.
    """
    if not body.get("tools") or body.get("tool_choice", "auto") != "auto":
        return _asked(body, bool(body.get("stream")), {})
    stream = bool(body.get("stream")) if capabilities.ask == "as-client" else capabilities.ask == "stream"
    changes: dict[str, Any] = {}
    if capabilities.raw_text:
        changes["tool_choice"] = "none"
    if (capabilities.raw_text or capabilities.token_ids) and body.get("return_token_ids") is not True:
        changes["return_token_ids"] = True
    return _asked(body, stream, changes)


def ask_again(planned: dict[str, Any], capabilities: Capabilities) -> dict[str, Any] | None:
    """The planned request, asked the other way after an answer that lost something; None where that does not help."""
    if not capabilities.token_ids:
        return None
    return _asked(planned, not planned.get("stream"), {})


def _asked(body: dict[str, Any], stream: bool, changes: dict[str, Any]) -> dict[str, Any]:
    if stream != bool(body.get("stream")):
        changes["stream"] = stream
    options = body.get("stream_options") or {}
    if stream and options.get("include_usage") is not True:
        changes["stream_options"] = {**options, "include_usage": True}  # F75: usage is always asked for
    planned = {**body, **changes} if changes else body
    if not stream and "stream_options" in planned:  # vLLM refuses it without streaming
        planned = {key: value for key, value in planned.items() if key != "stream_options"}
    return planned
