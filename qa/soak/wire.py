"""HTTP/1.1 by hand, strictly read: for clients that are slow, leave, pipeline, or send what is no request."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

SMALL_WINDOW: Final = 4096
_ENDS: Final = (ConnectionError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, OSError)


class Cut(Exception):
    """The connection ended where an answer, or the rest of one, had to come."""


class Malformed(Exception):
    """What came is no HTTP."""


@dataclass
class Reply:
    """One answer."""

    status: int
    headers: dict[str, str]
    body: bytearray = field(default_factory=bytearray)

    @property
    def streamed(self) -> bool:
        """It is an event stream."""
        return self.headers.get("content-type", "").startswith("text/event-stream")


OnPiece = Callable[[Reply], Awaitable[None]]


async def _no_wait(reply: Reply) -> None:
    return


class Client:
    """One connection to the proxy."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def send(self, data: bytes) -> None:
        """Write it; a server that has closed already is found when its answer is read."""
        with contextlib.suppress(*_ENDS):
            self._writer.write(data)
            await self._writer.drain()

    def leave(self) -> None:
        """End the connection at once."""
        self._writer.transport.abort()

    async def closed(self) -> bytes:
        """What still comes until the server closes the connection."""
        with contextlib.suppress(*_ENDS):
            return await self._reader.read(-1)
        return b""

    async def reply(self, on_piece: OnPiece = _no_wait) -> Reply:
        """The next answer; `on_piece` is awaited after each piece of its body. Raises Cut and Malformed."""
        try:
            reply = await self._head()
            while reply.status < 200:
                reply = await self._head()
            if reply.headers.get("transfer-encoding", "").lower() == "chunked":
                await self._chunks(reply, on_piece)
            else:
                await self._counted(reply, on_piece)
        except _ENDS as error:
            raise Cut(type(error).__name__) from None
        return reply

    async def _head(self) -> Reply:
        lines = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        version, _, rest = lines[0].partition(" ")
        if version != "HTTP/1.1" or not rest[:3].isdigit():
            raise Malformed(f"status line {lines[0][:60]!r}")
        headers: dict[str, str] = {}
        for line in lines[1:-2]:
            name, colon, value = line.partition(":")
            if not colon:
                raise Malformed("a header line without a colon")
            headers[name.lower()] = value.strip()
        return Reply(int(rest[:3]), headers)

    async def _counted(self, reply: Reply, on_piece: OnPiece) -> None:
        if "content-length" not in reply.headers:
            raise Malformed("no length")
        left = int(reply.headers["content-length"])
        while left:
            piece = await self._reader.read(min(left, 65536))
            if not piece:
                raise Cut("in the body")
            left -= len(piece)
            reply.body += piece
            await on_piece(reply)

    async def _chunks(self, reply: Reply, on_piece: OnPiece) -> None:
        while True:
            line = await self._reader.readuntil(b"\r\n")
            try:
                size = int(line[:-2], 16)
            except ValueError:
                raise Malformed(f"chunk size {line[:20]!r}") from None
            piece = await self._reader.readexactly(size + 2)
            if piece[-2:] != b"\r\n":
                raise Malformed("a chunk without its end")
            if not size:
                return
            reply.body += piece[:-2]
            await on_piece(reply)


@asynccontextmanager
async def connected(port: int, window: int = 0) -> AsyncIterator[Client]:
    """A connection to a port of loopback; `window`: bytes that the kernel may hold for a client that does not read.
    Raises OSError."""
    sock = socket.socket()
    try:
        sock.setblocking(False)
        if window:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, window)
        await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", port))
    except BaseException:
        sock.close()
        raise
    reader, writer = await asyncio.open_connection(sock=sock, limit=window or 2**16)
    try:
        yield Client(reader, writer)
    finally:
        writer.transport.abort()


def request(
    method: str, path: str, key: str = "", body: Any = None, *, header: str = "authorization", more: str = ""
) -> bytes:
    """The bytes of a request; `body`: bytes, or what becomes JSON; `more`: further header lines."""
    data = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [f"{method} {path} HTTP/1.1", "host: soak"]
    if key:
        lines.append(f"{header}: {key if header == 'x-api-key' else 'Bearer ' + key}")
    if body is not None:
        lines += ["content-type: application/json", f"content-length: {len(data)}"]
    return ("\r\n".join(lines) + "\r\n" + more + "\r\n").encode("latin-1") + data
