"""Clients that leave, again and again: nothing of them stays behind."""

from __future__ import annotations

import asyncio
import json
from urllib.parse import urlsplit

import pytest

from tests.integration.faults.rig import (
    APIS,
    BEGUN,
    RELAY,
    Api,
    Connection,
    Proxy,
    Raw,
    each,
    pair,
    sockets,
    unless_told,
    until,
)

pytestmark = pytest.mark.anyio

TIMES = 200
AT_ONCE = 25


async def silent(raw: Raw, connection: Connection, line: str, body: bytes) -> None:
    await connection.until_closed()


async def begins(raw: Raw, connection: Connection, line: str, body: bytes) -> None:
    await connection.head()
    await connection.piece(BEGUN)
    await connection.until_closed()


async def half(raw: Raw, connection: Connection, line: str, body: bytes) -> None:
    """The head of a whole answer, and no more than the beginning of its body."""
    await connection.send(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 1000\r\n\r\n{")
    await connection.until_closed()


PHASES = {
    "before the first token": (silent, True, b""),
    "in mid-stream": (begins, True, b"Hel"),
    "not streamed": (silent, False, b""),
    "not streamed, the answer has begun": (half, False, b""),
}


async def visit(proxy: Proxy, upstream: Raw, api: Api, stream: bool, mark: bytes, number: int) -> None:
    """Ask, and leave: with a reset, or in the ordinary way."""
    parts = urlsplit(proxy.base)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    name = f"visit {number} "
    data = json.dumps(api.request(name, stream)).encode()
    writer.write(b"POST %b HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % (api.path.encode(), len(data)) + data)
    if mark:
        async with asyncio.timeout(10):
            await reader.readuntil(mark)
    else:
        await until(lambda: any(name.encode() in body for _, body in upstream.asked[-2 * AT_ONCE :]))
    if number % 2:
        writer.transport.abort()
    else:
        writer.close()
        await writer.wait_closed()


@each(*APIS)
@pytest.mark.parametrize("phase", PHASES)
async def test_two_hundred_leave_and_nothing_stays(api: Api, phase: str, caplog: pytest.LogCaptureFixture) -> None:
    handler, stream, mark = PHASES[phase]
    caplog.set_level("WARNING")
    values = {"max_concurrent": AT_ONCE, "max_concurrent_per_key": AT_ONCE, "rate_limit_requests": 100_000}
    async with pair(unless_told(handler), pool_size=AT_ONCE + 2, **values) as (upstream, proxy):
        await proxy.works(api)
        await until(lambda: proxy.idle)
        before = len(asyncio.all_tasks()), sockets()
        for start in range(0, TIMES, AT_ONCE):
            await asyncio.gather(
                *(visit(proxy, upstream, api, stream, mark, number) for number in range(start, start + AT_ONCE))
            )
            # All of them hold a place: the next ones get in only when these have been let go.
            async with asyncio.timeout(1):
                await until(lambda: proxy.idle)
                for connection in upstream.answering[2:]:
                    await connection.closed.wait()
        await proxy.works(api)
        told = (await proxy.ask(api, "go on")).headers
        # The window slides: what the first ones used may have begun to come back.
        assert 0 <= int(told["x-ratelimit-remaining-requests"]) - (100_000 - TIMES - 5) < 20
        assert len(upstream.asked) == TIMES + 5
        # The client of this test and the upstream may hold other connections than before, but not many.
        await until(lambda: len(asyncio.all_tasks()) <= before[0] + 2 and sockets() <= before[1] + 4)
        found = await proxy.metrics()
        counted = found["devstral_proxy_requests_total"]
        status = "200" if mark else "499"
        assert sum(n for key, n in counted.items() if ("http_response_status_code", status) in key) >= TIMES
    assert caplog.records == []


async def test_a_queue_whose_waiters_leave_lets_the_next_one_in() -> None:
    async with pair(unless_told(silent), max_concurrent=1, max_queue=TIMES) as (upstream, proxy):
        first = asyncio.create_task(proxy.ask(RELAY, "stay"))
        await upstream.arrived.wait()
        waiting = [asyncio.create_task(proxy.ask(api, "wait")) for api in APIS for _ in range(25)]
        await until(lambda: proxy.services.admission.waiting == 100)
        for task in [*waiting, first]:
            task.cancel()
        await asyncio.gather(first, *waiting, return_exceptions=True)
        await until(lambda: proxy.idle)
        assert len(upstream.asked) == 1
        for api in APIS:
            await proxy.works(api)
