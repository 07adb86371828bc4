"""One connection: bytes of a request out, a parsed answer in, one future for whatever is waited for."""

from __future__ import annotations

import asyncio
import math
import socket
from collections.abc import Callable
from typing import Any, cast

import httptools
import httpx

HELD_BYTES = 256 * 1024
"""What may lie here unread; over it the socket is not read until somebody takes it."""
PIECE_COST = 64
"""What a piece counts beside its bytes, so that a body in pieces of one byte is bounded too."""
HEAD_LIMIT = 64 * 1024
"""Most bytes of an answer's head, and of anything else between two bytes of a body: 1xx, trailers, chunk extensions."""

RETRY_WITHIN = 2.0
"""Seconds after sending in which a loss is taken for a connection that was closed while it was idle. Later than that
the server has the request and may have worked on it, so it is not sent again."""
RECEIVE_BUFFER = 512 * 1024
"""The kernel's share: left alone, Linux may let the server run ahead of a slow reader by 32 MB."""

Origin = tuple[bytes, bytes, int | None]


class _Stop(Exception):
    """Raised into the parser: the answer to HEAD is complete where the parser would wait for its body."""


class Connection(asyncio.Protocol):
    """`begin`, `write`, `drain`, `head`, `take` until `complete`; then `reusable` tells whether it may be used again.

    Whoever stops before that calls `abort`. `on_gone` is called once when it closes or expires while idle, `on_lost`
    when its socket is gone.
    """

    __slots__ = (
        "_began", "_chunks", "_deadline", "_full", "_head_only", "_held", "_informational", "_loop",
        "_on_gone", "_on_lost", "_overhead", "_parser", "_paused", "_size", "_timer", "_timer_at",
        "_transport", "_until_close", "_waiter", "active", "answered", "closed", "complete", "error",
        "head_done", "headers", "http_version", "kept", "origin", "reason", "sent", "status",
    )  # fmt: skip

    def __init__(
        self, origin: Origin, on_gone: Callable[[Connection], None], on_lost: Callable[[Connection], None]
    ) -> None:
        self.origin = origin
        self._on_gone = on_gone
        self._on_lost = on_lost
        self._loop = asyncio.get_running_loop()
        self._parser = httptools.HttpResponseParser(self)
        self._transport: asyncio.Transport | None = None
        self._waiter: asyncio.Future[bool] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = self._deadline = math.inf
        self._full = False  # what is written has not gone out yet
        self._paused = False
        self.active = False
        """A request is under way."""
        self.closed = False
        self.error: httpx.TransportError | None = None
        self._began = 0.0
        self._reset(False)

    def _reset(self, head_only: bool) -> None:
        self._chunks: list[bytes] = []
        self._held = 0
        self.headers: list[tuple[bytes, bytes]] = []
        """Of the answer, once `head_done`."""
        self._size = 0
        self._overhead = 0
        self._head_only = head_only
        self._informational = False
        self._until_close = True
        self.answered = False
        """A byte of an answer came."""
        self.head_done = self.complete = self.kept = self.sent = False
        self.status = 0
        self.reason = b""
        self.http_version = "1.1"

    # What the owner calls.

    def begin(self, head_only: bool) -> None:
        """A request starts; `head_only`: its answer has no body (HEAD)."""
        self._reset(head_only)
        self._deadline = math.inf
        self._began = self._loop.time()
        self.active = True

    def write(self, *parts: bytes) -> None:
        """Write in one go. What cannot be written shows when the answer is awaited."""
        # uvloop raises where asyncio does not: between a socket's end and `connection_lost` nothing may be asked.
        if self.closed or self._transport is None or self._transport.is_closing():
            return
        if len(parts) == 1:
            self._transport.write(parts[0])
        elif sum(map(len, parts)) <= 16384:
            self._transport.write(b"".join(parts))
        else:
            self._transport.writelines(parts)  # uvloop writes without joining

    async def drain(self, seconds: float | None) -> bool:
        """Wait until the socket has taken (most of) what was written. False: there is no use in writing more, since the
        connection is gone or a refusal has come already. Raises WriteTimeout."""
        until = self._until(seconds)
        while self._full and not self._settled():
            if not await self.waiter(until):
                raise httpx.WriteTimeout("")
        return not self._settled()

    async def head(self, seconds: float | None) -> list[tuple[bytes, bytes]]:
        """The headers of the answer; `status`, `reason` and `http_version` are then set. 1xx is passed over.

        Raises ReadTimeout, ReadError, RemoteProtocolError.
        """
        until = self._until(seconds)
        while not self.head_done:
            if self.error is not None:
                raise anew(self.error)
            if not await self.waiter(until):
                raise httpx.ReadTimeout("")
        return self.headers

    def waiter(self, until: float) -> asyncio.Future[bool]:
        """Until something happens: True then, False when nothing has by then (in the loop's time). One at a time."""
        waiter: asyncio.Future[bool] = self._loop.create_future()
        self._waiter = waiter
        self._expect(until)
        return waiter

    @property
    def stale(self) -> bool:
        """It was lost soon after the request had been written, without a byte of an answer: the other side closed it
        while it was idle, and has not read the request."""
        return not self.answered and self._loop.time() - self._began <= RETRY_WITHIN

    async def take(self, until: float) -> list[bytes] | None:
        """All pieces of the body that are there, at least one; none at its end; None when there is nothing by then (in
        the loop's time). Raises ReadError and RemoteProtocolError, after what came before."""
        while not self._chunks:
            if self.complete:
                return self._chunks
            if self.error is not None:
                raise anew(self.error)
            if not await self.waiter(until):
                return None
        return self.taken()

    def taken(self) -> list[bytes]:
        """The pieces that are there now."""
        chunks, self._chunks, self._held = self._chunks, [], 0
        if self._paused:
            self._resume()
        return chunks

    @property
    def reusable(self) -> bool:
        """The exchange is over on both sides, and nothing but its answer came."""
        return (
            self.complete
            and self.kept
            and self.sent
            and not self.closed
            and self._transport is not None
            and not self._transport.is_closing()
            and self._transport.get_write_buffer_size() == 0
        )

    def rest(self, expiry: float | None) -> None:
        """Nothing under way: from now on any byte, and `expiry` seconds, end it."""
        self.active = False
        self._chunks = []
        self._waiter = None  # whoever waited may have been cancelled
        if self._paused:
            self._resume()
        self._expect(self._until(expiry))

    def abort(self) -> None:
        """Close at once, whatever is under way."""
        self.closed = True
        self._disarm()
        if self._transport is not None:
            self._transport.abort()

    # What the event loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        receiver = transport.get_extra_info("socket")
        if receiver is not None:
            receiver.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
        if self.closed:  # given up while it was being made
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        if self.complete or not self.active:
            self.kept = False  # nobody asked for this
            if not self.active:
                self._on_gone(self)
                self.abort()
            return
        self.answered = True
        self._feed(data)
        self._wake()

    def eof_received(self) -> None:
        self._ended()

    def connection_lost(self, exc: Exception | None) -> None:
        if exc is not None and self.active and not self.complete and self.error is None:
            kind = httpx.WriteError if isinstance(exc, BrokenPipeError) else httpx.ReadError
            self.error = kind(type(exc).__name__)
        self._ended()
        self._disarm()
        self._transport = None
        del self._parser  # it refers to this object
        self._on_lost(self)

    def pause_writing(self) -> None:
        self._full = True

    def resume_writing(self) -> None:
        self._full = False
        self._wake()

    # What the parser calls.

    def on_message_begin(self) -> None:
        if self.complete:
            self.kept = False  # a second answer that nobody asked for

    def on_status(self, status: bytes) -> None:
        if not self.head_done:
            self.reason += status

    def on_header(self, name: bytes, value: bytes) -> None:
        self._size += len(name) + len(value) + 32
        if self._size > HEAD_LIMIT:
            raise ValueError("head over the limit")
        if not self.head_done:  # trailers are dropped
            self.headers.append((name, value.rstrip(b" \t")))

    def on_headers_complete(self) -> None:
        if self.complete:
            return
        status = self._parser.get_status_code()
        version = self._parser.get_http_version()
        if status < 100 or status == 101 or not version.startswith("1."):
            raise ValueError("an answer that was not asked for")
        if status < 200:
            self._informational = True
            return
        self.http_version = version
        lengths = 0
        for name, value in self.headers:
            if len(name) == 14 and name.lower() == b"content-length":
                lengths += 1
            elif len(name) == 17 and name.lower() == b"transfer-encoding":
                if value.strip().lower() != b"chunked":
                    raise ValueError("a transfer encoding that was not asked for")
                lengths += 1
        if lengths > 1:
            raise ValueError("two framings")
        self._until_close = lengths == 0
        self.status = status
        self.head_done = True
        if self._head_only:
            self.kept = self._parser.should_keep_alive()
            self.complete = True
            raise _Stop

    def on_body(self, piece: bytes) -> None:
        if not self.complete:
            self._chunks.append(piece)
            self._held += len(piece) + PIECE_COST
            self._overhead = 0

    def on_message_complete(self) -> None:
        if self._informational:
            self._informational = False
            self.headers = []
            self.reason = b""
        elif not self.complete:
            self.kept = self._parser.should_keep_alive()
            self.complete = True
            if self._paused:
                self._resume()

    # Inside.

    def _feed(self, data: bytes) -> None:
        self._overhead += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            if not self.complete:
                self._fail(httpx.RemoteProtocolError(_why(error)))
            elif self._head_only:
                self._parser = httptools.HttpResponseParser(self)
                self.kept = self.kept and data.endswith(b"\r\n\r\n") and data.count(b"\r\n\r\n") == 1
            else:
                self.kept = False
        if self._overhead <= HEAD_LIMIT and self._held <= HELD_BYTES:
            return
        if self.complete or self.closed or self._transport is None or self._transport.is_closing():
            return
        if self._overhead > HEAD_LIMIT:
            self._fail(httpx.RemoteProtocolError("too many bytes of head, trailers or chunk extensions"))
        elif not self._paused:
            self._paused = True
            self._transport.pause_reading()

    def _ended(self) -> None:
        """The other side sends nothing more."""
        if self.active and not self.complete and self.error is None and not self.closed:
            if self.head_done and self._until_close:
                self.complete = True
            elif self.head_done:
                self.error = httpx.RemoteProtocolError("peer closed connection without sending complete message body")
            else:
                self.error = httpx.RemoteProtocolError("Server disconnected without sending a response.")
        elif self.active and not self.complete and self.error is None:
            self.error = httpx.ReadError("the connection was closed")
        self.kept = False
        if not self.closed:
            self.closed = True
            if not self.active:
                self._on_gone(self)
        self._wake()

    def _fail(self, error: httpx.TransportError) -> None:
        if self.error is None:
            self.error = error
        self.abort()

    def _settled(self) -> bool:
        return self.closed or self.error is not None or self.complete or (self.head_done and self.status >= 300)

    def _resume(self) -> None:
        self._paused = False
        if self._transport is not None and not self.closed and not self._transport.is_closing():
            self._transport.resume_reading()

    def _until(self, seconds: float | None) -> float:
        return math.inf if seconds is None else self._loop.time() + seconds

    def _wake(self, happened: bool = True) -> None:
        waiter = self._waiter
        if waiter is not None:
            self._waiter = None
            self._deadline = math.inf
            if not waiter.done():
                waiter.set_result(happened)

    def _expect(self, until: float) -> None:
        """One timer serves all deadlines: it is moved only to an earlier time, and else set anew when it fires."""
        self._deadline = until
        if until < self._timer_at:
            if self._timer is not None:
                self._timer.cancel()
            self._timer_at = until
            self._timer = self._loop.call_at(until, self._tick)

    def _tick(self) -> None:
        self._timer = None
        self._timer_at = math.inf
        if self._deadline == math.inf or self.closed:
            return
        if self._loop.time() < self._deadline:
            self._expect(self._deadline)
        elif self._waiter is not None:
            self._wake(False)
        elif not self.active:
            self._on_gone(self)
            self.abort()

    def _disarm(self) -> None:
        self._deadline = self._timer_at = math.inf
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def anew(error: httpx.TransportError) -> httpx.TransportError:
    """The same error, to be raised: one that is raised refers to the frames of those who keep it."""
    return type(error)(str(error))


def _why(error: Any) -> str:
    cause = error.__context__
    return str(cause) if isinstance(cause, ValueError) else type(error).__name__
