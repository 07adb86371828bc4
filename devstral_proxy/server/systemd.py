"""systemd: readiness, watchdog and sockets, by the two protocols of sd_notify(3) and sd_listen_fds(3).

Both are a few lines on environment variables, a datagram and inherited file descriptors, so there is no library for
them here. Everything is off without the variables that systemd sets.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import MutableMapping

FIRST_FD = 3


class Notifier:
    """Tells systemd how the service is. Never raises and never waits: a lost message must not cost a request."""

    def __init__(self, environ: MutableMapping[str, str] = os.environ) -> None:
        """Takes its variables out of `environ`, so that no child speaks for this process."""
        address = environ.pop("NOTIFY_SOCKET", "")
        microseconds = environ.pop("WATCHDOG_USEC", "")
        watched = environ.pop("WATCHDOG_PID", "")
        self._address = "\0" + address[1:] if address.startswith("@") else address
        meant = not watched or watched == str(os.getpid())
        self.watchdog = int(microseconds) / 1e6 if self._address and meant and microseconds.isdigit() else 0.0
        """Seconds without `alive` after which systemd ends the service; 0: never."""

    def ready(self, status: str) -> None:
        """The socket is served."""
        self._send("READY=1", f"STATUS={status}")

    def reloading(self) -> None:
        """The settings are read again; `ready` ends it."""
        self._send("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self, seconds: float, status: str) -> None:
        """It stops, and may need so long, whatever TimeoutStopSec says."""
        self._send("STOPPING=1", f"EXTEND_TIMEOUT_USEC={round(seconds * 1e6)}", f"STATUS={status}")

    def status(self, text: str) -> None:
        """One line for `systemctl status`."""
        self._send(f"STATUS={text}")

    def alive(self) -> None:
        """The watchdog's sign of life."""
        self._send("WATCHDOG=1")

    def _send(self, *lines: str) -> None:
        if self._address:
            with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
                sender.setblocking(False)
                sender.sendto("\n".join(lines).encode(), self._address)


def activated(environ: MutableMapping[str, str] = os.environ) -> list[socket.socket]:
    """The listening sockets that systemd opened for this process; none without socket activation.

    Takes the variables out of `environ`. All sockets are served alike, so their names (LISTEN_FDNAMES) are of no
    matter. Raises OSError for a descriptor that is no socket, ValueError for a socket that does not listen for streams.
    """
    process = environ.pop("LISTEN_PID", "")
    count = environ.pop("LISTEN_FDS", "")
    environ.pop("LISTEN_FDNAMES", None)
    if process != str(os.getpid()) or not count.isdigit():
        return []
    sockets = []
    for descriptor in range(FIRST_FD, FIRST_FD + int(count)):
        os.set_inheritable(descriptor, False)
        one = socket.socket(fileno=descriptor)
        if one.type != socket.SOCK_STREAM or not one.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            raise ValueError(f"descriptor {descriptor} is no listening stream socket")
        sockets.append(one)
    return sockets
