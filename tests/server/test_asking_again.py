"""What is asked of vLLM a second time: with less max_tokens, or in the other way where an answer lost something."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from devstral_proxy.mistral.stream import StreamRepair
from devstral_proxy.mistral.token_watch import AnswerLost
from tests.server.upstreams import COMPLETION, STREAM, Vllm, proxied, request, sse

pytestmark = pytest.mark.anyio

CHAT = "/v1/chat/completions"
TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}
ERROR = {"message": "no", "type": "BadRequestError", "param": "x", "code": 400}


async def test_max_tokens_over_the_context_are_asked_again_with_less() -> None:
    message = (
        "'max_tokens' or 'max_completion_tokens' is too large: 4000. "
        "This model's maximum context length is 4096 tokens and your request has 200 input tokens "
        "(4000 > 4096 - 200). None"
    )
    upstream = Vllm(httpx.Response(400, json={"error": {**ERROR, "message": message}}), sse(STREAM))
    async with proxied(upstream) as client:
        response = await client.post(CHAT, json=request(stream=True, max_tokens=4000))
    assert response.content == STREAM
    assert [body["max_tokens"] for body in upstream.bodies] == [4000, 3896]


async def test_that_is_done_once_only() -> None:
    message = "This model's maximum context length is 4096 tokens and your request has 200 input tokens (4000 > 3896)."
    upstream = Vllm(httpx.Response(400, json={"error": {**ERROR, "message": message}}))
    async with proxied(upstream) as client:
        response = await client.post(CHAT, json=request(max_tokens=4000))
    assert response.status_code == 400
    assert len(upstream.bodies) == 2


@pytest.fixture
def losing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every streamed answer has lost something, which its first event tells."""

    def feed_into(self: StreamRepair, event: Any, out: list[Any]) -> None:
        raise AnswerLost

    monkeypatch.setattr(StreamRepair, "feed_into", feed_into)


@pytest.mark.usefixtures("losing")
@pytest.mark.parametrize("stream", [True, False])
async def test_an_answer_that_lost_something_is_asked_for_in_the_other_way(stream: bool) -> None:
    upstream = Vllm(sse(STREAM), httpx.Response(200, json=COMPLETION), version="0.21.0")
    async with proxied(upstream) as client:
        response = await client.post(CHAT, json=request(stream=stream, tools=[TOOL]))
    assert response.status_code == 200
    assert '"Hello."' in response.text
    assert [bool(body.get("stream")) for body in upstream.bodies] == [True, False]


@pytest.mark.usefixtures("losing")
@pytest.mark.parametrize(("version", "asked"), [("0.21.0", 2), ("0.32.0", 1)])
async def test_where_that_does_not_help_it_is_an_error(version: str, asked: int) -> None:
    upstream = Vllm(sse(STREAM), version=version)
    async with proxied(upstream) as client:
        response = await client.post(CHAT, json=request(stream=True, tools=[TOOL]))
    assert response.status_code == 502
    assert response.json()["error"]["code"] == "upstream_answer_lost"
    assert len(upstream.bodies) == asked


async def test_what_nobody_has_seen_yet_can_still_be_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """The repair had events out when it found out, but the client asked for no stream."""
    whole = StreamRepair.feed_into

    def feed_into(self: StreamRepair, event: Any, out: list[Any]) -> None:
        if b'"stop"' in event.data:
            out += self.finish(AnswerLost())
        else:
            whole(self, event, out)

    monkeypatch.setattr(StreamRepair, "feed_into", feed_into)
    upstream = Vllm(sse(STREAM), httpx.Response(200, json=COMPLETION), version="0.21.0")
    async with proxied(upstream) as client:
        response = await client.post(CHAT, json=request(tools=[TOOL]))
    assert response.json()["choices"][0]["message"]["content"] == "Hello."
    assert len(upstream.bodies) == 2
