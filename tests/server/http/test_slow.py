"""Clients that are slow to speak or to listen, and the deadlines that end it. The limits are short, and no test
looks at a clock: one waits for what has to come."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest
from starlette.types import Receive, Scope, Send

from devstral_proxy.errors import RequestTimeout
from devstral_proxy.server.http import HttpLimits, wire
from devstral_proxy.server.http.incoming import EXTENSION, Incoming
from tests.server.http.serving import CLOSE, answer, body_of, echo, heads, refusal, serving

pytestmark = pytest.mark.anyio

POST = b"POST /a HTTP/1.1\r\nHost: x\r\n"
SHORT = 0.05
PIECE = b"x" * 100_000


async def endless(scope: Scope, receive: Receive, send: Send) -> None:
    """Streams for as long as somebody takes it, and longer."""
    if scope["path"] == "/last":
        await echo(scope, receive, send)
        return
    await body_of(receive)
    await send({"type": "http.response.start", "status": 200})
    incoming: Incoming = scope["extensions"][EXTENSION]
    while not incoming.gone:
        await send({"type": "http.response.body", "body": PIECE, "more_body": True})
        await asyncio.sleep(0)


async def test_one_that_never_speaks_is_closed_without_a_word() -> None:
    async with serving(limits=HttpLimits(head=SHORT)) as served:
        assert await served.talk() == b""
        assert await served.talk(b"\r\n") == b""
        assert served.refused == []
        await served.still_serves()


@pytest.mark.parametrize("first", [b"G", b"\r\nG", b"GET /a HTTP/1.1\r\nHost: x\r\n"])
async def test_a_head_that_does_not_end(first: bytes) -> None:
    async with serving(limits=HttpLimits(head=SHORT)) as served:
        assert refusal(await served.talk(first)) == (408, "request_timeout")
        assert served.refused == ["request_timeout"]
        await served.still_serves()


async def test_a_head_that_trickles() -> None:
    async with serving(limits=HttpLimits(head=SHORT)) as served:
        client = await served.connect()
        reading = asyncio.create_task(client.rest())
        await client.write(b"GET /a HTTP/1.1\r\nX: ")
        while not reading.done():
            await client.write(b"a")
            await asyncio.sleep(0.005)
        assert refusal(await reading) == (408, "request_timeout")


async def test_the_second_head_has_its_own_time() -> None:
    async with serving(limits=HttpLimits(head=SHORT)) as served:
        data = await served.talk(b"GET /a HTTP/1.1\r\nHost: x\r\n\r\nGET /b")
        assert [head[9:12] for head in heads(data)] == [b"200", b"408"]


async def test_a_connection_rests_only_so_long() -> None:
    async with serving(limits=HttpLimits(keep_alive=SHORT)) as served:
        assert heads(await served.talk(b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n")) == [b"HTTP/1.1 200 OK"]


BODIES = {
    "nothing": POST + b"Content-Length: 5\r\n\r\n",
    "half": POST + b"Content-Length: 100000\r\n\r\n" + b"x" * 30_000,
    "a chunk": POST + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
}


@pytest.mark.parametrize("case", BODIES)
async def test_a_body_that_stalls(case: str) -> None:
    async with serving(limits=HttpLimits(body=SHORT)) as served:
        assert refusal(await served.talk(BODIES[case])) == (408, "request_timeout")
        assert served.refused == ["request_timeout"]
        await served.still_serves()


async def test_a_body_below_the_least_rate_never_gets_to_the_application() -> None:
    asked = False

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal asked
        await body_of(receive)
        asked = True

    async with serving(app, HttpLimits(body=SHORT)) as served:
        client = await served.connect()
        reading = asyncio.create_task(client.rest())
        await client.write(POST + b"Content-Length: 100000\r\n\r\n")
        while not reading.done():
            await client.write(b"x")
            await asyncio.sleep(0.005)
        assert refusal(await reading) == (408, "request_timeout")
        assert not asked


async def test_extensions_buy_a_body_no_time() -> None:
    async with serving(limits=HttpLimits(body=SHORT)) as served:
        client = await served.connect()
        reading = asyncio.create_task(client.rest())
        await client.write(POST + b"Transfer-Encoding: chunked\r\n\r\n")
        while not reading.done():
            await client.write(b"1;" + b"e" * 2000 + b"\r\nx\r\n")
            await asyncio.sleep(0.005)
        assert refusal(await reading) == (408, "request_timeout")


async def test_a_body_above_the_least_rate_has_the_time_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("devstral_proxy.server.http.protocol.BODY_RATE", 10_000)
    async with serving(limits=HttpLimits(body=SHORT)) as served:
        request = POST + b"Content-Length: 100000\r\n\r\n"
        client = await served.connect()
        await client.write(request)
        for _ in range(20):
            await client.write(b"x" * 5000)
            await asyncio.sleep(0.02)
        await client.write(CLOSE)
        assert heads(await client.rest()) == [b"HTTP/1.1 200 OK"] * 2


async def test_an_application_that_takes_its_time_costs_the_client_none() -> None:
    """It reads the body late: reading stopped, or the client waits for `100 Continue`."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.sleep(SHORT * 6)
        await answer(send, b"%d" % len(await body_of(receive)))

    async with serving(app, HttpLimits(body=SHORT)) as served:
        data = await served.talk(POST + b"Connection: close\r\nContent-Length: 6000000\r\n\r\n" + b"x" * 6_000_000)
        assert data.endswith(b"\r\n\r\n6000000")
        client = await served.connect()
        await client.write(POST + b"Connection: close\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n")
        assert await client.until(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        await client.write(b"hello")
        assert (await client.rest()).endswith(b"\r\n\r\n5")
        client = await served.connect()
        await client.write(POST + b"Expect: 100-continue\r\nContent-Length: 5\r\n\r\n")
        data = await client.rest()
        assert refusal(data.removeprefix(b"HTTP/1.1 100 Continue\r\n\r\n")) == (408, "request_timeout")


async def test_the_application_may_answer_a_body_that_breaks_off_itself() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await body_of(receive)
        except RequestTimeout as error:
            await answer(send, str(error.code).encode(), error.status)

    async with serving(app, HttpLimits(body=SHORT)) as served:
        data = await served.talk(BODIES["half"])
        assert data.startswith(b"HTTP/1.1 408 ")
        assert data.endswith(b"connection: close\r\n\r\nrequest_timeout")


# ---------------------------------------------------------------- listening


async def test_one_that_takes_nothing_is_dropped() -> None:
    why = asyncio.Queue[str]()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await endless(scope, receive, send)
        if scope["path"] != "/last":
            why.put_nowait(scope["extensions"][EXTENSION].why)

    async with serving(app, HttpLimits(send=SHORT)) as served:
        client = await served.connect()
        await client.write(POST + b"Content-Length: 0\r\n\r\n")
        async with asyncio.timeout(10):
            assert await why.get() == "client reads too slowly"
        await served.still_serves()
        client.leave()


async def test_one_that_takes_nothing_of_a_last_answer_is_dropped() -> None:
    """The application is done, and what is written is below the mark over which it would have waited."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await body_of(receive)
        await answer(send, b"x" * 8_000_000)

    for last in (b"", b"Connection: close\r\n"):
        async with serving(app, HttpLimits(send=SHORT, keep_alive=SHORT)) as served:
            client = await served.connect(4096)
            client.writer.transport.pause_reading()  # type: ignore[attr-defined]
            await client.write(POST + last + b"Content-Length: 0\r\n\r\n")
            # `serving` waits until there is no connection.
        client.leave()


async def test_one_that_takes_little_but_something_is_served() -> None:
    """Each step is late by a multiple of the time after which one that takes nothing is dropped."""
    size = 12_000_000

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await body_of(receive)
        await send({"type": "http.response.start", "status": 200})
        for _ in range(size // 100_000):
            await send({"type": "http.response.body", "body": PIECE, "more_body": True})
        await send({"type": "http.response.body"})

    async with serving(app, HttpLimits(send=0.2)) as served:
        loop = asyncio.get_running_loop()
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        sock.setblocking(False)
        await loop.sock_connect(sock, ("127.0.0.1", served.port))
        await loop.sock_sendall(sock, POST.replace(b"1.1", b"1.0") + b"Content-Length: 0\r\n\r\n")
        got = 0
        for _ in range(12):  # 1.2 seconds for less than the kernel's buffers hold
            got += len(await loop.sock_recv(sock, 65536))
            await asyncio.sleep(0.1)
        while data := await loop.sock_recv(sock, 1 << 20):
            got += len(data)
        assert got > size
        sock.close()


async def test_back_pressure_bounds_what_is_held() -> None:
    sent, most = 0, 0

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal sent, most
        await body_of(receive)
        await send({"type": "http.response.start", "status": 200})
        for _ in range(300):
            await send({"type": "http.response.body", "body": PIECE, "more_body": True})
            sent += 1
            (connection,) = served.state.connections
            most = max(most, connection.transport.get_write_buffer_size())
        await send({"type": "http.response.body"})

    async with serving(app) as served:
        client = await served.connect(65536)
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]
        await client.write(POST.replace(b"1.1", b"1.0") + b"Content-Length: 0\r\n\r\n")
        before = -1
        while sent != before or not sent:  # until it moves no more
            before = sent
            await asyncio.sleep(0.1)
        assert sent < 200
        client.writer.transport.resume_reading()  # type: ignore[attr-defined]
        assert (await client.rest()).endswith(b"\r\n\r\n" + PIECE * 300)
    assert sent == 300
    assert most < 3 * len(PIECE)


async def test_one_that_leaves_while_it_holds_everything_up() -> None:
    for half in (False, True):
        gone = asyncio.Event()

        async def app(scope: Scope, receive: Receive, send: Send, gone: asyncio.Event = gone) -> None:
            scope["extensions"][EXTENSION].on_gone = gone.set
            await endless(scope, receive, send)

        async with serving(app, HttpLimits(send=0.2)) as served:
            client = await served.connect(4096)
            client.writer.transport.pause_reading()  # type: ignore[attr-defined]
            await client.write(POST + b"Content-Length: 0\r\n\r\n")
            await asyncio.sleep(0.05)
            if half:
                client.writer.write_eof()
            else:
                client.leave()
            async with asyncio.timeout(10):
                await gone.wait()
        client.leave()


async def test_an_answer_has_an_end() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        incoming: Incoming = scope["extensions"][EXTENSION]
        incoming.end_by(asyncio.get_running_loop().time() + SHORT)
        await body_of(receive)
        await receive()
        assert incoming.why == "client reads too slowly"

    async with serving(app, HttpLimits(send=0.2)) as served:
        client = await served.connect()
        await client.write(POST + b"Content-Length: 0\r\n\r\n")
        assert await client.rest() == b""


async def test_lingering_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """For one that says nothing, and for one that never stops."""
    monkeypatch.setattr(wire, "LINGER", 0.1)
    monkeypatch.setattr(wire, "LINGER_AT_MOST", 0.3)
    async with serving(limits=HttpLimits(keep_alive=0.2)) as served:
        for more in (b"", b"x" * 1000):
            client = await served.connect()
            await client.write(b"?\r\n\r\n")
            assert (await client.until(b"}}")).startswith(b"HTTP/1.1 400 ")
            async with asyncio.timeout(10):
                while served.state.connections:
                    await client.write(more)
                    await asyncio.sleep(0.02)
            client.leave()


# ---------------------------------------------------------------- stopping

PHASES: dict[str, tuple[bytes, bytes]] = {
    "it rests": (b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n", b"}"),
    "it lingers": (b"?\r\n\r\n", b"}}"),
}


@pytest.mark.parametrize("phase", PHASES)
async def test_stopping_closes_what_does_nothing(phase: str) -> None:
    async with serving() as served:
        client = await served.connect()
        request, mark = PHASES[phase]
        await client.write(request)
        await client.until(mark)
        await asyncio.sleep(0.02)
        await stop(served.state)
        assert await client.rest() == b""


@pytest.mark.parametrize("begun", [b"", b"GET /"])
async def test_stopping_lets_whoever_has_just_come_ask(begun: bytes) -> None:
    async with serving() as served:
        client = await served.connect()
        await client.write(begun)
        await asyncio.sleep(0.02)
        await stop(served.state)
        await client.write((begun or b"GET /")[len(begun) :] + b"a HTTP/1.1\r\n")
        await asyncio.sleep(0.02)
        await client.write(b"Host: x\r\n\r\n")
        data = await client.rest()
        assert heads(data) == [b"HTTP/1.1 200 OK"]
        assert b"connection: close" in data


@pytest.mark.parametrize(("begun", "answered"), [(b"", []), (b"GET /", [b"HTTP/1.1 408 Request Timeout"])])
async def test_stopping_waits_for_nobody(begun: bytes, answered: list[bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("devstral_proxy.server.http.protocol.LAST_CHANCE", SHORT)
    async with serving() as served:
        client = await served.connect()
        await client.write(begun)
        await asyncio.sleep(0.02)
        await stop(served.state)
        assert heads(await client.rest()) == answered


@pytest.mark.parametrize("more", [b"", b"GET /b HTTP/1.1\r\nHost: x\r\n\r\n"])
async def test_stopping_lets_what_runs_end(more: bytes) -> None:
    began, go_on = asyncio.Event(), asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await body_of(receive)
        await send({"type": "http.response.start", "status": 200})
        if scope["path"] == "/a":
            await send({"type": "http.response.body", "body": b"one", "more_body": True})
        began.set()
        await go_on.wait()
        await send({"type": "http.response.body", "body": b"two"})

    for request, opened in ((b"GET /a", True), (b"GET /late", False)):
        began.clear()
        go_on.clear()
        async with serving(app) as served:
            client = await served.connect()
            await client.write(request + b" HTTP/1.1\r\nHost: x\r\n\r\n" + more)
            await began.wait()
            await stop(served.state)
            go_on.set()
            data = await client.rest()
            assert len(heads(data)) == 1
            assert data.endswith(b"two\r\n0\r\n\r\n" if opened else b"two")
            assert (b"connection: close" in data) is not opened


async def test_stopping_waits_for_a_body_that_is_coming() -> None:
    async with serving() as served:
        client = await served.connect()
        await client.write(BODIES["half"])
        await asyncio.sleep(0.02)
        await stop(served.state)
        await client.write(b"x" * 70_000)
        data = await client.rest()
        assert heads(data) == [b"HTTP/1.1 200 OK"]
        assert b"connection: close" in data


async def stop(state: Any) -> None:
    """As uvicorn does it."""
    for connection in list(state.connections):
        connection.shutdown()
