"""What must not pass, on real sockets: each is refused so that the client can read why, and the next is served."""

from __future__ import annotations

import asyncio
import ssl

import pytest
from starlette.types import Receive, Scope, Send

from devstral_proxy.server.http import HttpLimits
from tests.server.http.serving import CLOSE, answer, body_of, echo, heads, refusal, serving

pytestmark = pytest.mark.anyio

POST = b"POST /a HTTP/1.1\r\nHost: x\r\n"
GET = b"GET /a HTTP/1.1\r\nHost: x\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"
THREE = b"3\r\nabc\r\n0\r\n\r\n"
SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n"

INVALID = {
    "length, then coding": POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + SMUGGLED,
    "coding, then length": POST + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n" + SMUGGLED,
    "chunked twice": POST + b"Transfer-Encoding: chunked, chunked\r\n\r\n" + THREE,
    "chunked twice, two lines": POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n" + THREE,
    "chunked and identity": POST + b"Transfer-Encoding: chunked, identity\r\n\r\n" + THREE,
    "identity and chunked": POST + b"Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n\r\n" + THREE,
    "identity": POST + b"Transfer-Encoding: identity\r\n\r\n" + SMUGGLED,
    "gzip, chunked": POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n" + THREE,
    "another coding": POST + b"Transfer-Encoding: xchunked\r\n\r\n" + THREE,
    "a quoted coding": POST + b'Transfer-Encoding: "chunked"\r\n\r\n' + THREE,
    "a coding with a vertical tab": POST + b"Transfer-Encoding: \x0bchunked\r\n\r\n" + THREE,
    "no coding": POST + b"Transfer-Encoding:\r\n\r\n" + THREE,
    "a coding in 1.0": b"POST /a HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n" + THREE,
    "a coding in 1.0 that is kept": b"POST / HTTP/1.0\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n",
    "two lengths": POST + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
    "two equal lengths": POST + b"Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello",
    "a list of lengths": POST + b"Content-Length: 5, 5\r\n\r\nhello",
    "a length with a sign": POST + b"Content-Length: +5\r\n\r\nhello",
    "a negative length": POST + b"Content-Length: -5\r\n\r\nhello",
    "a hexadecimal length": POST + b"Content-Length: 0x5\r\n\r\nhello",
    "an endless length": POST + b"Content-Length: 99999999999999999999999\r\n\r\nhello",
    "an empty length": POST + b"Content-Length: \r\n\r\nhello",
    "a chunk size that is none": CHUNKED + b"g\r\nabc\r\n0\r\n\r\n",
    "a negative chunk size": CHUNKED + b"-3\r\nabc\r\n0\r\n\r\n",
    "a chunk size with a prefix": CHUNKED + b"0x3\r\nabc\r\n0\r\n\r\n",
    "a chunk size with a blank": CHUNKED + b"3 \r\nabc\r\n0\r\n\r\n",
    "a chunk size over 64 bits": CHUNKED + b"11111111111111111\r\nabc\r\n0\r\n\r\n",
    "no chunk size": CHUNKED + b"\r\nabc\r\n0\r\n\r\n",
    "a chunk size that ends in LF": CHUNKED + b"3\nabc\r\n0\r\n\r\n",
    "a chunk that ends in LF": CHUNKED + b"3\r\nabc\n0\r\n\r\n",
    "a chunk longer than its size": CHUNKED + b"3\r\nabcd\r\n0\r\n\r\n",
    "an extension with LF": CHUNKED + b"3;a\nb\r\nabc\r\n0\r\n\r\n",
    "a trailer with NUL": CHUNKED + b"3\r\nabc\r\n0\r\nX: a\0b\r\n\r\n",
    "two hosts": GET + b"Host: y\r\n\r\n",
    "two equal hosts": GET + b"Host: x\r\n\r\n",
    "no host": b"GET /a HTTP/1.1\r\n\r\n",
    "a host with a blank": b"GET /a HTTP/1.1\r\nHost: x y\r\n\r\n",
    "a host with a path": b"GET /a HTTP/1.1\r\nHost: x/y\r\n\r\n",
    "a host with a name": b"GET /a HTTP/1.1\r\nHost: u@x\r\n\r\n",
    "a bare CR in a value": GET + b"X: a\rb\r\n\r\n",
    "a bare LF in a value": GET + b"X: a\nY: b\r\n\r\n",
    "a NUL in a value": GET + b"X: a\0b\r\n\r\n",
    "an escape in a value": GET + b"X: a\x1bb\r\n\r\n",
    "a DEL in a value": GET + b"X: a\x7fb\r\n\r\n",
    "a CR in a name": GET + b"X\rY: a\r\n\r\n",
    "a NUL in a name": GET + b"X\0: a\r\n\r\n",
    "a high byte in a name": GET + b"X\xe9: a\r\n\r\n",
    "a folded line": GET + b"X: a\r\n b\r\n\r\n",
    "a folded first line": b"GET /a HTTP/1.1\r\n X: a\r\nHost: x\r\n\r\n",
    "a blank before the colon": GET + b"X : a\r\n\r\n",
    "a blank in a name": GET + b"X Y: a\r\n\r\n",
    "no colon": GET + b"X\r\n\r\n",
    "no name": GET + b": a\r\n\r\n",
    "lines that end in LF": b"GET /a HTTP/1.1\nHost: x\n\n",
    "garbage": bytes(range(256)),
    "zeros": bytes(5000),
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0",
    "another version": b"GET /a HTTP/2.0\r\nHost: x\r\n\r\n",
    "HTTP/1.2": b"GET /a HTTP/1.2\r\nHost: x\r\n\r\n",
    "HTTP/0.9": b"GET /a\r\n\r\n",
    "an answer": b"HTTP/1.1 200 OK\r\n\r\n",
    "an unknown method": b"FOO /a HTTP/1.1\r\nHost: x\r\n\r\n",
    "a method in small letters": b"get /a HTTP/1.1\r\nHost: x\r\n\r\n",
    "a tunnel": b"CONNECT x:443 HTTP/1.1\r\nHost: x\r\n\r\n\x16\x03\x01",
    "a star": b"GET * HTTP/1.1\r\nHost: x\r\n\r\n",
    "a target without a slash": b"GET a HTTP/1.1\r\nHost: x\r\n\r\n",
    "a target with a blank": b"GET /a b HTTP/1.1\r\nHost: x\r\n\r\n",
    "a target with NUL": b"GET /a\0 HTTP/1.1\r\nHost: x\r\n\r\n",
    "a target with a high byte": b"GET /\xe9 HTTP/1.1\r\nHost: x\r\n\r\n",
}  # fmt: skip


