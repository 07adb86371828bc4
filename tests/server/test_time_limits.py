"""How long a request may take in all: the setting's limit, and the profile's in its place."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator

import httpx
import pytest

from devstral_proxy.upstream.fleet import Fleet
from tests.server.upstreams import STREAM, Connection, Raw, Vllm, live, proxied, request

pytestmark = pytest.mark.anyio

CHAT = "/v1/chat/completions"


def profile(timeout: float) -> str:
    return json.dumps({"devstral-small-2": {"timeout": timeout}})


class Slow(Vllm):
    """Answers after some seconds."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds

    async def handle_async_request(self, asked: httpx.Request) -> httpx.Response:
        if asked.url.path == CHAT:
            await asked.aread()
            self.requests.append(asked)
            await asyncio.sleep(self.seconds)
        return await super().handle_async_request(asked)


async def test_a_request_whose_time_is_over_says_nothing_of_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    fleets: list[Fleet] = []
    start = Fleet.start

    async def started(self: Fleet) -> None:
        fleets.append(self)
        await start(self)

    monkeypatch.setattr(Fleet, "start", started)
    upstreams = {"devstral-small-2": {"servers": ["http://a.test", "http://b.test"]}}
    upstream = Slow(5)
    async with proxied(
        upstream,
        upstreams=json.dumps(upstreams),
        model_profiles=profile(0.1),
        breaker_failures=1,
        health_interval=0,
    ) as client:
        response = await client.post(CHAT, json=request())
    assert response.status_code == 504
    assert "0.1 s (the profile's timeout)" in response.json()["error"]["message"]
    assert len(upstream.bodies) == 1  # no other server has any time left for it
    assert [target.breaker.state for target in fleets[0].targets] == ["closed", "closed"]


async def test_a_profile_may_have_more_time_than_the_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("devstral_proxy.server.turn.GRACE", 0.05)

    async def pieces() -> AsyncIterator[bytes]:
        for at in range(0, len(STREAM), 40):
            yield STREAM[at : at + 40]
            await asyncio.sleep(0.03)

    async def handler(raw: Raw, connection: Connection, line: str, body: bytes) -> None:
        await connection.head()
        async for piece in pieces():
            await connection.piece(piece)
        await connection.piece(b"")

    upstream = Raw(handler)
    began = time.monotonic()
    async with (
        upstream.serve() as base,
        live(base, request_timeout=0.1, model_profiles=profile(60)) as proxy,
        httpx.AsyncClient(base_url=proxy) as client,
    ):
        response = await client.post(CHAT, json=request(stream=True))
    assert time.monotonic() - began > 0.2  # longer than the setting and its grace
    assert response.text.endswith("data: [DONE]\n\n")
    assert '"error"' not in response.text


async def test_the_setting_s_limit_names_the_setting() -> None:
    async with proxied(Slow(5), request_timeout=0.1) as client:
        response = await client.post(CHAT, json=request())
    assert response.status_code == 504
    assert "REQUEST_TIMEOUT" in response.json()["error"]["message"]
