"""A server that does to a connection what a script says, and counts its connections."""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path


class Peer:
    """One connection, as the server sees it."""

    def __init__(self, server: Server, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.server = server
        self.reader = reader
        self.writer = writer
        self.requests = 0

    async def request(self) -> tuple[bytes, bytes]:
        """The head of the next request, and its body."""
        head = await self.reader.readuntil(b"\r\n\r\n")
        self.requests += 1
        self.server.heads.append(head)
        return head, await self.body(head)

    async def body(self, head: bytes) -> bytes:
        if b"/unread" in head.split(b"\r\n")[0]:
            return b""
        lower = head.lower()
        if b"transfer-encoding: chunked" in lower:
            parts = []
            while size := int(await self.reader.readuntil(b"\r\n"), 16):
                parts.append(await self.reader.readexactly(size))
                await self.reader.readexactly(2)
            await self.reader.readexactly(2)
            return b"".join(parts)
        length = int(lower.partition(b"content-length: ")[2].partition(b"\r\n")[0] or 0)
        return await self.reader.readexactly(length)

    async def send(self, *pieces: bytes) -> None:
        """Each piece as a segment of its own."""
        for piece in pieces:
            if self.writer.is_closing():
                raise EOFError
            self.writer.write(piece)
            await self.writer.drain()
            if len(pieces) > 1:
                await asyncio.sleep(0.001)

    def reset(self) -> None:
        """RST instead of FIN."""
        self.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    async def until_closed(self) -> None:
        """The other side closes."""
        while await self.reader.read(65536):
            pass


Script = Callable[[Peer, bytes, bytes], Awaitable[None]]
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


class Server:
    """`script` answers each request but those for /ok. It returns to keep the connection, raises EOFError to close."""

    def __init__(self, script: Script) -> None:
        self._script = script
        self._tasks: set[asyncio.Task[None]] = set()
        self.heads: list[bytes] = []
        self.accepted = 0
        self.open = 0
        self.base = ""

    async def none_open(self) -> None:
        """Every connection is closed."""
        async with asyncio.timeout(10):
            while self.open:  # noqa: ASYNC110
                await asyncio.sleep(0.005)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.accepted += 1
        self.open += 1
        peer = Peer(self, reader, writer)
        try:
            while True:
                head, body = await peer.request()
                if head.split()[1] == b"/ok":
                    await peer.send(OK)
                else:
                    await self._script(peer, head, body)
        except (EOFError, OSError, asyncio.CancelledError):
            pass
        finally:
            self.open -= 1
            self._tasks.discard(task)
            writer.close()

    @asynccontextmanager
    async def serve(self, uds: Path | None = None, tls: ssl.SSLContext | None = None) -> AsyncIterator[str]:
        """Its base URL."""
        if uds is not None:
            server: asyncio.Server = await asyncio.start_unix_server(self._connected, uds)
            self.base = "http://upstream.test"
        else:
            server = await asyncio.start_server(self._connected, "127.0.0.1", 0, ssl=tls, backlog=1024)
            scheme = "https" if tls else "http"
            self.base = f"{scheme}://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        try:
            yield self.base
        finally:
            server.close()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            await server.wait_closed()
            await asyncio.sleep(0.01)
