"""Streams of vLLM's that go wrong after their first events: an error of the client's API, never a finished answer."""

from __future__ import annotations

import asyncio

import pytest

from tests.integration.faults.rig import (
    APIS,
    BEGUN,
    DIALECTS,
    DONE,
    RELAY,
    STREAM,
    Api,
    Connection,
    Handler,
    Raw,
    chunk,
    each,
    ending,
    error_of,
    pair,
    unless_told,
    until,
)

pytestmark = pytest.mark.anyio

LIMIT = 64 * 1024
ENGINE_DIED = b'data: {"error":{"message":"EngineCore died","type":"InternalServerError","param":null,"code":500}}\n\n'


def goes_on(*rest: bytes, reset: bool = False, stays: bool = False) -> Handler:
    """A stream that has begun, these bytes as they are, and the connection's end."""

    async def handler(raw: Raw, connection: Connection, line: str, body: bytes) -> None:
        await connection.head()
        await connection.piece(BEGUN)
        await asyncio.sleep(0.02)
        for one in rest:
            await connection.send(one)
        if stays:
            await connection.until_closed()
        if reset:
            connection.writer.transport.abort()
        raise ConnectionError

    return handler


def pieces(*data: bytes) -> bytes:
    """A chunked body's end."""
    return b"".join(b"%x\r\n%b\r\n" % (len(one), one) for one in (*data, b""))


FAULTS: dict[str, Handler] = {
    "closed": goes_on(),
    "reset": goes_on(reset=True),
    "stalls": goes_on(stays=True),
    "stalls in a chunk": goes_on(b"ffff\r\ndata: {", stays=True),
    "bad chunk": goes_on(b"zz\r\n"),
    "bad chunk end": goes_on(b"3\r\nabcdef\r\n"),
    "ends without a word": goes_on(pieces()),
    "half an event": goes_on(pieces(b'data: {"id"')),
    "an event too large": goes_on(pieces(chunk({"content": "x" * LIMIT}), STREAM)),
    "an event too large, in lines": goes_on(pieces(b"data: x\n" * LIMIT)),
    "an event without end": goes_on(pieces(*[b"x" * 1000] * (LIMIT // 500))),
    "an error event": goes_on(pieces(ENGINE_DIED, DONE)),
}
NO_CHAT: dict[str, Handler] = {
    "an error event, then silence": goes_on(pieces(ENGINE_DIED)[:-5], stays=True),
    "half a JSON": goes_on(pieces(b'data: {"id": "chatcmpl-1", "choi\n\n', DONE)),
    "half a JSON, and on": goes_on(pieces(b'data: {"id": "chatcmpl-1", "choi\n\n', chunk({}, "stop"), DONE)),
    "HTML": goes_on(pieces(b"<html>\n\n</html>\n\n")),
}
"""What only a reader of chat chunks can see; the relay passes events on as they are."""


@pytest.mark.parametrize(
    ("api", "stream"),
    [*((api, True) for api in APIS), *((api, False) for api in DIALECTS)],
    ids=lambda one: getattr(one, "name", str(one)),
)
async def test_a_stream_that_breaks_never_looks_finished(api: Api, stream: bool) -> None:
    which = ""
    faults = FAULTS | (NO_CHAT if api is not RELAY else {})

    async def handler(raw: Raw, connection: Connection, line: str, body: bytes) -> None:
        await faults[which](raw, connection, line, body)

    values = {
        "idle_timeout": 0.1,
        "request_timeout": 10 if stream else 0.3,
        "max_event_bytes": LIMIT,
        "breaker_failures": 0,
    }
    async with pair(unless_told(handler), pool_size=2, retry_max=5, **values) as (upstream, proxy):
        for which in faults:
            count = len(upstream.asked)
            response = await proxy.ask(api, "fault", stream)
            if stream and response.status_code == 200:
                told = ending(api, response.content)
                assert not told.clean, (which, response.text)
                assert told.error["message"]
                assert api is RELAY or told.text == "Hel"
            else:  # no byte had gone out
                error_of(api, response)
            # The client has seen its beginning: it is not sent again.
            assert not stream or len(upstream.asked) == count + 1
            await until(lambda: proxy.idle)
        await proxy.works(api)


@each(*DIALECTS)
async def test_a_stream_without_a_finish_reason_is_ended_by_a_rule(api: Api) -> None:
    """vLLM's `[DONE]` says that the answer is whole: the client gets the finish reason that it lacks."""
    async with pair(unless_told(goes_on(pieces(DONE)))) as (_, proxy):
        response = await proxy.ask(api, "fault", stream=True)
        assert ending(api, response.content).text == "Hel"


@each(*APIS)
async def test_an_event_of_ten_megabytes_comes_through(api: Api) -> None:
    text = "x" * 10_000_000

    async def handler(raw: Raw, connection: Connection, line: str, body: bytes) -> None:
        await connection.head()
        data = BEGUN + chunk({"content": text}) + chunk({}, "stop") + DONE
        for start in range(0, len(data), 1_000_000):
            await connection.piece(data[start : start + 1_000_000])
        await connection.piece(b"")

    async with pair(handler) as (_, proxy):
        response = await proxy.ask(api, stream=True)
        told = ending(api, response.content)
        assert told.clean
        assert told.text == "Hel" + text
        await until(lambda: proxy.idle)


@each(*APIS)
async def test_an_event_of_ten_megabytes_over_the_limit_is_an_error(api: Api) -> None:
    async def handler(raw: Raw, connection: Connection, line: str, body: bytes) -> None:
        await connection.head()
        await connection.piece(BEGUN)
        await connection.piece(b"data: " + b"x" * 10_000_000)
        await connection.until_closed()

    async with pair(handler, max_event_bytes=1_000_000) as (_, proxy):
        response = await proxy.ask(api, stream=True)
        told = ending(api, response.content)
        assert not told.clean
        assert "1000000 bytes" in told.error["message"]
        await until(lambda: proxy.idle)


@each(*APIS)
async def test_a_whole_answer_over_the_limit_is_an_error(api: Api) -> None:
    async def handler(raw: Raw, connection: Connection, line: str, body: bytes) -> None:
        await connection.head(b"application/json")
        for _ in range(100):
            await connection.piece(b" " * 10_000)
        await connection.until_closed()

    async with pair(handler, answer_limit=500_000) as (_, proxy):
        response = await proxy.ask(api)
        assert response.status_code == 502
        assert "ANSWER_LIMIT" in error_of(api, response)["message"]
        await until(lambda: proxy.idle)
