"""The transport of our own beside httpx's: the same cases, the same outcome; and what ours promises beyond that."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from devstral_proxy.upstream.transport import FastTransport
from devstral_proxy.upstream.transport.connection import HELD_BYTES
from tests.upstream.raw_server import OK, Peer, Script, Server

pytestmark = pytest.mark.anyio

Transport = httpx.AsyncBaseTransport
TIMEOUTS = {"connect": 5.0, "read": 5.0, "write": 5.0, "pool": 5.0}


@pytest.fixture(params=[False, True], ids=["asyncio", "uvloop"], scope="module")
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    return "asyncio", {"use_uvloop": request.param}


def asked(base: str, path: str, method: str = "POST", content: Any = b"{}", **timeouts: float) -> httpx.Request:
    return httpx.Request(method, base + path, content=content or None, extensions={"timeout": {**TIMEOUTS, **timeouts}})


async def outcome(transport: Transport, request: httpx.Request) -> tuple[Any, ...]:
    """Status, reason, headers and body, or the error's name and what had come before it."""
    parts: list[bytes] = []
    try:
        response = await transport.handle_async_request(request)
        assert isinstance(response.stream, httpx.AsyncByteStream)
        try:
            async for part in response.stream:
                parts.append(part)  # noqa: PERF401  # what came before an error counts
        finally:
            await response.aclose()
    except httpx.TransportError as error:
        return type(error).__name__, b"".join(parts)
    headers = [(name.lower(), value) for name, value in response.headers.raw]
    return response.status_code, response.extensions["reason_phrase"], headers, b"".join(parts)


@asynccontextmanager
async def fast(server: Server, *, fine: bool = True, **options: Any) -> AsyncIterator[FastTransport]:
    """The transport; at the end it must have nothing left, on this side and the other, and still be good for more."""
    transport = FastTransport(**options)
    try:
        yield transport
        if fine:
            assert (await outcome(transport, asked(server.base, "/ok", "GET", b"")))[3] == b"ok"
        assert transport.pool.busy == 0
        assert transport.pool.waiting == 0
    finally:
        await transport.aclose()
    assert transport.sockets == 0
    await server.none_open()


def answering(*pieces: bytes, then: str = "keep") -> Script:
    async def script(peer: Peer, head: bytes, body: bytes) -> None:
        await peer.send(*pieces)
        if then == "reset":
            await asyncio.sleep(0.02)
            peer.reset()
        if then != "keep":
            raise EOFError

    return script


def single(data: bytes) -> list[bytes]:
    return [data[at : at + 1] for at in range(len(data))]


HEAD = b"HTTP/1.1 200 OK\r\n"
CHUNKED = HEAD + b"transfer-encoding: chunked\r\n\r\n"
LENGTH = HEAD + b"content-length: 5\r\n\r\n"

CLOSE = HEAD + b"connection: close\r\ncontent-length: 2\r\n\r\nhi"
OLD = b"HTTP/1.0 200 OK\r\ncontent-length: 5\r\n\r\nhello"
BAD: tuple[Any, ...] = ("RemoteProtocolError", b"")
BAD_AB: tuple[Any, ...] = ("RemoteProtocolError", b"ab")
HINT = b"HTTP/1.1 102 P\r\nx: " + b"y" * 5_000 + b"\r\n\r\n"

