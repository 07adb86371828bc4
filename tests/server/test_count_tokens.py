"""/v1/messages/count_tokens through the application: exact where vLLM can be asked, and else said to be estimated."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from devstral_proxy.simulator import SimulatorOptions, create_simulator
from devstral_proxy.simulator.options import TokenizerVersion
from tests.conversations import PIXEL
from tests.server.upstreams import MODEL, Vllm, proxied

pytestmark = pytest.mark.anyio

COUNT = "/v1/messages/count_tokens"
RENDER = "/v1/chat/completions/render"
HEADER = "x-devstral-token-count"
TOOL = {"name": "fs.read", "input_schema": {"type": "object", "properties": {"path": {"type": "string"}}}}
USE = {"type": "tool_use", "id": "toolu_1", "name": "fs.read", "input": {"path": "README.md"}}
RESULT = {"type": "tool_result", "tool_use_id": "toolu_1", "content": "forty-two"}
MEDIA, DATA64 = PIXEL.removeprefix("data:").split(";base64,")
IMAGE = {"type": "image", "source": {"type": "base64", "media_type": MEDIA, "data": DATA64}}


def user(*blocks: Any) -> dict[str, Any]:
    return {"role": "user", "content": list(blocks)}


def text(words: str) -> dict[str, Any]:
    return {"type": "text", "text": words}


PLAIN = {"model": MODEL, "system": "Be brief.", "messages": [user(text("Grüße, Welt!"))], "tools": [TOOL]}
SILENT = {**PLAIN, "messages": [*PLAIN["messages"], {"role": "assistant", "content": [USE]}, user(RESULT)]}
SPOKEN = {
    **PLAIN,
    "messages": [*PLAIN["messages"], {"role": "assistant", "content": [text("I look."), USE]}, user(RESULT)],
}
SEEN = {**PLAIN, "messages": [user(text("Look"), IMAGE)]}
BODIES = {"plain": PLAIN, "a call alone": SILENT, "a call with text": SPOKEN, "an image": SEEN}

# What the simulated vLLM counts exactly: the old one refuses every history with calls.
EXACT = {"0.32.0": set(BODIES), "0.12.0": {"plain", "an image"}}


@pytest.mark.parametrize("version", EXACT)
@pytest.mark.parametrize("tokenizer", ["v3", "v13"])
@pytest.mark.parametrize("case", BODIES)
async def test_as_many_as_the_request_uses(case: str, tokenizer: TokenizerVersion, version: str) -> None:
    images = tokenizer == "v13"
    app = create_simulator(SimulatorOptions(tokenizer=tokenizer, version=version, images=images))
    profiles = json.dumps({MODEL: {"tokenizer": tokenizer, "images": images}})
    async with proxied(httpx.ASGITransport(app), model_profiles=profiles) as client:
        answer = await client.post(COUNT, json=BODIES[case])
        whole = await client.post("/v1/messages", json={**BODIES[case], "max_tokens": 9})
    assert answer.status_code == 200, answer.text
    counted = answer.json()["input_tokens"]
    used = whole.json()["usage"]["input_tokens"]
    assert used == len(app.state.simulator.requests[-1].prompt_tokens)
    if case in EXACT[version]:
        assert counted == used
        assert HEADER not in answer.headers
    else:
        assert abs(counted - used) <= 0.3 * used
        assert answer.headers[HEADER] == "estimated"


def refuse_calls(asked: httpx.Request) -> httpx.Response:
    """As vLLM 0.12's /tokenize."""
    if b"tool_calls" in asked.content:
        error = {"message": "tool_calls must be a list", "type": "BadRequestError", "param": None, "code": 400}
        return httpx.Response(400, json={"error": error})
    return httpx.Response(200, json={"count": 40, "max_model_len": 4096, "tokens": []})


async def test_rendered_where_that_is_to_be_had() -> None:
    rendered = httpx.Response(200, json={"request_id": "x", "token_ids": [1] * 77})
    upstream = Vllm(others={"/tokenize": refuse_calls, RENDER: rendered})
    async with proxied(upstream) as client:
        answer = await client.post(COUNT, json=SILENT)
        plain = await client.post(COUNT, json=PLAIN)
    assert answer.json() == {"input_tokens": 77}
    assert plain.json() == {"input_tokens": 40}
    assert HEADER not in answer.headers


