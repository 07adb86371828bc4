"""Clients of the legacy `functions`: they ask in those words, and read the answer in them."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from devstral_proxy.app import create_app
from devstral_proxy.mistral.names import ToolNames
from devstral_proxy.simulator import SimulatorOptions, create_simulator
from tests.server.upstreams import settings

pytestmark = pytest.mark.anyio

CHAT = "/v1/chat/completions"


def request(**more: Any) -> dict[str, Any]:
    function = {"name": "files.read", "description": "d", "parameters": {"type": "object", "properties": {}}}
    body = {"model": "devstral-small-2", "messages": [{"role": "user", "content": "hi"}], "functions": [function]}
    return {**body, **more}


@pytest.fixture
async def client() -> Any:
    simulator = httpx.ASGITransport(create_simulator(SimulatorOptions()))
    app = create_app(settings(), transport=simulator)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://proxy") as client:
        yield client


def dictated() -> dict[str, Any]:
    """The model's words; the function goes upstream under a name that Mistral takes."""
    return {"say": f'Look.[TOOL_CALLS]{ToolNames().mapped("files.read")}[ARGS]{{"path": "a"}}'}


async def test_a_whole_answer(client: httpx.AsyncClient) -> None:
    answer = (await client.post(CHAT, json=request(vllm_xargs=dictated()))).json()
    choice = answer["choices"][0]
    assert choice["finish_reason"] == "function_call"
    assert choice["message"]["function_call"] == {"name": "files.read", "arguments": '{"path": "a"}'}
    assert "tool_calls" not in choice["message"]


async def test_a_stream(client: httpx.AsyncClient) -> None:
    text = (await client.post(CHAT, json=request(stream=True, vllm_xargs=dictated()))).text
    assert "tool_calls" not in text
    chunks = [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]
    calls = [c["choices"][0]["delta"].get("function_call") for c in chunks if c["choices"]]
    told = [call for call in calls if call]
    assert [call["name"] for call in told if "name" in call] == ["files.read"]
    assert json.loads("".join(call.get("arguments", "") for call in told)) == {"path": "a"}
    assert [c["choices"][0]["finish_reason"] for c in chunks if c["choices"]][-1] == "function_call"


async def test_the_result_goes_back_under_the_older_role(client: httpx.AsyncClient) -> None:
    history = [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": None, "function_call": {"name": "files.read", "arguments": "{}"}},
        {"role": "function", "name": "files.read", "content": "the file"},
    ]
    answer = await client.post(CHAT, json=request(messages=history, vllm_xargs={"say": "thanks"}))
    assert answer.status_code == 200
    assert answer.json()["choices"][0]["message"]["content"] == "thanks"
    assert "legacy_function=2" in answer.headers["x-devstral-rewrites"]
