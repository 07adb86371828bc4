"""The chat endpoint against a table of upstream answers: four ways of asking, errors, retries, headers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from devstral_proxy.errors import UpstreamRefused
from tests.server.upstreams import COMPLETION, DONE, STREAM, Vllm, chunk, proxied, request, sse

pytestmark = pytest.mark.anyio

TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}
CHAT = "/v1/chat/completions"


def events(response: httpx.Response) -> list[Any]:
    """The data of a stream's events, parsed."""
    assert response.headers["content-type"].startswith("text/event-stream")
    data = [line.removeprefix("data: ") for line in response.text.split("\n\n") if line.startswith("data: ")]
    return [one if one == "[DONE]" else json.loads(one) for one in data]


def text(chunks: list[Any]) -> str:
    return "".join(
        one["choices"][0]["delta"].get("content") or "" for one in chunks if one != "[DONE]" and one["choices"]
    )


@pytest.mark.parametrize("path", [CHAT, "/chat/completions", "//v1/chat/completions", "/v1/chat/completions/"])
async def test_a_plain_request_and_its_answer_pass(path: str) -> None:
    upstream = Vllm()
    async with proxied(upstream) as client:
        response = await client.post(path, json=request())
    assert response.status_code == 200
    assert response.json()["choices"][0]["message"]["content"] == "Hello."
    assert response.headers["x-devstral-profile"] == "devstral-small-2"
    assert "x-devstral-rewrites" not in response.headers
    assert upstream.bodies == [request()]


async def test_a_healthy_stream_passes_as_upstreams_own_bytes() -> None:
    async with proxied(Vllm(sse(STREAM))) as client:
        response = await client.post(CHAT, json=request(stream=True))
    assert response.content == STREAM
    assert response.headers["cache-control"] == "no-cache"
    assert response.headers["x-accel-buffering"] == "no"


@pytest.mark.parametrize("size", [1, 2, 7, 100])
async def test_a_stream_may_be_cut_anywhere(size: int) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, len(STREAM), size):
            yield STREAM[start : start + size]

    async with proxied(Vllm(sse(pieces()))) as client:
        response = await client.post(CHAT, json=request(stream=True))
    assert response.content == STREAM


# The four ways: what the client asks for, and what upstream is asked for by its version. 0.32.0 is asked with streaming
# when there are tools, 0.20.2 without.
@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(("version", "asked"), [("0.32.0", True), ("0.20.2", False)])
async def test_client_and_upstream_may_differ(stream: bool, version: str, asked: bool) -> None:
    answer = sse(STREAM) if asked else httpx.Response(200, json=COMPLETION)
    upstream = Vllm(answer, version=version)
    async with proxied(upstream) as client:
        response = await client.post(CHAT, json=request(stream=stream, tools=[TOOL]))
    assert bool(upstream.bodies[0].get("stream")) is asked
    if stream:
        got = events(response)
        assert text(got) == "Hello."
        assert got[-1] == "[DONE]"
        assert got.count("[DONE]") == 1
    else:
        assert response.headers["content-type"] == "application/json"
        assert response.json()["choices"][0]["message"]["content"] == "Hello."
        assert response.json()["choices"][0]["finish_reason"] == "stop"


async def test_an_upstream_that_does_not_stream_when_asked_is_understood() -> None:
    async with proxied(Vllm(httpx.Response(200, json=COMPLETION))) as client:
        response = await client.post(CHAT, json=request(stream=True))
    assert text(events(response)) == "Hello."


async def test_rewrites_are_told_in_a_header() -> None:
    async with proxied(Vllm()) as client:
        response = await client.post(CHAT, json=request(messages=[{"role": "user", "name": "ada", "content": "Hi."}]))
    assert response.headers["x-devstral-rewrites"] == "key_dropped=1"


REFUSAL = {"error": {"message": "no", "type": "BadRequestError", "param": "x", "code": 400}}


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("status", [400, 404, 422, 500, 503])
async def test_what_vllm_refuses_keeps_status_and_text(status: int, stream: bool) -> None:
    refused = httpx.Response(status, json=REFUSAL, headers={"retry-after": "7", "server": "uvicorn", "x-secret": "1"})
    async with proxied(Vllm(refused)) as client:
        response = await client.post(CHAT, json=request(stream=stream))
    assert response.status_code == status
    assert response.json()["error"]["message"] == "no"
    assert response.headers["retry-after"] == "7"
    assert "x-secret" not in response.headers
    assert response.headers["x-request-id"]


ERROR_EVENT = (
    b'data: {"error": {"message": "engine died", "type": "InternalServerError", "param": null, "code": 500}}\n\n'
)


@pytest.mark.parametrize("stream", [True, False])
async def test_an_error_event_before_anything_else_becomes_the_status(stream: bool) -> None:
    async with proxied(Vllm(sse(ERROR_EVENT + DONE))) as client:
        response = await client.post(CHAT, json=request(stream=stream, tools=[TOOL]))
    assert response.status_code == 500
    assert response.json()["error"]["message"] == "engine died"


