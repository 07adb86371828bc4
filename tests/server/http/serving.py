"""A protocol on a real socket with a small application behind it, and raw clients."""

from __future__ import annotations

import asyncio
import json
import re
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.server import ServerState

from devstral_proxy.server.http import HttpLimits, protocol_factory

CLOSE = b"GET /last HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
"""A request after which the connection closes."""


async def body_of(receive: Receive) -> bytes:
    """The whole body of a request."""
    parts = []
    while True:
        message = await receive()
        assert message["type"] == "http.request", message
        parts.append(message["body"])
        if not message["more_body"]:
            return b"".join(parts)


async def answer(send: Send, body: bytes, status: int = 200, *headers: tuple[bytes, bytes]) -> None:
    """A whole answer with its length."""
    length = (b"content-length", b"%d" % len(body))
    await send({"type": "http.response.start", "status": status, "headers": [length, *headers]})
    await send({"type": "http.response.body", "body": body})


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Tells what it was asked."""
    body = await body_of(receive)
    told = {name: scope[name] for name in ("method", "path", "http_version", "scheme")}
    told["raw_path"], told["query"] = scope["raw_path"].decode(), scope["query_string"].decode()
    told["headers"] = [[name.decode("latin-1"), value.decode("latin-1")] for name, value in scope["headers"]]
    told["body"] = [len(body), body[:100].decode("latin-1")]
    await answer(send, json.dumps(told).encode())


@dataclass
class Served:
    """What a test sees of the server."""

    port: int
    state: ServerState
    refused: list[str] = field(default_factory=list)

    async def connect(self, receive_buffer: int = 0) -> Client:
        """A new connection."""
        sock = socket.socket()
        if receive_buffer:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", self.port))
        return Client(*await asyncio.open_connection(sock=sock, limit=1 << 24))

    async def talk(self, *pieces: bytes) -> bytes:
        """What comes back for these pieces until the server closes."""
        client = await self.connect()
        for piece in pieces:
            await client.write(piece)
            if len(pieces) > 1:
                await asyncio.sleep(0.001)
        return await client.rest()

    async def still_serves(self) -> None:
        """Another client gets its answer."""
        assert (await self.talk(CLOSE)).startswith(b"HTTP/1.1 200 ")


class Client:
    """A connection to the server."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def write(self, data: bytes) -> None:
        """Write, if the server has not closed."""
        try:
            self.writer.write(data)
            await self.writer.drain()
        except ConnectionError:
            pass

    async def until(self, mark: bytes) -> bytes:
        """What comes, up to a mark."""
        async with asyncio.timeout(10):
            return await self.reader.readuntil(mark)

    async def rest(self) -> bytes:
        """What comes until the server closes."""
        try:
            async with asyncio.timeout(20):
                return await self.reader.read()
        finally:
            self.leave()

    def leave(self) -> None:
        """Close at once."""
        self.writer.transport.abort()


@asynccontextmanager
async def serving(
    app: ASGIApp = echo, limits: HttpLimits | None = None, protocol: Callable[..., Any] | None = None
) -> AsyncIterator[Served]:
    """The application on a port of its own. At the end no connection, task or timer may be left."""
    config = uvicorn.Config(app, lifespan="off", log_config=None, access_log=False, proxy_headers=False, ws="none")
    config.load()
    state = ServerState()
    served = Served(0, state)
    ours = protocol_factory(limits or HttpLimits(), served.refused.append)
    factory = protocol or ours
    loop = asyncio.get_running_loop()
    server = await loop.create_server(
        lambda: factory(config=config, server_state=state, app_state={"held": 1}), "127.0.0.1", 0
    )
    served.port = server.sockets[0].getsockname()[1]
    try:
        yield served
        async with asyncio.timeout(10):
            while state.connections or state.tasks:  # noqa: ASYNC110  # nothing tells it
                await asyncio.sleep(0.005)
        assert ours.keywords["deadlines"]._timer is None  # type: ignore[attr-defined]
    finally:
        server.close()
        for connection in list(state.connections):
            connection.transport.abort()
        for task in state.tasks:
            task.cancel()
        await asyncio.sleep(0)


def heads(data: bytes) -> list[bytes]:
    """The first lines of the answers in it."""
    return re.findall(rb"HTTP/1\.1 \d+ [^\r]*", data)


def refusal(data: bytes) -> tuple[int, str]:
    """Status and code of an answer that is a refusal in OpenAI's shape, and closes."""
    head, _, body = data.partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    assert b"connection: close" in lines
    assert b"content-type: application/json" in lines
    assert b"content-length: %d" % len(body) in lines
    error = json.loads(body)["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return int(lines[0].split()[1]), error["code"]
