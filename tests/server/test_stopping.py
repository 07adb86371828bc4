"""Past the drain time whoever waits is told: in every phase of a request, also before it goes upstream."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from devstral_proxy.app import create_app
from tests.server.upstreams import Vllm, request, settings

pytestmark = pytest.mark.anyio

MESSAGE = {"model": "devstral-small-2", "max_tokens": 5, "messages": [{"role": "user", "content": "Hi."}]}


class Silent(Vllm):
    """Answers nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = asyncio.Event()

    async def handle_async_request(self, asked: httpx.Request) -> httpx.Response:
        self.asked.set()
        await asyncio.Event().wait()
        raise AssertionError


async def half_a_body() -> AsyncIterator[bytes]:
    yield b'{"model": '
    await asyncio.Event().wait()


WAITING: dict[str, tuple[str, str, dict[str, Any]]] = {
    "chat": ("POST", "/v1/chat/completions", {"json": request()}),
    "messages": ("POST", "/v1/messages", {"json": MESSAGE}),
    "responses": ("POST", "/v1/responses", {"json": {"model": "devstral-small-2", "input": "Hi."}}),
    "relay": ("POST", "/v1/completions", {"json": {"model": "devstral-small-2", "prompt": "Hi."}}),
    "count": ("POST", "/v1/messages/count_tokens", {"json": MESSAGE}),
    "models": ("GET", "/v1/models", {}),
    "body": ("POST", "/v1/chat/completions", {"content": half_a_body()}),
}


@pytest.mark.parametrize("name", WAITING)
async def test_whoever_waits_is_told(name: str) -> None:
    method, path, body = WAITING[name]
    app = create_app(settings(vllm_version="0.32.0"), transport=Silent())
    lifecycle = app.state.services.lifecycle
    async with app.router.lifespan_context(app):
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://proxy.test", timeout=20) as client:
            asking = asyncio.create_task(client.request(method, path, **body))
            while not lifecycle.running:  # noqa: ASYNC110  # it tells nobody
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.05)
            assert lifecycle.running == 1
            lifecycle.begin_drain()
            lifecycle.pass_deadline()
            response = await asking
            late = await client.get("/v1/models")
    assert response.status_code == late.status_code == 503
    assert response.headers["retry-after"] == "1"
    error = response.json()["error"]
    assert "stopping" in error["message"]
    assert ("code" in error) == (not path.startswith("/v1/messages"))
    assert lifecycle.running == 0
