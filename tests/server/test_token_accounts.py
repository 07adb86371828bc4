"""RATE_LIMIT_TOKENS counts what vLLM has worked for, also where nobody waited for vLLM to tell it."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import pytest

from tests.server.upstreams import DONE, MODEL, Connection, Raw, chunk, live, request

pytestmark = pytest.mark.anyio

USAGE = {"prompt_tokens": 40, "completion_tokens": 60, "total_tokens": 100}


def event(**members: Any) -> bytes:
    return b"data: " + json.dumps({"id": "cmpl-1", "object": "text_completion", **members}).encode() + b"\n\n"


async def left(client: httpx.AsyncClient) -> int:
    """Tokens that this minute still has; the request that asks takes none itself."""
    answer = await client.post("/tokenize", json={"model": MODEL, "prompt": "x"})
    return int(answer.headers["x-ratelimit-remaining-tokens"])


async def handler(raw: Raw, connection: Connection, line: str, body: bytes) -> None:
    if "/tokenize" in line:
        await connection.whole(b'{"count": 1}')
        return
    asked = json.loads(body)
    await connection.head()
    if "/v1/completions" in line:
        await connection.piece(event(choices=[{"index": 0, "text": "Hello."}]))
        if (asked.get("stream_options") or {}).get("include_usage"):
            await connection.piece(event(choices=[], usage=USAGE))
        await connection.piece(DONE)
        await connection.piece(b"")
        return
    await connection.piece(chunk({"role": "assistant", "content": ""}))
    for _ in range(20):
        await connection.piece(chunk({"content": "word "}))
    await connection.until_closed()


@pytest.mark.parametrize("wanted", [True, False])
async def test_a_relayed_stream_is_counted_whether_or_not_its_client_asks(wanted: bool) -> None:
    upstream = Raw(handler)
    async with (
        upstream.serve() as base,
        live(base, rate_limit_tokens=1000) as proxy,
        httpx.AsyncClient(base_url=proxy) as client,
    ):
        body: dict[str, Any] = {"model": MODEL, "prompt": "x", "stream": True}
        if wanted:
            body["stream_options"] = {"include_usage": True}
        response = await client.post("/v1/completions", json=body)
        assert ('"usage"' in response.text) == wanted
        assert response.text.endswith("data: [DONE]\n\n")
        assert await left(client) == 900


async def test_a_client_that_leaves_before_the_usage_is_not_free_of_charge() -> None:
    upstream = Raw(handler)
    async with (
        upstream.serve() as base,
        live(base, rate_limit_tokens=1000) as proxy,
        httpx.AsyncClient(base_url=proxy) as client,
    ):
        async with client.stream("POST", "/v1/chat/completions", json=request(stream=True)) as response:
            async for text in response.aiter_text():
                if "word" in text:
                    break
        async with asyncio.timeout(10):
            while await left(client) == 1000:  # noqa: ASYNC110  # the proxy tells nobody
                await asyncio.sleep(0.02)
        assert 900 < await left(client) < 990  # the prompt, and some of twenty words
