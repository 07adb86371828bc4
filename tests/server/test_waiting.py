"""Feed, Watch and EventSink: batches, cancellation, comments."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from devstral_proxy.errors import UpstreamProtocolError
from devstral_proxy.server.exchange import ClientGone
from devstral_proxy.server.feed import HELD_BYTES, Feed
from devstral_proxy.server.reader import EventSink, Limits, Reader
from devstral_proxy.server.watch import Watch
from devstral_proxy.upstream.client import UpstreamClient
from tests.server.upstreams import Connection, Raw, settings

pytestmark = pytest.mark.anyio


def feed(pieces: AsyncIterator[bytes], closed: asyncio.Event | None = None) -> Feed:
    class Body(httpx.AsyncByteStream):
        async def __aiter__(self) -> AsyncIterator[bytes]:
            async for piece in pieces:
                yield piece

        async def aclose(self) -> None:
            if closed is not None:
                closed.set()

    class Transport(httpx.AsyncBaseTransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            return httpx.Response(200, stream=Body())

    return Feed(UpstreamClient(settings(), Transport()), "POST", "/", b"", 60)


async def endless(size: int = 1000) -> AsyncIterator[bytes]:
    while True:
        yield b"x" * size


def soon(seconds: float = 5) -> float:
    return asyncio.get_running_loop().time() + seconds


async def test_one_take_is_all_that_one_wake_up_brought() -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(3):
            yield b"a"
            yield b"b"
            await asyncio.sleep(0.01)

    with feed(pieces()) as one:
        answer = await one.head(soon())
        assert answer is not None
        assert answer.status == 200
        batches = []
        while not one.ended:
            batches.append(await one.take(soon()))
    assert batches[:3] == [[b"a", b"b"]] * 3


async def test_what_is_read_ahead_is_bounded() -> None:
    with feed(endless()) as one:
        for _ in range(3):
            await asyncio.sleep(0.01)
            held = sum(map(len, await one.take(soon())))
            assert HELD_BYTES < held <= HELD_BYTES + 1000


async def test_nothing_by_then_is_nothing() -> None:
    async def pieces() -> AsyncIterator[bytes]:
        await asyncio.Event().wait()
        yield b""

    closed = asyncio.Event()
    with feed(pieces(), closed) as one:
        assert await one.head(soon()) is not None
        assert await one.take(soon(0.01)) == []
        assert not one.ended
    await asyncio.wait_for(closed.wait(), 5)  # it is told to stop, and does at its next turn


async def test_what_broke_it_comes_after_what_came_before() -> None:
    async def pieces() -> AsyncIterator[bytes]:
        yield b"a"
        raise httpx.RemoteProtocolError("")

    with feed(pieces()) as one:
        await one.head(soon())
        assert await one.take(soon()) == [b"a"]
        with pytest.raises(UpstreamProtocolError):
            await one.take(soon())


async def test_a_defect_is_the_takers() -> None:
    async def pieces() -> AsyncIterator[bytes]:
        yield {b"": b""}[b"x"]

    with feed(pieces()) as one:
        await one.head(soon())
        with pytest.raises(KeyError):
            await one.take(soon())


async def test_leaving_stops_the_reader() -> None:
    closed = asyncio.Event()
    with feed(endless(), closed) as one:
        await one.take(soon())
    await asyncio.wait_for(closed.wait(), 5)  # it is told to stop, and does at its next turn


async def test_a_body_straight_from_the_connection() -> None:
    """The same promises as above, where no task stands between the connection and the one who takes."""
    more, end = asyncio.Event(), asyncio.Event()

    async def handler(raw: Raw, connection: Connection, line: str, body: bytes) -> None:
        await connection.head()
        await connection.send(b"1\r\na\r\n1\r\nb\r\n")
        await more.wait()
        await connection.piece(b"c")
        await end.wait()
        if body == b"break":
            raise ConnectionError
        await connection.piece(b"")

    upstream = Raw(handler)
    async with upstream.serve() as base:
        client = UpstreamClient(settings(vllm_base=base))
        async with client.open("GET", "/version") as first:  # leaves an idle connection
            await first.read(100)
        for body in (b"whole", b"break", b"leave"):
            more.clear()
            end.clear()
            with Feed(client, "POST", "/v1/chat/completions", body, 60) as one:
                answer = await one.head(soon())
                assert answer is not None
                assert await one.take(soon()) == [b"a", b"b"]
                assert await one.take(soon(0.01)) == []
                more.set()
                assert await one.take(soon()) == [b"c"]
                if body == b"leave":
                    continue
                end.set()
                if body == b"whole":
                    await one.drain(5)
                    assert one.ended
                    assert await one.take(soon()) == []
                else:
                    for _ in range(2):  # however often it is asked, it is no clean end
                        with pytest.raises(UpstreamProtocolError):
                            await one.take(soon())
                        assert not one.ended
        assert len(upstream.connections) == 2  # the broken one was closed
        await client.aclose()


class Receive:
    """What a server tells an application."""

    def __init__(self) -> None:
        self.messages: asyncio.Queue[dict[str, Any]] = asyncio.Queue()

    async def __call__(self) -> dict[str, Any]:
        return await self.messages.get()

    def gone(self) -> None:
        self.messages.put_nowait({"type": "http.request", "body": b"", "more_body": False})
        self.messages.put_nowait({"type": "http.disconnect"})


async def test_a_client_that_leaves_cancels_the_block() -> None:
    receive = Receive()

    async def block() -> None:
        with Watch({}, receive):
            receive.gone()
            await asyncio.Event().wait()

    with pytest.raises(ClientGone):
        await block()
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0
    await asyncio.sleep(0)


async def test_a_client_that_leaves_after_the_end_does_nothing() -> None:
    receive = Receive()
    with Watch({}, receive) as watch:
        watch.over()
        receive.gone()
        await asyncio.sleep(0.01)


async def test_a_cancellation_from_outside_goes_on() -> None:
    entered = asyncio.Event()

    async def block() -> None:
        with Watch({}, Receive()):
            entered.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(block())
    await entered.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_both_at_once_is_a_cancellation() -> None:
    receive, entered = Receive(), asyncio.Event()

    async def block() -> None:
        with Watch({}, receive):
            entered.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(block())
    await entered.wait()
    receive.gone()
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_another_error_of_the_block_is_told_as_it_is() -> None:
    receive = Receive()
    with pytest.raises(KeyError), Watch({}, receive):
        raise KeyError


async def test_comments_are_counted_from_the_last_bytes() -> None:
    sent: list[bytes] = []

    async def write(data: bytes, more: bool) -> None:
        assert more
        sent.append(data)

    loop = asyncio.get_running_loop()
    sink = EventSink(write, 0.02, loop)
    with feed(_slow()) as one:
        reader = Reader(one, Limits(60, loop), sink)
        while chunks := await reader.next():
            await sink.write(b"".join(chunks))
    assert sent[0] == b": keepalive\n\n"
    assert sent[-2:] == [b"a", b"b"]


async def _slow() -> AsyncIterator[bytes]:
    await asyncio.sleep(0.05)
    yield b"a"
    await asyncio.sleep(0.001)
    yield b"b"
