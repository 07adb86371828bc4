"""The supervisor with workers that fail, each case in a process of its own: it forks."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = """
import logging, os, signal, sys, time
from devstral_proxy.server import supervisor
from devstral_proxy.server.process import READY
from devstral_proxy.server.systemd import Notifier

logging.basicConfig(level="INFO", format="%(message)s")

def fails(channel):
    raise RuntimeError("no")

def exits(channel):
    sys.exit(3)

def deaf(channel):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    channel.send(READY)
    os.kill(os.getppid(), signal.SIGTERM)
    time.sleep(600)

def again(channel):
    channel.send(READY)
    if not os.path.exists(sys.argv[2]):
        open(sys.argv[2], "w").close()
        return 5
    os.kill(os.getppid(), signal.SIGTERM)
    channel.recv(1)
    return 0

def obeys(channel):
    channel.send(READY)
    os.kill(os.getppid(), signal.SIGTERM)
    channel.recv(1)
    return 0

sys.exit(supervisor.Supervisor(1, [], globals()[sys.argv[1]], Notifier({}), patience=lambda: 0.3).run())
"""
CASES = [
    ("fails", 1, "ended: exit code 1"),
    ("exits", 1, "ended: exit code 3"),
    ("deaf", 1, "is killed: it has not ended in time"),
    ("obeys", 0, "serves"),
    ("again", 0, "ended: exit code 5"),
]


@pytest.mark.parametrize(("serve", "code", "says"), CASES)
def test_the_end(serve: str, code: int, says: str, tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", SCRIPT, serve, str(tmp_path / "once")],
        env={"PATH": os.defpath, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ended.returncode == code
    assert says in ended.stderr


def test_a_fork_that_fails_is_tried_again(tmp_path: Path) -> None:
    broken = """
fork, tried = os.fork, []

def once():
    tried.append(1)
    if len(tried) == 1:
        raise OSError(12, "no")
    return fork()

os.fork = once
supervisor.AGAIN = 0.05
"""
    ended = subprocess.run(
        [sys.executable, "-c", SCRIPT.replace("def fails", broken + "\ndef fails"), "obeys", str(tmp_path / "once")],
        env={"PATH": os.defpath, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ended.returncode == 0
    assert "could not be started: Cannot allocate memory" in ended.stderr
