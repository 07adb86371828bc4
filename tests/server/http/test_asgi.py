"""scope, receive and send as the ASGI specification has them."""

from __future__ import annotations

import asyncio
import gc
import logging
from typing import Any

import pytest
from starlette.types import Message, Receive, Scope, Send

from devstral_proxy.server.http import HttpProtocol
from devstral_proxy.server.http.incoming import EXTENSION, WINDOW, Incoming
from tests.server.http.serving import CLOSE, answer, body_of, echo, heads, serving

pytestmark = pytest.mark.anyio

GET = b"GET /a%20b?c=%20d HTTP/1.1\r\nHost: x\r\nX-A: B\r\nConnection: close\r\n\r\n"
START = {"type": "http.response.start", "status": 200}


async def test_scope() -> None:
    scopes: list[Scope] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        scopes.append(scope)
        assert scope["extensions"][EXTENSION].scope is scope
        await answer(send, b"")

    async with serving(app) as served:
        client = await served.connect()
        address = client.writer.get_extra_info("sockname")
        await client.write(GET.replace(b"Connection: close\r\n", b"") + CLOSE)
        await client.rest()
        first, second = scopes
        assert set(first.pop("extensions")) == {EXTENSION}
        assert first == {
            "type": "http", "asgi": {"version": "3.0", "spec_version": "2.3"}, "http_version": "1.1", "method": "GET",
            "scheme": "http", "path": "/a b", "raw_path": b"/a%20b", "query_string": b"c=%20d", "root_path": "",
            "headers": [(b"host", b"x"), (b"x-a", b"B")], "client": address, "server": ("127.0.0.1", served.port),
            "state": {"held": 1},
        }  # fmt: skip
        assert first["state"] is not second["state"]
        assert second["path"] == "/last"


