"""Health checks: who is asked, how often, and what comes of it."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from devstral_proxy.upstream import health
from devstral_proxy.upstream.fleet import Fleet
from tests.server.upstreams import MODELS, settings

pytestmark = pytest.mark.anyio


class Servers(httpx.AsyncBaseTransport):
    """Several servers by host, each with what its /health does; /version and /v1/models answer."""

    def __init__(self, **health: Any) -> None:
        self.health: dict[str, Any] = health
        self.asked: Counter[tuple[str, str]] = Counter()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        host, path = request.url.host, request.url.path
        self.asked[host, path] += 1
        what = self.health[host] if path == "/health" else 200
        if isinstance(what, Exception):
            raise what
        if what == "hang":
            await asyncio.Event().wait()
        if path == "/version":
            return httpx.Response(what, json={"version": "0.32.0"})
        return httpx.Response(what, json=MODELS if path == "/v1/models" else {})


@asynccontextmanager
async def checking(servers: Servers, single: bool = False, **values: Any) -> AsyncIterator[Fleet]:
    values = {"health_interval": 0.01, "health_timeout": 0.05, "breaker_open": 60, **values}
    if not single:
        values["upstreams"] = json.dumps({"m": {"servers": [f"http://{name}" for name in servers.health]}})
    fleet = Fleet(settings(**values), servers)
    await fleet.start()
    yield fleet
    await fleet.aclose()
    asked = servers.asked.total()
    await asyncio.sleep(0.03)
    assert servers.asked.total() == asked, "a check has outlived the fleet"


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not true():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


async def test_all_are_asked_again_and_again_and_facts_are_kept() -> None:
    servers = Servers(a=200, b=200)
    async with checking(servers) as fleet:
        await until(lambda: min(servers.asked["a", "/health"], servers.asked["b", "/health"]) > 3)
        assert all(target.checked for target in fleet.targets)
        await until(lambda: all(target.facts.known.reachable for target in fleet.targets))
    assert servers.asked["a", "/version"] == 1


@pytest.mark.parametrize("fault", [503, 500, httpx.ConnectError(""), httpx.ReadTimeout(""), "hang", 302])
async def test_one_that_fails_is_left_alone_and_does_not_hold_the_others_up(fault: Any) -> None:
    servers = Servers(a=fault, b=200)
    async with checking(servers) as fleet:
        bad, good = fleet.targets
        await until(lambda: bad.breaker.state == "open")
        seen = servers.asked["b", "/health"]
        await until(lambda: servers.asked["b", "/health"] > seen + 3)
        assert (bad.checked, good.checked, good.breaker.state) == (False, True, "closed")
        assert [candidate.target.name for candidate in fleet.resolve("m").candidates(b"")] == ["b"]
        servers.health["a"] = 200
        # Long before the breaker's own time is over.
        await until(lambda: len(fleet.resolve("m").candidates(b"")) == 2)


async def test_a_server_that_only_its_check_says_fails_is_used_again_after_an_answer() -> None:
    servers = Servers(a=503, b=200)
    async with checking(servers) as fleet:
        bad = fleet.targets[0]
        await until(lambda: bad.breaker.state == "open")
        bad.answered(200)
        assert (bad.breaker.state, bad.checked) == ("closed", None)


async def test_a_server_without_health_is_asked_for_its_models() -> None:
    servers = Servers(a=404, b=200)
    async with checking(servers) as fleet:
        await until(lambda: servers.asked["a", "/v1/models"] > 4)
        assert fleet.targets[0].checked
    assert servers.asked["a", "/health"] == 1


@pytest.mark.parametrize("status", [200, 401, 404])
async def test_whoever_answers_is_there(status: int) -> None:
    async with checking(Servers(a=status, b=200)) as fleet:
        await until(lambda: fleet.targets[0].checked is True)


async def test_a_full_pool_of_ours_says_nothing() -> None:
    servers = Servers(a=httpx.PoolTimeout(""), b=200)
    async with checking(servers) as fleet:
        await until(lambda: servers.asked["a", "/health"] > 5)
        assert (fleet.targets[0].checked, fleet.targets[0].breaker.state) == (None, "closed")


async def test_a_single_server_is_asked_only_while_it_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "RECHECK", 0.01)
    servers = Servers(**{"vllm.test": 503})
    async with checking(servers, single=True, health_interval=60) as fleet:
        await asyncio.sleep(0.03)
        assert not servers.asked
        target = fleet.targets[0]
        for _ in range(5):
            target.answered(503)
        await until(lambda: servers.asked["vllm.test", "/health"] > 2)
        assert not target.breaker.ready(fleet.clock())
        servers.health["vllm.test"] = 200
        await until(lambda: target.breaker.ready(fleet.clock()))
        target.answered(200)
        await asyncio.sleep(0.03)
        asked = servers.asked.total()
        await asyncio.sleep(0.05)
        assert servers.asked.total() == asked


async def test_nothing_runs_when_nothing_is_to_run() -> None:
    servers = Servers(a=200, b=200)
    before = len(asyncio.all_tasks())
    async with checking(servers, health_interval=0) as fleet:
        assert len(asyncio.all_tasks()) == before
        fleet.targets[0].answered(503)
        await asyncio.sleep(0.03)
    assert not servers.asked


async def test_a_defect_does_not_end_the_checks(caplog: pytest.LogCaptureFixture) -> None:
    servers = Servers(a=RuntimeError("x"), b=200)
    async with checking(servers) as fleet:
        await until(lambda: servers.asked["a", "/health"] > 3)
        assert fleet.targets[0].checked is None
    assert "the health check of a failed: RuntimeError" in caplog.text
