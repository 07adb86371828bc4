"""/v1/responses through the application: its errors, its names for models, its streams that break, what is stored."""

from __future__ import annotations

import json
from typing import Any

import anyio
import httpx
import pytest
from openai.types.responses import ResponseStreamEvent
from pydantic import TypeAdapter

from tests.server.upstreams import COMPLETION, DONE, MODEL, STREAM, Vllm, chunk, proxied, sse

pytestmark = pytest.mark.anyio

RESPONSES = "/v1/responses"
EVENTS: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
HALF = chunk({"role": "assistant", "content": ""}) + chunk({"content": "Hel"})
ERROR_EVENT = b'data: {"error": {"message": "died", "type": "InternalServerError", "param": null, "code": 500}}\n\n'
OVERFLOW = "This model's maximum context length is 4096 tokens. However, your prompt contains 5000 input tokens."


def body(**more: Any) -> dict[str, Any]:
    return {"model": MODEL, "input": "hi", **more}


def refusal(status: int, message: str, **headers: str) -> httpx.Response:
    """An error answer of vLLM's."""
    error = {"message": message, "type": "BadRequestError", "param": None, "code": status}
    return httpx.Response(status, json={"error": error}, headers=headers)


def events(response: httpx.Response) -> list[dict[str, Any]]:
    """The events of a stream, each as the SDK's types want it, in their order."""
    assert response.headers["content-type"].startswith("text/event-stream")
    out = []
    for number, block in enumerate(response.text.split("\n\n")[:-1]):
        name, data = block.split("\n")
        event = json.loads(data.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        assert event["sequence_number"] == number
        EVENTS.validate_json(data.removeprefix("data: "), strict=True)
        out.append(event)
    return out


# ---------------------------------------------------------------- errors

OWN: dict[str, tuple[dict[str, Any], dict[str, Any], int, str | None, str | None]] = {
    # settings, more of the body; status, code, param
    "no model": ({}, {"model": None}, 400, None, "model"),
    "an item that is none": ({}, {"input": [{"role": "x", "content": "a"}]}, 400, None, "input[0].role"),
    "an unknown response": (
        {}, {"previous_response_id": "resp_x"}, 400, "previous_response_not_found", "previous_response_id",
    ),
    "an unknown item": ({}, {"input": [{"type": "item_reference", "id": "msg_x"}]}, 404, "item_not_found",
                        "input[0].id"),
    "in the background": ({}, {"background": True}, 400, None, "background"),
    "a conversation of OpenAI's": ({}, {"conversation": "conv_1"}, 400, None, "conversation"),
    "a tool's schema": ({}, {"tools": [{"type": "function", "name": "f", "parameters": [1]}]}, 400, None,
                        "tools[0].parameters"),
    "too large": ({"body_limit": 1024}, {"input": "x" * 2000}, 413, "request_too_large", None),
    "too many items": ({"max_messages": 1}, {"input": [{"role": "user", "content": "a"}] * 2}, 400,
                       "array_above_max_length", "input"),
    "no key": ({"api_keys": "a:sk-a"}, {}, 401, "invalid_api_key", None),
    "no such model": ({"upstreams": '{"m": {"servers": ["http://vllm.test"]}}'}, {"model": "x"}, 404, "model_not_found",
                      "model"),
}  # fmt: skip


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("case", OWN)
async def test_own_errors(case: str, stream: bool) -> None:
    values, more, status, code, param = OWN[case]
    upstream = Vllm()
    async with proxied(upstream, **values) as client:
        response = await client.post(RESPONSES, json=body(stream=stream, **more))
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert error["code"] == code
    assert error["param"] == param
    assert error["message"]
    assert response.headers["x-request-id"]
    assert not upstream.bodies


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    ("answer", "status", "code"),
    [
        (refusal(400, OVERFLOW), 400, "context_length_exceeded"),
        (refusal(404, "The model `x` does not exist."), 404, None),
        (refusal(429, "busy", **{"retry-after": "3"}), 429, None),
        (refusal(503, "busy", **{"retry-after": "3"}), 503, None),
        (httpx.ConnectError("no"), 502, "upstream_unavailable"),
        (httpx.Response(200, html="<html>"), 502, "upstream_protocol_error"),
    ],
)
async def test_upstreams_errors(answer: Any, status: int, code: str | None, stream: bool) -> None:
    async with proxied(Vllm(answer), retry_max=0) as client:
        response = await client.post(RESPONSES, json=body(stream=stream))
    assert response.status_code == status
    assert code is None or response.json()["error"]["code"] == code
    assert response.headers.get("retry-after") == ("3" if status in (429, 503) else None)


async def test_a_rate_limit() -> None:
    async with proxied(Vllm(), rate_limit_requests=1) as client:
        await client.get("/health/ready")  # now it is known what vLLM serves: the limit is that model's
        assert (await client.post(RESPONSES, json=body())).status_code == 200
        response = await client.post(RESPONSES, json=body())
    assert response.status_code == 429
    assert response.json()["error"]["type"] == "rate_limit_error"
    assert int(response.headers["retry-after"]) > 0


@pytest.mark.parametrize("end", [b"", ERROR_EVENT + DONE, b'data: {"half'])
async def test_a_stream_that_breaks(end: bytes) -> None:
    async def pieces() -> Any:
        yield HALF
        await anyio.sleep(0.05)  # it has been read by then
        yield end

    async with proxied(Vllm(sse(pieces()))) as client:
        told = events(await client.post(RESPONSES, json=body(stream=True)))
        stored = await client.get(f"{RESPONSES}/{told[0]['response']['id']}")
    assert [event["type"] for event in told[-2:]] == ["response.output_text.delta", "response.failed"]
    response = told[-1]["response"]
    assert response["status"] == "failed"
    assert response["error"]["code"] == "server_error"
    assert response["output"][0]["status"] == "incomplete"
    assert stored.status_code == 404