CASES: dict[str, tuple[Script, str, Any]] = {
    # name: what the server does, method, and the outcome (None: what httpx's transport says)
    "length": (answering(LENGTH + b"hello"), "POST", None),
    "length in two": (answering(LENGTH, b"hel", b"lo"), "POST", None),
    "no body": (answering(HEAD + b"content-length: 0\r\n\r\n"), "POST", None),
    "chunked": (answering(CHUNKED + b"3\r\nabc\r\nA\r\n0123456789\r\n0\r\n\r\n"), "POST", None),
    "chunk extensions and trailers": (answering(CHUNKED + b"3;a=b\r\nabc\r\n0\r\nx-trailer: 1\r\n\r\n"), "POST", None),
    "chunked byte by byte": (answering(*single(CHUNKED + b"3\r\nabc\r\n0\r\n\r\n")), "POST", None),
    "length byte by byte": (answering(*single(LENGTH + b"hello")), "POST", None),
    "until close": (answering(HEAD + b"\r\nsome", b"thing", then="close"), "POST", None),
    "until close, empty": (answering(HEAD + b"\r\n", then="close"), "POST", None),
    "HTTP/1.0": (answering(b"HTTP/1.0 200 OK\r\n\r\nhello", then="close"), "POST", None),
    "HTTP/1.0 with length": (answering(OLD, then="close"), "POST", None),
    "connection: close": (answering(CLOSE, then="close"), "POST", None),
    "reason": (answering(b"HTTP/1.1 418 I'm a teapot\r\ncontent-length: 0\r\n\r\n"), "POST", None),
    "no reason": (answering(b"HTTP/1.1 200 \r\ncontent-length: 0\r\n\r\n"), "POST", None),
    "repeated headers": (answering(HEAD + b"a: 1\r\nA: 2\r\nb:  3 \r\nc:\r\ncontent-length: 0\r\n\r\n"), "POST", None),
    "100": (answering(b"HTTP/1.1 100 Continue\r\n\r\n" + OK), "POST", None),
    "102 and 103": (
        answering(b"HTTP/1.1 102 Processing\r\n\r\n", b"HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n", OK),
        "POST",
        None,
    ),
    "204": (answering(b"HTTP/1.1 204 No Content\r\n\r\n"), "POST", None),
    "304 with a length": (answering(b"HTTP/1.1 304 Not Modified\r\ncontent-length: 5\r\n\r\n"), "GET", None),
    "HEAD with a length": (answering(LENGTH), "HEAD", None),
    "HEAD, chunked": (answering(CHUNKED), "HEAD", None),
    "garbage after the body": (answering(LENGTH + b"helloGARBAGE\r\n\r\n", then="close"), "POST", None),
    "a second answer": (answering(LENGTH + b"hello" + OK, then="close"), "POST", None),
    "closed before the head": (answering(then="close"), "POST", None),
    "reset before the head": (answering(then="reset"), "POST", None),
    "closed in the head": (answering(b"HTTP/1.1 200 OK\r\ncontent-", then="close"), "POST", None),
    "reset in the head": (answering(b"HTTP/1.1 200 OK\r\ncontent-", then="reset"), "POST", None),
    "closed in the body": (answering(LENGTH + b"he", then="close"), "POST", None),
    "reset in the body": (answering(LENGTH + b"he", then="reset"), "POST", None),
    "closed in a chunk": (answering(CHUNKED + b"5\r\nhe", then="close"), "POST", None),
    "closed between chunks": (answering(CHUNKED + b"5\r\nhello\r\n", then="close"), "POST", None),
    "reset between chunks": (answering(CHUNKED + b"5\r\nhello\r\n", then="reset"), "POST", None),
    "closed before the last line": (answering(CHUNKED + b"5\r\nhello\r\n0\r\n", then="close"), "POST", None),
    "bad chunk size": (answering(CHUNKED + b"xyz\r\n"), "POST", None),
    "bad chunk size later": (answering(CHUNKED + b"2\r\nab\r\n", b"-1\r\n"), "POST", None),
    "bad chunk end": (answering(CHUNKED, b"2\r\nabXX0\r\n\r\n"), "POST", BAD_AB),
    "chunk of 2^64": (answering(CHUNKED + b"FFFFFFFFFFFFFFFFF\r\n", then="close"), "POST", BAD),
    "no HTTP": (answering(b"SSH-2.0-OpenSSH\r\n\r\n"), "POST", None),
    "bad status": (answering(b"HTTP/1.1 2x0 OK\r\n\r\n"), "POST", None),
    "bad header": (answering(HEAD + b"no colon\r\n\r\n"), "POST", None),
    "bad length": (answering(HEAD + b"content-length: five\r\n\r\nhello"), "POST", None),
    "negative length": (answering(HEAD + b"content-length: -5\r\n\r\nhello"), "POST", None),
    "two lengths": (answering(HEAD + b"content-length: 5\r\ncontent-length: 6\r\n\r\nhello"), "POST", None),
    "NUL in a header": (answering(HEAD + b"x: a\0b\r\ncontent-length: 0\r\n\r\n"), "POST", None),
    "unknown coding": (answering(HEAD + b"transfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n"), "POST", None),
    "a huge head": (answering(HEAD + b"x: " + b"y" * 200_000 + b"\r\ncontent-length: 0\r\n\r\n"), "POST", None),
    "an endless head": (answering(*[HEAD, *[b"x: " + b"y" * 10_000 + b"\r\n"] * 20]), "POST", None),
    "a big head": (answering(HEAD + b"x: " + b"y" * 30_000 + b"\r\ncontent-length: 0\r\n\r\n"), "POST", None),
    "HTTP/2": (answering(b"HTTP/2.0 200 OK\r\ncontent-length: 0\r\n\r\n"), "POST", BAD),
    # Where ours is stricter than httpx's.
    "length and chunked": (
        answering(HEAD + b"content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n"),
        "POST",
        BAD,
    ),
    "101": (
        answering(b"HTTP/1.1 101 Switching\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n"),
        "POST",
        BAD,
    ),
    "endless 1xx": (answering(*[HINT] * 20), "POST", BAD),
    "endless trailers": (
        answering(CHUNKED + b"2\r\nab\r\n0\r\n", *[b"x: " + b"y" * 5_000 + b"\r\n"] * 20),
        "POST",
        BAD_AB,
    ),
    "an endless chunk extension": (answering(CHUNKED + b"2\r\nab\r\n2;", *[b"y" * 10_000] * 10), "POST", BAD_AB),
}


