"""The protocol beside uvicorn's own: the same bytes for the same requests, but where a difference is meant."""

from __future__ import annotations

import asyncio
import json
import re

import httptools
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from devstral_proxy.server.http import head
from tests.server.http.serving import CLOSE, answer, body_of, echo, serving

pytestmark = pytest.mark.anyio


OWN = (
    "/stream", "/stream/empty", "/length", "/large", "/204", "/304", "/299", "/whole", "/after", "/short", "/nothing",
    "/split",
)  # fmt: skip


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    path = scope["path"]
    if path == "/early":
        await answer(send, b"early", 413, (b"connection", b"close"))
        return
    if path == "/before":
        raise ValueError("before the head")
    if path not in OWN:
        await echo(scope, receive, send)
        return
    await body_of(receive)
    start = {"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]}
    if path == "/stream":
        await send(start)
        for piece in (b"one", b"", b"two" * 50_000):
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b"end"})
    elif path == "/stream/empty":
        await send(start)
        await send({"type": "http.response.body", "body": b"", "more_body": True})
        await send({"type": "http.response.body"})
    elif path == "/length":
        await send({**start, "headers": [(b"Content-Length", b"6")]})
        await send({"type": "http.response.body", "body": b"one", "more_body": True})
        await send({"type": "http.response.body", "body": b"two"})
    elif path == "/large":
        await answer(send, b"x" * 3_000_000)
    elif path in ("/204", "/304"):
        await send({**start, "status": int(path[1:])})
        await send({"type": "http.response.body"})
    elif path == "/299":
        await answer(send, b"?", 299)
    elif path == "/whole":
        await send(start)
        await send({"type": "http.response.body", "body": b"whole"})
    elif path == "/after":
        await send(start)
        await send({"type": "http.response.body", "body": b"one", "more_body": True})
        raise ValueError("after the head")
    elif path == "/short":
        await send({**start, "headers": [(b"content-length", b"6")]})
        await send({"type": "http.response.body", "body": b"one"})
    elif path == "/nothing":
        pass
    elif path == "/split":
        await send({**start, "headers": [(b"x", b"a\r\nb: c")]})
        await send({"type": "http.response.body"})


def get(path: str, *headers: str, method: str = "GET", version: str = "1.1", body: bytes = b"") -> bytes:
    lines = [f"{method} {path} HTTP/{version}", "Host: x", *headers]
    return "\r\n".join((*lines, "", "")).encode() + body


def post(path: str, body: bytes, *headers: str) -> bytes:
    return get(path, f"Content-Length: {len(body)}", *headers, method="POST", body=body)


CHUNKED = b'3;a=b;c="d"\r\nabc\r\n0004\r\ndefg\r\n0\r\n\r\n'
TRAILED = b"3\r\nabc\r\n0\r\nX-Trailer: v\r\n\r\n"
SAME = {
    "plain": get("/a") + CLOSE,
    "query and escapes": get("/a%20b/%C3%A9/%2F?x=%20&y#z") + CLOSE,
    "two slashes": get("//a//b?c=d//e") + CLOSE,
    "absolute form": get("http://other:1/a/b?c=d") + CLOSE,
    "headers": get("/a", "X-A: 1", "x-a: 2", "Accept:*/*", "Empty:", "Tab: a\tb", "Name: \u00e9") + CLOSE,
    "body": post("/a", b"hello") + CLOSE,
    "empty body": post("/a", b"") + CLOSE,
    "large body": post("/a", b"x" * 900_000) + CLOSE,
    "body over the window": post("/a", b"x" * 5_000_000) + CLOSE,
    "chunked": get("/a", "Transfer-Encoding: Chunked", method="POST", body=CHUNKED) + CLOSE,
    "pipelined": get("/1") + post("/2", b"two") + get("/stream") + get("/3") + CLOSE,
    "close, then more": get("/a", "Connection: close") + get("/b"),
    "head": get("/a", method="HEAD") + CLOSE,
    "head of a stream": get("/stream", method="HEAD") + CLOSE,
    "options": get("/a", method="OPTIONS") + CLOSE,
    "stream": get("/stream") + CLOSE,
    "stream of nothing": get("/stream/empty") + CLOSE,
    "with length": get("/length") + CLOSE,
    "large answer": get("/large") + CLOSE,
    "204": get("/204") + CLOSE,
    "304": get("/304") + CLOSE,
    "another status": get("/299") + CLOSE,
    "blank lines before": b"\r\n\r\n" + get("/a") + CLOSE,
    "1.0": get("/a", version="1.0"),
    "fails after the head": get("/after"),
    "shorter than its length": get("/short"),
    "early": get("/early", "Content-Length: 5", "Expect: 100-continue", method="POST"),
    "early, with the body": post("/early", b"hello"),
}  # fmt: skip


