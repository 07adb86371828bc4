"""Every fault of the table in simulator/faults.py."""

from __future__ import annotations

import json
from typing import Any

import anyio
import httpx
import pytest

from devstral_proxy.simulator.faults import CutOff
from tests.simulator.asking import CHAT, QUESTION, application, chat, client, events

STREAMED = {**QUESTION, "stream": True}


@pytest.mark.parametrize("status", [400, 401, 404, 429, 500, 503])
@pytest.mark.anyio
async def test_errors(status: int) -> None:
    response = await chat(application(), {}, x_simulate=str(status))
    assert response.status_code == status
    assert ("retry-after" in response.headers) == (status in (429, 503))
    if status != 401:
        assert response.json()["error"]["code"] == status


@pytest.mark.parametrize(
    ("name", "status", "kind", "content"),
    [
        ("redirect", 307, None, b""),
        ("html", 200, "text/html; charset=utf-8", None),
        ("half-json", 200, "application/json", None),
        ("empty", 200, "application/json", b""),
    ],
)
@pytest.mark.anyio
async def test_strange_bodies(name: str, status: int, kind: str | None, content: bytes | None) -> None:
    response = await chat(application(), QUESTION, x_simulate=name)
    assert response.status_code == status
    assert response.headers.get("content-type") == kind
    assert content is None or response.content == content
    with pytest.raises(ValueError):
        json.loads(response.content)


@pytest.mark.parametrize("body", [QUESTION, STREAMED])
@pytest.mark.anyio
async def test_cut(body: dict[str, Any]) -> None:
    with pytest.raises(CutOff):
        await chat(application(), body, x_simulate="cut")


@pytest.mark.anyio
async def test_error_event() -> None:
    first, second, error, done = events(await chat(application(), STREAMED, x_simulate="error-event"))
    assert first["choices"][0]["finish_reason"] is second["choices"][0]["finish_reason"] is None
    assert (error["error"]["code"], done) == (500, "[DONE]")


@pytest.mark.anyio
async def test_no_finish() -> None:
    *chunks, done = events(await chat(application(), STREAMED, x_simulate="no-finish"))
    assert done == "[DONE]"
    assert {choice["finish_reason"] for chunk in chunks for choice in chunk["choices"]} == {None}


@pytest.mark.anyio
async def test_no_done() -> None:
    last = events(await chat(application(), STREAMED, x_simulate="no-done"))[-1]
    assert last["choices"][0]["finish_reason"] == "stop"


@pytest.mark.parametrize("name", ["stall:0.01", "slow-first:0.01"])
@pytest.mark.parametrize("body", [QUESTION, STREAMED])
@pytest.mark.anyio
async def test_silence_changes_nothing_else(name: str, body: dict[str, Any]) -> None:
    plain = await chat(application(), body, x_request_id="x")
    slow = await chat(application(), body, x_simulate=name, x_request_id="x")
    assert len(slow.content) == len(plain.content)


@pytest.mark.anyio
async def test_stall_stalls() -> None:
    with anyio.move_on_after(0.2) as scope:
        await chat(application(), STREAMED, x_simulate="stall:30")
    assert scope.cancelled_caught


@pytest.mark.anyio
async def test_unknown_faults_are_told() -> None:
    assert (await chat(application(), QUESTION, x_simulate="fire")).status_code == 400


@pytest.mark.anyio
async def test_faults_hit_completions_too() -> None:
    async with client(application()) as asking:
        response = await asking.post(
            "/v1/completions", json={"prompt": "hi", "stream": True}, headers={"x-simulate": "no-done"}
        )
    assert events(response)[-1] != "[DONE]"


@pytest.mark.anyio
async def test_a_refused_request_stays_refused() -> None:
    async with client(application()) as asking:
        response = await asking.post(CHAT, json={}, headers={"x-simulate": "cut"})
    assert response.status_code == 400
    assert isinstance(response, httpx.Response)
