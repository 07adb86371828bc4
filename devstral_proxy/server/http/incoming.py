"""One request of a client's and its answer, as ASGI's scope, receive and send."""

from __future__ import annotations

import asyncio
import http
import math
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import orjson
from starlette.types import Message

from devstral_proxy.errors import ProxyError, render

if TYPE_CHECKING:
    from devstral_proxy.server.http.protocol import HttpProtocol

EXTENSION = "devstral_proxy.incoming"
"""The key in the scope's `extensions` under which an application finds the `Incoming`."""
WINDOW = 1024 * 1024
"""Bytes of a body that are collected before the application gets them; over it reading stops until it has."""
JOINED = 64 * 1024
"""A head and a body up to this size go out in one piece; copying more costs more than a second write."""

_STATUS = {status.value: b"HTTP/1.1 %d %b\r\n" % (status.value, status.phrase.encode()) for status in http.HTTPStatus}
_BODYLESS = frozenset((204, 304))
_FRAMING = frozenset((b"content-length", b"transfer-encoding", b"connection"))


def told(error: ProxyError, headers: Iterable[tuple[bytes, bytes]], bodyless: bool = False) -> bytes:
    """The whole answer to a request that no application has, or that it has left. The connection closes after it."""
    body = orjson.dumps(render(error))
    lines = [_STATUS[error.status], *(b"%b: %b\r\n" % header for header in headers)]
    lines.append(b"content-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % len(body))
    return b"".join(lines) if bodyless else b"".join((*lines, body))


class Incoming:
    """`scope`, `receive` and `send` are the application's; the rest is the protocol's.

    Beyond ASGI an application may set `on_gone`, called once when the client leaves before its answer is complete, call
    `end_by`, and answer by `start`, `write` and `drained`, which do what `send` does with less ado.
    """

    __slots__ = (
        "_chunked", "_discard", "_event", "_headers", "_is_11", "_is_head", "_left", "_pieces", "_protocol", "_size",
        "_status", "_transport", "body_done", "complete", "expects", "failure", "gone", "keep_alive", "on_gone",
        "scope", "started", "task", "until", "why",
    )  # fmt: skip

    def __init__(self, protocol: HttpProtocol, scope: dict[str, Any], keep_alive: bool, expects: bool) -> None:
        self._protocol = protocol
        self._transport = protocol.transport
        self.scope = scope
        self._is_head: bool = scope["method"] == "HEAD"
        self._is_11: bool = scope["http_version"] == "1.1"
        self.keep_alive = keep_alive
        self.expects = expects
        """The client waits for `100 Continue` before it sends the body."""
        self.task: asyncio.Task[None]
        self._pieces: list[bytes] = []
        self._size = 0
        self._event: asyncio.Event | None = None
        self._status = 0
        self._headers: Iterable[tuple[bytes, bytes]] = ()
        self._chunked = False
        self._discard = False
        self._left = -1  # bytes that the answer's content-length still promises; -1: it has none
        self.body_done = False
        self.started = False
        """A byte of the answer has been written."""
        self.complete = False
        self.gone = False
        self.failure: ProxyError | None = None
        """Why the body will not come."""
        self.why = "client gone"
        """How it came that nobody takes the answer."""
        self.on_gone: Callable[[], None] | None = None
        self.until = math.inf

    # The protocol's side.

    def body(self, piece: bytes) -> bool:
        """A piece of the body. True when no more should be read for now."""
        self._pieces.append(piece)
        self._size += len(piece)
        if self._size >= WINDOW:
            self._wake()
            return True
        return False

    def end(self) -> None:
        """The body is complete."""
        self.body_done = True
        self._wake()

    def leave(self) -> None:
        """The client is gone."""
        if not self.complete and not self.gone:
            self.gone = True
            self._wake()
            if self.on_gone is not None:
                self.on_gone()

    def fail(self, error: ProxyError) -> None:
        """The body will not come: whoever reads it gets the error."""
        self.failure = error
        self._wake()

    def let_go(self) -> None:
        """The application has returned. What refers to this object and is referred to would wait for the collector."""
        self.on_gone = None
        del self.scope

    # The application's side.

    def end_by(self, until: float) -> None:
        """Close the connection at this moment of the loop's time, if the answer is not complete then."""
        self.until = until

    def taken(self) -> bytes | None:
        """The whole body, where all of it is there and none was received."""
        if not self.body_done or self._size < 0 or self._size >= WINDOW or self.gone:
            return None
        pieces, self._pieces, self._size = self._pieces, [], -1
        self._protocol.resume_reading()
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    async def receive(self) -> Message:
        """ASGI's receive. A body within WINDOW comes in one message. Raises BadRequest or RequestTimeout where the body
        breaks off, beside ASGI: such a client is still there, and is told."""
        while not self.gone and not self.complete:
            if self.failure is not None:
                raise self.failure
            if self._size >= 0 and (self.body_done or self._size >= WINDOW):
                pieces, done = self._pieces, self.body_done
                body = pieces[0] if len(pieces) == 1 else b"".join(pieces)
                self._pieces = []
                self._size = -1 if done else 0  # the end is told once
                self._protocol.resume_reading()
                return {"type": "http.request", "body": body, "more_body": not done}
            if self.expects and not self.started:
                self.expects = False
                self._protocol.go_on(told=not self._pieces)
            if self._event is None:
                self._event = asyncio.Event()
            await self._event.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        """ASGI's send. Raises RuntimeError for what is no answer."""
        if message["type"] == "http.response.body":
            if self.write(message.get("body", b""), message.get("more_body", False)):
                await self.drained()
        elif message["type"] == "http.response.start":
            self.start(message["status"], message.get("headers", ()))
        else:
            raise RuntimeError(f"unexpected {message['type']}")

    def start(self, status: int, headers: Iterable[tuple[bytes, bytes]]) -> None:
        """The head of the answer. Raises RuntimeError where there is one."""
        if self._status:
            raise RuntimeError("the answer has begun")
        self._status = status
        self._headers = headers

    def write(self, body: bytes, more: bool) -> bool:
        """A piece of the body; the head goes out with the first one, in one write. True when the client does not read
        fast enough, and it is time for `drained`. Raises RuntimeError for what is no answer."""
        if self.gone:
            return False
        protocol, transport = self._protocol, self._transport
        if self._chunked and more and not self.complete:
            if body and not transport.is_closing():
                transport.write(b"%x\r\n%b\r\n" % (len(body), body))
        elif not self._status or self.complete:
            raise RuntimeError("unexpected http.response.body")
        elif not self.started:
            self._start(body, more)
        elif self._chunked:
            protocol.write(b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body) if body else b"0\r\n\r\n")
        elif body and not self._discard:
            self._count(body)
            protocol.write(body)
        if more:
            return protocol.full
        if self._left > 0:
            raise RuntimeError("the body is shorter than its content-length")
        self.complete = True
        self._wake()
        protocol.answered(self)
        return False

    async def drained(self) -> None:
        """Wait until the client has taken most of what was written, or is gone."""
        await self._protocol.drained()

    def _start(self, body: bytes, more: bool) -> None:
        """The head, with what there is of the body."""
        status = self._status
        lines = [_STATUS.get(status) or b"HTTP/1.1 %d \r\n" % status]
        for name, value in (*self._protocol.default_headers, *self._headers):
            name = name.lower()
            if name not in _FRAMING:
                lines.append(b"%b: %b\r\n" % (name, value))
            elif name == b"content-length":
                if status != 204:
                    self._left = int(value)
                    lines.append(b"content-length: %b\r\n" % value)
            elif name == b"connection" and b"close" in value.lower():
                self.keep_alive = False
            # A transfer coding is the server's own matter (ASGI).
        self._discard = self._is_head or status in _BODYLESS
        chunked = False
        if self._left < 0 and not self._discard:
            if not more:
                lines.append(b"content-length: %d\r\n" % len(body))
            elif self._is_11:
                chunked = True
                lines.append(b"transfer-encoding: chunked\r\n")
            else:
                self.keep_alive = False
        if not (self.body_done and self.keep_alive):
            self.keep_alive = False
            lines.append(b"connection: close\r\n")
        elif not self._is_11:
            lines.append(b"connection: keep-alive\r\n")
        lines.append(b"\r\n")
        head = b"".join(lines)
        if head.count(b"\n") != len(lines) or head.count(b"\r") != len(lines) or b"\0" in head:
            raise RuntimeError("a line end in a header")
        if self._discard:
            self._left = -1
        else:
            self._count(body)
        self.started = True
        if self._discard or not body:
            self._protocol.write(head)
        elif chunked:
            self._protocol.write(b"%b%x\r\n%b\r\n" % (head, len(body), body))
        elif len(body) <= JOINED:
            self._protocol.write(head + body)
        else:
            self._protocol.write(head)
            self._protocol.write(body)
        self._chunked = chunked

    def _count(self, body: bytes) -> None:
        if self._left >= 0:
            if len(body) > self._left:
                raise RuntimeError("the body is longer than its content-length")
            self._left -= len(body)

    def _wake(self) -> None:
        event, self._event = self._event, None
        if event is not None:
            event.set()
