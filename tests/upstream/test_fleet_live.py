"""Three servers on real sockets, under load, while one of them dies and comes back."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest

from devstral_proxy.errors import Overloaded, UpstreamError
from devstral_proxy.mistral.refusals import translated
from devstral_proxy.upstream.affinity import affinity_of
from devstral_proxy.upstream.attempts import Attempt, send
from devstral_proxy.upstream.fleet import Fleet
from tests.server.upstreams import COMPLETION, Connection, Raw, settings

pytestmark = pytest.mark.anyio

PATH = "/v1/chat/completions"
ANSWER = json.dumps(COMPLETION).encode()


class Server:
    """A server that can be killed with all its connections, and started again at the same port."""

    def __init__(self, behaviour: str = "answers") -> None:
        self.behaviour = behaviour
        self.answered = 0
        self.port = 0
        self._raw = Raw(self._handler)
        self._life = AsyncExitStack()
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._raw._connected, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def kill(self) -> None:
        assert self._server is not None
        self._server.close()
        for task in list(self._raw._tasks):
            task.cancel()
        for connection in self._raw.connections:
            connection.writer.transport.abort()
        await asyncio.gather(*self._raw._tasks, return_exceptions=True)
        self._raw.connections.clear()
        await self._server.wait_closed()

    async def _handler(self, raw: Raw, connection: Connection, line: str, body: bytes) -> None:
        if line.startswith("GET /health"):
            await connection.whole(b"")
            return
        match self.behaviour:
            case "silent":
                await connection.until_closed()
                raise ConnectionError
            case "refuses":
                await connection.whole(b"{}", status=b"503 Service Unavailable")
            case "cuts":
                await connection.send(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf")
                connection.writer.transport.abort()
                raise ConnectionError
            case _:
                await asyncio.sleep(0.002)
                self.answered += 1
                await connection.whole(ANSWER)


@asynccontextmanager
async def three(*behaviours: str, **values: Any) -> Any:
    servers = [Server(behaviour) for behaviour in (behaviours or ("answers",) * 3)]
    for server in servers:
        await server.start()
    listed = [{"url": f"http://127.0.0.1:{server.port}", "name": f"s{n}"} for n, server in enumerate(servers)]
    values = {"breaker_failures": 3, "breaker_open": 0.2, "health_interval": 0, **values}
    fleet = Fleet(settings(upstreams=json.dumps({"m": {"servers": listed}}), **values))
    await fleet.start()
    try:
        yield fleet, servers
    finally:
        await fleet.aclose()
        for server in servers:
            await server.kill()


async def ask(fleet: Fleet, conversation: int) -> str:
    """The name of the server that has answered."""
    body = {"model": "m", "messages": [{"role": "user", "content": str(conversation)}]}

    async def once(attempt: Attempt) -> str:
        async with attempt.target.client.open("POST", PATH, json.dumps(body).encode(), first_byte=0.3) as answer:
            attempt.answered(answer.status, answer.retry_after)
            data = await answer.read(10_000)
            if answer.status != 200:
                raise translated(answer.status, data, None)
            assert data == ANSWER
            return attempt.target.name

    return await send(fleet, fleet.resolve("m"), affinity_of(body, ""), once)


async def until_all_answer(fleet: Fleet) -> None:
    async with asyncio.timeout(10):
        while any(target.breaker.state != "closed" for target in fleet.targets):
            await asyncio.gather(*(ask(fleet, conversation) for conversation in range(20)))
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("checks", [0, 0.05])
async def test_one_dies_and_comes_back_under_load_and_no_request_fails(checks: float) -> None:
    async with three(health_interval=checks) as (fleet, servers):
        over = False
        done: Counter[str] = Counter()

        async def agent(conversation: int) -> None:
            while not over:
                done[await ask(fleet, conversation)] += 1

        agents = [asyncio.create_task(agent(number)) for number in range(12)]
        for _ in range(2):
            for server in servers[:2]:
                await asyncio.sleep(0.1)
                await server.kill()
                dead = servers.index(server)
                async with asyncio.timeout(10):
                    while fleet.targets[dead].breaker.state == "closed":  # noqa: ASYNC110
                        await asyncio.sleep(0.005)
                before = server.answered
                await asyncio.sleep(0.1)
                assert server.answered == before
                await server.start()
                await until_all_answer(fleet)
        over = True
        await asyncio.gather(*agents)
        assert set(done) == {"s0", "s1", "s2"}
        assert all(target.running == 0 for target in fleet.targets)


async def test_a_conversation_stays_where_it_is() -> None:
    async with three() as (fleet, servers):
        first = {number: await ask(fleet, number) for number in range(30)}
        assert set(first.values()) == {"s0", "s1", "s2"}
        await servers[1].kill()
        for number, name in first.items():
            told = await ask(fleet, number)
            assert told == name if name != "s1" else told != "s1"
        await servers[1].start()
        await until_all_answer(fleet)
        assert {number: await ask(fleet, number) for number in range(30)} == first


@pytest.mark.parametrize("behaviour", ["silent", "refuses", "cuts"])
async def test_a_server_that_misbehaves_costs_no_request(behaviour: str) -> None:
    async with three(behaviour, "answers", "answers") as (fleet, _):
        assert {await ask(fleet, number) for number in range(9)} == {"s1", "s2"}


async def test_all_dead_is_told_at_once_and_ends_by_itself() -> None:
    async with three(breaker_failures=1) as (fleet, servers):
        for server in servers:
            await server.kill()
        with pytest.raises(UpstreamError):
            await ask(fleet, 1)
        with pytest.raises(Overloaded):
            await ask(fleet, 1)
        for server in servers:
            await server.start()
        await asyncio.sleep(0.25)
        assert await ask(fleet, 1)
        await until_all_answer(fleet)