@pytest.mark.parametrize("case", CASES)
async def test_the_same_outcome_as_httpx(case: str) -> None:
    script, method, expected = CASES[case]
    server = Server(script)
    async with server.serve() as base:
        content = b"{}" if method == "POST" else b""
        if expected is None:
            theirs = httpx.AsyncHTTPTransport(trust_env=False)
            expected = await outcome(theirs, asked(base, "/case", method, content))
            await theirs.aclose()
        async with fast(server) as transport:
            assert await outcome(transport, asked(base, "/case", method, content)) == expected
            # On a connection that has been used, nothing is different.
            await outcome(transport, asked(base, "/ok"))
            assert await outcome(transport, asked(base, "/case", method, content)) == expected


@pytest.mark.parametrize(
    ("case", "kept"),
    [
        ("length", True),
        ("chunked", True),
        ("chunk extensions and trailers", True),
        ("102 and 103", True),
        ("204", True),
        ("304 with a length", True),
        ("HEAD with a length", True),
        ("until close", False),
        ("connection: close", False),
        ("HTTP/1.0", False),
        ("garbage after the body", False),
        ("a second answer", False),
        ("length and chunked", False),
    ],
)
async def test_what_is_kept(case: str, kept: bool) -> None:
    script, method, _ = CASES[case]
    server = Server(script)
    async with server.serve() as base, fast(server) as transport:
        await outcome(transport, asked(base, "/case", method, b""))
        assert transport.pool.idle == int(kept)
        await outcome(transport, asked(base, "/case", method, b""))
        assert server.accepted == (1 if kept else 2)


async def test_bytes_that_come_later_than_the_answer_are_no_answer() -> None:
    async def script(peer: Peer, head: bytes, body: bytes) -> None:
        await peer.send(LENGTH + b"hello", OK.replace(b"ok", b"no"))

    server = Server(script)
    async with server.serve() as base, fast(server) as transport:
        assert (await outcome(transport, asked(base, "/case")))[3] == b"hello"
        async with asyncio.timeout(5):
            while transport.pool.idle:  # noqa: ASYNC110
                await asyncio.sleep(0.001)
        assert (await outcome(transport, asked(base, "/ok")))[3] == b"ok"


