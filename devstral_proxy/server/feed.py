"""Upstream's answer to one request, taken in the batches in which it arrives."""

from __future__ import annotations

import asyncio
import contextlib

from devstral_proxy.errors import UpstreamError
from devstral_proxy.upstream.client import Answer, UpstreamClient
from devstral_proxy.upstream.head import Head
from devstral_proxy.upstream.transport.connection import Connection

DRAIN = 0.5
"""Seconds that vLLM has after its `[DONE]` to end the body, so that the connection can be used again."""
HELD_BYTES = 256 * 1024
"""What is read ahead of a slow client; over it, reading stops until the client has taken it."""


class Feed:
    """`with Feed(client, method, path, body, seconds) as feed:`; leaving the block aborts a request that has not ended.

    One `take` holds all that one wake-up of the event loop brought, and is worth one write to the client. Where an idle
    connection stands ready, the request goes out at once and all is read from the connection itself. Else a task of its
    own connects, waits for a place, sends again, decodes: what may take longer than the client should go without a
    sign of life.
    """

    __slots__ = (
        "_answer", "_body", "_chunks", "_client", "_connection", "_error", "_extra", "_held", "_method", "_over",
        "_path", "_room", "_seconds", "_task", "_waiter", "ended",
    )  # fmt: skip

    def __init__(
        self,
        client: UpstreamClient,
        method: str,
        path: str,
        body: bytes | None,
        seconds: float,
        extra: list[tuple[bytes, bytes]] | None = None,
    ) -> None:
        """`seconds`: until the head, and between two reads; `extra`: further headers."""
        self._client = client
        self._method = method
        self._path = path
        self._body = body
        self._seconds = seconds
        self._extra = extra
        self._connection: Connection | None = None  # the short way
        self._task: asyncio.Task[None] | None = None  # the long one
        self._answer: Head | None = None
        self._chunks: list[bytes] = []
        self._held = 0
        self._over = False  # nothing more will come of the task
        self._error: Exception | None = None
        self._waiter: asyncio.Future[None] | None = None  # the one who waits for something new
        self._room: asyncio.Future[None] | None = None  # the task, waiting for the buffer to empty
        self.ended = False
        """The body is complete and taken."""

    def __enter__(self) -> Feed:
        self._connection = self._client.start(self._method, self._path, self._body, self._extra)
        if self._connection is None:
            self._task = asyncio.create_task(self._run())
        return self

    def __exit__(self, *_: object) -> None:
        self._finish()
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
        self._error = None  # raised, it refers to who waited here

    async def head(self, until: float) -> Head | None:
        """The head of the answer; None when there is none by then (in the loop's time). Raises what kept it away."""
        connection = self._connection
        if connection is not None:
            while connection.error is None or connection.head_done:
                if connection.head_done:
                    return self._headed(connection)
                if not await connection.waiter(until):
                    return None
            if not connection.stale:
                raise self._client.explain(connection.error) from None
            # The connection was closed while it was idle: once more, the long way.
            self._finish()
            self._task = asyncio.create_task(self._run())
        if self._answer is None and not self._over:
            await self._wait(until)
        if self._answer is None and self._error is not None:
            raise self._error
        return self._answer

    def _headed(self, connection: Connection) -> Head:
        head = Head(connection.status, connection.headers)
        self._client.check(head)
        if not head.plain:
            self._connection = None
            self._answer = head = encoded = self._client.decoded(connection, self._seconds)
            self._task = asyncio.create_task(self._decode(encoded))
        return head

    async def take(self, until: float) -> list[bytes]:
        """The next pieces of the body; empty when there are none by then, or when `ended`. Raises what broke it,
        after the pieces that came before."""
        connection = self._connection
        if connection is not None:
            while not (pieces := connection.taken()) and not connection.complete:
                if connection.error is not None:
                    raise self._client.explain(connection.error) from None
                if not await connection.waiter(until):
                    return pieces
            if connection.complete:
                self.ended = True
                self._finish()
            return pieces
        if not self._chunks and not self._over and not self.ended:
            await self._wait(until)
        pieces = self._chunks
        if pieces:
            self._chunks = []
            self._held = 0
            self._let_go()
        elif self._error is not None:
            raise self._error
        self.ended = self.ended or (self._over and self._error is None)
        return pieces

    async def drain(self, seconds: float) -> None:
        """Wait a moment for the body's end, so that the connection can be used again."""
        if self._connection is not None:
            until = asyncio.get_running_loop().time() + seconds
            with contextlib.suppress(UpstreamError):
                while not self.ended and await self.take(until):
                    pass
        elif self._task is not None and not self._task.done():
            await asyncio.wait({self._task}, timeout=seconds)

    def _finish(self) -> None:
        """Give the connection back, or close it where the answer has not ended."""
        connection, self._connection = self._connection, None
        if connection is not None:
            self._client.finish(connection)

    async def _run(self) -> None:
        try:
            async with self._client.open(
                self._method, self._path, self._body, first_byte=self._seconds, extra=self._extra
            ) as answer:
                await self._pump(answer)
        except Exception as error:
            self._error = error  # for the one who takes, whatever it is
        finally:
            self._over = True
            self._wake()

    async def _decode(self, answer: Answer) -> None:
        """A body in a content coding that nobody asked for."""
        try:
            await self._pump(answer)
        except Exception as error:
            self._error = error
        finally:
            await answer.aclose()
            self._over = True
            self._wake()

    async def _pump(self, answer: Answer) -> None:
        self._answer = answer
        self._wake()
        async for chunk in answer:
            self._chunks.append(chunk)
            self._held += len(chunk)
            self._wake()
            if self._held > HELD_BYTES:
                self._room = asyncio.get_running_loop().create_future()
                await self._room

    def _let_go(self) -> None:
        if self._room is not None and not self._room.done():
            self._room.set_result(None)

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def _wait(self, until: float) -> None:
        loop = asyncio.get_running_loop()
        self._waiter = loop.create_future()
        timer = loop.call_at(until, self._wake)
        try:
            await self._waiter
        finally:
            timer.cancel()
            self._waiter = None
