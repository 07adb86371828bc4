"""The simulator refuses what a real vLLM refused, and makes the prompts that it made: tests/data/vllm_verdicts.jsonl.

The file was recorded from vLLM 0.32.0 with mistral-common 1.12.0 ("new") and 0.12.0 with 1.8.6 ("old"). Verdicts that
another mistral-common changes are noted in it (`changed`) and left out where that one is installed.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.simulator.asking import CHAT, NEW, OLD, application, client

ROWS = [
    json.loads(line)
    for line in (Path(__file__).parents[1] / "data/vllm_verdicts.jsonl").read_text(encoding="utf-8").splitlines()
]
CATEGORIES = sorted({row["name"].partition("/")[0] for row in ROWS})
_KNOWN = ("1.8.6", "1.10.0", "1.11.0", "1.12.0", "1.13.1")


def _number(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")[:3])


def _nearest() -> str:
    """The newest of the noted versions that is not newer than what is installed."""
    installed = _number(importlib.metadata.version("mistral-common"))
    return max((version for version in _KNOWN if _number(version) <= installed), key=_number)


def verdict(response: httpx.Response) -> dict[str, Any]:
    """Status, type and param of a refusal (or of the event that a stream begins with); the prompt's ids in short."""
    first, _, _ = response.text.removeprefix("data: ").partition("\n")
    try:
        body = json.loads(first)
    except ValueError:
        return {"status": response.status_code, "body": response.text[:60]}
    if "error" in body or response.status_code != 200:
        error = body.get("error")
        told = {"type": error["type"], "param": error["param"]} if isinstance(error, dict) else {"body": body}
        return {"status": response.status_code, **told}
    ids = body["prompt_token_ids"] or []
    digest = hashlib.sha256(",".join(map(str, ids)).encode()).hexdigest()[:16]
    return {"status": 200, "count": len(ids), "ids": digest}


@pytest.mark.parametrize("side", ["new", "old"])
@pytest.mark.parametrize("category", CATEGORIES)
@pytest.mark.anyio
async def test_same_verdicts_as_vllm(category: str, side: str) -> None:
    app = application(NEW if side == "new" else OLD, max_model_len=4096)
    installed, different, count = _nearest(), {}, 0
    async with client(app, raising=False) as asking:
        for row in ROWS:
            if row["name"].partition("/")[0] != category or installed in row["changed"][side]:
                continue
            count += 1
            response = await asking.post(CHAT, content=row["content"].encode(), headers=row["headers"])
            if verdict(response) != row[side]:
                different[row["name"]] = (row[side], verdict(response), response.text[:300])
    assert different == {}
    assert count


def test_enough_is_compared() -> None:
    installed = _nearest()
    for side in ("new", "old"):
        compared = [row for row in ROWS if installed not in row["changed"][side]]
        assert len(compared) >= 400
        assert {row[side]["status"] for row in compared} >= {200, 400, 404, 500}


@pytest.mark.parametrize("side", ["new", "old"])
@pytest.mark.anyio
async def test_a_refused_stream_is_plain_json(side: str) -> None:
    app = application(NEW if side == "new" else OLD, max_model_len=4096)
    async with client(app) as asking:
        response = await asking.post(CHAT, json={"messages": [{"role": "user", "content": None}], "stream": True})
    assert response.status_code == 400
    assert response.headers["content-type"] == "application/json"
    assert response.json()["error"]["code"] == 400
