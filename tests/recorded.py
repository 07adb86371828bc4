"""Requests recorded from real agents (tests/data/agent_requests.jsonl.gz): text is filler, structure intact."""

from __future__ import annotations

import functools
import gzip
import json
from pathlib import Path
from typing import Any, NamedTuple

DATA = Path(__file__).parent / "data" / "agent_requests.jsonl.gz"


class Recorded(NamedTuple):
    """One request: `name` is CLIENT-VARIANT-N, N the turn of its conversation."""

    name: str
    client: str
    variant: str
    turn: int
    body: dict[str, Any]


@functools.cache
def chat_requests() -> tuple[Recorded, ...]:
    """All recorded chat completion requests, in the order of their names."""
    with gzip.open(DATA, "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    return tuple(
        Recorded(row["name"], row["client"], row["variant"], row["n"], row["body"])
        for row in rows
        if row["api"] == "chat"
    )


def conversations() -> list[list[Recorded]]:
    """The turns of each conversation, one after the other."""
    runs: dict[tuple[str, str], list[Recorded]] = {}
    for request in chat_requests():
        runs.setdefault((request.client, request.variant), []).append(request)
    return [sorted(run, key=lambda request: request.turn) for run in runs.values()]