async def both(request: bytes, *more: bytes) -> tuple[bytes, bytes]:
    """What ours and uvicorn's say."""
    async with serving(app) as ours, serving(app, protocol=HttpToolsProtocol) as theirs:
        return await ours.talk(request, *more), await theirs.talk(request, *more)


@pytest.mark.parametrize("case", SAME)
async def test_the_same_bytes(case: str) -> None:
    ours, theirs = await both(SAME[case])
    assert ours == theirs
    assert ours.startswith(b"HTTP/1.1 ")


@pytest.mark.parametrize("case", ["plain", "body", "chunked", "pipelined", "head", "1.0"])
async def test_the_same_bytes_byte_by_byte(case: str) -> None:
    request = SAME[case]
    ours, theirs = await both(*(request[at : at + 1] for at in range(len(request))))
    assert ours == theirs


async def test_a_large_body_in_pieces() -> None:
    request = post("/a", b"x" * 3_000_000) + CLOSE
    ours, theirs = await both(*(request[at : at + 70_000] for at in range(0, len(request), 70_000)))
    assert ours == theirs


def bodies(data: bytes) -> list[dict[str, object]]:
    """What `echo` told in each answer."""
    return [json.loads(found) for found in re.findall(rb"\r\n\r\n(\{.*?\})(?=HTTP/1.1|$)", data)]


# ---------------------------------------------------------------- where it differs, and how


async def test_a_whole_answer_without_length_gets_one() -> None:
    ours, theirs = await both(get("/whole") + CLOSE)
    assert b"content-length: 5\r\n\r\nwhole" in ours
    assert b"transfer-encoding: chunked\r\n\r\n5\r\nwhole\r\n0\r\n\r\n" in theirs


async def test_1_0_keeps_the_connection_when_asked_to() -> None:
    ours, theirs = await both(get("/a", "Connection: keep-alive", version="1.0") + get("/b", version="1.0"))
    assert [told["path"] for told in bodies(ours)] == ["/a", "/b"]
    assert ours.count(b"connection: keep-alive\r\n") == ours.count(b"connection: close\r\n") == 1
    assert [told["path"] for told in bodies(theirs)] == ["/a"]


async def test_1_0_gets_no_chunks() -> None:
    ours, theirs = await both(get("/stream", version="1.0"))
    assert ours.endswith(b"\r\nconnection: close\r\n\r\none" + b"two" * 50_000 + b"end")
    assert b"chunked" in theirs


async def test_nobody_is_asked_for_a_body_that_is_there() -> None:
    request = post("/a", b"hello", "Expect: 100-continue")
    ours, theirs = await both(request + CLOSE)
    assert theirs == b"HTTP/1.1 100 Continue\r\n\r\n" + ours
    ours, theirs = await both(request[:-5], request[-5:] + CLOSE)
    assert ours == theirs
    assert ours.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK")
    ours, theirs = await both(request[:-3], request[-3:] + CLOSE)
    assert theirs == b"HTTP/1.1 100 Continue\r\n\r\n" + ours


async def test_trailers_are_dropped() -> None:
    ours, theirs = await both(get("/a", "Transfer-Encoding: chunked", method="POST", body=TRAILED) + CLOSE)
    assert "x-trailer" not in str(bodies(ours)[0])
    assert bodies(ours)[0]["body"] == bodies(theirs)[0]["body"] == [3, "abc"]


