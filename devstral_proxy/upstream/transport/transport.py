"""FastTransport: httpx's transport interface on `Connection` and `Pool`.

It does what httpx's own transport does for HTTP/1.1 without proxies, with the same exceptions, and differs in this:
a request that met a connection which the server was just closing is sent once more on a new one; an answer with both
Content-Length and Transfer-Encoding is refused; 101 is refused; bytes after an answer close the connection instead of
being taken for the next answer; a refusal (300 and up) that comes while the body is
still being written ends the writing.
"""

from __future__ import annotations

import asyncio
import math
import ssl
from asyncio import get_running_loop as running_loop
from collections.abc import AsyncIterator, Mapping
from typing import Any

import httpx

from devstral_proxy.upstream.transport.connection import Connection, Origin, anew
from devstral_proxy.upstream.transport.head import Head, Heads
from devstral_proxy.upstream.transport.pool import Pool

DEFAULT_LIMITS = httpx.Limits(max_connections=100, max_keepalive_connections=20, keepalive_expiry=5.0)


class Body(httpx.AsyncByteStream):
    """An answer's body. Read to its end it gives its connection back, closed before that it closes it."""

    __slots__ = ("_broken", "_connection", "_pool", "_timeout")

    def __init__(self, connection: Connection, pool: Pool, timeout: float | None) -> None:
        self._connection: Connection | None = connection
        self._broken: httpx.TransportError | None = None
        self._pool = pool
        self._timeout = timeout

    async def take(self) -> list[bytes]:
        """All pieces that are there, at least one; none at the end. Raises httpx.ReadTimeout, ReadError and
        RemoteProtocolError, the last two after the pieces that came before. A cancellation loses nothing."""
        connection = self._connection
        if connection is None:
            if self._broken is not None:  # never a clean end, however often it is asked
                raise anew(self._broken)
            return []
        until = math.inf if self._timeout is None else running_loop().time() + self._timeout
        try:
            pieces = await connection.take(until)
        except httpx.TransportError as error:
            self._broken = anew(error)
            self.close()
            raise
        if pieces is None:
            self._broken = httpx.ReadTimeout("")
            self.close()
            raise anew(self._broken)
        if connection.complete:
            self.close()
        return pieces

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            while pieces := await self.take():
                for piece in pieces:
                    yield piece
        finally:
            self.close()

    def close(self) -> None:
        """Give the connection back, or close it where the body has not ended."""
        connection, self._connection = self._connection, None
        if connection is not None:
            if not connection.complete and self._broken is None:
                self._broken = httpx.ReadError("the answer was closed before its end")
            _finish(self._pool, connection)

    async def aclose(self) -> None:
        """`close`, as httpx wants it."""
        self.close()


