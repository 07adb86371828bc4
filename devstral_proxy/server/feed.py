"""Upstream's answer to one request, read by a task of its own, taken in the batches in which it arrives."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

from devstral_proxy.upstream.client import Answer

HELD_BYTES = 256 * 1024
"""What is read ahead of a slow client; over it, reading stops until the client has taken it."""


class Feed:
    """`async with Feed(open) as feed:`; leaving the block aborts a request that has not ended.

    The reader fills the buffer for as long as it need not wait, so one `take` holds all that one wake-up of the event
    loop brought, and is worth one write to the client.
    """

    __slots__ = ("_answer", "_chunks", "_ended", "_error", "_held", "_open", "_room", "_task", "_waiter")

    def __init__(self, open: Callable[[], AbstractAsyncContextManager[Answer]]) -> None:
        self._open = open
        self._answer: Answer | None = None
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
        if not self._task.done():
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
        if not self._chunks and not self._ended:
            await self._wait(until)
        chunks = self._chunks
        if chunks:
            self._chunks = []
            self._held = 0
            if self._room is not None and not self._room.done():
                self._room.set_result(None)
        elif self._error is not None:
            raise self._error
        return chunks

    @property
    def ended(self) -> bool:
        """The body is complete and taken."""
        return self._ended and not self._chunks

    async def drain(self, seconds: float) -> None:
        """Wait a moment for the body's end, so that the connection can be used again."""
        if not self._task.done():
            await asyncio.wait({self._task}, timeout=seconds)

    async def _run(self) -> None:
        try:
            async with self._open() as answer:
                self._answer = answer
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
