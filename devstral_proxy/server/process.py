"""One serving process: uvicorn's server, with an end in order, and signs of life for whoever watches it.

`Alone` is the whole proxy and answers to signals and to systemd. `Supervised` is one of several workers and answers to
its supervisor, through a socket pair.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
from collections.abc import Callable, Iterator

import uvicorn

from devstral_proxy.server.lifecycle import Lifecycle
from devstral_proxy.server.systemd import Notifier

_log = logging.getLogger("devstral_proxy")

LAST_WORDS = 1
"""Seconds between the deadline, at which running answers are told to end, and their tasks' cancellation."""
MARGIN = 5.0
"""Seconds that a process has beyond all of its deadlines to be gone."""
BEAT = 0.5
"""Seconds between two signs of life of a worker."""
# What supervisor and worker say to each other.
READY, ALIVE = b"R", b"."
DRAIN, RETIRE, QUIT = b"d", b"r", b"q"


def patience(delay: float, drain: float) -> float:
    """Seconds that a process may take to end, all in all."""
    return delay + drain + LAST_WORDS + MARGIN


class Server(uvicorn.Server):
    """uvicorn's server with an end in two steps. `config.timeout_graceful_shutdown` must be `drain` + LAST_WORDS."""

    def __init__(self, config: uvicorn.Config, lifecycle: Lifecycle, *, delay: float, drain: float) -> None:
        """`delay`: SHUTDOWN_DELAY, `drain`: DRAIN_TIMEOUT."""
        super().__init__(config)
        self.lifecycle = lifecycle
        self.delay = delay
        self.drain = drain
        self.ending = False
        """`stop` has been called."""
        self.last_lines: Callable[[], None] = lambda: None
        """Called before the process is ended at once: writes what the log still holds."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """uvicorn's own, and then the word that the sockets are served."""
        await super().startup(sockets)
        if self.started:
            self.on_ready()

    def on_ready(self) -> None:
        """The sockets are served."""

    def on_stopping(self) -> None:
        """The end has begun."""

    def stop(self, delay: float) -> None:
        """Take no more requests after `delay` seconds, and end when those under way have. A second call does
        nothing."""
        if self.ending:
            return
        self.ending = True
        _log.info("stopping: %d answers under way have %s s to end", self.lifecycle.running, self.drain)
        self.lifecycle.begin_drain()
        self.on_stopping()
        asyncio.get_running_loop().call_later(delay, self._close)

    def abort(self, code: int) -> None:
        """End this process now."""
        _log.warning("ended at once: %d answers cut off", self.lifecycle.running)
        self.last_lines()
        os._exit(code)

    def every(self, seconds: float, call: Callable[[], None]) -> None:
        """Call from the event loop again and again: who stops being called tells that the loop does not turn."""
        call()
        asyncio.get_running_loop().call_later(seconds, self.every, seconds, call)

    def _close(self) -> None:
        self.should_exit = True
        asyncio.get_running_loop().call_later(self.drain, self.lifecycle.pass_deadline)


class Alone(Server):
    """The only process: SIGTERM and SIGINT end it in order, a second one at once. SIGHUP is only answered."""

    def __init__(
        self, config: uvicorn.Config, lifecycle: Lifecycle, notifier: Notifier, *, delay: float, drain: float
    ) -> None:
        super().__init__(config, lifecycle, delay=delay, drain=drain)
        self._notifier = notifier

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """In place of uvicorn's, which polls for them, and raises them again at the end."""
        loop = asyncio.get_running_loop()
        signals = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
        for number in signals:
            loop.add_signal_handler(number, self._signalled, number)
        try:
            yield
        finally:
            for number in signals:
                loop.remove_signal_handler(number)
                signal.signal(number, signal.SIG_IGN)  # a late one must not cost the last log lines

    def _signalled(self, number: int) -> None:
        if number == signal.SIGHUP:
            _log.warning("SIGHUP is ignored: reload needs WORKERS of 2 or more; restart instead")
            return
        if self.ending:
            self.abort(128 + number)
        self.stop(self.delay)

    def on_ready(self) -> None:
        """READY=1, and the watchdog."""
        self._notifier.ready("serving")
        if self._notifier.watchdog:
            self.every(self._notifier.watchdog / 2, self._notifier.alive)

    def on_stopping(self) -> None:
        """STOPPING=1."""
        self._notifier.stopping(patience(self.delay, self.drain), "draining")


class Supervised(Server):
    """One of several workers. Signals that go to the whole group (Ctrl-C, `systemctl kill`) are the supervisor's."""

    def __init__(
        self, config: uvicorn.Config, lifecycle: Lifecycle, channel: socket.socket, *, delay: float, drain: float
    ) -> None:
        super().__init__(config, lifecycle, delay=delay, drain=drain)
        channel.setblocking(False)
        self._channel = channel

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """SIGTERM for this worker alone drains it."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self.stop, self.delay)
        loop.add_reader(self._channel, self._told)
        try:
            yield
        finally:
            loop.remove_reader(self._channel)
            loop.remove_signal_handler(signal.SIGTERM)
            signal.signal(signal.SIGTERM, signal.SIG_IGN)

    def on_ready(self) -> None:
        """Say so, and go on giving signs of life."""
        self._say(READY)
        self.every(BEAT, lambda: self._say(ALIVE))

    def _told(self) -> None:
        try:
            word = self._channel.recv(64)
        except OSError:
            word = b""
        if not word:
            asyncio.get_running_loop().remove_reader(self._channel)
            self.stop(0)
        elif QUIT in word:
            self.abort(1)
        else:
            self.stop(self.delay if DRAIN in word else 0)

    def _say(self, word: bytes) -> None:
        """To the supervisor. When it is gone, nobody else would end this process.

        The channel's end may be told only here: libuv takes a reset, which is what an end with words still unread is,
        as a reason to stop looking at the socket.
        """
        try:
            self._channel.send(word)
        except BlockingIOError:
            pass
        except OSError:
            self.stop(0)