@pytest.mark.parametrize(
    ("cut", "code"),
    [
        (b"", None),
        (ERROR_EVENT + DONE, 500),
        (b"data: {half", None),
    ],
    ids=["early end", "error event", "half an event"],
)
async def test_a_stream_that_breaks_ends_in_an_error_and_done(cut: bytes, code: int | None) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        yield chunk({"role": "assistant", "content": ""}) + chunk({"content": "Hel"})
        await asyncio.sleep(0.01)
        yield cut

    async with proxied(Vllm(sse(pieces()))) as client:
        response = await client.post(CHAT, json=request(stream=True))
    assert response.status_code == 200
    got = events(response)
    assert text([one for one in got if "choices" in one]) == "Hel"
    assert "error" in got[-2]
    assert got[-1] == "[DONE]"
    assert not any(one != "[DONE]" and "choices" in one and one["choices"][0]["finish_reason"] for one in got)
    if code is not None:
        assert got[-2]["error"]["code"] == code


async def test_a_broken_stream_is_no_whole_answer() -> None:
    upstream = Vllm(sse(chunk({"role": "assistant", "content": "Hel"})))
    async with proxied(upstream) as client:
        response = await client.post(CHAT, json=request(tools=[TOOL]))
    assert response.status_code == 502
    assert "error" in response.json()


NO_COMPLETIONS = {
    "html": (httpx.Response(200, html="<html>Welcome</html>"), "upstream_protocol_error"),
    "half a JSON": (httpx.Response(200, content=b'{"choices": [', headers={"content-type": "application/json"}), None),
    "no choices": (httpx.Response(200, json={"id": "x"}), "upstream_protocol_error"),
    "nothing": (httpx.Response(200), "upstream_protocol_error"),
    "a redirect": (httpx.Response(307, headers={"location": "http://elsewhere.test/"}), "upstream_protocol_error"),
    "an empty stream": (httpx.Response(200, headers={"content-type": "text/event-stream"}), "upstream_protocol_error"),
}


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("case", NO_COMPLETIONS)
async def test_what_is_no_completion_is_a_502(case: str, stream: bool) -> None:
    answer, code = NO_COMPLETIONS[case]
    async with proxied(Vllm(answer)) as client:
        response = await client.post(CHAT, json=request(stream=stream))
    assert response.status_code == 502
    assert response.json()["error"]["type"] == "server_error"
    assert "location" not in response.headers
    assert "elsewhere" not in response.text
    if code is not None:
        assert response.json()["error"]["code"] == code


@pytest.mark.parametrize("stream", [True, False])
async def test_an_error_with_status_200_is_an_error(stream: bool) -> None:
    async with proxied(Vllm(httpx.Response(200, json={"error": {**REFUSAL["error"], "code": 418}}))) as client:
        response = await client.post(CHAT, json=request(stream=stream))
    assert response.status_code == 418


FAILURES: dict[str, tuple[Exception, int, str, str]] = {
    "refused": (httpx.ConnectError("All connection attempts failed"), 502, "upstream_unavailable", "VLLM_BASE"),
    "no connection in time": (httpx.ConnectTimeout(""), 504, "upstream_timeout", "vllm.test:8000"),
    "pool": (httpx.PoolTimeout(""), 504, "upstream_timeout", "POOL_SIZE"),
    "reset": (httpx.ReadError(""), 502, "upstream_unavailable", "vllm.test:8000"),
    "silent": (httpx.ReadTimeout(""), 504, "upstream_timeout", "vllm.test:8000"),
    "no HTTP": (httpx.RemoteProtocolError("illegal status line: b'secret'"), 502, "upstream_protocol_error", "HTTP"),
}


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("case", FAILURES)
async def test_failures_are_named(case: str, stream: bool) -> None:
    failure, status, code, hint = FAILURES[case]
    async with proxied(Vllm(failure)) as client:
        response = await client.post(CHAT, json=request(stream=stream))
    assert response.status_code == status
    error = response.json()["error"]
    assert error["code"] == code
    assert error["type"] == "server_error"
    assert hint in error["message"]
    assert "secret" not in response.text


async def test_an_event_over_the_limit_ends_the_stream_after_what_came_before() -> None:
    async def pieces() -> AsyncIterator[bytes]:
        yield chunk({"role": "assistant", "content": ""}) + chunk({"content": "Hel"})
        yield chunk({"content": "x" * 5000})

    async with proxied(Vllm(sse(pieces())), max_event_bytes=2000) as client:
        response = await client.post(CHAT, json=request(stream=True))
    got = events(response)
    assert text([one for one in got if "choices" in one]) == "Hel"
    assert got[-2]["error"]["code"] == "upstream_event_too_large"


