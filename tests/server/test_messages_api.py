"""/v1/messages through the application: errors in Anthropic's shape, names of models, streams that break."""

from __future__ import annotations

import json
from typing import Any

import anyio
import httpx
import pytest
from anthropic.types import RawMessageStreamEvent
from anthropic.types.shared import ErrorResponse
from pydantic import TypeAdapter

from tests.server.test_responses_api import ALIASES, ERROR_EVENT, HALF, OVERFLOW, refusal
from tests.server.upstreams import COMPLETION, DONE, MODEL, STREAM, Vllm, chunk, proxied, sse

pytestmark = pytest.mark.anyio

MESSAGES = "/v1/messages"
COUNT = "/v1/messages/count_tokens"
EVENTS: TypeAdapter[Any] = TypeAdapter(RawMessageStreamEvent)
ERRORS: TypeAdapter[Any] = TypeAdapter(ErrorResponse)
SERVER = '{"m": {"servers": ["http://vllm.test"]}}'
HEADERS = {"anthropic-version": "2023-06-01", "anthropic-beta": "claude-code-20250219,nobody-knows-2099-01-01"}


def body(**more: Any) -> dict[str, Any]:
    return {"model": MODEL, "max_tokens": 50, "messages": [{"role": "user", "content": "hi"}], **more}


def error_of(response: httpx.Response) -> dict[str, Any]:
    """The error's inner object; the whole is what the SDK's types want."""
    assert response.headers["content-type"] == "application/json"
    assert response.headers["request-id"] == response.headers["x-request-id"]
    error: dict[str, Any] = response.json()["error"]
    if error["type"] != "request_too_large":  # Anthropic documents it, its SDK's types lack it
        ERRORS.validate_json(response.content)
    return error


def events(response: httpx.Response) -> list[dict[str, Any]]:
    """The events of a stream."""
    assert response.headers["content-type"].startswith("text/event-stream")
    out = []
    for block in response.text.split("\n\n")[:-1]:
        name, data = block.split("\n")
        event = json.loads(data.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        if event["type"] not in ("ping", "error"):
            EVENTS.validate_json(data.removeprefix("data: "), strict=True)
        out.append(event)
    return out


# ---------------------------------------------------------------- errors

OWN: dict[str, tuple[dict[str, Any], dict[str, Any], int, str, str]] = {
    # settings, more of the body; status, type, a piece of the message
    "no max_tokens": ({}, {"max_tokens": None}, 400, "invalid_request_error", "max_tokens: "),
    "a block that is none": ({}, {"messages": [{"role": "user", "content": [{"x": 1}]}]}, 400, "invalid_request_error",
                             "messages.0.content.0.type: Field required"),
    "too large": ({"body_limit": 1024}, {"system": "x" * 2000}, 413, "request_too_large", "1024 bytes"),
    "too many messages": ({"max_messages": 1}, {"messages": [{"role": "user", "content": "a"}] * 2}, 400,
                          "invalid_request_error", "messages"),
    "no key": ({"api_keys": "a:sk-a"}, {}, 401, "authentication_error", "key"),
    "no such model": ({"upstreams": SERVER}, {"model": "x"}, 404, "not_found_error", "`x` does not exist"),
}  # fmt: skip


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("case", OWN)
async def test_own_errors(case: str, stream: bool) -> None:
    values, more, status, kind, says = OWN[case]
    upstream = Vllm()
    async with proxied(upstream, **values) as client:
        response = await client.post(MESSAGES, json=body(stream=stream, **more))
    assert response.status_code == status, response.text
    error = error_of(response)
    assert error["type"] == kind
    assert says in error["message"]
    assert not upstream.bodies


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    ("answer", "status", "kind", "says"),
    [
        (refusal(400, OVERFLOW), 400, "invalid_request_error", "prompt is too long: 5000 tokens > 4096 maximum"),
        (refusal(404, "The model `x` does not exist."), 404, "not_found_error", "does not exist"),
        (refusal(429, "busy", **{"retry-after": "3"}), 429, "rate_limit_error", "busy"),
        (refusal(503, "busy", **{"retry-after": "3"}), 503, "overloaded_error", "busy"),
        (refusal(500, "died"), 500, "api_error", "died"),
        (httpx.ConnectError("no"), 502, "api_error", "VLLM_BASE"),
        (httpx.ReadTimeout("no"), 504, "timeout_error", ""),
        (httpx.Response(200, html="<html>"), 502, "api_error", "VLLM_BASE"),
    ],
)
async def test_upstreams_errors(answer: Any, status: int, kind: str, says: str, stream: bool) -> None:
    async with proxied(Vllm(answer), retry_max=0) as client:
        response = await client.post(MESSAGES, json=body(stream=stream))
    assert response.status_code == status
    error = error_of(response)
    assert error["type"] == kind
    assert says in error["message"]
    assert response.headers.get("retry-after") == ("3" if status in (429, 503) else None)