async def test_blanks_around_a_value_are_no_part_of_it() -> None:
    ours, _ = await both(get("/a", "X-A:  b \t", "Content-Length: 3 ", method="POST", body=b"abc") + CLOSE)
    assert bodies(ours)[0]["headers"] == [["host", "x"], ["x-a", "b"], ["content-length", "3"]]


OFFERS = {
    "h2c": ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAAP__"),
    "websocket": ("Connection: keep-alive, Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13"),
}


@pytest.mark.parametrize("offer", OFFERS)
@pytest.mark.parametrize("how", ["nothing", "length", "chunked"])
async def test_an_offer_of_another_protocol_is_declined(offer: str, how: str) -> None:
    """uvicorn answers the request, but without its body, and takes the body for the next request."""
    if how == "nothing":
        request, length = get("/a", *OFFERS[offer]), 0
    elif how == "length":
        request, length = post("/a", b"x" * 100_000, *OFFERS[offer]), 100_000
    else:
        request = get("/a", "Transfer-Encoding: chunked", *OFFERS[offer], method="POST", body=CHUNKED)
        length = 7
    async with serving(app) as ours:
        for pieces in ((request + CLOSE,), (request[:200], request[200:] + CLOSE)):
            told = bodies(await ours.talk(*pieces))
            assert [one["path"] for one in told] == ["/a", "/last"]
            assert told[0]["body"][0] == length  # type: ignore[index]
            assert "upgrade" not in [name for name, _ in told[0]["headers"]]  # type: ignore[attr-defined]


@pytest.mark.parametrize("path", ["/before", "/nothing", "/split"])
async def test_a_failure_is_an_error_of_the_api(path: str) -> None:
    ours, theirs = await both(get(path))
    assert ours.split()[1] == b"500"
    assert theirs == b"" or theirs.split()[1] == b"500"
    assert json.loads(ours.partition(b"\r\n\r\n")[2])["error"]["code"] == "internal_error"
    assert b"b: c" not in ours
    ours, _ = await both(get(path, method="HEAD"))
    assert ours.endswith(b"\r\n\r\n")


async def test_options_of_the_server() -> None:
    async with serving(app) as ours:
        assert bodies(await ours.talk(get("*", method="OPTIONS") + CLOSE))[0]["path"] == "*"


async def test_an_early_answer_closes() -> None:
    """uvicorn reads the rest, however long it is, for the sake of the connection."""
    async with serving(app) as ours:
        request = get("/early", "Content-Length: 100000000", method="POST")
        data = await ours.talk(request, *[b"x" * 500_000] * 20)
    assert data.startswith(b"HTTP/1.1 413 ")
    assert data.endswith(b"connection: close\r\n\r\nearly")


async def test_a_half_closed_connection_is_a_client_that_left() -> None:
    """As with uvicorn: a client that leaves and one that only says no more look alike."""
    for protocol in (None, HttpToolsProtocol):
        came = asyncio.Queue[str]()

        async def until_gone(scope: Scope, receive: Receive, send: Send, came: asyncio.Queue[str] = came) -> None:
            await body_of(receive)
            came.put_nowait("request")
            came.put_nowait((await receive())["type"])

        async with serving(until_gone, protocol=protocol) as served:
            client = await served.connect()
            await client.write(get("/a"))
            assert await came.get() == "request"
            client.writer.write_eof()
            assert await client.rest() == b""
            assert await came.get() == "http.disconnect"


# ---------------------------------------------------------------- targets

TEXT = st.text("/?#%2Fa:@*.&=+ -_~", max_size=12)


@given(TEXT)
def test_a_path_is_parsed_as_httptools_does(rest: str) -> None:
    url = b"/" + rest.replace(" ", "").encode()
    path, raw, query = head.target("GET", url)
    parts = httptools.parse_url(url)
    assert (raw, query) == (parts.path, parts.query or b"")
    assert path == raw.decode() or "%" in raw.decode()