async def test_receive_gives_a_body_in_order_and_then_waits_for_the_end() -> None:
    messages: list[Message] = []
    over = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        while True:
            messages.append(await receive())
            if not messages[-1]["more_body"]:
                break
        rest = asyncio.gather(receive(), receive())  # two may wait
        waiting = asyncio.ensure_future(receive())
        await asyncio.sleep(0.01)
        waiting.cancel()
        assert not rest.done()
        await answer(send, b"whole")
        assert list(await rest) == [{"type": "http.disconnect"}] * 2
        assert await receive() == {"type": "http.disconnect"}
        over.set()

    body = bytes(range(256)) * (WINDOW // 64)
    async with serving(app) as served:
        data = await served.talk(GET.replace(b"\r\n\r\n", b"\r\nContent-Length: %d\r\n\r\n" % len(body)) + body)
        await over.wait()
    assert data.endswith(b"whole")
    assert b"".join(message["body"] for message in messages) == body
    assert [message["more_body"] for message in messages] == [True] * (len(messages) - 1) + [False]
    assert all(message["type"] == "http.request" for message in messages)


async def test_an_empty_body_is_one_message() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        assert await receive() == {"type": "http.request", "body": b"", "more_body": False}
        await answer(send, b"")

    async with serving(app) as served:
        assert heads(await served.talk(GET)) == [b"HTTP/1.1 200 OK"]


async def test_after_the_client_has_left_send_does_nothing() -> None:
    over, came = asyncio.Event(), asyncio.Event()
    left: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        incoming = scope["extensions"][EXTENSION]
        incoming.on_gone = lambda: left.append(incoming.why)
        await body_of(receive)
        await send(START)
        await send({"type": "http.response.body", "body": b"one", "more_body": True})
        came.set()
        assert await receive() == {"type": "http.disconnect"}
        for more in (True, True, False, False):
            await send({"type": "http.response.body", "body": b"two", "more_body": more})
        assert await receive() == {"type": "http.disconnect"}
        over.set()

    for abruptly in (False, True):
        over.clear()
        came.clear()
        async with serving(app) as served:
            client = await served.connect()
            await client.write(GET)
            await came.wait()
            if abruptly:
                client.leave()
            else:
                client.writer.close()
            async with asyncio.timeout(10):
                await over.wait()
    assert left == ["client gone"] * 2


async def test_leaving_during_the_body_is_a_disconnect() -> None:
    over = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        assert await receive() == {"type": "http.disconnect"}
        over.set()

    async with serving(app) as served:
        client = await served.connect()
        await client.write(GET.replace(b"\r\n\r\n", b"\r\nContent-Length: 9\r\n\r\nhalf"))
        await asyncio.sleep(0.01)
        client.writer.close()
        async with asyncio.timeout(10):
            await over.wait()


WRONG: dict[str, list[dict[str, Any]]] = {
    "no head": [{"type": "http.response.body", "body": b""}],
    "two heads": [START, START],
    "no such message": [{"type": "http.response.trailers"}],
    "a line end in a value": [{**START, "headers": [(b"x", b"a\r\nset-cookie: b")]}, {"type": "http.response.body"}],
    "a line feed in a value": [{**START, "headers": [(b"x", b"a\nset-cookie: b")]}, {"type": "http.response.body"}],
    "a line end in a name": [{**START, "headers": [(b"x\r\ny", b"a")]}, {"type": "http.response.body"}],
    "a NUL in a value": [{**START, "headers": [(b"x", b"a\0")]}, {"type": "http.response.body"}],
    "longer than its length": [
        {**START, "headers": [(b"content-length", b"1")]}, {"type": "http.response.body", "body": b"two"},
    ],
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
async def test_what_is_no_answer_is_a_defect(case: str, caplog: pytest.LogCaptureFixture) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        *before, last = WRONG[case]
        for message in before:
            await send(message)
        with pytest.raises(RuntimeError):
            await send(last)
        raise ValueError("it did not work")

    async with serving(app) as served:
        data = await served.talk(GET)
    assert data.startswith(b"HTTP/1.1 500 ")
    assert b"set-cookie" not in data
    assert "ValueError" in caplog.text


async def test_an_answer_is_sent_once() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await body_of(receive)
        await answer(send, b"once")
        with pytest.raises(RuntimeError):
            await answer(send, b"twice")

    async with serving(app) as served:
        data = await served.talk(GET.replace(b"Connection: close\r\n", b"") + CLOSE)
    assert data.count(b"once") == 2
    assert b"twice" not in data


async def test_a_failure_after_the_answer_is_none_of_the_clients(caplog: pytest.LogCaptureFixture) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await echo(scope, receive, send)
        raise ValueError("afterwards")

    async with serving(app) as served:
        data = await served.talk(GET.replace(b"Connection: close\r\n", b"") + CLOSE)
    assert heads(data) == [b"HTTP/1.1 200 OK"] * 2
    assert caplog.text.count("ValueError: afterwards") == 2


async def test_framing_is_the_servers_own() -> None:
    headers = [(b"Transfer-Encoding", b"gzip"), (b"Connection", b"Close"), (b"CONTENT-LENGTH", b"2")]

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await body_of(receive)
        await send({**START, "status": 204 if scope["path"] == "/last" else 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"ok"})

    async with serving(app) as served:
        data = await served.talk(GET.replace(b"Connection: close\r\n", b"") + CLOSE)
        assert data == b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok"
        assert await served.talk(CLOSE) == b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n"


async def test_a_request_leaves_nothing_to_the_collector() -> None:
    async with serving() as served:
        gc.collect()
        gc.disable()
        try:
            for _ in range(3):
                await served.talk(GET.replace(b"Connection: close\r\n", b"") * 3 + CLOSE)
            await asyncio.sleep(0.01)
            assert not [held for held in gc.get_objects() if isinstance(held, (Incoming, HttpProtocol))]
        finally:
            gc.enable()


async def test_cancelling_ends_the_connection(caplog: pytest.LogCaptureFixture) -> None:
    """As uvicorn does it when the time to stop in is over."""
    caplog.set_level(logging.ERROR)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await body_of(receive)
        await receive()

    async with serving(app) as served:
        client = await served.connect()
        await client.write(GET)
        while not served.state.tasks:  # noqa: ASYNC110  # nothing tells it
            await asyncio.sleep(0.005)
        for task in list(served.state.tasks):
            task.cancel()
        assert await client.rest() == b""
    assert not caplog.records
