"""Several servers behind the whole proxy: one that fails costs no request, and none is sent again once it has begun."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from tests.integration.faults.rig import (
    ANSWER,
    APIS,
    BEGUN,
    MESSAGES,
    STREAM,
    Api,
    Connection,
    Proxy,
    Raw,
    each,
    ending,
    error_of,
    served,
    until,
    value,
)
from tests.server.upstreams import MODEL

pytestmark = pytest.mark.anyio


class Replica:
    """A server that can be killed with all its connections, and started again at the same port."""

    def __init__(self, name: str, behaviour: str = "answers") -> None:
        self.name = name
        self.behaviour = behaviour
        self.asked = 0
        self.port = 0
        self._raw = Raw(self._handler)
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._raw._connected, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def kill(self) -> None:
        assert self._server is not None
        self._server.close()
        tasks = list(self._raw._tasks)
        for task in tasks:
            task.cancel()
        for connection in self._raw.connections:
            connection.writer.transport.abort()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._raw.connections.clear()
        await self._server.wait_closed()

    async def _handler(self, raw: Raw, connection: Connection, line: str, body: bytes) -> None:
        if line.startswith("GET /health"):
            await connection.whole(b"")
            return
        self.asked += 1
        request = json.loads(body)
        match self.behaviour:
            case "503":
                await connection.whole(b"{}", status=b"503 Service Unavailable")
            case "429":
                await connection.whole(b"{}", status=b"429 Too Many Requests")
            case "500" | "400":
                await connection.whole(b'{"error":{"message":"no"}}', status=self.behaviour.encode() + b" X")
            case "silent":
                await connection.until_closed()
            case "cuts":
                await connection.send(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf")
                raise ConnectionError
            case "cuts the stream":
                await connection.head()
                await connection.piece(BEGUN)
                await asyncio.sleep(0.02)
                raise ConnectionError
            case _:
                answer = ANSWER.replace(b"chatcmpl-1", f"chatcmpl-{self.name}".encode())
                await connection.whole(*((STREAM, b"text/event-stream") if request.get("stream") else (answer,)))


@asynccontextmanager
async def replicas(*behaviours: str, more: Any = None, **values: Any) -> AsyncIterator[tuple[Proxy, list[Replica]]]:
    """The proxy before so many replicas of one model."""
    servers = [Replica(f"r{number}", behaviour) for number, behaviour in enumerate(behaviours)]
    for server in servers:
        await server.start()
    listed = [{"url": f"http://127.0.0.1:{server.port}", "name": server.name} for server in servers]
    upstreams = {MODEL: {"servers": listed}}
    if more is not None:
        upstreams = more(listed)
    values = {"breaker_failures": 3, "breaker_open": 0.2, "health_interval": 0, "vllm_version": "0.32.0", **values}
    try:
        async with served("http://127.0.0.1:9", upstreams=json.dumps(upstreams), **values) as proxy:
            yield proxy, servers
    finally:
        for server in servers:
            await server.kill()


@pytest.mark.parametrize("checks", [0, 0.05])
async def test_one_of_three_dies_and_comes_back_under_load(checks: float) -> None:
    async with replicas("answers", "answers", "answers", health_interval=checks) as (proxy, servers):
        over = False
        done: Counter[str] = Counter()

        async def agent(number: int) -> None:
            api = APIS[number % len(APIS)]
            while not over:
                for stream in (False, True):
                    response = await proxy.ask(api, f"conversation {number}", stream)
                    assert response.status_code == 200, response.text
                    assert not stream or ending(api, response.content).clean
                    done[api.name] += 1

        agents = [asyncio.create_task(agent(number)) for number in range(16)]
        targets = proxy.services.fleet.targets
        for number, server in enumerate(servers):
            await until(lambda: min(done.values(), default=0) > 5)
            await server.kill()
            await until(lambda n=number: targets[n].breaker.state != "closed")  # type: ignore[misc]
            await server.start()
            await until(lambda n=number: targets[n].breaker.state == "closed")  # type: ignore[misc]
            done.clear()
        over = True
        await asyncio.gather(*agents)
        await until(lambda: proxy.idle)
        found = await proxy.metrics()
        assert value(found, "devstral_proxy_upstream_errors_total") >= 1
        assert value(found, "devstral_proxy_requests_total", http_response_status_code="200") >= sum(done.values())


@pytest.mark.parametrize("behaviour", ["503", "429", "silent", "cuts", "500", "400", "cuts the stream"])
async def test_what_may_be_asked_elsewhere_and_what_not(behaviour: str) -> None:
    values = {"breaker_failures": 0, "first_byte_timeout": 0.1, "request_timeout": 20, "retry_max": 5}
    async with replicas(behaviour, "answers", **values) as (proxy, (bad, fine)):
        for api in APIS:
            bad.asked = fine.asked = 0
            answered = await asyncio.gather(*(proxy.ask(api, f"{number}", stream=True) for number in range(8)))
            assert bad.asked, "none of the conversations is at home there"
            if behaviour in ("500", "400"):
                refused = [one for one in answered if one.status_code == int(behaviour)]
                assert len(refused) == bad.asked
                assert bad.asked + fine.asked == 8
            elif behaviour == "cuts the stream":
                broken = [one for one in answered if not ending(api, one.content).clean]
                assert len(broken) == bad.asked  # each has been asked once, and nobody instead of it
                assert bad.asked + fine.asked == 8
            else:
                assert all(ending(api, one.content).clean for one in answered)
                assert fine.asked == 8
            await until(lambda: proxy.idle)


@each(*APIS)
async def test_the_breaker_opens_answers_fast_and_closes_again(api: Api) -> None:
    async with replicas("answers") as (proxy, (server,)):
        assert (await proxy.ask(api)).status_code == 200
        await server.kill()
        for _ in range(3):
            response = await proxy.ask(api)
            assert response.status_code == 502
            error_of(api, response)
        for stream in (False, True):
            refused = await proxy.ask(api, stream=stream)
            assert refused.status_code == 503
            assert int(refused.headers["retry-after"]) >= 1
            error = error_of(api, refused)
            assert error["type"] == ("overloaded_error" if api is MESSAGES else "server_error")
        found = await proxy.metrics()
        assert value(found, "devstral_proxy_upstream_breaker", upstream="r0", state="open") == 1
        await server.start()
        await until(lambda: proxy.services.fleet.targets[0].breaker.ready(proxy.services.fleet.clock()))
        assert (await proxy.ask(api)).status_code == 200
        found = await proxy.metrics()
        assert value(found, "devstral_proxy_upstream_breaker", upstream="r0", state="closed") == 1
        await proxy.works(api)


async def test_a_probe_that_leaves_lets_the_next_one_probe() -> None:
    async with replicas("answers") as (proxy, (server,)):
        await server.kill()
        for _ in range(3):
            await proxy.ask(APIS[0])
        server.behaviour = "silent"
        await server.start()
        breaker, clock = proxy.services.fleet.targets[0].breaker, proxy.services.fleet.clock
        await until(lambda: breaker.ready(clock()))
        probe = asyncio.create_task(proxy.ask(APIS[0]))
        await until(lambda: server.asked == 1)
        assert (await proxy.ask(APIS[0])).status_code == 503
        probe.cancel()
        await asyncio.wait({probe})
        await until(lambda: proxy.idle)
        server.behaviour = "answers"
        assert (await proxy.ask(APIS[0])).status_code == 200


async def test_a_conversation_stays_at_its_replica_through_all_apis() -> None:
    async with replicas("answers", "answers", "answers") as (proxy, servers):
        for api in APIS:
            homes = set()
            for number in range(12):
                before = [server.asked for server in servers]
                for turn in range(4):
                    more: dict[str, Any] = {}
                    if "messages" in api.request():
                        said = [{"role": "user", "content": f"c{number}"}]
                        for earlier in range(turn):
                            said += [{"role": "assistant", "content": "ok"}, {"role": "user", "content": f"t{earlier}"}]
                        more["messages"] = said
                    response = await proxy.ask(api, f"c{number}", **more)
                    assert response.status_code == 200
                asked = [server.asked - one for server, one in zip(servers, before, strict=True)]
                assert sorted(asked) == [0, 0, 4], (api.name, asked)
                homes.add(asked.index(4))
            assert homes == {0, 1, 2}


@each(*APIS)
async def test_another_model_steps_in(api: Api) -> None:
    def both(listed: list[Any]) -> dict[str, Any]:
        return {
            MODEL: {"servers": listed[:1], "fallback": ["small"], "aliases": ["coder"]},
            "small": {"servers": listed[1:], "served": "served-small"},
        }

    async with replicas("answers", "answers", more=both) as (proxy, (own, small)):
        assert (await proxy.ask(api, model="coder")).status_code == 200
        assert (own.asked, small.asked) == (1, 0)
        await own.kill()
        for stream in (False, True):
            response = await proxy.ask(api, stream=stream)
            assert response.status_code == 200, response.text
            assert not stream or ending(api, response.content).clean
        assert small.asked == 2
        assert json.loads(small._raw.asked[-1][1])["model"] == "served-small"
        unknown = await proxy.ask(api, model="no\r\nsuch")
        assert unknown.status_code == 404
        error_of(api, unknown)
        await own.start()
