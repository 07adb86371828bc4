"""The end of a serving process: who is told of it, and what happens to the answers that are not ready by then.

SIGTERM ─▶ begin_drain ── SHUTDOWN_DELAY ─▶ listener closed ── DRAIN_TIMEOUT ─▶ pass_deadline ─▶ tasks cancelled
           ready is 503,                    what runs, runs on                  error events
           requests still come
"""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Any

from devstral_proxy.errors import Overloaded

CODE = "proxy_stopping"


class Lifecycle:
    """One a process."""

    __slots__ = ("_late", "_running", "draining")

    def __init__(self) -> None:
        self.draining = False
        """The process is going to stop: it is not ready any more for a load balancer."""
        self._late = False
        self._running: set[Interruptible] = set()

    @property
    def running(self) -> int:
        """Blocks under way that `pass_deadline` would end."""
        return len(self._running)

    def begin_drain(self) -> None:
        """From now on `draining`."""
        self.draining = True

    def interruptible(self, task: asyncio.Task[Any]) -> Interruptible:
        """`with lifecycle.interruptible(task):` around work of the running task, which raises `Overloaded` when the
        deadline passes."""
        return Interruptible(self, task)

    def pass_deadline(self) -> None:
        """End every interruptible block, and those still to come."""
        self._late = True
        for block in list(self._running):
            block.interrupt()


class Interruptible:
    """A block of one task that the deadline ends: it is cancelled, and raises Overloaded (503).

    Like asyncio.timeout: a cancellation from outside goes on as it is. The cost is one object and one entry in a set.
    """

    __slots__ = ("_cancelling", "_interrupted", "_lifecycle", "_task")

    def __init__(self, lifecycle: Lifecycle, task: asyncio.Task[Any]) -> None:
        self._lifecycle = lifecycle
        self._task = task
        self._interrupted = False

    def __enter__(self) -> Interruptible:
        """Raises Overloaded after the deadline."""
        if self._lifecycle._late:
            raise stopping()
        self._cancelling = self._task.cancelling()
        self._lifecycle._running.add(self)
        return self

    def over(self) -> None:
        """What is left of the block is not worth an error: the deadline does not end it any more."""
        self._lifecycle._running.discard(self)

    def told(self, error: BaseException) -> BaseException:
        """What an error means that was caught inside the block: Overloaded, where it is the cancellation by the
        deadline, else the error itself. The block is `over`."""
        self._lifecycle._running.discard(self)
        if self._taken_back() and isinstance(error, asyncio.CancelledError):
            return stopping()
        return error

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._lifecycle._running.discard(self)
        if self._taken_back() and kind is asyncio.CancelledError:
            raise stopping() from None

    def interrupt(self) -> None:
        """Cancel the block. Called from outside its task."""
        self._interrupted = True
        self._task.cancel()

    def _taken_back(self) -> bool:
        """The deadline has cancelled the task, and nobody else has: that is undone."""
        if not self._interrupted:
            return False
        self._interrupted = False
        return self._task.uncancel() <= self._cancelling


def stopping() -> Overloaded:
    """What a client is told whose answer was not ready in time."""
    error = Overloaded("the proxy is stopping, and the answer was not ready in time; ask again", code=CODE)
    error.headers = [("retry-after", "1")]
    return error
