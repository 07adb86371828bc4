"""Whether the client is still there: a watch while an answer is awaited (F83)."""

from __future__ import annotations

import asyncio
from types import TracebackType

from starlette.types import Receive, Scope

from devstral_proxy.server.exchange import ClientGone
from devstral_proxy.server.http.incoming import EXTENSION, Incoming


class Watch:
    """`with Watch(scope, receive) as watch:` cancels the block when the client leaves, and raises ClientGone
    instead.

    The request's body must have been read. `watch.over()` before the answer's last bytes: from then on the server
    reports a disconnect for an answer that is complete. Our own protocol tells that the client left; under any other
    server a task waits for it.
    """

    __slots__ = ("_cancelling", "_gone", "_incoming", "_over", "_receive", "_task", "_timer", "_watcher")

    def __init__(self, scope: Scope, receive: Receive) -> None:
        self._incoming: Incoming | None = scope.get("extensions", {}).get(EXTENSION)
        self._receive = receive
        self._watcher: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._gone = False
        self._over = False

    def __enter__(self) -> Watch:
        task = self._incoming.task if self._incoming is not None else asyncio.current_task()
        if task is None:
            raise RuntimeError("a Watch needs a task")
        self._task = task
        self._cancelling = task.cancelling()
        if self._incoming is None:
            self._watcher = asyncio.create_task(self._wait())
        elif self._incoming.gone:
            raise ClientGone
        else:
            self._incoming.on_gone = self._left
        return self

    def over(self) -> None:
        """The answer is complete: nothing that the client does now concerns it."""
        self._over = True
        if self._watcher is not None:
            self._watcher.cancel()

    def end_by(self, until: float) -> None:
        """Treat a client that has not taken its answer by then (in the loop's time) as one that left."""
        if self._incoming is not None:
            self._incoming.end_by(until)
        else:
            self._timer = asyncio.get_running_loop().call_at(until, self._left)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._over = True
        if self._watcher is not None:
            self._watcher.cancel()
        if self._timer is not None:
            self._timer.cancel()
        # As asyncio.timeout does it: our own cancellation is taken back, one from outside goes on.
        if self._gone and self._task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
            raise ClientGone(self._incoming.why if self._incoming is not None else "client gone") from None

    def _left(self) -> None:
        if not self._over and not self._gone:
            self._gone = True
            self._task.cancel()

    async def _wait(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._left()
