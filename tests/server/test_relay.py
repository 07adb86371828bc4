"""Pass-through endpoints, /v1/models/{id}, / and /health."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from devstral_proxy import __version__
from tests.server.upstreams import DONE, MODELS, Vllm, proxied, sse

pytestmark = pytest.mark.anyio

PATHS = ["/v1/completions", "/v1/embeddings", "/tokenize", "/detokenize"]


@pytest.mark.parametrize("path", PATHS)
async def test_bodies_pass_byte_for_byte(path: str) -> None:
    answer = b'{ "anything" : [1,2] }'
    upstream = Vllm(others={path: httpx.Response(200, content=answer, headers={"content-type": "application/json"})})
    body = b'{ "model":"m",  "prompt": "x", "unknown": {"b":1} }'
    async with proxied(upstream) as client:
        response = await client.post(path + "?x=1", content=body)
    assert response.status_code == 200
    assert response.content == answer
    assert response.headers["content-type"] == "application/json"
    assert upstream.requests[-1].content == body
    assert upstream.requests[-1].url == f"http://vllm.test:8000{path}"


@pytest.mark.parametrize("path", PATHS)
async def test_bodies_must_be_objects(path: str) -> None:
    upstream = Vllm()
    async with proxied(upstream) as client:
        response = await client.post(path, content=b"[1")
    assert response.status_code == 400
    assert upstream.requests == []


async def test_streams_pass_byte_for_byte() -> None:
    stream = b'data: {"choices":[{"text":"a"}]}\n\n' + DONE

    async def pieces() -> AsyncIterator[bytes]:
        yield stream[:10]
        yield stream[10:]

    async with proxied(Vllm(others={"/v1/completions": sse(pieces())})) as client:
        response = await client.post("/v1/completions", json={"model": "m", "prompt": "x", "stream": True})
    assert response.content == stream
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.headers["cache-control"] == "no-cache"


async def test_an_empty_stream_is_a_502() -> None:
    async with proxied(Vllm(others={"/v1/completions": sse(b"")})) as client:
        response = await client.post("/v1/completions", json={"model": "m", "prompt": "x", "stream": True})
    assert response.status_code == 502


async def test_a_stream_that_breaks_ends_in_an_error_and_done() -> None:
    async def pieces() -> AsyncIterator[bytes]:
        yield b'data: {"choices":[{"text":"a"}]}\n\ndata: {"cho'
        raise httpx.ReadError("")

    async with proxied(Vllm(others={"/v1/completions": sse(pieces())})) as client:
        response = await client.post("/v1/completions", json={"model": "m", "prompt": "x", "stream": True})
    assert response.status_code == 200
    events = response.text.split("\n\n")
    assert json.loads(events[-3].removeprefix("data: "))["error"]["code"] == "upstream_unavailable"
    assert events[-2:] == ["data: [DONE]", ""]


@pytest.mark.parametrize("path", PATHS)
async def test_refusals_keep_status_and_text(path: str) -> None:
    error = {"error": {"message": "no", "type": "BadRequestError", "param": None, "code": 400}}
    refusal = httpx.Response(400, json=error, headers={"retry-after": "3"})
    async with proxied(Vllm(others={path: refusal})) as client:
        response = await client.post(path, json={"model": "m"})
    assert response.status_code == 400
    assert response.json()["error"]["message"] == "no"
    assert response.headers["retry-after"] == "3"


@pytest.mark.parametrize(("method", "path"), [("GET", "/v1/models"), ("GET", "/v1/models/m"), ("POST", "/tokenize")])
async def test_vllm_may_be_down(method: str, path: str) -> None:
    down = httpx.ConnectError("")
    upstream = Vllm(others={"/v1/models": down, "/tokenize": down})
    async with proxied(upstream) as client:
        response = await client.request(method, path, json={} if method == "POST" else None)
    assert response.status_code == 502
    assert response.json()["error"]["code"] == "upstream_unavailable"


async def test_models_pass() -> None:
    async with proxied(Vllm()) as client:
        response = await client.get("/v1/models")
    assert response.json() == MODELS


NAMES = ["devstral-small-2", "mistralai/Devstral-Small-2", "/models/devstral", "a:b@1", "ümlaut"]


@pytest.mark.parametrize("name", NAMES)
async def test_one_model(name: str) -> None:
    listing = {"object": "list", "data": [{"id": one, "object": "model"} for one in NAMES]}
    async with proxied(Vllm(others={"/v1/models": httpx.Response(200, json=listing)})) as client:
        response = await client.get(f"/v1/models/{name.replace('/', '%2F')}")
        plain = await client.get(f"/v1/models/{name}")
    assert response.json() == plain.json() == {"id": name, "object": "model"}


async def test_no_such_model() -> None:
    async with proxied(Vllm()) as client:
        response = await client.get("/v1/models/gpt-5")
    assert response.status_code == 404
    error = response.json()["error"]
    assert error["code"] == "model_not_found"
    assert error["param"] == "model"
    assert error["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    ("listing", "status"),
    [
        (httpx.Response(200, html="<html>"), 502),
        (httpx.Response(200, json=[1]), 502),
        (httpx.Response(200, json={"data": [{}]}), 502),
        (httpx.Response(401, json={"error": "Unauthorized"}), 401),
        (httpx.Response(302, headers={"location": "/"}), 502),
    ],
)
async def test_a_listing_that_is_none(listing: httpx.Response, status: int) -> None:
    async with proxied(Vllm(others={"/v1/models": listing})) as client:
        response = await client.get("/v1/models/m")
    assert response.status_code == status
    assert "message" in response.json()["error"]


async def test_root_says_what_this_is() -> None:
    async with proxied(Vllm()) as client:
        page = (await client.get("/")).json()
    assert page["name"] == "devstral-proxy"
    assert page["version"] == __version__
    assert "/v1/chat/completions" in page["endpoints"]


HEALTH: list[tuple[Vllm, dict[str, Any]]] = [
    (Vllm(), {"reachable": True, "version": "0.32.0", "models": ["devstral-small-2"]}),
    (Vllm(version=None), {"reachable": True, "version": None, "models": ["devstral-small-2"]}),
    (
        Vllm(others={"/version": httpx.ConnectError(""), "/v1/models": httpx.ConnectError("")}),
        {"reachable": False, "version": None, "models": []},
    ),
    (
        Vllm(others={"/v1/models": httpx.Response(401, json={"error": "Unauthorized"})}),
        {"reachable": True, "version": "0.32.0", "models": []},
    ),
]


@pytest.mark.parametrize(("upstream", "says"), HEALTH)
async def test_health_is_200_and_says_whether_vllm_answers(upstream: Vllm, says: dict[str, Any]) -> None:
    async with proxied(upstream) as client:
        response = await client.get("/health")
    assert response.status_code == 200
    told = {**says, "breaker": "closed"}
    assert response.json() == {"status": "ok", "version": __version__, "upstream": told}


@pytest.mark.parametrize("path", ["/health", "/health/ready"])
async def test_with_keys_only_those_who_have_one_learn_names(path: str) -> None:
    async with proxied(Vllm(), api_keys="a:sk-1") as client:
        told = [await client.get(path), await client.get(path, headers={"authorization": "Bearer sk-1"})]
    assert [answer.status_code for answer in told] == [200, 200]
    assert ["vllm.test" in answer.text or "devstral" in answer.text for answer in told] == [False, True]
    assert told[0].json()["status"] == told[1].json()["status"]


@pytest.mark.parametrize("path", ["/v1/models", "/v1/models/devstral-small-2"])
async def test_a_gateway_s_page_is_no_list_of_models(path: str) -> None:
    page = httpx.Response(200, html="<html>hello</html>")
    async with proxied(Vllm(others={"/v1/models": page})) as client:
        response = await client.get(path)
    assert (response.status_code, response.json()["error"]["code"]) == (502, "upstream_protocol_error")
