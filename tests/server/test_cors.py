"""Web pages: none may call the proxy, unless CORS_ORIGINS says so."""

from __future__ import annotations

import httpx
import pytest

from tests.server.upstreams import Vllm, proxied, request

pytestmark = pytest.mark.anyio

CHAT = "/v1/chat/completions"
PAGE = {"origin": "https://page.example"}
PREFLIGHT = {**PAGE, "access-control-request-method": "POST", "access-control-request-headers": "authorization"}


async def test_by_default_no_answer_has_a_cors_header() -> None:
    async with proxied(Vllm(), api_keys="a:sk-1") as client:
        answers = [
            await client.post(CHAT, json=request(), headers={**PAGE, "authorization": "Bearer sk-1"}),
            await client.options(CHAT, headers=PREFLIGHT),
            await client.get("/health", headers=PAGE),
        ]
    assert [answer.status_code for answer in answers] == [200, 401, 200]
    assert not [name for answer in answers for name in answer.headers if name.startswith("access-control")]


@pytest.mark.parametrize("origins", ["https://other.example, https://page.example", "*"])
async def test_with_origins_their_pages_may(origins: str) -> None:
    async with proxied(Vllm(), cors_origins=origins) as client:
        asked = await client.options(CHAT, headers=PREFLIGHT)
        answer = await client.post(CHAT, json=request(), headers=PAGE)
        refused = await client.post(CHAT, json={}, headers=PAGE)
    for one in (asked, answer, refused):
        assert one.headers["access-control-allow-origin"] in ("*", PAGE["origin"])
    assert (asked.status_code, answer.status_code, refused.status_code) == (200, 200, 400)


async def test_pages_of_other_origins_still_may_not() -> None:
    async with proxied(Vllm(), cors_origins="https://other.example") as client:
        answer = await client.post(CHAT, json=request(), headers=PAGE)
        asked = await client.options(CHAT, headers=PREFLIGHT)
    assert asked.status_code == 400
    assert "access-control-allow-origin" not in answer.headers


async def test_no_answer_is_taken_for_a_page() -> None:
    answers: list[httpx.Response] = []
    async with proxied(Vllm()) as client:
        answers += [await client.post(CHAT, json=request()), await client.get("/nowhere"), await client.get("/")]
    assert {answer.headers["x-content-type-options"] for answer in answers} == {"nosniff"}
