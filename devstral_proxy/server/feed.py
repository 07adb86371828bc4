"""Upstream's answer to one request, taken in the batches in which it arrives."""

from __future__ import annotations

import asyncio
import contextlib

import httpx

from devstral_proxy.errors import UpstreamError
from devstral_proxy.upstream.call import Call, Head
from devstral_proxy.upstream.client import Answer, UpstreamClient

DRAIN = 0.5
"""Seconds that vLLM has after its `[DONE]` to end the body, so that the connection can be used again."""
HELD_BYTES = 256 * 1024
"""What is read ahead of a slow client; over it, reading stops until the client has taken it."""


class Feed:
    """`async with Feed(client, method, path, body, seconds) as feed:`; leaving the block aborts a request that has not
    ended.

    One `take` holds all that one wake-up of the event loop brought, and is worth one write to the client. Where an idle
    connection stands ready, the request goes out at once and all is read from the connection itself. Else a task of its
    own connects, waits for a place, sends again, decodes: what may take longer than the client should go without a
    sign of life.
    """

    __slots__ = (
        "_answer", "_body", "_call", "_chunks", "_client", "_ended", "_error", "_extra", "_held", "_method", "_path",
        "_room", "_seconds", "_task", "_waiter",
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
        self._call: Call | None = None  # the short way
        self._task: asyncio.Task[None] | None = None  # the long one
        self._answer: Head | None = None
        self._chunks: list[bytes] = []
        self._held = 0
        self._ended = False
        self._error: Exception | None = None
        self._waiter: asyncio.Future[None] | None = None  # the one who waits for something new
        self._room: asyncio.Future[None] | None = None  # the task, waiting for the buffer to empty

    async def __aenter__(self) -> Feed:
        self._call = self._client.call(self._method, self._path, self._body, self._extra)
        if self._call is None:
            self._task = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._call is not None:
            self._call.close()
        if self._task is not None and not self._task.done():
            self._task.cancel()
            await asyncio.wait({self._task})

    async def head(self, until: float) -> Head | None:
        """The head of the answer; None when there is none by then (in the loop's time). Raises what kept it away."""
        if self._call is not None:
            try:
                answer = await self._call.head(until)
            except httpx.HTTPError as error:
                if not self._call.stale:
                    raise self._client.explain(error) from None
                # The connection was closed while it was idle: once more, the long way.
                self._call.close()
                self._call = None
                self._task = asyncio.create_task(self._run())
            else:
                if answer is None:
                    return None
                self._client.check(answer)
                if answer.plain:
                    return answer
                self._answer = encoded = Answer(self._call.response(self._seconds), self._client)
                self._call = None
                self._task = asyncio.create_task(self._decode(encoded))
        if self._answer is None and not self._ended:
            await self._wait(until)
        if self._answer is None and self._error is not None:
            raise self._error
        return self._answer

    async def take(self, until: float) -> list[bytes]:
        """The next pieces of the body; empty when there are none by then, or when `ended`. Raises what broke it,
        after the pieces that came before."""
        call = self._call
        if call is not None:
            try:
                pieces = await call.take(until)
            except httpx.HTTPError as error:
                raise self._client.explain(error) from None
            self._ended = call.ended
            return pieces
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

    @property
    def ended(self) -> bool:
        """The body is complete and taken."""
        return self._ended and not self._chunks

    async def drain(self, seconds: float) -> None:
        """Wait a moment for the body's end, so that the connection can be used again."""
        if self._call is not None:
            until = asyncio.get_running_loop().time() + seconds
            with contextlib.suppress(UpstreamError):
                while not self._ended and await self.take(until):
                    pass
        elif self._task is not None and not self._task.done():
            await asyncio.wait({self._task}, timeout=seconds)

    async def _run(self) -> None:
        try:
            async with self._client.open(
                self._method, self._path, self._body, first_byte=self._seconds, extra=self._extra
            ) as answer:
                await self._pump(answer)
        except Exception as error:
            self._error = error  # for the one who takes, whatever it is
        finally:
            self._ended = True
            self._wake()

    async def _decode(self, answer: Answer) -> None:
        """A body in a content coding that nobody asked for."""
        try:
            await self._pump(answer)
        except Exception as error:
            self._error = error
        finally:
            await answer.aclose()
            self._ended = True
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
