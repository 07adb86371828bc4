"""A request may refer to items of so many stored responses, and no more: each is looked up."""

from __future__ import annotations

import pytest

from devstral_proxy.server.responses import MAX_REFERENCED
from tests.server.upstreams import Vllm, proxied

pytestmark = pytest.mark.anyio


async def test_references_are_bounded() -> None:
    upstream = Vllm()
    items = [{"type": "item_reference", "id": f"msg_{number:032x}00"} for number in range(MAX_REFERENCED + 1)]
    async with proxied(upstream) as client:
        response = await client.post("/v1/responses", json={"model": "devstral-small-2", "input": items})
    assert (response.status_code, response.json()["error"]["param"]) == (400, "input")
    assert upstream.bodies == []


async def test_they_count_before_anything_is_looked_up() -> None:
    body = {"model": "devstral-small-2", "input": "Hi.", "previous_response_id": "resp_1"}
    async with proxied(Vllm(), rate_limit_requests=2) as client:
        answers = [await client.post("/v1/responses", json=body) for _ in range(3)]
        stored = [await client.get("/v1/responses/resp_1") for _ in range(3)]
    assert [answer.status_code for answer in answers] == [400, 400, 429]
    assert [answer.status_code for answer in stored] == [404, 404, 429]  # of no model: they count by themselves
