"""Upstream's answer to one request, read by a task of its own, taken in the batches in which it arrives."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

from devstral_proxy.errors import UpstreamError
from devstral_proxy.upstream.client import Answer

HELD_BYTES = 256 * 1024
"""What is read ahead of a slow client; over it, reading stops until the client has taken it."""


class Feed:
    """`async with Feed(open) as feed:`; leaving the block aborts a request that has not ended.

    One `take` holds all that one wake-up of the event loop brought, and is worth one write to the client. A `direct`
    answer is taken from its connection, which holds what nobody has taken yet; then the task only keeps it open. Any
    other is read by the task, for as long as it need not wait.
    """

    __slots__ = ("_answer", "_chunks", "_direct", "_ended", "_error", "_held", "_open", "_room", "_task", "_waiter")

    def __init__(self, open: Callable[[], AbstractAsyncContextManager[Answer]]) -> None:
        self._open = open
        self._answer: Answer | None = None
        self._direct: Answer | None = None  # the answer, if it is one
        self._chunks: list[bytes] = []
        self._held = 0
        self._ended = False
        self._error: Exception | None = None
        self._waiter: asyncio.Future[None] | None = None  # the one who waits for something new
        self._room: asyncio.Future[None] | None = None  # the reader, waiting for the buffer to empty

    async def __aenter__(self) -> Feed:
        self._task = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, *_: object) -> None:
        if not self._task.done() and not (self._direct is not None and self._ended):
            self._task.cancel()
            await asyncio.wait({self._task})

    async def head(self, until: float) -> Answer | None:
        """The head of the answer; None when there is none by then (in the loop's time). Raises what kept it away."""
        if self._answer is None and not self._ended:
            await self._wait(until)
        if self._answer is None and self._error is not None:
            raise self._error
        return self._answer

    async def take(self, until: float) -> list[bytes]:
        """The next pieces of the body; empty when there are none by then, or when `ended`. Raises what broke it,
        after the pieces that came before."""
        if self._direct is not None:
            return await self._take_direct(self._direct, until)
        if not self._chunks and not self._ended:
            await self._wait(until)
        chunks = self._chunks
        if chunks:
            self._chunks = []
            self._held = 0
            self._let_go()
        elif self._error is not None:
            raise self._error
        return chunks

    async def _take_direct(self, answer: Answer, until: float) -> list[bytes]:
        if self._ended:
            return []
        pieces = await answer.take(until)
        if pieces is None:
            return []
        if not pieces:
            self._ended = True
            self._let_go()
        return pieces

    @property
    def ended(self) -> bool:
        """The body is complete and taken."""
        return self._ended and not self._chunks

    async def drain(self, seconds: float) -> None:
        """Wait a moment for the body's end, so that the connection can be used again."""
        if self._direct is not None:
            until = asyncio.get_running_loop().time() + seconds
            with contextlib.suppress(UpstreamError):
                while not self._ended and await self._take_direct(self._direct, until):
                    pass
        elif not self._task.done():
            await asyncio.wait({self._task}, timeout=seconds)

    async def _run(self) -> None:
        try:
            async with self._open() as answer:
                self._answer = answer
                if answer.direct:
                    self._direct = answer
                    self._room = asyncio.get_running_loop().create_future()
                    self._wake()
                    await self._room
                    return
                self._wake()
                async for chunk in answer:
                    self._chunks.append(chunk)
                    self._held += len(chunk)
                    self._wake()
                    if self._held > HELD_BYTES:
                        self._room = asyncio.get_running_loop().create_future()
                        await self._room
        except Exception as error:
            self._error = error  # for the one who takes, whatever it is
        finally:
            self._ended = True
            self._wake()

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
