"""The outermost middleware: ids, errors, log lines."""

from __future__ import annotations

import logging
from typing import Any

import httpx
import pytest

from devstral_proxy.server.access import FIELDS
from devstral_proxy.server.turn import Turn
from tests.server.upstreams import Vllm, proxied, request

pytestmark = pytest.mark.anyio

CHAT = "/v1/chat/completions"

IDS = {
    "abc-DEF_1.2": True,
    "x" * 128: True,
    "x" * 129: False,
    "": False,
    "a b": False,
    "a\tb": False,
    "a,b": False,
    "<script>": False,
    "ä": False,
}


@pytest.mark.parametrize("given", IDS)
@pytest.mark.parametrize("path", ["/", "/health", "/v1/models", "/nowhere"])
async def test_every_answer_has_an_id(given: str, path: str) -> None:
    async with proxied(Vllm()) as client:
        response = await client.get(path, headers=[(b"x-request-id", given.encode())])
    answered = response.headers.get_list("x-request-id")
    assert len(answered) == 1
    if IDS[given]:
        assert answered == [given]
    else:
        assert len(answered[0]) == 32


async def test_ids_differ() -> None:
    async with proxied(Vllm()) as client:
        ids = {(await client.get("/")).headers["x-request-id"] for _ in range(20)}
    assert len(ids) == 20


UNKNOWN = [
    ("GET", "/v2/models", 404),
    ("GET", "/v1", 404),
    ("GET", "/version", 404),
    ("POST", "/v1/load_lora_adapter", 404),
    ("POST", "/pause", 404),
    ("POST", "/v1/responses/../chat", 404),
    ("GET", "/v1/%2e%2e/health", 404),
    ("GET", CHAT, 405),
    ("DELETE", "/v1/models/x", 405),
    ("POST", "/v1/models", 405),
    ("POST", "/health", 405),
    ("PUT", "/", 405),
    ("GET", "/tokenize", 405),
    ("OPTIONS", CHAT, 405),
    ("TRACE", CHAT, 405),
]


@pytest.mark.parametrize(("method", "path", "status"), UNKNOWN)
async def test_nothing_else_reaches_vllm(method: str, path: str, status: int) -> None:
    upstream = Vllm()
    async with proxied(upstream) as client:
        response = await client.request(method, path)
    assert response.status_code == status
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error"
    assert ("allow" in response.headers) == (status == 405)
    assert upstream.requests == []


@pytest.mark.parametrize("path", ["/", "/health", "/v1/models", "/v1/models/devstral-small-2"])
async def test_head_where_get_is(path: str) -> None:
    async with proxied(Vllm()) as client:
        response = await client.head(path)
    assert response.status_code == 200


async def test_a_defect_is_a_500_without_content(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken(self: Turn, *_: Any) -> None:
        raise RuntimeError("secret content")

    monkeypatch.setattr(Turn, "_translate", broken)
    async with proxied(Vllm()) as client:
        response = await client.post(CHAT, json=request(), headers={"x-request-id": "id-1"})
    assert response.status_code == 500
    assert response.json()["error"]["type"] == "server_error"
    assert "id-1" in response.json()["error"]["message"]
    assert "secret" not in response.text
    assert "request id-1 failed: RuntimeError" in caplog.text


async def fields_of(caplog: pytest.LogCaptureFixture, method: str, path: str, **more: Any) -> dict[str, Any]:
    caplog.clear()
    with caplog.at_level(logging.INFO, "devstral_proxy.access"):
        async with proxied(Vllm()) as client:
            await client.request(method, path, **more)
    (record,) = [one for one in caplog.records if one.name == "devstral_proxy.access"]
    fields: dict[str, Any] = record.__dict__["fields"]
    return fields


async def test_each_request_is_one_line(caplog: pytest.LogCaptureFixture) -> None:
    body = request(messages=[{"role": "user", "name": "ada", "content": "secret"}])
    fields = await fields_of(caplog, "POST", CHAT, json=body, headers={"x-request-id": "id-1"})
    assert fields.keys() == FIELDS.keys()
    assert fields["ms"] >= 0
    expected = {
        "id": "id-1",
        "method": "POST",
        "path": CHAT,
        "dialect": "chat",
        "model": "devstral-small-2",
        "served": "devstral-small-2",
        "upstream": "vllm.test:8000",
        "status": 200,
        "attempts": 1,
        "input_tokens": 1,
        "output_tokens": 1,
        "finish": "stop",
        "rewrites": {"key_dropped": 1},
        "repairs": {},
        "error": "",
        "note": "",
    }
    assert {name: fields[name] for name in expected} == expected
    assert (await fields_of(caplog, "GET", "/nowhere"))["note"] == "error not_found"
    assert (await fields_of(caplog, "POST", CHAT, content=b"x"))["status"] == 400


async def test_debug_tells_rewrites_with_paths_and_no_content(caplog: pytest.LogCaptureFixture) -> None:
    body = request(messages=[{"role": "user", "name": "ada", "content": "secret"}])
    with caplog.at_level(logging.DEBUG, "devstral_proxy"):
        async with proxied(Vllm(), vllm_api_key="key-secret") as client:
            await client.post(CHAT, json=body, headers={"x-request-id": "id-1"})
    assert "request id-1: key_dropped at messages[0]" in caplog.text
    assert "secret" not in caplog.text
    assert "ada" not in caplog.text


async def test_other_scopes_pass() -> None:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "websocket.connect"}

    async with proxied(Vllm()) as client:
        transport = client._transport
        assert isinstance(transport, httpx.ASGITransport)
        scope = {"type": "websocket", "path": "/v1/realtime", "headers": [], "query_string": b""}
        await transport.app(scope, receive, send)
    assert sent == [{"type": "websocket.close", "code": 1000}]
