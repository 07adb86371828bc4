"""One request on an idle connection, written at once and read straight from it: the short way to vLLM."""

from __future__ import annotations

import httpx

from devstral_proxy.upstream.transport import FastTransport
from devstral_proxy.upstream.transport.connection import Connection


class Head:
    """The head of vLLM's response."""

    __slots__ = ("content_type", "plain", "retry_after", "status")

    def __init__(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        self.status = status
        self.content_type = ""
        self.retry_after: str | None = None
        self.plain = True
        """The body is not encoded. (We ask for identity.)"""
        for name, value in headers:
            match name.lower():
                case b"content-type":
                    self.content_type = value.decode("latin-1")
                case b"retry-after":
                    self.retry_after = value.decode("latin-1")
                case b"content-encoding":
                    self.plain = False

    @property
    def is_stream(self) -> bool:
        """The body is server-sent events."""
        return self.content_type.lower().startswith("text/event-stream")


class Call:
    """A request that has been written. Whoever stops before `ended` calls `close`, which closes the connection then."""

    __slots__ = ("_connection", "_transport", "ended", "stale")

    def __init__(self, transport: FastTransport, connection: Connection) -> None:
        self._transport = transport
        self._connection: Connection | None = connection
        self.ended = False
        """The body has been taken to its end."""
        self.stale = False
        """The connection had been closed while it was idle: the request was not read and may be sent again."""

    async def head(self, until: float) -> Head | None:
        """The head; None when there is none by then (in the loop's time). Raises httpx.TransportError."""
        connection = self._open()
        try:
            if not await connection.head_by(until):
                return None
        except httpx.TransportError:
            self.stale = connection.stale
            raise
        return Head(connection.status, connection.headers)

    async def take(self, until: float) -> list[bytes]:
        """All pieces of the body that are there; none when there are none by then, or when `ended`. Raises
        httpx.TransportError after the pieces that came before."""
        if self.ended:
            return []
        connection = self._open()
        pieces = await connection.take(until)
        if connection.complete:
            self.ended = True
            self.close()
        return pieces or []

    def response(self, read: float) -> httpx.Response:
        """The same as a response of httpx's, for a body that has to be decoded. This call is then over."""
        connection, self._connection = self._open(), None
        return self._transport.response(connection, read)

    def close(self) -> None:
        """Give the connection back, or close it where the answer has not ended."""
        connection, self._connection = self._connection, None
        if connection is not None:
            self._transport.finish(connection)

    def _open(self) -> Connection:
        if self._connection is None:
            raise httpx.ReadError("the answer was closed before its end")
        return self._connection
