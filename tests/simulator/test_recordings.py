"""Dictated outputs come back in the very chunks and bodies that real servers sent: tests/data/vllm_recordings.jsonl.

A line: `emits`, what the model put out; `request`; `answer`, the events or the body without ids and times.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.simulator.asking import NEW, OLD, application, chat, events, same

RECORDINGS: dict[str, Any] = {
    row["name"]: row
    for row in map(
        json.loads,
        (Path(__file__).parents[1] / "data/vllm_recordings.jsonl").read_text(encoding="utf-8").splitlines(),
    )
}


@pytest.mark.parametrize("name", RECORDINGS)
@pytest.mark.anyio
async def test_same_answer_as_vllm(name: str) -> None:
    row = RECORDINGS[name]
    app = application(NEW if name.startswith("new/") else OLD, max_model_len=4096)
    response = await chat(app, {**row["request"], "vllm_xargs": {"say": row["emits"]}})
    assert response.status_code == 200
    answer = events(response) if row["request"].get("stream") else response.json()
    # dumped: the order of the keys is vLLM's too
    assert json.dumps(_without_ids(same(answer))) == json.dumps(_without_ids(same(row["answer"])))


def _without_ids(value: Any) -> Any:
    if isinstance(value, list):
        return [_without_ids(element) for element in value]
    if isinstance(value, dict):
        return {key: _without_ids(member) for key, member in value.items() if key != "id"}
    return value
