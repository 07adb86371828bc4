"""What a Python event loop can do at most: the yardstick `limit`, no proxy.

    python -m qa.bench.limit PORT UPSTREAM_PORT

No ASGI, no client library, no checks: asyncio protocols on uvloop and httptools both ways, with a part of the JSON work
of a translation (request parsed, tool-call ids mapped to nine characters, request written; the same for the answer; of
a stream only the events with tool calls are parsed). One path, no errors handled, no back pressure.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import sys
from typing import Any, cast

import httptools
import orjson
import uvloop

_POST = (
    b"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\n"
    b"content-type: application/json\r\ncontent-length: %d\r\n\r\n%b"
)
_STREAM = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
_WHOLE = b"HTTP/1.1 %d X\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b"
_END = b"0\r\n\r\n"
_fits = re.compile(r"[a-zA-Z0-9]{9}").fullmatch


def _short(identifier: str) -> str:
    return identifier if _fits(identifier) else hashlib.md5(identifier.encode()).hexdigest()[:9]


def _fix_calls(message: dict[str, Any]) -> None:
    for call in message.get("tool_calls") or ():
        if call.get("id"):
            call["id"] = _short(call["id"])


def _request(raw: bytes) -> bytes:
    body = orjson.loads(raw)
    for message in body["messages"]:
        if message["role"] == "assistant":
            _fix_calls(message)
        elif message["role"] == "tool":
            message["tool_call_id"] = _short(message["tool_call_id"])
    return orjson.dumps(body)


def _answer(raw: bytes, key: str = "message") -> bytes:
    body = orjson.loads(raw)
    for choice in body["choices"]:
        _fix_calls(choice[key])
    return orjson.dumps(body)


def _event(event: bytes) -> bytes:
    if b'"tool_calls"' in event and event.startswith(b"data: {"):
        event = b"data: " + _answer(event[6:], "delta")
    return event + b"\n\n"


def _events(data: bytes) -> bytes:
    if b'"tool_calls"' not in data:
        return data
    return b"".join([_event(event) for event in data.split(b"\n\n") if event])


class Upstream(asyncio.Protocol):
    """A connection to the simulator, kept when it is idle."""

    idle: list[Upstream] = []

    def __init__(self) -> None:
        self.client: Client | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def send(self, client: Client, body: bytes) -> None:
        self.client, client.upstream = client, self
        self.parser = httptools.HttpResponseParser(self)
        self.body: list[bytes] = []
        self.rest, self.sse, self.done = b"", False, False
        self.transport.write(_POST % (len(body), body))

    def on_header(self, name: bytes, value: bytes) -> None:
        if name == b"content-type" and value.startswith(b"text/event"):
            self.sse = True

    def on_headers_complete(self) -> None:
        if self.sse and self.client:
            self.client.transport.write(_STREAM)

    def on_body(self, body: bytes) -> None:
        self.body.append(body)

    def on_message_complete(self) -> None:
        self.done = True

    def data_received(self, data: bytes) -> None:
        self.parser.feed_data(data)
        if self.client is None:
            return
        if self.sse:
            self.client.transport.write(self._streamed())
        elif self.done:
            status, body = self.parser.get_status_code(), b"".join(self.body)
            out = _answer(body) if status == 200 else body
            self.client.transport.write(_WHOLE % (status, len(out), out))
        if self.done:
            self.client.upstream = None
            self.client = None
            self.idle.append(self)

    def _streamed(self) -> bytes:
        data = self.rest + b"".join(self.body)
        self.body = []
        cut = data.rfind(b"\n\n") + 2 if b"\n\n" in data else 0
        self.rest = data[cut:]
        out = _events(data[:cut])
        chunk = b"%x\r\n%b\r\n" % (len(out), out) if out else b""
        return chunk + _END if self.done else chunk

    def connection_lost(self, exc: Exception | None) -> None:
        if self in self.idle:
            self.idle.remove(self)
        elif self.client:
            self.client.transport.close()


class Client(asyncio.Protocol):
    """A connection of the load client."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.parser = httptools.HttpRequestParser(self)
        self.body: list[bytes] = []
        self.upstream: Upstream | None = None

    def data_received(self, data: bytes) -> None:
        self.parser.feed_data(data)

    def on_body(self, body: bytes) -> None:
        self.body.append(body)

    def on_message_complete(self) -> None:
        body, self.body = _request(b"".join(self.body)), []
        if Upstream.idle:
            Upstream.idle.pop().send(self, body)
        else:
            self.dialling = asyncio.ensure_future(self._dial(body))

    async def _dial(self, body: bytes) -> None:
        loop = asyncio.get_running_loop()
        _, upstream = await loop.create_connection(Upstream, "127.0.0.1", int(sys.argv[2]))
        if self.transport.is_closing():
            upstream.transport.abort()
        else:
            upstream.send(self, body)

    def connection_lost(self, exc: Exception | None) -> None:
        if self.upstream:
            self.upstream.client = None
            self.upstream.transport.abort()


async def _serve() -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Client, "127.0.0.1", int(sys.argv[1]), backlog=2048)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(_serve())