class FastTransport(httpx.AsyncBaseTransport):
    """One a process and event loop. Timeouts come with each request, in `extensions["timeout"]`.

    `uds`: connect to this Unix socket instead of the URL's host. `verify`: the context for https, httpx's default
    (without the environment's variables) if there is none.
    """

    def __init__(
        self,
        *,
        limits: httpx.Limits = DEFAULT_LIMITS,
        verify: ssl.SSLContext | None = None,
        uds: str | None = None,
    ) -> None:
        self.pool = Pool(limits.max_connections, limits.max_keepalive_connections, limits.keepalive_expiry)
        self._ssl = verify
        self._uds = uds
        self._heads = Heads()
        self._open: set[Connection] = set()
        self._empty: asyncio.Event | None = None

    @property
    def sockets(self) -> int:
        """Connections that are not wholly closed."""
        return len(self._open)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send it and await the head. Raises httpx.TransportError's children, as httpx's own transport would."""
        origin = _origin(request)
        if origin[0] not in (b"http", b"https"):
            raise httpx.UnsupportedProtocol("Request URL has an unsupported protocol.")
        head, length = self._heads.of(request)
        timeouts: Mapping[str, float | None] = request.extensions.get("timeout") or {}
        stream = request.stream
        if not isinstance(stream, httpx.AsyncByteStream):
            raise httpx.LocalProtocolError("a body that can only be read synchronously")
        body = b"".join(stream) if isinstance(stream, httpx.ByteStream) else None
        if body is not None and not head.chunked and len(body) != max(length, 0):
            raise httpx.LocalProtocolError("the body has not the length that Content-Length declares")

        connection = await self.pool.acquire(origin, timeouts.get("pool"))
        try:
            if connection is not None:
                try:
                    return await self._exchange(connection, head, length, body, stream, timeouts)
                except (httpx.ReadError, httpx.WriteError, httpx.RemoteProtocolError):
                    if body is None or not connection.stale:
                        raise
                connection.abort()
            connection = None
            connection = await self._connect(origin, timeouts.get("connect"))
            return await self._exchange(connection, head, length, body, stream, timeouts)
        except BaseException:
            if connection is not None:
                connection.abort()
            self.pool.release(None)
            raise

    def start(self, request: httpx.Request, head: bytes, body: bytes) -> Connection | None:
        """Write a request on an idle connection: `head` whole, as `head_of` made it of this request. None where no
        connection stands ready. What it returns has to be given to `finish`, or to `response`."""
        origin = request.extensions.get(_ORIGIN)
        if origin is None:  # the same request may be sent again and again
            origin = request.extensions[_ORIGIN] = _origin(request)
        connection = self.pool.acquire_idle(origin)
        if connection is not None:
            connection.begin(False)
            connection.write(head, body)
            connection.sent = True
        return connection

    def head_of(self, request: httpx.Request) -> Head:
        """The head of a request, to be sent again and again. Raises httpx.LocalProtocolError."""
        return self._heads.of(request)[0]

    def response(self, connection: Connection, read: float | None) -> httpx.Response:
        """The answer whose head has come; `read`: seconds between two pieces of its body."""
        return httpx.Response(
            connection.status,
            headers=connection.headers,
            stream=Body(connection, self.pool, read),
            extensions={
                "http_version": b"HTTP/1.1" if connection.http_version == "1.1" else b"HTTP/1.0",
                "reason_phrase": connection.reason,
            },
        )

    def finish(self, connection: Connection) -> None:
        """Give a connection back, or close it where its answer has not ended."""
        _finish(self.pool, connection)

    async def aclose(self) -> None:
        """Close all connections, those in use too."""
        self.pool.close()
        for connection in list(self._open):
            connection.abort()
        if self._open:
            self._empty = asyncio.Event()
            try:
                async with asyncio.timeout(1):
                    await self._empty.wait()
            except TimeoutError:
                pass

    async def _exchange(
        self,
        connection: Connection,
        head: Head,
        length: int,
        body: bytes | None,
        stream: httpx.AsyncByteStream,
        timeouts: Mapping[str, float | None],
    ) -> httpx.Response:
        connection.begin(head.head_only)
        write, read = timeouts.get("write"), timeouts.get("read")
        start = head.whole(length)
        if body is None:
            connection.sent = await _send_stream(connection, start, stream, -1 if head.chunked else length, write)
        else:
            if not body:
                connection.write(start + b"0\r\n\r\n" if head.chunked else start)
            elif head.chunked:
                connection.write(b"%b%x\r\n" % (start, len(body)), body, b"\r\n0\r\n\r\n")
            else:
                connection.write(start, body)
            await connection.drain(write)
            connection.sent = True
        await connection.head(read)
        return self.response(connection, read)

    async def _connect(self, origin: Origin, seconds: float | None) -> Connection:
        connection = Connection(origin, self.pool.gone, self._lost)
        scheme, host, port = origin[0], origin[1].decode("ascii"), origin[2]
        options: dict[str, Any] = {}
        if scheme == b"https":
            options = {"ssl": self._context(), "server_hostname": host}
        loop = running_loop()

        def made() -> Connection:
            self._open.add(connection)
            return connection

        try:
            async with asyncio.timeout(seconds):
                if self._uds is not None:
                    await loop.create_unix_connection(made, self._uds, **options)
                else:
                    await loop.create_connection(made, host, port or (443 if options else 80), **options)
        except TimeoutError:
            error: Exception = httpx.ConnectTimeout("")
        except (OSError, ssl.SSLError, UnicodeError) as failure:
            error = httpx.ConnectError(_short(failure))
        except BaseException:
            self._give_up(connection)
            raise
        else:
            return connection
        self._give_up(connection)
        raise error

    def _give_up(self, connection: Connection) -> None:
        connection.abort()
        self._lost(connection)  # uvloop does not always report the end of what was cancelled while it was made

    def _context(self) -> ssl.SSLContext:
        if self._ssl is None:
            self._ssl = httpx.create_ssl_context(trust_env=False)
            self._ssl.set_alpn_protocols(["http/1.1"])
        return self._ssl

    def _lost(self, connection: Connection) -> None:
        self._open.discard(connection)
        if self._empty is not None and not self._open:
            self._empty.set()


_ORIGIN = "devstral_proxy.origin"


def _origin(request: httpx.Request) -> Origin:
    url = request.url
    return url.raw_scheme, url.raw_host, url.port


async def _send_stream(
    connection: Connection, start: bytes, stream: httpx.AsyncByteStream, length: int, seconds: float | None
) -> bool:
    """The body as it comes; chunked when `length` is negative. True when all of it has been written."""
    left = length
    async for piece in stream:
        if not piece:
            continue
        if length < 0:
            connection.write(b"%b%x\r\n" % (start, len(piece)), piece, b"\r\n")
        else:
            left -= len(piece)
            if left < 0:
                raise httpx.LocalProtocolError("Too much data for declared Content-Length")
            connection.write(start, piece)
        start = b""
        if not await connection.drain(seconds):
            return left == 0
    if left > 0:
        raise httpx.LocalProtocolError("Too little data for declared Content-Length")
    if length < 0:
        start += b"0\r\n\r\n"
    if start:
        connection.write(start)
        await connection.drain(seconds)
    return True


def _finish(pool: Pool, connection: Connection) -> None:
    if connection.reusable:
        pool.release(connection)
    else:
        connection.abort()
        pool.release(None)


def _short(error: BaseException) -> str:
    return str(error) or type(error).__name__
