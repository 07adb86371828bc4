"""Under /v1/messages every error has Anthropic's shape, the router's own too."""

from __future__ import annotations

import pytest

from tests.server.upstreams import Vllm, proxied

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/messages", 405),
        ("GET", "/v1/messages/count_tokens", 405),
        ("POST", "/v1/messages/batches", 404),
        ("GET", "/v1/messages/batches/1", 404),
    ],
)
async def test_shape(method: str, path: str, status: int) -> None:
    upstream = Vllm()
    async with proxied(upstream) as client:
        response = await client.request(method, path)
    assert response.status_code == status
    assert response.json()["type"] == "error"
    assert response.headers["request-id"] == response.headers["x-request-id"]
    assert ("allow" in response.headers) == (status == 405)
    assert upstream.requests == []