async def silent(peer: Peer, head: bytes, body: bytes) -> None:
    await peer.until_closed()
    raise EOFError


async def stalling(peer: Peer, head: bytes, body: bytes) -> None:
    await peer.send(CHUNKED + b"5\r\nhello\r\n")
    await silent(peer, head, body)


@pytest.mark.parametrize(
    ("script", "path", "timeouts", "expected"),
    [
        (silent, "/case", {"read": 0.05}, ("ReadTimeout", b"")),
        (stalling, "/case", {"read": 0.05}, ("ReadTimeout", b"hello")),
        (silent, "/unread", {"write": 0.05}, ("WriteTimeout", b"")),
    ],
)
async def test_timeouts(script: Script, path: str, timeouts: dict[str, float], expected: tuple[Any, ...]) -> None:
    async def unread(peer: Peer, head: bytes, body: bytes) -> None:
        peer.writer.transport.pause_reading()  # type: ignore[attr-defined]
        await asyncio.sleep(0.3)
        raise EOFError

    server = Server(unread if path == "/unread" else script)
    content = b"x" * 40_000_000 if path == "/unread" else b"{}"
    theirs = httpx.AsyncHTTPTransport(trust_env=False)
    async with server.serve() as base, fast(server) as transport:
        assert await outcome(transport, asked(base, path, "POST", content, **timeouts)) == expected
        assert await outcome(theirs, asked(base, path, "POST", content, **timeouts)) == expected
        await theirs.aclose()


@pytest.mark.parametrize("theirs", [True, False])
async def test_connecting_fails(theirs: bool) -> None:
    transport: Transport = httpx.AsyncHTTPTransport(trust_env=False) if theirs else FastTransport()
    assert await outcome(transport, asked("http://127.0.0.1:1", "/")) == ("ConnectError", b"")
    assert await outcome(transport, asked("ftp://127.0.0.1:1", "/")) == ("UnsupportedProtocol", b"")
    await transport.aclose()


async def test_a_connection_that_is_not_made_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    async def never(*_: Any, **__: Any) -> None:
        await asyncio.Event().wait()

    transport = FastTransport()
    holder = type("Loop", (), {"create_connection": never, "time": asyncio.get_running_loop().time})()
    monkeypatch.setattr("devstral_proxy.upstream.transport.transport.running_loop", lambda: holder)
    assert await outcome(transport, asked("http://127.0.0.1:1", "/", connect=0.02)) == ("ConnectTimeout", b"")
    assert (transport.pool.busy, transport.sockets) == (0, 0)


async def test_a_full_pool_is_a_pool_timeout() -> None:
    server = Server(silent)
    async with server.serve() as base, fast(server, limits=httpx.Limits(max_connections=1)) as transport:
        first = asyncio.create_task(outcome(transport, asked(base, "/case")))
        while not server.heads:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        assert await outcome(transport, asked(base, "/ok", pool=0.02)) == ("PoolTimeout", b"")
        first.cancel()
        await asyncio.wait({first})


BAD_REQUESTS: dict[str, Callable[[str], httpx.Request]] = {
    "CR LF in a value": lambda base: httpx.Request("GET", base, headers=[(b"x", b"a\r\nb: c")]),
    "NUL in a value": lambda base: httpx.Request("GET", base, headers=[(b"x", b"a\0")]),
    "space in a name": lambda base: httpx.Request("GET", base, headers=[(b"x y", b"a")]),
    "CR LF in the method": lambda base: httpx.Request("GET\r\n", base),
    "CR LF in the target": lambda base: httpx.Request("GET", base, extensions={"target": b"/ HTTP/1.1\r\n"}),
    "two hosts": lambda base: httpx.Request("GET", base, headers=[("host", "a"), ("host", "b")]),
    "too long": lambda base: httpx.Request("POST", base, headers={"content-length": "1"}, content=b"ab"),
    "too short": lambda base: httpx.Request("POST", base, headers={"content-length": "3"}, content=b"ab"),
    "too short, streamed": lambda base: httpx.Request("POST", base, headers={"content-length": "9"}, content=pieces()),
    "too long, streamed": lambda base: httpx.Request("POST", base, headers={"content-length": "3"}, content=pieces()),
}


