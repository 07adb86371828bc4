"""What is known of the upstream: asked once, kept, asked again, and never waited for long."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from devstral_proxy.upstream import models
from devstral_proxy.upstream.client import UpstreamClient
from devstral_proxy.upstream.models import Model, Upstream
from tests.server.upstreams import Connection, Raw, Vllm, settings

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def knowing(transport: httpx.AsyncBaseTransport | None, **values: Any) -> AsyncIterator[Upstream]:
    chosen = settings(**values)
    client = UpstreamClient(chosen, transport)
    upstream = Upstream(client, chosen)
    yield upstream
    await upstream.aclose()
    await client.aclose()


async def test_facts() -> None:
    async with knowing(Vllm()) as upstream:
        facts = await upstream.facts()
    assert facts.reachable
    assert facts.version == "0.32.0"
    assert facts.models == {"devstral-small-2": Model("devstral-small-2", "mistralai/Devstral", 4096)}


async def test_they_are_asked_for_once_however_many_wait() -> None:
    vllm = Vllm()
    async with knowing(vllm) as upstream:
        told = await asyncio.gather(*(upstream.facts() for _ in range(10)))
        await upstream.facts()
    assert len({id(facts) for facts in told}) == 1
    assert sorted(one.url.path for one in vllm.requests) == ["/v1/models", "/version"]


async def test_old_facts_serve_while_new_ones_are_asked_for() -> None:
    vllm = Vllm()
    async with knowing(vllm, facts_ttl=0.01) as upstream:
        assert (await upstream.facts()).version == "0.32.0"
        vllm.version = "0.33.0"
        await asyncio.sleep(0.02)
        assert (await upstream.facts()).version == "0.32.0"
        await asyncio.sleep(0.02)
        assert (await upstream.facts()).version == "0.33.0"


async def test_whoever_names_an_age_waits_for_new_ones() -> None:
    vllm = Vllm()
    async with knowing(vllm) as upstream:
        await upstream.facts()
        vllm.version = "0.33.0"
        assert (await upstream.facts(max_age=1000)).version == "0.32.0"
        assert (await upstream.facts(max_age=0)).version == "0.33.0"


async def test_a_failed_connection_forgets_them() -> None:
    vllm = Vllm()
    async with knowing(vllm) as upstream:
        await upstream.facts()
        vllm.version = "0.12.0"
        upstream.forget()
        assert (await upstream.facts()).version == "0.12.0"


async def test_that_nobody_answers_is_not_believed_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "RETRY_AFTER", 0.01)
    vllm = Vllm(others={"/version": httpx.ConnectError(""), "/v1/models": httpx.ConnectError("")})
    async with knowing(vllm) as upstream:
        assert not (await upstream.facts()).reachable
        vllm.others.clear()
        assert not (await upstream.facts()).reachable
        await asyncio.sleep(0.02)
        assert (await upstream.facts()).reachable


async def test_the_setting_goes_before_what_vllm_says() -> None:
    async with knowing(Vllm(version="0.32.0"), vllm_version="0.12.0") as upstream:
        assert (await upstream.facts()).version == "0.12.0"


async def test_a_silent_upstream_costs_one_short_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "ASK_TIMEOUT", 0.05)

    async def handler(raw: Raw, connection: Connection, line: str, body: bytes) -> None:
        raise AssertionError

    silent = Raw(handler)

    async def silence(*_: Any) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(Connection, "whole", silence)
    async with silent.serve() as base, knowing(None, vllm_base=base, vllm_version="0.12.0") as upstream:
        facts = await upstream.facts()
        assert (facts.reachable, facts.version) == (False, "0.12.0")
        # The question is still open: whoever comes now does not wait at all.
        again = asyncio.ensure_future(upstream.facts())
        await asyncio.sleep(0)
        assert again.done()
        assert not again.result().reachable


@pytest.mark.parametrize(
    "listing",
    [
        [],
        {"data": None},
        {"data": [1, None, {"id": 7}, {"id": "m", "root": 5, "max_model_len": "long"}]},
        {"data": [{"id": "m", "root": "", "max_model_len": -1}]},
    ],
)
async def test_odd_listings_do_no_harm(listing: Any) -> None:
    vllm = Vllm(others={"/v1/models": httpx.Response(200, json=listing), "/version": httpx.Response(200, json=[1])})
    async with knowing(vllm) as upstream:
        facts = await upstream.facts()
    assert facts.version is None
    assert facts.models in ({}, {"m": Model("m")})


async def test_what_is_no_json_does_no_harm() -> None:
    html = httpx.Response(200, html="<html>")
    async with knowing(Vllm(others={"/v1/models": html, "/version": html})) as upstream:
        facts = await upstream.facts()
    assert facts.reachable
    assert (facts.version, facts.models) == (None, {})


async def test_a_defect_costs_no_request(caplog: pytest.LogCaptureFixture) -> None:
    async with knowing(Vllm(others={"/version": RuntimeError("x")})) as upstream:
        facts = await upstream.facts()
    assert facts.reachable
    assert facts.version is None
    assert "asking /version failed: RuntimeError" in caplog.text