DISABLED = {"message": "Scale-out endpoints are disabled.", "type": "PermissionDeniedError", "param": None, "code": 403}


@pytest.mark.parametrize(
    "render", [httpx.Response(404, json={"detail": "Not Found"}), httpx.Response(403, json={"error": DISABLED})]
)
async def test_a_path_that_is_not_there_is_asked_for_once(render: httpx.Response) -> None:
    upstream = Vllm(others={"/tokenize": refuse_calls, RENDER: render})
    async with proxied(upstream) as client:
        for _ in range(3):
            answer = await client.post(COUNT, json=SILENT)
            assert answer.json()["input_tokens"] == 44  # 40, and a few for the call
            assert answer.headers[HEADER] == "estimated"
    assert [asked.url.path for asked in upstream.requests].count(RENDER) == 1


def no_answer(asked: httpx.Request) -> httpx.Response:
    raise httpx.ConnectError("no")


@pytest.mark.parametrize(
    "tokenize",
    [
        httpx.Response(404, json={"detail": "Not Found"}),
        httpx.Response(500, json={}),
        httpx.Response(200, html="<html>"),
        no_answer,
    ],
)
async def test_estimated_where_nobody_tells(tokenize: httpx.Response | Callable[..., httpx.Response]) -> None:
    async with proxied(Vllm(others={"/tokenize": tokenize})) as client:
        answer = await client.post(COUNT, json=PLAIN)
    assert answer.status_code == 200
    assert 10 < answer.json()["input_tokens"] < 100
    assert answer.headers[HEADER] == "estimated"


async def test_estimated_while_the_server_is_left_alone() -> None:
    upstream = Vllm(others={"/tokenize": no_answer})
    async with proxied(upstream, breaker_failures=1, breaker_open=3600) as client:
        for _ in range(2):
            answer = await client.post(COUNT, json=PLAIN)
            assert answer.status_code == 200
            assert answer.headers[HEADER] == "estimated"
    assert [asked.url.path for asked in upstream.requests].count("/tokenize") == 1


async def test_a_model_that_is_not_there_spoils_no_later_count() -> None:
    app = create_simulator(SimulatorOptions())
    async with proxied(httpx.ASGITransport(app)) as client:
        missing = await client.post(COUNT, json={**PLAIN, "model": "nobody"})
        assert missing.status_code == 404
        assert missing.json()["error"]["type"] == "not_found_error"
        assert HEADER not in (await client.post(COUNT, json=PLAIN)).headers


@pytest.mark.parametrize("name", ["claude-x", MODEL])
async def test_an_alias_is_counted_as_its_model(name: str) -> None:
    upstream = Vllm(others={"/tokenize": refuse_calls})
    async with proxied(upstream, model_aliases=json.dumps({"claude-*": MODEL})) as client:
        answer = await client.post(COUNT + "?beta=true", json={**PLAIN, "model": name})
    assert answer.json() == {"input_tokens": 40}
    asked = next(one for one in upstream.requests if one.url.path == "/tokenize")
    assert json.loads(asked.content)["model"] == MODEL


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"messages": []}, "messages: "),
        ({"messages": [{"role": "x", "content": "a"}]}, "messages.0.role: "),
        ({"model": ""}, "model: "),
        ({"messages": [user({"type": "image", "source": {"type": "url", "url": "http://127.0.0.1/"}})]}, ""),
    ],
)
async def test_refused(more: dict[str, Any], says: str) -> None:
    upstream = Vllm()
    profiles = json.dumps({MODEL: {"tokenizer": "v13", "images": True}})
    async with proxied(upstream, model_profiles=profiles) as client:
        answer = await client.post(COUNT, json={**PLAIN, **more})
    assert answer.status_code == 400
    assert answer.json()["error"]["type"] == "invalid_request_error"
    assert answer.json()["error"]["message"].startswith(says)
    assert answer.headers["request-id"]
    assert not [one for one in upstream.requests if one.url.path == "/tokenize"]