@pytest.mark.parametrize("path", [MESSAGES, COUNT])
async def test_keys(path: str) -> None:
    asked = {"model": MODEL, "messages": body()["messages"], **({"max_tokens": 5} if path == MESSAGES else {})}
    async with proxied(Vllm(), api_keys="a:sk-a") as client:
        for headers, status in (
            ({}, 401),
            ({"x-api-key": "sk-b"}, 401),
            ({"x-api-key": "sk-a"}, 200),
            ({"authorization": "Bearer sk-a"}, 200),
        ):
            response = await client.post(path, json=asked, headers={**HEADERS, **headers})
            assert response.status_code == status
            if status == 401:
                assert error_of(response)["type"] == "authentication_error"
                assert "sk-" not in response.text


@pytest.mark.parametrize("path", [MESSAGES, COUNT])
async def test_a_rate_limit(path: str) -> None:
    asked = {"model": MODEL, "messages": body()["messages"], **({"max_tokens": 5} if path == MESSAGES else {})}
    async with proxied(Vllm(), rate_limit_requests=1) as client:
        await client.get("/health/ready")  # now it is known what vLLM serves: the limit is that model's
        assert (await client.post(path, json=asked)).status_code == 200
        response = await client.post(path, json=asked)
    assert response.status_code == 429
    assert error_of(response)["type"] == "rate_limit_error"
    assert int(response.headers["retry-after"]) > 0


@pytest.mark.parametrize("end", [b"", ERROR_EVENT + DONE, b'data: {"half'])
async def test_a_stream_that_breaks(end: bytes) -> None:
    async def pieces() -> Any:
        yield HALF
        await anyio.sleep(0.05)  # it has been read by then
        yield end

    async with proxied(Vllm(sse(pieces()))) as client:
        told = events(await client.post(MESSAGES, json=body(stream=True)))
    assert [event["type"] for event in told[:4]] == [
        "message_start",
        "ping",
        "content_block_start",
        "content_block_delta",
    ]
    assert [event["type"] for event in told[4:]] == ["error"]
    assert told[-1]["error"]["type"] == "api_error"


# ---------------------------------------------------------------- answers


@pytest.mark.parametrize("name", ["gpt-5", "claude-x", MODEL])
@pytest.mark.parametrize("stream", [True, False])
async def test_an_alias_answers_by_the_name_that_was_asked_for(name: str, stream: bool) -> None:
    upstream = Vllm(sse(STREAM) if stream else httpx.Response(200, json=COMPLETION))
    async with proxied(upstream, **ALIASES) as client:
        response = await client.post(MESSAGES, json=body(model=name, stream=stream))
    told = events(response)[0]["message"] if stream else response.json()
    assert told["model"] == name
    assert upstream.bodies[0]["model"] == MODEL


@pytest.mark.parametrize(
    ("finish", "more", "reason"),
    [
        ("stop", {}, "end_turn"),
        ("length", {}, "max_tokens"),
        ("stop", {"stop_reason": "END"}, "stop_sequence"),
    ],
)
@pytest.mark.parametrize("stream", [True, False])
async def test_why_it_ended(finish: str, more: dict[str, Any], reason: str, stream: bool) -> None:
    if stream:
        last = json.loads(chunk({}, finish).removeprefix(b"data: "))
        last["choices"][0].update(more)
        answer = sse(HALF + b"data: " + json.dumps(last).encode() + b"\n\n" + DONE)
    else:
        choice = {**COMPLETION["choices"][0], "finish_reason": finish, **more}
        answer = httpx.Response(200, json={**COMPLETION, "choices": [choice]})
    async with proxied(Vllm(answer)) as client:
        response = await client.post(MESSAGES, json=body(stream=stream, stop_sequences=["END"]))
    told = events(response)[-2]["delta"] if stream else response.json()
    assert told["stop_reason"] == reason
    assert told["stop_sequence"] == more.get("stop_reason")


async def test_what_claude_code_sends_beside_the_conversation() -> None:
    upstream = Vllm()
    more: dict[str, Any] = {
        "metadata": {"user_id": "x"},
        "context_management": {"edits": []},
        "tools": [{"type": "web_search_20250305", "name": "web_search"}],
        "system": [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral", "ttl": "1h"}}],
    }
    async with proxied(upstream) as client:
        assert (await client.head("/")).status_code == 200
        assert (await client.head("/")).content == b""
        response = await client.post(MESSAGES + "?beta=true", json=body(**more), headers=HEADERS)
    assert response.status_code == 200, response.text
    assert response.json()["content"] == [{"type": "text", "text": "Hello."}]
    assert upstream.bodies[0].keys() == {"model", "messages", "max_tokens", "temperature"}
    told = response.headers["x-devstral-rewrites"]
    assert "tool_dropped=1" in told
    assert "field_dropped=2" in told