@pytest.mark.parametrize("case", INVALID)
async def test_it_is_refused_and_the_next_client_is_served(case: str) -> None:
    async with serving() as served:
        for pieces in ((INVALID[case],), (INVALID[case][:40], INVALID[case][40:])):
            data = await served.talk(*pieces)
            assert refusal(data) == (400, "invalid_http"), data
        assert served.refused == ["invalid_http"] * 2
        await served.still_serves()


async def test_a_refusal_behind_a_request_waits_for_its_answer() -> None:
    async with serving() as served:
        for pieces in ((GET + b"\r\n" + INVALID["no colon"],), (GET + b"\r\n", INVALID["no colon"])):
            data = await served.talk(*pieces)
            assert [line[9:12] for line in heads(data)] == [b"200", b"400"]
            assert refusal(data[data.rindex(b"HTTP/1.1 ") :]) == (400, "invalid_http")


async def test_a_header_named_in_connection_is_a_header_like_others() -> None:
    """What is hop-by-hop is dropped by whoever passes headers on; nothing of it is here."""
    async with serving() as served:
        data = await served.talk(GET + b"Connection: close, content-length, host\r\n\r\n")
    assert heads(data) == [b"HTTP/1.1 200 OK"]


async def test_a_body_without_its_last_chunk_ends_in_time() -> None:
    async with serving(limits=HttpLimits(body=0.05)) as served:
        assert refusal(await served.talk(CHUNKED + b"3\r\nabc\r\n")) == (408, "request_timeout")
        client = await served.connect()
        await client.write(CHUNKED + b"3\r\nabc\r\n")
        client.writer.write_eof()  # the client left: nothing is owed
        assert await client.rest() == b""
        await served.still_serves()


FRAMING = {
    "an extension": CHUNKED + b"3;" + b"a" * 200_000,
    "an extension's value": CHUNKED + b'3;a="' + b"b" * 200_000,
    "a trailer": CHUNKED + b"0\r\nX: " + b"a" * 200_000,
    "many trailers": CHUNKED + b"0\r\n" + b"X: y\r\n" * 40_000,
    "zeros before a size": CHUNKED + b"0" * 200_000,
}


@pytest.mark.parametrize("case", FRAMING)
async def test_framing_without_content_is_bounded(case: str) -> None:
    async with serving() as served:
        assert refusal(await served.talk(FRAMING[case])) == (400, "invalid_http")
        request = FRAMING[case]
        pieces = [request[at : at + 20_000] for at in range(0, len(request), 20_000)]
        assert refusal(await served.talk(*pieces)) == (400, "invalid_http")
        await served.still_serves()


