"""Several workers on the same sockets: started, watched, replaced, and stopped together.

uvicorn has a supervisor too. It looks at signals and workers twice a second, waits for its workers without limit, hears
no second signal while it does, and asks a thread of a worker whether it lives, which says nothing of its event loop; a
worker that has lost it serves on. This one forks, so that workers share the memory of what was imported. Nothing else
is shared but the listening sockets and the log file.
"""

from __future__ import annotations

import contextlib
import logging
import os
import selectors
import signal
import socket
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager

from devstral_proxy.server.process import BEAT, DRAIN, QUIT, READY, RETIRE
from devstral_proxy.server.systemd import Notifier

_log = logging.getLogger("devstral_proxy")

STALLED = 30.0
"""Seconds without a sign of life after which a worker is killed; WATCHDOG_USEC goes before it."""
AGAIN = 1.0
"""Seconds before a worker is started in the place of one that died before it served, or at once; doubled up to
LONGEST as long as none serves."""
LONGEST = 30.0
ABORT = 1.0
"""Seconds that workers have to end when they were told to do so at once."""
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)


class Worker:
    """What the supervisor knows of one."""

    __slots__ = ("born", "channel", "deadline", "heard", "pid", "ready", "replaces")

    def __init__(self, pid: int, channel: socket.socket, replaces: Worker | None) -> None:
        self.pid = pid
        self.channel = channel
        self.replaces = replaces
        """The worker that retires when this one serves."""
        self.ready = False
        self.born = self.heard = time.monotonic()
        self.deadline = float("inf")
        """When it is killed if it has not ended by then; endless as long as it has not been told to end."""

    @property
    def leaving(self) -> bool:
        """It was told to end."""
        return self.deadline != float("inf")

    def tell(self, word: bytes, seconds: float) -> None:
        """Tell it to end, and by when."""
        self.deadline = min(self.deadline, time.monotonic() + seconds)
        with contextlib.suppress(OSError):
            self.channel.send(word)


