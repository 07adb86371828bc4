"""The proxy on real sockets, between raw clients and raw upstreams: leaving, silence, stalls, slow readers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from tests.server.upstreams import COMPLETION, DONE, STREAM, Connection, Handler, Raw, chunk, live, request

pytestmark = pytest.mark.anyio

CHAT = "/v1/chat/completions"
TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}


class Client:
    """A client that writes its HTTP by hand, so that it can leave when it likes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def post(self, path: str, body: dict[str, Any]) -> None:
        data = json.dumps(body).encode()
        head = (
            f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {len(data)}\r\n\r\n"
        )
        self.writer.write(head.encode() + data)
        await self.writer.drain()

    async def until(self, mark: bytes) -> bytes:
        """What comes, up to a mark."""
        async with asyncio.timeout(10):
            return await self.reader.readuntil(mark)

    def leave(self, abruptly: bool) -> None:
        """Close the connection: with a reset, or in the ordinary way."""
        if abruptly:
            self.writer.transport.abort()
        else:
            self.writer.close()


@asynccontextmanager
async def client_of(base: str) -> AsyncIterator[Client]:
    parts = urlsplit(base)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    try:
        yield Client(reader, writer)
    finally:
        writer.transport.abort()
        await asyncio.sleep(0)


@asynccontextmanager
async def pair(handler: Handler, **values: Any) -> AsyncIterator[tuple[Raw, str]]:
    """An upstream with this handler, and the proxy's base URL before it."""
    upstream = Raw(handler)
    async with upstream.serve() as base, live(base, **values) as proxy:
        yield upstream, proxy


async def freed(upstream: Raw) -> None:
    """Wait until the proxy has closed the connections of all requests so far."""
    async with asyncio.timeout(10):
        for connection in upstream.answering:
            await connection.closed.wait()


# ---------------------------------------------------------------- the client leaves


async def silent(raw: Raw, connection: Connection, line: str, body: bytes) -> None:
    if json.loads(body)["messages"][0]["content"] == "go on":
        await connection.whole(json.dumps(COMPLETION).encode())
    else:
        await connection.until_closed()


async def streaming(raw: Raw, connection: Connection, line: str, body: bytes) -> None:
    if json.loads(body)["messages"][0]["content"] == "go on":
        await connection.whole(json.dumps(COMPLETION).encode())
        return
    await connection.head()
    await connection.piece(chunk({"role": "assistant", "content": ""}) + chunk({"content": "Hel"}))
    await connection.until_closed()


PHASES: dict[str, tuple[Handler, dict[str, Any], bytes]] = {
    "before the first token": (silent, request(stream=True), b""),
    "after a keepalive": (silent, request(stream=True), b": keepalive\n\n"),
    "in mid-stream": (streaming, request(stream=True), b'"Hel"'),
    "not streamed": (silent, request(), b""),
    "not streamed, upstream asked for a stream": (streaming, request(tools=[TOOL]), b""),
}
AGAIN = request(messages=[{"role": "user", "content": "go on"}])


@pytest.mark.parametrize("abruptly", [True, False])
@pytest.mark.parametrize("phase", PHASES)
async def test_a_client_that_leaves_frees_upstream(phase: str, abruptly: bool) -> None:
    handler, body, mark = PHASES[phase]
    # One connection in the pool: a leaked one would keep the last request out.
    async with pair(handler, pool_size=2, keepalive=0.05, connect_timeout=5) as (upstream, proxy):
        for _ in range(5):
            upstream.arrived.clear()
            async with client_of(proxy) as client:
                await client.post(CHAT, body)
                await upstream.arrived.wait()
                if mark:
                    await client.until(mark)
                client.leave(abruptly)
                await freed(upstream)
        async with httpx.AsyncClient(base_url=proxy) as plain:
            response = await plain.post(CHAT, json=AGAIN)
        assert response.status_code == 200
        assert len(upstream.asked) == 6


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/embeddings"])
async def test_a_client_that_leaves_a_relayed_request_frees_upstream(path: str) -> None:
    async def handler(raw: Raw, connection: Connection, line: str, body: bytes) -> None:
        await connection.until_closed()

    async with pair(handler) as (upstream, proxy), client_of(proxy) as client:
        await client.post(path, {"model": "m", "stream": path == "/v1/completions"})
        await upstream.arrived.wait()
        client.leave(True)
        await freed(upstream)


async def test_many_clients_leave_at_once() -> None:
    async with pair(streaming, pool_size=60) as (upstream, proxy):

        async def visit() -> None:
            async with client_of(proxy) as client:
                await client.post(CHAT, request(stream=True))
                await client.until(b'"Hel"')

        await asyncio.gather(*(visit() for _ in range(50)))
        await freed(upstream)
        assert len(upstream.asked) == 50
        async with httpx.AsyncClient(base_url=proxy) as plain:
            assert (await plain.post(CHAT, json=AGAIN)).status_code == 200


# ---------------------------------------------------------------- silence