async def pieces() -> AsyncIterator[bytes]:
    for piece in (b"abc", b"", b"defg"):
        yield piece
        await asyncio.sleep(0)


@pytest.mark.parametrize("case", BAD_REQUESTS)
async def test_what_must_not_be_sent_is_not(case: str) -> None:
    server = Server(answering(OK))
    async with server.serve() as base, fast(server) as transport:
        assert await outcome(transport, BAD_REQUESTS[case](base)) == ("LocalProtocolError", b"")
        if not case.startswith("too "):  # there an exception of h11's comes out of httpx's
            theirs = httpx.AsyncHTTPTransport(trust_env=False)
            assert await outcome(theirs, BAD_REQUESTS[case](base)) == ("LocalProtocolError", b"")
            await theirs.aclose()


async def echo(peer: Peer, head: bytes, body: bytes) -> None:
    await peer.send(HEAD + b"content-length: %d\r\n\r\n" % len(body) + body)


@pytest.mark.parametrize("size", [0, 1, 16_000, 70_000, 5_000_000])
@pytest.mark.parametrize("form", ["bytes", "chunked bytes", "chunked", "length"])
async def test_bodies_both_ways(size: int, form: str) -> None:
    sent = bytes(range(256)) * (size // 256) + b"x" * (size % 256)

    async def stream() -> AsyncIterator[bytes]:
        for at in range(0, len(sent), 100_000):
            yield sent[at : at + 100_000]

    content: Any = sent if "bytes" in form else stream()
    headers = {"chunked bytes": {"transfer-encoding": "chunked"}, "length": {"content-length": str(size)}}.get(form, {})
    server = Server(echo)
    async with server.serve() as base, fast(server) as transport:
        for _ in range(2):
            request = httpx.Request("POST", base + "/case", content=content, headers=headers)
            request.extensions["timeout"] = TIMEOUTS
            assert (await outcome(transport, request))[3] == sent
            content = sent if "bytes" in form else stream()
        assert server.accepted == 1


async def test_a_refusal_ends_the_writing() -> None:
    async def script(peer: Peer, head: bytes, body: bytes) -> None:
        await peer.send(b"HTTP/1.1 413 Too Large\r\ncontent-length: 2\r\n\r\nno")
        await peer.until_closed()
        raise EOFError

    server = Server(script)
    async with server.serve() as base, fast(server) as transport:
        assert (await outcome(transport, asked(base, "/unread", content=b"x" * 20_000_000)))[3] == b"no"


async def test_connections_are_reused_and_the_last_used_first() -> None:
    server = Server(answering(OK))
    async with server.serve() as base, fast(server) as transport:
        for _ in range(20):
            assert (await outcome(transport, asked(base, "/case")))[3] == b"ok"
        assert server.accepted == 1
        assert transport.pool.idle == 1


async def test_idle_connections_expire() -> None:
    server = Server(answering(OK))
    async with server.serve() as base, fast(server, limits=httpx.Limits(keepalive_expiry=0.02)) as transport:
        await asyncio.gather(*(outcome(transport, asked(base, "/case")) for _ in range(3)))
        async with asyncio.timeout(5):
            while transport.sockets:  # noqa: ASYNC110
                await asyncio.sleep(0.005)
        assert transport.pool.idle == 0
        await server.none_open()


@pytest.mark.parametrize("theirs", [True, False])
async def test_the_server_closes_while_idle(theirs: bool) -> None:
    server = Server(answering(OK, then="close"))
    async with server.serve() as base:
        transport: Transport = httpx.AsyncHTTPTransport(trust_env=False) if theirs else FastTransport()
        for _ in range(5):
            assert (await outcome(transport, asked(base, "/case")))[3] == b"ok"
            await server.none_open()
            await asyncio.sleep(0.002)
        await transport.aclose()


@pytest.mark.parametrize("then", ["close", "reset"])
async def test_closed_at_the_moment_of_use_is_sent_once_more(then: str) -> None:
    async def script(peer: Peer, head: bytes, body: bytes) -> None:
        if peer.requests > 1:
            if then == "reset":
                peer.reset()
            raise EOFError
        await echo(peer, head, body)

    server = Server(script)
    async with server.serve() as base, fast(server) as transport:
        for number in range(4):
            assert (await outcome(transport, asked(base, "/case", content=b"%d" % number)))[3] == b"%d" % number
        assert server.accepted == 4
        assert len(server.heads) == 7


async def test_sent_once_more_and_not_twice() -> None:
    server = Server(answering(then="close"))
    async with server.serve() as base, fast(server) as transport:
        await outcome(transport, asked(base, "/ok"))
        assert await outcome(transport, asked(base, "/case")) == ("RemoteProtocolError", b"")
        assert len(server.heads) == 3
        # What comes as a stream is gone after the first time.
        await outcome(transport, asked(base, "/ok"))
        assert await outcome(transport, asked(base, "/case", content=pieces())) == ("RemoteProtocolError", b"")
        assert len(server.heads) == 5


@pytest.mark.parametrize("start", [b"H", b"HTTP/1.1 100 Continue\r\n\r\n", HEAD])
async def test_nothing_is_sent_again_after_the_first_byte(start: bytes) -> None:
    server = Server(answering(start, then="close"))
    async with server.serve() as base, fast(server) as transport:
        await outcome(transport, asked(base, "/ok"))
        assert await outcome(transport, asked(base, "/case")) == ("RemoteProtocolError", b"")
        assert len(server.heads) == 2


async def test_nothing_is_sent_again_when_the_server_has_had_it_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("devstral_proxy.upstream.transport.connection.RETRY_WITHIN", -1.0)
    server = Server(answering(then="close"))
    async with server.serve() as base, fast(server) as transport:
        await outcome(transport, asked(base, "/ok"))
        assert await outcome(transport, asked(base, "/case")) == ("RemoteProtocolError", b"")
        assert len(server.heads) == 2


async def test_the_queue_is_fair() -> None:
    order: list[bytes] = []
    all_wait = asyncio.Event()

    async def script(peer: Peer, head: bytes, body: bytes) -> None:
        order.append(body)
        await all_wait.wait()
        await asyncio.sleep(0.001)
        await echo(peer, head, body)

    server = Server(script)
    limits = httpx.Limits(max_connections=2, max_keepalive_connections=2)
    async with server.serve() as base, fast(server, limits=limits) as transport:
        tasks = []
        for number in range(30):
            tasks.append(asyncio.create_task(outcome(transport, asked(base, "/case", content=b"%02d" % number))))
            await asyncio.sleep(0)
        tasks[7].cancel()  # one that waits
        all_wait.set()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert [result[3] for result in results if not isinstance(result, BaseException)] == [
            b"%02d" % number for number in range(30) if number != 7
        ]
        places = [order.index(b"%02d" % number) for number in range(30) if number != 7]
        assert all(abs(place - at) <= 1 for at, place in enumerate(places))  # two are under way at a time
        assert server.accepted == 2


async def test_places_go_to_other_origins() -> None:
    one, other = Server(answering(OK)), Server(answering(OK))
    async with one.serve() as base, other.serve() as base2:
        async with fast(one, limits=httpx.Limits(max_connections=1)) as transport:
            for _ in range(2):
                both = [outcome(transport, asked(where, "/case")) for where in (base, base2, base, base2)]
                assert all(result[3] == b"ok" for result in await asyncio.gather(*both))
        await other.none_open()


async def test_two_hundred_at_once() -> None:
    server = Server(echo)
    async with server.serve() as base, fast(server, limits=httpx.Limits(max_connections=50)) as transport:
        for _ in range(3):
            asking = [outcome(transport, asked(base, "/case", content=b"%d" % number)) for number in range(200)]
            results = await asyncio.gather(*asking)
            assert [result[3] for result in results] == [b"%d" % number for number in range(200)]
        assert server.accepted <= 50


PHASES: dict[str, tuple[Script, str, int]] = {
    "head": (silent, "/case", 2),
    "half a head": (answering(b"HTTP/1.1 200 OK\r\ncont"), "/case", 2),
    "body": (stalling, "/case", 2),
    "write": (silent, "/unread", 20_000_000),
}


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("reused", [False, True])
async def test_cancelled_while(phase: str, reused: bool) -> None:
    script, path, size = PHASES[phase]

    gone = asyncio.Event()

    async def unread(peer: Peer, head: bytes, body: bytes) -> None:
        await gone.wait()
        raise EOFError

    server = Server(unread if path == "/unread" else script)
    limits = httpx.Limits(max_connections=1)
    async with server.serve() as base, fast(server, limits=limits) as transport:
        if reused:
            await outcome(transport, asked(base, "/ok"))
        task = asyncio.create_task(outcome(transport, asked(base, path, content=b"x" * size)))
        async with asyncio.timeout(5):
            while len(server.heads) <= int(reused):  # noqa: ASYNC110
                await asyncio.sleep(0.001)
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        gone.set()
        assert transport.pool.busy == 0
        assert (await outcome(transport, asked(base, "/ok")))[3] == b"ok"


@pytest.mark.parametrize("turns", range(12))
async def test_cancelled_after_so_many_turns_of_the_loop(turns: int) -> None:
    """Whatever it was waiting for: a place, the connection, the answer, a place that was just given to it."""
    server = Server(echo)
    async with server.serve() as base, fast(server, limits=httpx.Limits(max_connections=2)) as transport:
        for cancelled in range(4):
            tasks = [
                asyncio.create_task(outcome(transport, asked(base, "/case", content=b"%d" % number)))
                for number in range(5)
            ]
            for _ in range(turns):
                await asyncio.sleep(0)
            tasks[cancelled].cancel()
            results = await asyncio.gather(*tasks, return_exceptions=True)
            for number, result in enumerate(results):
                if not isinstance(result, BaseException):
                    assert result[3] == b"%d" % number
                else:
                    assert number == cancelled
            assert transport.pool.busy == 0


async def test_a_place_given_in_the_moment_of_cancellation_goes_to_the_next() -> None:
    server = Server(silent)
    async with server.serve() as base, fast(server, limits=httpx.Limits(max_connections=1)) as transport:
        place = await transport.pool.acquire((b"http", b"x", 1), None)
        assert place is None
        first = asyncio.create_task(outcome(transport, asked(base, "/ok")))
        second = asyncio.create_task(outcome(transport, asked(base, "/ok")))
        await asyncio.sleep(0)
        transport.pool.release(None)
        first.cancel()
        assert (await second)[3] == b"ok"
        assert first.cancelled()


async def test_an_answer_closed_before_its_end_closes_its_connection() -> None:
    server = Server(stalling)
    async with server.serve() as base, fast(server) as transport:
        response = await transport.handle_async_request(asked(base, "/case"))
        assert transport.pool.busy == 1
        await response.aclose()
        await response.aclose()
        stream: Any = response.stream
        for _ in range(2):
            with pytest.raises(httpx.ReadError):  # no clean end
                await stream.take()
        assert (transport.pool.busy, transport.pool.idle) == (0, 0)
        await server.none_open()


async def test_an_answer_that_is_complete_but_not_read_leaves_its_connection() -> None:
    server = Server(answering(LENGTH + b"hello"))
    async with server.serve() as base, fast(server) as transport:
        response = await transport.handle_async_request(asked(base, "/case"))
        await asyncio.sleep(0.01)
        await response.aclose()
        assert transport.pool.idle == 1


async def test_a_reader_that_does_not_read_holds_the_server_back() -> None:
    sent = 0

    async def script(peer: Peer, head: bytes, body: bytes) -> None:
        nonlocal sent
        await peer.send(HEAD + b"content-length: 60000000\r\n\r\n")
        for _ in range(600):
            await peer.send(b"x" * 100_000)
            sent += 1

    server = Server(script)
    async with server.serve() as base, fast(server) as transport:
        response = await transport.handle_async_request(asked(base, "/case"))
        before = -1
        while sent > before:
            before = sent
            await asyncio.sleep(0.05)
        assert sent < 300  # what the kernel's buffers hold, and ours
        (connection,) = transport._open
        assert connection._held <= HELD_BYTES + 300_000
        assert isinstance(response.stream, httpx.AsyncByteStream)
        assert sum([len(part) async for part in response.stream]) == 60_000_000
        assert transport.pool.idle == 1


async def test_one_wake_up_hands_out_all_that_is_there() -> None:
    server = Server(answering(CHUNKED + b"1\r\na\r\n" * 50, b"1\r\nb\r\n" * 3 + b"0\r\n\r\n"))
    async with server.serve() as base, fast(server) as transport:
        response = await transport.handle_async_request(asked(base, "/case"))
        await asyncio.sleep(0.02)
        stream: Any = response.stream
        assert await stream.take() == [b"a"] * 50 + [b"b"] * 3
        assert await stream.take() == []
        assert transport.pool.idle == 1


async def test_unix_sockets(tmp_path: Path) -> None:
    server = Server(echo)
    path = tmp_path / "s"
    async with server.serve(uds=path) as base, fast(server, uds=str(path)) as transport:
        assert (await outcome(transport, asked(base, "/case", content=b"hi")))[3] == b"hi"
        assert b"\r\nHost: upstream.test\r\n" in server.heads[0]


async def test_tls() -> None:
    pem = Path(__file__).parent.parent / "data" / "tls" / "loopback.pem"
    served, trusting = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH), ssl.create_default_context(cafile=pem)
    served.load_cert_chain(pem)
    server = Server(echo)
    async with server.serve(tls=served) as base:
        async with fast(server, verify=trusting) as transport:
            for size in (2, 1_000_000):
                assert (await outcome(transport, asked(base, "/case", content=b"x" * size)))[3] == b"x" * size
            assert server.accepted == 1
        async with fast(server, fine=False, verify=ssl.create_default_context()) as careful:
            assert await outcome(careful, asked(base, "/ok")) == ("ConnectError", b"")
        async with fast(server, fine=False) as default:
            assert await outcome(default, asked(base, "/ok")) == ("ConnectError", b"")


async def test_closing_ends_what_is_under_way() -> None:
    server = Server(silent)
    async with server.serve() as base:
        transport = FastTransport(limits=httpx.Limits(max_connections=1))
        tasks = [asyncio.create_task(outcome(transport, asked(base, "/case"))) for _ in range(2)]
        while not server.heads:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        await transport.aclose()
        assert [(await task)[0] for task in tasks] == ["ReadError", "ConnectError"]
        assert transport.pool.busy == 0
        await server.none_open()
        assert await outcome(transport, asked(base, "/ok")) == ("ConnectError", b"")


async def test_it_serves_httpx_client() -> None:
    server = Server(echo)
    transport = FastTransport()
    async with server.serve() as base, httpx.AsyncClient(transport=transport) as client:
        answers = [await client.post(base + "/case", json={"n": number}) for number in range(3)]
        assert [answer.json() for answer in answers] == [{"n": 0}, {"n": 1}, {"n": 2}]
        assert server.accepted == 1
        async with client.stream("POST", base + "/case", content=b"abc") as answer:
            assert answer.http_version == "HTTP/1.1"
            assert await answer.aread() == b"abc"
