"""The two protocols of systemd, against a socket that plays it."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from devstral_proxy.server.systemd import Notifier, activated


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[socket.socket, str]]:
    name = str(tmp_path / "notify") if request.param == "path" else f"@devstral-proxy-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(name.replace("@", "\0", 1))
        listener.settimeout(5)
        yield listener, name


def test_messages(manager: tuple[socket.socket, str]) -> None:
    listener, name = manager
    environ = {"NOTIFY_SOCKET": name, "WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid()), "X": "1"}
    notifier = Notifier(environ)
    assert environ == {"X": "1"}
    assert notifier.watchdog == 30
    notifier.ready("serving")
    assert listener.recv(4096) == b"READY=1\nSTATUS=serving"
    notifier.alive()
    assert listener.recv(4096) == b"WATCHDOG=1"
    notifier.status("2 of 2 workers serving")
    assert listener.recv(4096) == b"STATUS=2 of 2 workers serving"
    notifier.stopping(36.5, "draining")
    assert listener.recv(4096) == b"STOPPING=1\nEXTEND_TIMEOUT_USEC=36500000\nSTATUS=draining"
    notifier.reloading()
    assert listener.recv(4096).startswith(b"RELOADING=1\nMONOTONIC_USEC=")


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"WATCHDOG_USEC": "1000000"},
        {"NOTIFY_SOCKET": "@nobody", "WATCHDOG_USEC": "1000000", "WATCHDOG_PID": "1"},
        {"NOTIFY_SOCKET": "@nobody", "WATCHDOG_USEC": "x"},
    ],
)
def test_no_watchdog_that_is_not_ours(environ: dict[str, str]) -> None:
    assert Notifier(environ).watchdog == 0


def test_nobody_there_costs_nothing(tmp_path: Path) -> None:
    Notifier({}).ready("serving")
    Notifier({"NOTIFY_SOCKET": str(tmp_path / "nobody")}).alive()


def test_a_full_queue_is_not_waited_for(manager: tuple[socket.socket, str]) -> None:
    notifier = Notifier({"NOTIFY_SOCKET": manager[1]})
    for _ in range(5000):
        notifier.alive()


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"LISTEN_FDS": "1"},
        {"LISTEN_PID": "1", "LISTEN_FDS": "1"},
        {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "x"},
        {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "0"},
    ],
)
def test_no_sockets_that_are_not_ours(environ: dict[str, str]) -> None:
    assert activated(environ) == []
    assert environ == {}