async def test_an_answer_over_the_limit_is_refused() -> None:
    async with proxied(Vllm(httpx.Response(200, json={**COMPLETION, "pad": "x" * 5000})), answer_limit=2000) as client:
        response = await client.post(CHAT, json=request())
    assert response.status_code == 502
    assert "ANSWER_LIMIT" in response.json()["error"]["message"]


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"messages": [{"role": "user", "content": "Hi."}]}, "model"),
        ({"model": "m"}, "messages"),
        ({"model": "m", "messages": []}, "messages"),
        ({"model": "m", "messages": [{"role": "user"}], "tools": "all"}, "tools"),
    ],
)
async def test_what_openai_refuses_does_not_go_upstream(body: dict[str, Any], param: str) -> None:
    upstream = Vllm()
    async with proxied(upstream) as client:
        response = await client.post(CHAT, json=body)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param
    assert upstream.bodies == []


async def test_only_what_vllm_needs_goes_upstream() -> None:
    upstream = Vllm()
    headers = {"authorization": "Bearer client-key", "cookie": "a=b", "x-forwarded-for": "1.2.3.4", "x-own": "1"}
    async with proxied(upstream, vllm_api_key="server-key") as client:
        await client.post(CHAT, json=request(), headers=headers)
    sent = upstream.requests[-1].headers
    assert sent["authorization"] == "Bearer server-key"
    assert sent["accept-encoding"] == "identity"
    ours = {"host", "accept", "accept-encoding", "connection", "user-agent", "authorization"}
    assert set(sent) == ours | {"content-type", "content-length"}


async def test_without_a_key_no_authorization_goes_upstream() -> None:
    upstream = Vllm()
    async with proxied(upstream) as client:
        await client.post(CHAT, json=request(), headers={"authorization": "Bearer client-key"})
    assert all("authorization" not in one.headers for one in upstream.requests)


async def test_cookies_of_vllms_are_not_kept() -> None:
    upstream = Vllm(httpx.Response(200, json=COMPLETION, headers={"set-cookie": "a=b"}))
    async with proxied(upstream) as client:
        first = await client.post(CHAT, json=request())
        await client.post(CHAT, json=request())
    assert "set-cookie" not in first.headers
    assert all("cookie" not in one.headers for one in upstream.requests)


async def test_a_strict_profile_is_checked_before_anything_goes_upstream(monkeypatch: pytest.MonkeyPatch) -> None:
    from devstral_proxy import validation
    from devstral_proxy.errors import BadRequest

    asked = []

    def check(body: dict[str, Any], tokenizer: str) -> None:
        asked.append(tokenizer)
        raise BadRequest("no")

    monkeypatch.setattr(validation, "check", check)
    upstream = Vllm()
    async with proxied(upstream, model_profiles=json.dumps({"devstral-small-2": {"strict": True}})) as client:
        response = await client.post(CHAT, json=request())
    assert response.status_code == 400
    assert asked == ["v13"]
    assert upstream.bodies == []


@pytest.mark.parametrize("stream", [True, False])
async def test_a_defect_of_the_repair_is_a_500_or_an_error_event(stream: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    from devstral_proxy.mistral.stream import StreamRepair

    fed = 0
    whole = StreamRepair.feed_into

    def feed_into(self: StreamRepair, event: Any, out: list[Any]) -> None:
        nonlocal fed
        fed += 1
        if fed > 2:
            raise RuntimeError("secret content")
        whole(self, event, out)

    async def pieces() -> AsyncIterator[bytes]:
        yield chunk({"role": "assistant", "content": ""}) + chunk({"content": "Hel"})
        await asyncio.sleep(0.01)
        yield chunk({"content": "lo."})

    monkeypatch.setattr(StreamRepair, "feed_into", feed_into)
    monkeypatch.setattr(StreamRepair, "feed_raw", lambda *_: False)  # no piece is known without being read
    async with proxied(Vllm(sse(pieces()))) as client:
        response = await client.post(CHAT, json=request(stream=stream, tools=[TOOL]))
    assert "secret" not in response.text
    if stream:
        assert events(response)[-2]["error"]["code"] == "internal_error"
        assert events(response)[-1] == "[DONE]"
    else:
        assert response.status_code == 500
        assert response.json()["error"]["code"] == "internal_error"


async def test_a_defect_at_the_end_of_the_repair_still_ends_the_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    from devstral_proxy.mistral.stream import StreamRepair

    def finish(self: StreamRepair, error: Any = None) -> Any:
        raise RuntimeError("secret content")

    async def pieces() -> AsyncIterator[bytes]:
        yield chunk({"role": "assistant", "content": ""})
        await asyncio.sleep(0.01)
        yield b""

    monkeypatch.setattr(StreamRepair, "finish", finish)
    async with proxied(Vllm(sse(pieces()))) as client:
        response = await client.post(CHAT, json=request(stream=True))
    assert events(response)[-2]["error"]["code"] == "internal_error"
    assert response.text.endswith("data: [DONE]\n\n")


def test_refusals_keep_their_own_shape() -> None:
    assert UpstreamRefused(418, REFUSAL).status == 418