@pytest.mark.parametrize("finish", ["length", "stop"])
async def test_a_stream(finish: str) -> None:
    async with proxied(Vllm(sse(HALF + chunk({}, finish) + DONE))) as client:
        told = events(await client.post(RESPONSES, json=body(stream=True)))
        kept = (await client.get(f"{RESPONSES}/{told[-1]['response']['id']}")).json()
    assert told[-1]["type"] == ("response.incomplete" if finish == "length" else "response.completed")
    assert kept == told[-1]["response"]


# ---------------------------------------------------------------- names of models

ALIASES = {"model_aliases": json.dumps({"gpt-*": MODEL, "claude-*": MODEL})}


@pytest.mark.parametrize("name", ["gpt-5-codex", "claude-x", MODEL])
@pytest.mark.parametrize("stream", [True, False])
async def test_an_alias_answers_by_the_name_that_was_asked_for(name: str, stream: bool) -> None:
    upstream = Vllm(sse(STREAM) if stream else httpx.Response(200, json=COMPLETION))
    async with proxied(upstream, **ALIASES) as client:
        response = await client.post(RESPONSES, json=body(model=name, stream=stream))
    told = events(response)[-1]["response"] if stream else response.json()
    assert told["model"] == name
    assert upstream.bodies[0]["model"] == MODEL


@pytest.mark.parametrize("stream", [True, False])
async def test_chat_tells_the_model_that_answered(stream: bool) -> None:
    """As OpenAI's API tells the snapshot that an alias stands for."""
    upstream = Vllm(sse(STREAM) if stream else httpx.Response(200, json=COMPLETION))
    async with proxied(upstream, **ALIASES) as client:
        chat = {"model": "gpt-5", "messages": [{"role": "user", "content": "hi"}], "stream": stream}
        response = await client.post("/v1/chat/completions", json=chat)
    assert f'"model":"{MODEL}"' in response.text
    assert "gpt-5" not in response.text
    assert upstream.bodies[0]["model"] == MODEL


NAMED = [
    # settings, the name that is asked for, and the one that vLLM gets
    ({"default_model": MODEL}, "o3", MODEL),
    ({"default_model": "other"}, MODEL, MODEL),
    ({"model_aliases": '{"*": "other"}'}, MODEL, MODEL),
    ({"model_aliases": '{"*": "other"}'}, "o3", "other"),
    ({"model_aliases": '{"o3": "other"}', "default_model": MODEL}, "o3", "other"),
    ({}, "o3", "o3"),
]


@pytest.mark.parametrize(("values", "asked", "sent"), NAMED)
async def test_names_at_the_very_first_request(values: dict[str, Any], asked: str, sent: str) -> None:
    """It may depend on what vLLM serves, which nobody has asked before."""
    for path, more in ((RESPONSES, {"input": "hi"}), ("/v1/completions", {"prompt": "hi"}), (COUNT, MESSAGES)):
        upstream = Vllm(others={"/v1/completions": httpx.Response(200, json={}), "/tokenize": httpx.Response(500)})
        async with proxied(upstream, **values) as client:
            assert (await client.post(path, json={"model": asked, **more})).status_code == 200
        told = [json.loads(one.content)["model"] for one in upstream.requests if one.method == "POST"]
        assert told == [sent]


COUNT = "/v1/messages/count_tokens"
MESSAGES = {"messages": [{"role": "user", "content": "hi"}]}


# ---------------------------------------------------------------- other ways to ask


@pytest.mark.parametrize("path", ["/v1/responses/", "http://proxy.test//v1/responses", "/v1/responses?beta=true"])
async def test_other_spellings(path: str) -> None:
    async with proxied(Vllm()) as client:
        assert (await client.post(path, json=body())).json()["object"] == "response"


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("OPTIONS", RESPONSES, "POST"),
        ("GET", RESPONSES, "POST"),
        ("PUT", RESPONSES + "/resp_1", "DELETE, GET, HEAD"),
        ("GET", RESPONSES + "/resp_1/cancel", "POST"),
        ("OPTIONS", "/v1/messages", "POST"),
        ("OPTIONS", "/v1/chat/completions", "POST"),
    ],
)
async def test_methods_that_are_not_there(method: str, path: str, allowed: str) -> None:
    async with proxied(Vllm()) as client:
        response = await client.request(method, path)
    assert response.status_code == 405
    assert response.headers["allow"] == allowed


async def test_a_store_that_fails_is_told_apart(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    """A database that is no database any more: the answer is given, what needs the store is a 503."""
    path = tmp_path / "responses.db"
    upstream = Vllm()
    async with proxied(upstream, responses_store="sqlite", responses_store_path=path) as client:
        for file in tmp_path.iterdir():
            file.write_bytes(b"no database" * 1000)
        assert (await client.post(RESPONSES, json=body())).status_code == 200
        for stream in (True, False):
            response = await client.post(RESPONSES, json=body(previous_response_id="resp_1", stream=stream))
            assert response.status_code == 503
            assert response.json()["error"]["code"] == "store_unavailable"
            assert response.headers["retry-after"]
    assert len(upstream.bodies) == 1
