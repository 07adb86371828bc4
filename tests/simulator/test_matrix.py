"""Canned outputs, token by token, merged, at once and without streaming: what vLLM's own serving code makes of them.

tests/data/vllm_matrix.jsonl.gz, versions 0.32.0 and 0.12.0; the outputs' token ids are taken from its own rows.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.simulator.asking import NEW, OLD, application, chat

_FILE = Path(__file__).parents[1] / "data/vllm_matrix.jsonl.gz"
_MERGE = {"token": 1, "merged": 3, "burst": 0, "whole": 1}
# 0.12.0 streams calls of the older array form out of a partial JSON parser: the same calls in other pieces.
_OTHER_PIECES = [(case, way) for case in ("array_form", "array_form_two") for way in ("token", "merged")]
_LONGEST = 3000
_END = 2


def _rows() -> list[dict[str, Any]]:
    with gzip.open(_FILE, "rt", encoding="utf-8") as lines:
        return [row for row in map(json.loads, lines) if row["version"] in (NEW, OLD)]


def _chunks(body: str) -> list[Any]:
    return [json.loads(line[6:]) if line != "data: [DONE]" else line for line in body.split("\n") if line]


def _ids(rows: list[dict[str, Any]]) -> dict[str, list[int]]:
    """Case -> token ids, from a row that tells them."""
    found: dict[str, list[int]] = {}
    for row in rows:
        if row["way"] == "token" and row["request"] != "auto" and row["case"] not in found:
            choices = [choice for chunk in _chunks(row["body"])[:-1] for choice in chunk["choices"]]
            found[row["case"]] = [number for choice in choices for number in choice.get("token_ids") or ()]
    return found


ROWS = _rows()
IDS = _ids(ROWS)


def _plain(value: Any) -> Any:
    """Without ids, times, counts and the prompt, which are other ones here."""
    left_out = {"id", "created", "model", "usage", "prompt_token_ids", "system_fingerprint"}
    if isinstance(value, list):
        return [_plain(element) for element in value]
    if isinstance(value, dict):
        return {key: _plain(member) for key, member in value.items() if key not in left_out}
    return value


def _tools() -> Iterator[dict[str, Any]]:
    for name in ("get_weather", "read_file", "write_file", "list_files"):
        yield {"type": "function", "function": {"name": name, "description": "d", "parameters": {"type": "object"}}}


def _request(row: dict[str, Any]) -> dict[str, Any]:
    ids = IDS[row["case"]]
    whole = ids[-1] == _END
    forced = ",".join(map(str, ids[:-1] if whole else ids)) or str(_END)
    body: dict[str, Any] = {"messages": [{"role": "user", "content": "hi"}], "tools": list(_tools())}
    body["vllm_xargs"] = {"force_ids": forced}
    if not whole:
        body["max_tokens"] = len(ids)
    if row["way"] != "whole":
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    if row["request"] != "auto":
        body["return_token_ids"] = True
    if row["request"] == "none":
        body["tool_choice"] = "none"
    return body


@pytest.mark.parametrize("version", [NEW, OLD])
@pytest.mark.parametrize("case", sorted(IDS))
@pytest.mark.anyio
async def test_same_answer_as_vllms_serving_code(case: str, version: str) -> None:
    for row in ROWS:
        way = row["way"]
        if row["case"] != case or row["version"] != version or len(IDS[case]) > _LONGEST:
            continue
        if version == OLD and row["request"] == "auto" and (case, way) in _OTHER_PIECES:
            continue
        response = await chat(application(version, merge=_MERGE[way]), _request(row))
        read = json.loads if way == "whole" else _chunks
        ours, real = read(response.text), read(row["body"])
        assert json.dumps(_plain(ours)) == json.dumps(_plain(real)), (case, way, row["request"])
