"""Whether the client is still there: a watch on `receive` while an answer is awaited (F83)."""

from __future__ import annotations

import asyncio
from types import TracebackType

from starlette.types import Receive

from devstral_proxy.server.exchange import ClientGone


class Watch:
    """`async with Watch(receive) as watch:` cancels the block when the client leaves, and raises ClientGone instead.

    The request's body must have been read. `watch.over()` before the answer's last bytes: from then on the server
    reports a disconnect for an answer that is complete.
    """

    __slots__ = ("_cancelling", "_gone", "_over", "_receive", "_task", "_watcher")

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._gone = False
        self._over = False

    async def __aenter__(self) -> Watch:
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("a Watch needs a task")
        self._task = task
        self._cancelling = task.cancelling()
        self._watcher = asyncio.create_task(self._wait())
        return self

    def over(self) -> None:
        """The answer is complete: nothing that the client does now concerns it."""
        self._over = True
        self._watcher.cancel()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._watcher.cancel()
        # As asyncio.timeout does it: our own cancellation is taken back, one from outside goes on.
        if self._gone and self._task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
            raise ClientGone from None

    async def _wait(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        if not self._over:
            self._gone = True
            self._task.cancel()