class Supervisor:
    """`run()` returns the exit code when all workers have ended."""

    def __init__(
        self,
        count: int,
        sockets: Sequence[socket.socket],
        serve: Callable[[socket.socket], int],
        notifier: Notifier,
        *,
        patience: Callable[[], float],
        reload: Callable[[], bool] = lambda: True,
        forking: Callable[[], AbstractContextManager[None]] = contextlib.nullcontext,
        gone: Callable[[int], None] = lambda pid: None,
    ) -> None:
        """`sockets` are those that the workers serve: they are closed here when the end begins, so that nobody queues
        for nobody. `serve(channel)` is a worker's whole life, in its own process. `patience()`: seconds that a worker
        may take to end after it was told. `reload()` reads the settings again before the workers are replaced, and
        says whether they can be used. `forking()` surrounds each fork, in the parent: no other thread may run in it.
        `gone(pid)` hears of workers that have ended."""
        self._count = count
        self._sockets = sockets
        self._serve = serve
        self._notifier = notifier
        self._patience = patience
        self._reload = reload
        self._forking = forking
        self._gone = gone
        self._stalled = notifier.watchdog or STALLED
        self._workers: dict[int, Worker] = {}
        self._old: deque[Worker] = deque()  # still to be replaced, one after the other
        self._selector = selectors.DefaultSelector()
        self._stopping = False
        self._served = False
        self._code = 0
        self._start_at = 0.0
        self._wait = AGAIN
        self._beat_at = 0.0

    def run(self) -> int:
        """Until a signal ends it: 0 when all workers ended by themselves. A second signal: 128 + its number."""
        with self._signals() as wakeups:
            self._selector.register(wakeups, selectors.EVENT_READ)
            while self._workers or not self._stopping:
                self._keep_up()
                for key, _ in self._selector.select(BEAT):
                    if key.fileobj is wakeups:
                        for number in wakeups.recv(4096):
                            self._signalled(number)
                    else:
                        self._heard(key.data)
                self._reap()
                self._look()
        return self._code

    @contextlib.contextmanager
    def _signals(self) -> Iterator[socket.socket]:
        """A socket on which the numbers of signals arrive."""
        wakeups, sender = socket.socketpair()
        wakeups.setblocking(False)
        sender.setblocking(False)
        for number in SIGNALS:
            signal.signal(number, lambda *_: None)
        signal.set_wakeup_fd(sender.fileno())
        try:
            yield wakeups
        finally:
            signal.set_wakeup_fd(-1)
            self._selector.close()
            wakeups.close()
            sender.close()

    def _signalled(self, number: int) -> None:
        if number == signal.SIGHUP and not self._stopping:
            self._renew()
        elif number in (signal.SIGTERM, signal.SIGINT):
            if self._stopping:
                self._code = 128 + number
                self._tell_all(QUIT, ABORT)
            else:
                self._stop()

    def _stop(self) -> None:
        self._stopping = True
        self._notifier.stopping(self._patience(), "draining")
        for one in self._sockets:
            one.close()
        self._tell_all(DRAIN, self._patience())

    def _tell_all(self, word: bytes, seconds: float) -> None:
        for worker in self._workers.values():
            worker.tell(word, seconds)

    def _renew(self) -> None:
        if self._reload():
            _log.info("replacing the workers, one after the other")
            self._notifier.reloading()
            self._old = deque(self._current())
        self._notifier.ready(self._status())

    def _current(self) -> list[Worker]:
        return [one for one in self._workers.values() if not one.leaving]

    def _status(self) -> str:
        ready = sum(one.ready for one in self._current())
        return f"{ready} of {self._count} workers serving"

    def _keep_up(self) -> None:
        """Start what is missing, and the next replacement."""
        if self._stopping or time.monotonic() < self._start_at:
            return
        current = self._current()
        for _ in range(self._count - len([one for one in current if one.replaces is None])):
            self._start(None)
        if all(one.replaces is None for one in current):
            while self._old:
                old = self._old.popleft()
                if old.pid in self._workers and not old.leaving:
                    self._start(old)
                    return

    def _start(self, replaces: Worker | None) -> None:
        ours, theirs = socket.socketpair()
        with self._forking():
            # A signal that the child takes before it has its own handlers would be told to the parent.
            signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
            try:
                pid = os.fork()
            except OSError as error:
                pid = -error.errno if error.errno else -1
            if pid == 0:
                os._exit(self._child(ours, theirs))
            signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        theirs.close()
        if pid < 0:  # no memory, or too many processes: what runs, runs on
            ours.close()
            _log.error("a worker could not be started: %s", os.strerror(-pid))
            self._later()
            return
        ours.setblocking(False)
        worker = Worker(pid, ours, replaces)
        self._workers[pid] = worker
        self._selector.register(ours, selectors.EVENT_READ, worker)

    def _later(self) -> None:
        """Start no worker for a while."""
        self._start_at = time.monotonic() + self._wait
        self._wait = min(self._wait * 2, LONGEST)

    def _child(self, ours: socket.socket, theirs: socket.socket) -> int:
        """The new process: nothing of the supervisor's is left in it when `serve` begins."""
        try:
            signal.set_wakeup_fd(-1)
            for number in (signal.SIGINT, signal.SIGHUP):
                signal.signal(number, signal.SIG_IGN)
            for number in (signal.SIGTERM, signal.SIGCHLD):
                signal.signal(number, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
            # A worker that held the supervisor's end of another's channel would keep that one from seeing it gone.
            for key in list(self._selector.get_map().values()):
                key.fileobj.close()  # type: ignore[union-attr]  # sockets, all of them
            ours.close()
            self._selector.close()
            return self._serve(theirs)
        except SystemExit as end:
            return end.code if isinstance(end.code, int) else 1
        except BaseException as error:
            _log.critical("a worker failed: %s", type(error).__name__, exc_info=error)
            return 1

    def _heard(self, worker: Worker) -> None:
        try:
            words = worker.channel.recv(4096)
        except OSError:
            words = b""
        if not words:
            with contextlib.suppress(KeyError):
                self._selector.unregister(worker.channel)
            return
        worker.heard = time.monotonic()
        if READY in words and not worker.ready:
            worker.ready = True
            self._wait = AGAIN
            if worker.replaces is not None and worker.replaces.pid in self._workers:
                worker.replaces.tell(RETIRE, self._patience())
            worker.replaces = None
            _log.info("worker %d serves", worker.pid)
            if self._served:
                self._notifier.status(self._status())
            else:
                self._served = True
                self._notifier.ready(self._status())

    def _reap(self) -> None:
        while self._workers:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            worker = self._workers.pop(pid, None)
            if worker is not None:
                self._ended(worker, os.waitstatus_to_exitcode(status))

    def _ended(self, worker: Worker, code: int) -> None:
        with contextlib.suppress(KeyError):
            self._selector.unregister(worker.channel)
        worker.channel.close()
        self._gone(worker.pid)
        for other in self._workers.values():
            if other.replaces is worker:
                other.replaces = None
        if code in (0, -signal.SIGTERM) and (worker.leaving or self._stopping):
            return
        how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        _log.error("worker %d ended: %s", worker.pid, how)
        if self._stopping:
            self._code = self._code or 1
        elif not worker.leaving and (not worker.ready or time.monotonic() - worker.born < AGAIN):
            if not self._served:  # the first workers: what ails them will not go away by itself
                self._code = 1
                self._stop()
            if worker.replaces is not None:
                self._old.clear()
                _log.error("the other workers are not replaced")
            self._later()

    def _look(self) -> None:
        """Kill what is stalled or late, and give systemd its sign of life as long as a worker gives one."""
        now = time.monotonic()
        for worker in self._workers.values():
            if now > worker.deadline:
                _log.error("worker %d is killed: it has not ended in time", worker.pid)
                worker.deadline = now + ABORT
                os.kill(worker.pid, signal.SIGKILL)
            elif not worker.leaving and now - worker.heard > self._stalled:
                _log.error("worker %d is killed: it is stalled", worker.pid)
                worker.deadline = now + ABORT
                os.kill(worker.pid, signal.SIGABRT)  # faulthandler tells where
        watchdog = self._notifier.watchdog
        if watchdog and now >= self._beat_at and any(now - one.heard <= watchdog for one in self._workers.values()):
            self._beat_at = now + watchdog / 2 - BEAT
            self._notifier.alive()
