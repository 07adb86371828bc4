"""Where log lines go: standard error, and a file that several processes may share."""

from __future__ import annotations

import fcntl
import logging
import os
import select
from pathlib import Path
from typing import IO, Any, TextIO

PATIENCE = 1.0
"""Seconds to wait for a standard error that somebody has set non-blocking."""


class _NoLock:
    """The writer's thread is the only one that uses these handlers. A lock that it holds while it is stuck in a write
    would keep the interpreter from ending (`logging.shutdown` takes every handler's)."""

    def acquire(self) -> None:
        pass

    release = acquire
    __enter__ = acquire

    def __exit__(self, *_: object) -> None:
        pass


class _Handler(logging.Handler):
    def createLock(self) -> None:
        """No lock."""
        self.lock: Any = _NoLock()


class StandardError(_Handler):
    """Lines to a stream's file descriptor, past the buffer and the lock of the stream: a thread that is stuck in the
    buffer is an error at the end of the interpreter."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self._stream = stream
        try:
            self._fd = stream.fileno()
        except (OSError, AttributeError, ValueError):
            self._fd = -1

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line; one that nobody takes is lost."""
        try:
            text = self.format(record) + "\n"
            if self._fd < 0:
                self._stream.write(text)
                return
            left = text.encode("utf-8", "backslashreplace")
            while left:
                try:
                    left = left[os.write(self._fd, left) :]
                except BlockingIOError:
                    if not select.select([], [self._fd], [], PATIENCE)[1]:
                        return
        except Exception:
            self.handleError(record)


class LogFile(_Handler):
    """A file of mode 0600 that is rotated when it grows over a size: `x.log` becomes `x.log.1`, and so on.

    Several processes may write to one file, which logging's own RotatingFileHandler does not bear: whoever is first
    over the size renames it, under a lock, and the others notice that theirs has gone, as they do when somebody else
    (logrotate) has moved it.
    """

    def __init__(self, path: Path, size: int, count: int) -> None:
        """Raises OSError when the file cannot be written."""
        super().__init__()
        self._path = os.path.abspath(path)
        self._size = size
        self._count = count
        self._file = self._open()

    def _open(self) -> IO[bytes]:
        return open(self._path, "ab", buffering=0, opener=lambda path, flags: os.open(path, flags, 0o600))

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line, into a new file if it does not fit into this one."""
        try:
            line = (self.format(record) + "\n").encode("utf-8", "backslashreplace")
            if self._moved():
                self._reopen()
            length = os.fstat(self._file.fileno()).st_size
            if length and length + len(line) > self._size:
                self._rotate()
            self._file.write(line)
        except Exception:
            self.handleError(record)

    def close(self) -> None:
        """Close the file."""
        self._file.close()
        super().close()

    def _moved(self) -> bool:
        ours = os.fstat(self._file.fileno())
        try:
            there = os.stat(self._path)
        except FileNotFoundError:
            return True
        return (ours.st_dev, ours.st_ino) != (there.st_dev, there.st_ino)

    def _reopen(self) -> None:
        self._file.close()
        self._file = self._open()

    def _rotate(self) -> None:
        fcntl.flock(self._file, fcntl.LOCK_EX)  # released when it is closed
        if not self._moved():
            for number in range(self._count - 1, 0, -1):
                if os.path.exists(f"{self._path}.{number}"):
                    os.replace(f"{self._path}.{number}", f"{self._path}.{number + 1}")
            os.replace(self._path, f"{self._path}.1")
        self._reopen()