HEADS = {
    "one header": GET + b"X: " + b"a" * 5000 + b"\r\n\r\n",
    "one header without end": GET + b"X: " + b"a" * 100_000,
    "one name": GET + b"a" * 100_000,
    "many headers": GET + b"X: y\r\n" * 1000 + b"\r\n",
    "many headers without end": GET + b"X: y\r\n" * 20_000,
    "the target": b"GET /" + b"a" * 5000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    "the target without end": b"GET /" + b"a" * 100_000,
    "blank lines": b"\r\n" * 50_000,
    "with a body": POST + b"X: " + b"a" * 5000 + b"\r\nContent-Length: 100000\r\n\r\n" + b"x" * 100_000,
    "an offer": GET + b"Connection: upgrade\r\nUpgrade: h2c\r\nX: " + b"a" * 5000 + b"\r\n\r\n",
}


@pytest.mark.parametrize("case", HEADS)
async def test_a_head_over_the_limit(case: str) -> None:
    request = HEADS[case]
    pieces = [request[at : at + 700] for at in range(0, len(request), 700)]
    async with serving(limits=HttpLimits(head_bytes=4096)) as served:
        for cut in ([request], pieces):
            data = await served.talk(*cut)
            assert refusal(data) == (431, "header_too_large"), data
        await served.still_serves()


async def test_a_head_at_the_limit_and_a_large_body_behind_it() -> None:
    padding = b"a" * (4000 - len(POST))
    request = POST + b"X: " + padding + b"\r\nContent-Length: 100000\r\n\r\n" + b"x" * 100_000
    async with serving(limits=HttpLimits(head_bytes=4096)) as served:
        assert heads(await served.talk(request + CLOSE)) == [b"HTTP/1.1 200 OK"] * 2


async def test_tls_on_the_plain_port() -> None:
    context = ssl.create_default_context()
    hello = ssl.MemoryBIO()
    with pytest.raises(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), hello, server_hostname="x").do_handshake()
    async with serving() as served:
        assert refusal(await served.talk(hello.read())) == (400, "invalid_http")
        await served.still_serves()


async def test_a_refusal_is_readable_while_the_client_still_sends() -> None:
    async with serving() as served:
        for first in (INVALID["two hosts"], HEADS["the target without end"]):
            client = await served.connect()
            for _ in range(50):
                await client.write(first + b"x" * 60_000)
            assert (await client.rest()).startswith(b"HTTP/1.1 4")


async def test_many_idle_connections() -> None:
    async with serving() as served:
        clients = [await served.connect() for _ in range(1000)]
        await served.still_serves()
        async with asyncio.timeout(10):
            while len(served.state.connections) < 1000:  # noqa: ASYNC110  # nothing tells it
                await asyncio.sleep(0.01)
        await clients[500].write(CLOSE)
        assert heads(await clients[500].rest()) == [b"HTTP/1.1 200 OK"]
        for client in clients:
            client.leave()


async def test_ten_thousand_pipelined_requests_are_answered_in_order_and_few_are_held() -> None:
    most, order = 0, []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal most
        await body_of(receive)
        order.append(int(scope["path"][1:]))
        for connection in served.state.connections:
            most = max(most, len(connection._queue))  # type: ignore[union-attr]
        await answer(send, b"")

    async with serving(app) as served:
        client = await served.connect()
        requests = b"".join(b"GET /%d HTTP/1.1\r\nHost: x\r\n\r\n" % number for number in range(10_000))
        writing = asyncio.create_task(client.write(requests + CLOSE.replace(b"/last", b"/10000")))
        assert (await client.rest()).count(b"HTTP/1.1 200 OK") == 10_001
        await writing
    assert order == list(range(10_001))
    assert most < 2000


async def test_requests_behind_one_that_lasts_are_not_read_without_end() -> None:
    go_on = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await go_on.wait()
        await echo(scope, receive, send)

    async with serving(app) as served:
        client = await served.connect()
        writing = asyncio.create_task(client.write(GET + b"\r\n" + (GET + b"\r\n") * 400_000))
        before = -1
        while True:
            await asyncio.sleep(0.1)
            (connection,) = served.state.connections
            held = len(connection._behind)  # type: ignore[union-attr]
            if held == before:
                break
            before = held
        assert 0 < held < 1_000_000
        assert not writing.done()
        client.leave()
        go_on.set()
        await writing


async def test_one_that_leaves_behind_pipelined_requests_is_noticed() -> None:
    gone = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await body_of(receive)
        assert (await receive())["type"] == "http.disconnect"
        gone.set()

    async with serving(app) as served:
        client = await served.connect()
        await client.write((GET + b"\r\n") * 50)
        client.writer.close()
        async with asyncio.timeout(10):
            await gone.wait()
