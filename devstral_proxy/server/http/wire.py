"""The transport's side of a connection: what is written, a client that does not read, and the end."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import math
import struct
import termios
from dataclasses import dataclass
from enum import Enum
from typing import cast

LINGER = 2.0
"""Seconds of silence after which a connection is closed on which a request was answered early. What still comes of it
is read and dropped: closing at once would make the kernel throw the answer away before the client has read it."""
LINGER_AT_MOST = 30.0
"""Seconds after which it is closed in any case."""


@dataclass(frozen=True, slots=True)
class HttpLimits:
    """Bytes of a head; seconds for a head, for a body (beside its length over BODY_RATE), for a client that takes
    nothing of its answer, and of rest between two requests."""

    head_bytes: int = 64 * 1024
    head: float = 20.0
    body: float = 60.0
    send: float = 120.0
    keep_alive: float = 75.0


class Phase(Enum):
    """What the deadline is of."""

    NEW = "nothing has come"
    REST = "the last request is answered"
    HEAD = "a head is coming"
    BODY = "a body is coming"
    ANSWER = "the application's turn"
    LINGER = "what comes is dropped"
    CLOSE = "what is written goes out"


class Wire(asyncio.Protocol):
    """What `HttpProtocol` is made of beside HTTP."""

    __slots__ = (
        "deaf", "drain", "dropped", "full", "late", "limits", "linger_end", "loop", "paused", "phase", "transport",
        "unsent", "unsent_late",
    )  # fmt: skip

    def __init__(self, limits: HttpLimits, loop: asyncio.AbstractEventLoop) -> None:
        self.limits = limits
        self.loop = loop
        self.transport: asyncio.Transport
        self.phase = Phase.NEW
        self.late = math.inf
        """When the phase has lasted too long."""
        self.linger_end = math.inf
        self.deaf = False
        """What comes is dropped."""
        self.dropped = False
        """Something was."""
        self.paused = False
        """Nothing is read."""
        self.full = False
        """The client takes less than is written."""
        self.drain: asyncio.Event | None = None
        self.unsent = 0
        self.unsent_late = math.inf

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.late = self.loop.time() + self.limits.head

    def pause_writing(self) -> None:
        self.full = True
        self.watch_unsent()

    def resume_writing(self) -> None:
        self.full = False
        drain, self.drain = self.drain, None
        if drain is not None:
            drain.set()

    def write(self, data: bytes) -> None:
        """Write, if there is still somebody."""
        # uvloop raises where asyncio does not.
        if not self.transport.is_closing():
            self.transport.write(data)

    async def drained(self) -> None:
        """Wait until the client has taken most of what was written, or is gone."""
        while self.full:
            if self.drain is None:
                self.drain = asyncio.Event()
            await self.drain.wait()

    def watch_unsent(self) -> None:
        """Give the client `send` seconds to take something of what is written."""
        self.unsent = unsent(self.transport)
        self.unsent_late = self.loop.time() + self.limits.send

    def takes_nothing(self, now: float) -> bool:
        """That time has passed, and it has taken nothing."""
        if now < self.unsent_late or not (self.full or self.phase is Phase.CLOSE):
            return False
        before = self.unsent
        self.watch_unsent()
        return self.unsent >= before

    def pause(self) -> None:
        """Read nothing for now."""
        if not self.paused and not self.transport.is_closing():
            self.paused = True
            self.transport.pause_reading()

    def resume(self) -> None:
        """Read on."""
        self.paused = False
        if not self.transport.is_closing():
            self.transport.resume_reading()

    def rest(self) -> None:
        """Wait for the next request."""
        self.phase, self.late = Phase.REST, self.loop.time() + self.limits.keep_alive

    def await_head(self) -> None:
        """It has begun to come."""
        self.phase, self.late = Phase.HEAD, self.loop.time() + self.limits.head

    def linger(self) -> None:
        """End our side, and close when the client has ended its own, says nothing for a while, or says too much."""
        self.deaf = True
        if self.transport.is_closing():
            return
        if self.paused:
            self.resume()
        if not self.transport.can_write_eof():
            self.close()
            return
        self.transport.write_eof()
        now = self.loop.time()
        self.phase, self.late, self.linger_end = Phase.LINGER, now + LINGER, now + LINGER_AT_MOST

    def drop(self) -> None:
        """Something came to a connection that is deaf."""
        self.dropped = True
        if self.phase is Phase.LINGER:
            self.late = min(self.loop.time() + LINGER, self.linger_end)

    def close(self) -> None:
        """Close when all is sent that is written."""
        self.deaf = True
        self.phase, self.late = Phase.CLOSE, math.inf
        self.watch_unsent()
        self.transport.close()


def unsent(transport: asyncio.Transport) -> int:
    """Bytes in the transport's buffer and, where the system tells (Linux, `SIOCOUTQ`), in the kernel's: it asks for
    more only when megabytes have gone, long after a slow reader has begun to take them."""
    size = transport.get_write_buffer_size()
    taken = transport.get_extra_info("socket")
    if taken is not None:
        with contextlib.suppress(OSError, ValueError):
            size += struct.unpack("i", fcntl.ioctl(taken.fileno(), termios.TIOCOUTQ, b"\0\0\0\0"))[0]
    return size
