"""Rate limits of proxies that are processes, one or three of them on one Redis: together they let through what one
would; Redis is killed in the middle, and comes back."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.integration.faults.rig import CHAT, Raw, error_of, good
from tests.integration.serving import SECONDS, Serving, serving
from tests.server.redis_server import RedisServer, redis, redis_server

__all__ = ["redis", "redis_server"]  # fixtures
pytestmark = pytest.mark.anyio

LIMIT = 8
KEYS = [f"k{number}" for number in range(12)]
NAMES = {f"x-ratelimit-{what}-requests" for what in ("limit", "remaining", "reset")}


class Proxies:
    """Proxies on one Redis and one upstream, and a client of each."""

    def __init__(self, processes: Sequence[Serving], clients: Sequence[httpx.AsyncClient], upstream: Raw) -> None:
        self.processes = processes
        self._clients = clients
        self._upstream = upstream
        self._keys = iter(KEYS)
        self._turns = itertools.cycle(clients)

    async def ask(self, key: str, count: int, at_once: bool = False) -> list[httpx.Response]:
        """So many requests of this key, one proxy after the other."""
        asked = [
            client.post(CHAT.path, json=CHAT.request(), headers={"authorization": f"Bearer sk-{key}"})
            for client in itertools.islice(self._turns, count)
        ]
        if at_once:
            return list(await asyncio.gather(*asked))
        return [await one for one in asked]

    async def together(self, count: int, at_once: bool = False) -> tuple[str, list[httpx.Response]]:
        """The same of a key that has not come yet, within one minute of the clock: the counters' windows are those."""
        while True:
            key, minute = next(self._keys), time.time() // 60
            before = len(self._upstream.asked)
            answers = await self.ask(key, count, at_once)
            passed = [answer for answer in answers if answer.status_code == 200]
            assert len(self._upstream.asked) - before == len(passed)
            if time.time() // 60 == minute:
                return key, answers

    async def hold(self) -> str:
        """Together they let through the limit, and no more. The key that has used it up."""
        key, answers = await self.together(3 * LIMIT)
        assert [answer.status_code for answer in answers] == [200] * LIMIT + [429] * 2 * LIMIT
        for place, answer in enumerate(answers):
            assert answer.headers.keys() >= NAMES
            assert answer.headers["x-ratelimit-limit-requests"] == str(LIMIT)
            assert answer.headers["x-ratelimit-remaining-requests"] == str(max(LIMIT - 1 - place, 0))
        for answer in answers[LIMIT:]:
            assert error_of(CHAT, answer)["code"] == "rate_limit_exceeded"
            assert 1 <= int(answer.headers["retry-after"]) <= 121
        return key

    async def line(self, says: str) -> None:
        """Each has logged it."""
        for process in self.processes:
            await process.line(says)

    async def until_counted(self, key: str) -> None:
        """Each has found Redis again."""
        for client in self._clients:
            async with asyncio.timeout(SECONDS):
                while True:
                    answer = await client.post(
                        CHAT.path, json=CHAT.request(), headers={"authorization": f"Bearer sk-{key}"}
                    )
                    if answer.headers.keys() >= NAMES:
                        break
                    await asyncio.sleep(0.05)


@asynccontextmanager
async def proxies(count: int, folder: Path, redis: RedisServer, **more: Any) -> AsyncIterator[Proxies]:
    upstream = Raw(good)
    async with upstream.serve() as vllm, AsyncExitStack() as stack:
        values = {
            "vllm_base": vllm,
            "redis_url": redis.url,
            "rate_limit_requests": LIMIT,
            "api_keys": ",".join(f"{key}:sk-{key}" for key in KEYS),
            **more,
        }
        processes = [await stack.enter_async_context(serving(folder, values)) for _ in range(count)]
        bases = [await process.base() for process in processes]
        clients = [
            await stack.enter_async_context(httpx.AsyncClient(base_url=base, timeout=SECONDS, trust_env=False))
            for base in bases
        ]
        yield Proxies(processes, clients, upstream)


@pytest.mark.parametrize("count", [1, 3])
async def test_together_they_let_the_limit_through(count: int, tmp_path: Path, redis: RedisServer) -> None:
    async with proxies(count, tmp_path, redis) as together:
        await together.hold()
        await together.hold()  # another key has a limit of its own
        _, answers = await together.together(3 * LIMIT, at_once=True)
        assert sorted(answer.status_code for answer in answers) == [200] * LIMIT + [429] * 2 * LIMIT


@pytest.mark.parametrize("failure", ["open", "closed"])
async def test_redis_is_killed_and_comes_back(failure: str, tmp_path: Path, redis: RedisServer) -> None:
    async with proxies(3, tmp_path, redis, redis_failure=failure) as together:
        key = await together.hold()
        redis.kill()
        for answer in await together.ask(key, 3 * LIMIT):  # it has used up its limit, but who knows that now?
            assert not NAMES & answer.headers.keys()
            if failure == "open":
                assert answer.status_code == 200
            else:
                assert answer.status_code == 503
                assert error_of(CHAT, answer)["code"] == "overloaded"
                assert int(answer.headers["retry-after"]) >= 1
        await together.line("REDIS_URL does not answer")
        redis.start()
        await together.until_counted(key)
        await together.line("Redis answers again")
        await together.hold()
