"""Requests and tokens a minute: in memory, and in a real Redis that is shared, killed, stopped and brought back."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devstral_proxy.config import load
from devstral_proxy.errors import Overloaded, RateLimited
from devstral_proxy.quotas import Quota
from devstral_proxy.server import limits as module
from devstral_proxy.server.limits import RateLimits, Window, duration, rate_limits
from tests.server.redis_server import RedisServer, redis, redis_server

__all__ = ["redis", "redis_server"]  # fixtures

MODEL = "devstral-small-2"
KINDS = ["memory", "redis"]


def told(headers: list[tuple[bytes, bytes]]) -> dict[str, str]:
    return {name.decode(): value.decode() for name, value in headers}


class Clock:
    """The time for counters in memory, whose minutes are those of the clock: here no minute turns by itself."""

    now = 60_000_000.0

    def time(self) -> float:
        return self.now


class TickingClock(Clock):
    """One that goes on, and begins at a full minute."""

    def __init__(self) -> None:
        self._start = time.monotonic()

    def time(self) -> float:
        return self.now + time.monotonic() - self._start


@pytest.fixture
def url(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str | None:
    """By `indirect`: no URL, or that of a running Redis."""
    if request.param == "redis":
        found: str = request.getfixturevalue("redis").url
        if time.time() % 60 > 54:  # Redis has no clock of ours: no minute may turn during a test
            time.sleep(60 - time.time() % 60)
        return found
    monkeypatch.setattr("limits.aio.storage.memory.time", TickingClock())
    return None


@asynccontextmanager
async def limited(url: str | None = None, length: int = 60, **values: Any) -> AsyncIterator[RateLimits]:
    made = rate_limits(load(redis_url=url, **values), length)
    assert made is not None
    try:
        yield made
    finally:
        await made.aclose()
        await asyncio.sleep(0)


async def admitted(limits: RateLimits, times: int, key: str = "alice", model: str = MODEL) -> int:
    """How many of so many requests got through."""
    count = 0
    for _ in range(times):
        try:
            await limits.admit(key, model)
            count += 1
        except RateLimited:
            pass
    return count


# ---------------------------------------------------------------- one proxy, either storage


def test_without_limits_there_is_nothing() -> None:
    assert rate_limits(load()) is None
    assert rate_limits(load(redis_url="redis://127.0.0.1")) is None
    assert rate_limits(load(rate_limits='{"*": {"*": {"rpm": 0}}}')) is None


@pytest.mark.anyio
@pytest.mark.parametrize("url", KINDS, indirect=True)
async def test_requests_a_minute(url: str | None) -> None:
    async with limited(url, rate_limit_requests=3) as limits:
        for left in (2, 1, 0):
            said = told(await limits.admit("alice", MODEL))
            assert said["x-ratelimit-limit-requests"] == "3"
            assert said["x-ratelimit-remaining-requests"] == str(left)
            assert said["x-ratelimit-reset-requests"].endswith("s")
            assert "x-ratelimit-limit-tokens" not in said
        with pytest.raises(RateLimited) as caught:
            await limits.admit("alice", MODEL)
        error = caught.value
        assert (error.status, error.code) == (429, "rate_limit_exceeded")
        headers = dict(error.headers)
        wait = headers["Retry-After"]
        assert 1 <= int(wait) <= 121
        assert headers["x-ratelimit-remaining-requests"] == "0"
        assert error.message == (
            f"Rate limit reached for {MODEL} on requests per min (RPM): Limit 3, Used 3. Please try again in {wait}s."
        )
        # another key and another model have counters of their own
        assert await admitted(limits, 4, key="bob") == 3
        assert await admitted(limits, 4, model="devstral-2") == 3


@pytest.mark.anyio
@pytest.mark.parametrize("url", KINDS, indirect=True)
async def test_tokens_a_minute(url: str | None) -> None:
    async with limited(url, rate_limit_tokens=100, rate_limit_requests=50) as limits:
        said = told(await limits.admit("alice", MODEL))
        assert said["x-ratelimit-remaining-tokens"] == "100"
        await limits.spend("alice", MODEL, 60)
        await limits.spend("alice", MODEL, 0)
        said = told(await limits.admit("alice", MODEL))
        assert said["x-ratelimit-limit-tokens"] == "100"
        assert said["x-ratelimit-remaining-tokens"] == "40"
        await limits.spend("alice", MODEL, 6000)  # over the limit, and counted all the same
        with pytest.raises(RateLimited, match=r"on tokens per min \(TPM\): Limit 100, Used 60") as caught:
            await limits.admit("alice", MODEL)
        headers = dict(caught.value.headers)
        assert headers["x-ratelimit-remaining-tokens"] == "0"
        assert 58 <= int(headers["Retry-After"]) <= 121
        # what was refused for its tokens is not counted as a request
        assert told(await limits.admit("bob", MODEL))["x-ratelimit-remaining-requests"] == "49"


@pytest.mark.anyio
@pytest.mark.parametrize("url", KINDS, indirect=True)
async def test_rows_of_the_table(url: str | None) -> None:
    table = '{"alice": {"*": {"rpm": 1}, "big": {"rpm": 0}}, "*": {"big": {"rpm": 2, "tpm": 5}}}'
    async with limited(url, rate_limit_requests=4, rate_limits=table) as limits:
        assert await admitted(limits, 9, "alice", MODEL) == 1
        assert await admitted(limits, 9, "alice", "big") == 9
        assert await admitted(limits, 9, "bob", "big") == 2
        assert await admitted(limits, 9, "bob", MODEL) == 4
        await limits.spend("alice", "big", 5)
        with pytest.raises(RateLimited, match="TPM"):
            await limits.admit("alice", "big")


@pytest.mark.anyio
@pytest.mark.parametrize("url", KINDS, indirect=True)
async def test_many_at_once_do_not_get_over_the_limit(url: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("devstral_proxy.server.limits.REDIS_TIMEOUT", 20.0)  # a busy machine is not a lost Redis
    async with limited(url, rate_limit_requests=50) as limits:
        counts = await asyncio.gather(*[admitted(limits, 1) for _ in range(150)])
        assert sum(counts) == 50


@pytest.mark.anyio
@pytest.mark.parametrize("url", KINDS, indirect=True)
async def test_who_waits_as_told_gets_through(url: str | None) -> None:
    """With windows of one second, so that the wait is short: three over the limit, one after the other."""
    async with limited(url, length=1, rate_limit_requests=5) as limits:
        assert await admitted(limits, 5) == 5
        for _ in range(3):
            while True:
                try:
                    await limits.admit("alice", MODEL)
                    break
                except RateLimited as error:
                    wait = int(dict(error.headers)["Retry-After"])
                    assert wait in (1, 2)
                    await asyncio.sleep(wait)
                    assert await admitted(limits, 1) == 1


@pytest.mark.anyio
async def test_the_minute_slides(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr("limits.aio.storage.memory.time", clock)
    async with limited(rate_limit_requests=10) as limits:
        clock.now += 50
        assert await admitted(limits, 12) == 10
        clock.now += 11  # a new minute, a second old: 59/60 of the last one still count
        assert await admitted(limits, 12) == 1
        clock.now += 29
        assert await admitted(limits, 12) == 4
        clock.now += 120
        assert await admitted(limits, 12) == 10


@pytest.mark.anyio
async def test_memory_does_not_grow(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr("limits.aio.storage.memory.time", clock)
    async with limited(rate_limit_requests=10, rate_limit_tokens=10) as limits:
        for _ in range(200):
            clock.now += 60
            await admitted(limits, 1)
            await limits.spend("alice", MODEL, 3)
            await asyncio.sleep(0)
        storage: Any = limits._storage
        assert len(storage.storage) + len(storage.expirations) + len(storage.locks) < 30


# ---------------------------------------------------------------- several proxies on one Redis


@pytest.mark.anyio
async def test_three_proxies_share_counters(redis: RedisServer) -> None:
    values: dict[str, Any] = {"rate_limit_requests": 10, "rate_limit_tokens": 100}
    async with limited(redis.url, **values) as a, limited(redis.url, **values) as b, limited(redis.url, **values) as c:
        counts = await asyncio.gather(*[admitted(proxy, 10) for proxy in (a, b, c)])
        assert sum(counts) == 10
        await a.spend("bob", MODEL, 50)
        await b.spend("bob", MODEL, 50)
        with pytest.raises(RateLimited, match="TPM"):
            await c.admit("bob", MODEL)


@pytest.mark.anyio
async def test_a_proxy_that_starts_later_knows_what_was_used(redis: RedisServer) -> None:
    async with limited(redis.url, rate_limit_requests=3) as first:
        assert await admitted(first, 2) == 2
    async with limited(redis.url, rate_limit_requests=3) as second:
        assert await admitted(second, 5) == 1


# ---------------------------------------------------------------- Redis gone


@pytest.fixture
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "REDIS_PAUSE", 0.05)


async def until_back(limits: RateLimits) -> dict[str, str]:
    """Headers of the first request that Redis counted again."""
    for _ in range(200):
        await asyncio.sleep(0.03)
        try:
            if headers := await limits.admit("alice", MODEL):
                return told(headers)
        except Overloaded:
            pass
    raise AssertionError("Redis is back, and nobody noticed")


@pytest.mark.anyio
@pytest.mark.usefixtures("_short")
async def test_open_without_redis(redis: RedisServer, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "devstral_proxy.limits")
    async with limited(redis.url, rate_limit_requests=3) as limits:
        assert await admitted(limits, 5) == 3
        redis.kill()
        for _ in range(20):
            assert await limits.admit("alice", MODEL) == []
            await limits.spend("alice", MODEL, 5)
            await asyncio.sleep(0.01)
        warnings = [record for record in caplog.records if record.levelname == "WARNING"]
        assert len(warnings) == 1
        assert "no rate limits are enforced" in warnings[0].message
        redis.start()
        assert (await until_back(limits))["x-ratelimit-remaining-requests"] == "2"
        assert await admitted(limits, 5) == 2
        assert "Redis answers again" in caplog.text
        assert redis.url not in caplog.text


@pytest.mark.anyio
@pytest.mark.usefixtures("_short")
async def test_closed_without_redis(redis: RedisServer) -> None:
    async with limited(redis.url, rate_limit_requests=3, redis_failure="closed") as limits:
        assert await admitted(limits, 5) == 3
        redis.kill()
        for _ in range(20):
            with pytest.raises(Overloaded) as caught:
                await limits.admit("alice", MODEL)
            assert caught.value.status == 503
            assert int(dict(caught.value.headers)["Retry-After"]) >= 1
            await limits.spend("alice", MODEL, 5)
            await asyncio.sleep(0.01)
        redis.start()
        assert (await until_back(limits))["x-ratelimit-remaining-requests"] == "2"


@pytest.mark.anyio
async def test_a_redis_that_hangs_is_asked_once_in_a_while(redis: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "REDIS_TIMEOUT", 0.1)
    asked = 0
    real = RateLimits._counted

    async def counted(self: RateLimits, key: str, model: str, quota: Quota) -> list[tuple[bytes, bytes]]:
        nonlocal asked
        asked += 1
        return await real(self, key, model, quota)

    monkeypatch.setattr(RateLimits, "_counted", counted)
    async with limited(redis.url, rate_limit_requests=1000) as limits:
        await limits.admit("alice", MODEL)
        redis.hang()
        asked = 0
        for _ in range(100):
            assert await limits.admit("alice", MODEL) == []
        assert asked == 1  # the first waited REDIS_TIMEOUT, the others not at all
        monkeypatch.setattr(module, "REDIS_PAUSE", 0.05)
        limits._ask_from = 0.0
        redis.go_on()
        assert "x-ratelimit-limit-requests" in await until_back(limits)


@pytest.mark.anyio
@pytest.mark.usefixtures("_short")
async def test_a_redis_that_is_not_there_at_the_start(redis: RedisServer) -> None:
    redis.kill()
    async with limited(redis.url, rate_limit_requests=3) as limits:
        assert await limits.admit("alice", MODEL) == []
        redis.start()
        assert (await until_back(limits))["x-ratelimit-limit-requests"] == "3"


@pytest.mark.anyio
async def test_clients_that_leave_while_redis_is_asked_do_no_harm(redis: RedisServer) -> None:
    async with limited(redis.url, rate_limit_requests=100_000) as limits:
        for round_ in range(50):
            tasks = [asyncio.create_task(limits.admit("alice", MODEL)) for _ in range(20)]
            for _ in range(round_ % 5):
                await asyncio.sleep(0)
            for task in tasks[::2]:
                task.cancel()
            ends = await asyncio.gather(*tasks, return_exceptions=True)
            assert all(isinstance(end, list) and end for end in ends[1::2])


# ---------------------------------------------------------------- the arithmetic


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0ms"),
        (0.006, "6ms"),
        (0.9994, "999ms"),
        (0.9996, "1s"),
        (1, "1s"),
        (8.64, "8.64s"),
        (59.7, "59.7s"),
        (59.9999, "1m0s"),
        (60, "1m0s"),
        (119.5, "1m59.5s"),
        (3600, "1h0m0s"),
        (7265.25, "2h1m5.25s"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def later(window: Window, seconds: float, length: int) -> Window:
    """The same counters so many seconds later, nothing added."""
    left = window.current_ttl - seconds
    if left > length:
        return Window(window.previous, max(window.previous_ttl - seconds, 0.0), window.current, left)
    return Window(window.current, max(left, 0.0), 0, 0.0)


@given(st.integers(0, 500), st.integers(1, 500), st.floats(0, 60, allow_subnormal=False), st.integers(1, 100))
def test_the_wait_that_is_told_is_enough_and_not_too_long(previous: int, current: int, age: float, limit: int) -> None:
    window = Window(previous, 60 - age, current, 120 - age)
    wait = window.free_in(limit, 60)
    assert 0 <= wait <= 120
    assert later(window, int(wait) + 1, 60).used(60) < limit
    if wait > 0.01:
        assert later(window, wait - 0.01, 60).used(60) >= limit
    assert later(window, window.reset_in() + 0.001, 60).used(60) == 0