async def test_comments_go_out_before_the_first_token_and_between() -> None:
    proceed = asyncio.Event()

    async def handler(raw: Raw, connection: Connection, line: str, body: bytes) -> None:
        await proceed.wait()
        await connection.head()
        await connection.piece(chunk({"role": "assistant", "content": ""}))
        proceed.clear()
        await proceed.wait()
        await connection.piece(STREAM[STREAM.index(b"\n\n") + 2 :])
        await connection.piece(b"")

    async with pair(handler, keepalive=0.02) as (_, proxy), client_of(proxy) as client:
        await client.post(CHAT, request(stream=True))
        head = await client.until(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 OK")
        assert b"text/event-stream" in head
        assert await client.until(b"\n\n") == b"d\r\n: keepalive\n\n"
        proceed.set()
        await client.until(b'"role":"assistant"')
        await client.until(b": keepalive\n\n")
        proceed.set()
        assert b"lo." in await client.until(DONE)


async def test_no_comments_when_they_are_off() -> None:
    async def handler(raw: Raw, connection: Connection, line: str, body: bytes) -> None:
        await asyncio.sleep(0.05)
        await connection.whole(STREAM, b"text/event-stream")

    async with pair(handler, keepalive=0) as (_, proxy), httpx.AsyncClient(base_url=proxy) as client:
        response = await client.post(CHAT, json=request(stream=True))
    assert response.content == STREAM


async def test_an_error_before_the_first_comment_is_a_status_after_it_an_event() -> None:
    refusal = b'{"error": {"message": "no", "type": "BadRequestError", "param": null, "code": 400}}'

    async def handler(raw: Raw, connection: Connection, line: str, body: bytes) -> None:
        await asyncio.sleep(0.05)
        await connection.whole(refusal, status=b"400 Bad Request")

    for keepalive, status in ((5, 400), (0.01, 200)):
        async with pair(handler, keepalive=keepalive) as (_, proxy), httpx.AsyncClient(base_url=proxy) as client:
            response = await client.post(CHAT, json=request(stream=True))
        assert response.status_code == status
        if status == 400:
            assert response.json()["error"]["message"] == "no"
        else:
            *comments, error, done, end = response.text.split("\n\n")
            assert set(comments) == {": keepalive"}
            assert json.loads(error.removeprefix("data: "))["error"]["message"] == "no"
            assert (done, end) == ("data: [DONE]", "")


async def test_a_whole_answer_is_waited_for_with_comments() -> None:
    """0.20.2 is asked without streaming."""

    async def handler(raw: Raw, connection: Connection, line: str, body: bytes) -> None:
        assert not json.loads(body).get("stream")
        await asyncio.sleep(0.05)
        await connection.whole(json.dumps(COMPLETION).encode())

    async with (
        pair(handler, keepalive=0.01, vllm_version="0.20.2") as (_, proxy),
        httpx.AsyncClient(base_url=proxy) as client,
    ):
        response = await client.post(CHAT, json=request(stream=True, tools=[TOOL]))
    assert response.text.startswith(": keepalive\n\n")
    assert '"Hello."' in response.text
    assert response.text.endswith("data: [DONE]\n\n")


# ---------------------------------------------------------------- upstream stalls, breaks, never ends


async def stall(raw: Raw, connection: Connection, line: str, body: bytes) -> None:
    await connection.head()
    await connection.piece(chunk({"role": "assistant", "content": ""}) + chunk({"content": "Hel"}))
    await connection.until_closed()


TIMEOUTS: dict[str, tuple[Handler, dict[str, Any], dict[str, Any], str]] = {
    "first byte": (silent, request(stream=True), {"first_byte_timeout": 0.05}, "FIRST_BYTE_TIMEOUT"),
    "idle": (stall, request(stream=True), {"idle_timeout": 0.05}, "IDLE_TIMEOUT"),
    "whole stream": (stall, request(stream=True), {"request_timeout": 0.1}, "REQUEST_TIMEOUT"),
    "whole request": (silent, request(), {"request_timeout": 0.05}, "REQUEST_TIMEOUT"),
    "idle, folded": (stall, request(tools=[TOOL]), {"idle_timeout": 0.05}, "IDLE_TIMEOUT"),
    "of the profile": (
        silent, request(), {"model_profiles": '{"devstral-small-2": {"timeout": 0.05}}'}, "the profile's timeout",
    ),
    "first byte after a comment": (
        silent, request(stream=True), {"first_byte_timeout": 0.1, "keepalive": 0.01}, "FIRST_BYTE_TIMEOUT",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", TIMEOUTS)
async def test_silence_past_a_limit_is_an_error_and_frees_upstream(case: str) -> None:
    handler, body, values, name = TIMEOUTS[case]
    async with pair(handler, **values) as (upstream, proxy), httpx.AsyncClient(base_url=proxy) as client:
        response = await client.post(CHAT, json=body)
        assert name in response.text
        if response.headers["content-type"] == "application/json":
            assert response.status_code == 504
            assert response.json()["error"]["code"] == "upstream_timeout"
        else:
            *_, error, done, end = response.text.split("\n\n")
            assert json.loads(error.removeprefix("data: "))["error"]["code"] == "upstream_timeout"
            assert (done, end) == ("data: [DONE]", "")
        await freed(upstream)


@pytest.mark.parametrize("fault", ["reset", "closed", "bad chunk", "half an event"])
async def test_a_stream_that_breaks_never_looks_finished(fault: str) -> None:
    go_on = asyncio.Event()

    async def handler(raw: Raw, connection: Connection, line: str, body: bytes) -> None:
        await connection.head()
        await connection.piece(chunk({"role": "assistant", "content": ""}) + chunk({"content": "Hel"}))
        await go_on.wait()
        if fault == "bad chunk":
            await connection.send(b"zz\r\n")
        elif fault == "half an event":
            await connection.piece(b'data: {"id"')
            await connection.piece(b"")
        elif fault == "reset":
            connection.writer.transport.abort()
        raise ConnectionError

    async with pair(handler) as (_, proxy), client_of(proxy) as client:
        await client.post(CHAT, request(stream=True))
        await client.until(b'"Hel"')
        go_on.set()
        rest = await client.until(DONE)
    assert b'"error"' in rest
    assert b'"finish_reason":"stop"' not in rest


async def test_an_upstream_that_does_not_end_after_done_is_left() -> None:
    async def handler(raw: Raw, connection: Connection, line: str, body: bytes) -> None:
        await connection.head()
        await connection.piece(STREAM)
        await connection.until_closed()

    async with pair(handler) as (upstream, proxy), httpx.AsyncClient(base_url=proxy) as client:
        response = await client.post(CHAT, json=request(stream=True))
        assert response.content == STREAM
        await freed(upstream)


async def test_connections_are_reused_after_streams() -> None:
    async def handler(raw: Raw, connection: Connection, line: str, body: bytes) -> None:
        await connection.head()
        await connection.piece(STREAM)
        await asyncio.sleep(0.01)
        await connection.piece(b"")

    async with pair(handler) as (upstream, proxy), httpx.AsyncClient(base_url=proxy) as client:
        for _ in range(5):
            assert (await client.post(CHAT, json=request(stream=True))).content == STREAM
            await asyncio.sleep(0.05)
        assert len(upstream.connections) <= 2  # two for /version and /v1/models at the same time


# ---------------------------------------------------------------- back pressure


async def test_a_slow_reader_pauses_upstream_and_loses_nothing() -> None:
    count, sent = 3000, 0
    piece = chunk({"content": "x" * 8000})

    async def handler(raw: Raw, connection: Connection, line: str, body: bytes) -> None:
        nonlocal sent
        await connection.head()
        await connection.piece(chunk({"role": "assistant", "content": ""}))
        for _ in range(count):
            await connection.piece(piece)
            sent += 1
        await connection.piece(chunk({}, "stop") + DONE)
        await connection.piece(b"")

    async with pair(handler) as (_, proxy), client_of(proxy) as client:
        await client.post(CHAT, request(stream=True))
        await client.until(b"\r\n\r\n")
        before = -1
        while sent > before:  # until it moves no more
            before = sent
            await asyncio.sleep(0.2)
        assert 0 < sent < count // 2
        read = 0
        async with asyncio.timeout(30):
            while b"[DONE]" not in (data := await client.reader.read(1 << 20)):
                read += len(data)
                assert data
        assert read > count * 8000
    assert sent == count


async def test_a_reader_that_leaves_while_it_holds_everything_up_frees_upstream() -> None:
    async def handler(raw: Raw, connection: Connection, line: str, body: bytes) -> None:
        await connection.head()
        await connection.piece(chunk({"role": "assistant", "content": ""}))
        while True:
            await connection.piece(chunk({"content": "x" * 8000}))

    async with pair(handler) as (upstream, proxy), client_of(proxy) as client:
        await client.post(CHAT, request(stream=True))
        await client.until(b"\r\n\r\n")
        await asyncio.sleep(0.3)
        client.leave(True)
        await freed(upstream)


async def test_a_reader_that_holds_everything_up_past_the_limit_is_dropped(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def handler(raw: Raw, connection: Connection, line: str, body: bytes) -> None:
        await connection.head()
        await connection.piece(chunk({"role": "assistant", "content": ""}))
        while True:
            await connection.piece(chunk({"content": "x" * 8000}))

    monkeypatch.setattr("devstral_proxy.server.turn.GRACE", 0.1)
    with caplog.at_level("INFO", "devstral_proxy.access"):
        async with pair(handler, request_timeout=0.3) as (upstream, proxy), client_of(proxy) as client:
            await client.post(CHAT, request(stream=True))
            await client.until(b"\r\n\r\n")
            await freed(upstream)
    notes = [record.__dict__["fields"]["note"] for record in caplog.records if "fields" in record.__dict__]
    assert notes == ["client reads too slowly"]
