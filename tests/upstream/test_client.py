"""The client for vLLM on real sockets: reuse, the one retry, aborts; and what failures are called."""

from __future__ import annotations

import asyncio
import re
import ssl

import httpx
import pytest

from devstral_proxy.errors import (
    ProxyError,
    UpstreamError,
    UpstreamProtocolError,
    UpstreamTimeout,
    UpstreamUnavailable,
)
from devstral_proxy.upstream.client import UpstreamClient
from tests.server.upstreams import Connection, Raw, settings

pytestmark = pytest.mark.anyio

PATH = "/v1/chat/completions"


@pytest.fixture(autouse=True, params=["fast", "httpx"])
def _transport(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything here holds with either transport."""
    monkeypatch.setenv("UPSTREAM_TRANSPORT", request.param)


async def ask(client: UpstreamClient, body: bytes = b"{}") -> bytes:
    async with client.open("POST", PATH, body) as answer:
        return await answer.read(1000)


async def test_connections_are_kept() -> None:
    async def handler(raw: Raw, connection: Connection, line: str, body: bytes) -> None:
        await connection.whole(body)

    upstream = Raw(handler)
    async with upstream.serve() as base:
        client = UpstreamClient(settings(vllm_base=base))
        for number in range(5):
            assert await ask(client, b"%d" % number) == b"%d" % number
        await client.aclose()
    assert len(upstream.connections) == 1
    assert upstream.asked[0][0] == f"POST {PATH} HTTP/1.1"


async def test_a_kept_connection_that_was_closed_is_tried_once_more_on_a_new_one() -> None:
    """vLLM closes an idle connection at the moment of use: it takes the request and closes without an answer."""

    async def handler(raw: Raw, connection: Connection, line: str, body: bytes) -> None:
        if len(raw.asked) == 2:
            connection.writer.transport.abort()
            raise ConnectionError
        await connection.whole(b"%d" % len(raw.asked))

    upstream = Raw(handler)
    async with upstream.serve() as base:
        client = UpstreamClient(settings(vllm_base=base))
        assert await ask(client) == b"1"
        assert await ask(client) == b"3"
        await client.aclose()
    assert len(upstream.connections) == 2


async def test_a_new_connection_that_is_closed_is_not_tried_again() -> None:
    async def handler(raw: Raw, connection: Connection, line: str, body: bytes) -> None:
        connection.writer.close()
        raise ConnectionError

    upstream = Raw(handler)
    async with upstream.serve() as base:
        client = UpstreamClient(settings(vllm_base=base))
        with pytest.raises(UpstreamError):
            await ask(client)
        await client.aclose()
    assert len(upstream.asked) == 1


async def test_nothing_is_tried_again_after_the_first_byte() -> None:
    async def handler(raw: Raw, connection: Connection, line: str, body: bytes) -> None:
        if len(raw.asked) == 1:
            await connection.whole(b"first")
        else:
            await connection.head()
            await connection.piece(b"half")
            connection.writer.transport.abort()
            raise ConnectionError

    upstream = Raw(handler)
    async with upstream.serve() as base:
        client = UpstreamClient(settings(vllm_base=base))
        await ask(client)
        with pytest.raises(UpstreamError):
            await ask(client)
        await client.aclose()
    assert len(upstream.asked) == 2


async def test_leaving_the_block_early_closes_the_connection() -> None:
    async def handler(raw: Raw, connection: Connection, line: str, body: bytes) -> None:
        await connection.head()
        await connection.piece(b"first")
        await connection.until_closed()

    upstream = Raw(handler)
    async with upstream.serve() as base:
        client = UpstreamClient(settings(vllm_base=base))
        async with client.open("POST", PATH, b"{}") as answer:
            async for chunk in answer:
                assert chunk == b"first"
                break
        async with asyncio.timeout(5):
            await upstream.connections[0].closed.wait()
        await client.aclose()


async def test_a_cancelled_request_closes_the_connection_and_frees_its_place() -> None:
    async def handler(raw: Raw, connection: Connection, line: str, body: bytes) -> None:
        if body == b"wait":
            await connection.until_closed()
        else:
            await connection.whole(b"ok")

    upstream = Raw(handler)
    async with upstream.serve() as base:
        client = UpstreamClient(settings(vllm_base=base, pool_size=1))
        for _ in range(3):
            upstream.arrived.clear()
            waiting = asyncio.create_task(ask(client, b"wait"))
            await upstream.arrived.wait()
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            assert await ask(client, b"go") == b"ok"
        await client.aclose()


FAULTS: dict[str, tuple[bytes, type[ProxyError]]] = {
    "closed": (b"", UpstreamProtocolError),
    "no HTTP": (b"SSH-2.0-OpenSSH\r\n\r\n", UpstreamProtocolError),
    "half a head": (b"HTTP/1.1 200 OK\r\ncontent-", UpstreamProtocolError),
    "half a body": (b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf", UpstreamProtocolError),
    "a bad chunk": (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nxyz\r\n", UpstreamProtocolError),
    "gzip that is none": (
        b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 4\r\n\r\nnope",
        UpstreamProtocolError,
    ),
    "a redirect": (b"HTTP/1.1 302 Found\r\nlocation: http://x/\r\ncontent-length: 0\r\n\r\n", UpstreamProtocolError),
    "too long": (b"HTTP/1.1 200 OK\r\ncontent-length: 1001\r\n\r\n" + b"x" * 1001, UpstreamProtocolError),
}


@pytest.mark.parametrize("fault", FAULTS)
async def test_what_comes_back_may_be_broken(fault: str) -> None:
    data, error = FAULTS[fault]

    async def handler(raw: Raw, connection: Connection, line: str, body: bytes) -> None:
        await connection.send(data)
        raise ConnectionError

    upstream = Raw(handler)
    async with upstream.serve() as base:
        client = UpstreamClient(settings(vllm_base=base))
        with pytest.raises(error) as caught:
            await ask(client)
        await client.aclose()
    assert "location" not in caught.value.message


async def test_1xx_is_not_the_answer() -> None:
    async def handler(raw: Raw, connection: Connection, line: str, body: bytes) -> None:
        await connection.send(b"HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n")
        await connection.whole(b"ok")

    upstream = Raw(handler)
    async with upstream.serve() as base:
        client = UpstreamClient(settings(vllm_base=base))
        assert await ask(client) == b"ok"
        await client.aclose()


async def test_silence_is_a_timeout() -> None:
    async def handler(raw: Raw, connection: Connection, line: str, body: bytes) -> None:
        await connection.until_closed()

    upstream = Raw(handler)
    async with upstream.serve() as base:
        client = UpstreamClient(settings(vllm_base=base, first_byte_timeout=0.05))
        with pytest.raises(UpstreamTimeout):
            await ask(client)
        await client.aclose()


async def test_a_full_pool_is_a_timeout_that_names_the_setting() -> None:
    async def handler(raw: Raw, connection: Connection, line: str, body: bytes) -> None:
        await connection.until_closed()

    upstream = Raw(handler)
    async with upstream.serve() as base:
        client = UpstreamClient(settings(vllm_base=base, pool_size=1, connect_timeout=0.1))
        waiting = asyncio.create_task(ask(client))
        await upstream.arrived.wait()
        with pytest.raises(UpstreamTimeout, match="POOL_SIZE"):
            await ask(client)
        waiting.cancel()
        await asyncio.wait({waiting})
        await client.aclose()


async def test_nobody_there_is_told_with_address_and_no_more() -> None:
    client = UpstreamClient(settings(vllm_base="http://127.0.0.1:1/vllm", vllm_api_key="seCret"))
    with pytest.raises(UpstreamUnavailable, match=r"127\.0\.0\.1:1; check that it runs") as caught:
        await ask(client)
    assert "seCret" not in str(caught.value)
    assert caught.value.status == 502
    await client.aclose()


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (httpx.ConnectError(""), UpstreamUnavailable),
        (httpx.ConnectError(str(ssl.SSLCertVerificationError())), UpstreamUnavailable),
        (httpx.ConnectTimeout(""), UpstreamTimeout),
        (httpx.PoolTimeout(""), UpstreamTimeout),
        (httpx.ReadTimeout(""), UpstreamTimeout),
        (httpx.WriteTimeout(""), UpstreamTimeout),
        (httpx.ReadError(""), UpstreamUnavailable),
        (httpx.WriteError(""), UpstreamUnavailable),
        (httpx.CloseError(""), UpstreamUnavailable),
        (httpx.RemoteProtocolError(""), UpstreamProtocolError),
        (httpx.DecodingError(""), UpstreamProtocolError),
        (httpx.UnsupportedProtocol(""), UpstreamUnavailable),
    ],
)
def test_every_failure_has_a_name(error: httpx.HTTPError, kind: type[ProxyError]) -> None:
    told = UpstreamClient(settings()).explain(error)
    assert type(told) is kind
    assert "vllm.test:8000" in told.message
    # What pi and Continue look for in the text of an error event, to ask again instead of giving up.
    assert re.match(r"(timed out|connection error|connection lost): ", told.message)
