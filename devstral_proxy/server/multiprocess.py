"""The directory that several worker processes count into, and what becomes of the files of those that have ended.

prometheus-client has a file for each process and kind of series, and never deletes those of counters and histograms:
each scrape would read those of every worker that there ever was. Here they are added up into one a kind, of process 0,
which MultiProcessCollector reads like any other.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import struct
import sys
from collections.abc import Iterator
from pathlib import Path

DIRECTORY = "PROMETHEUS_MULTIPROC_DIR"
KINDS = ("counter", "histogram")
"""Kinds of series whose values of an ended process count on. The names of their files are `kind_PID.db`."""
_LOCK = "lock"

_log = logging.getLogger("devstral_proxy")


def prepare_multiprocess(directory: Path) -> None:
    """Let all worker processes count into one directory. For the parent, before anybody imports prometheus-client and
    before the workers start; what an earlier run has left there is deleted.

    Raises RuntimeError when prometheus-client has been imported, OSError when the directory cannot be used.
    """
    if "prometheus_client.values" in sys.modules:
        raise RuntimeError("prometheus_client was imported before the directory of the workers was set")
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    for left in directory.glob("*.db"):
        left.unlink()
    os.environ[DIRECTORY] = str(directory)


@contextlib.contextmanager
def reading() -> Iterator[str]:
    """The directory, whose files are not folded meanwhile: nothing would be counted twice, or be missing."""
    directory = os.environ[DIRECTORY]
    with _locked(Path(directory), fcntl.LOCK_SH):
        yield directory


def mark_process_dead(pid: int) -> None:
    """A worker has ended: its gauges go, what it has counted stays. For the parent; does nothing without workers.

    Never waits and never raises: while the files are being read, or where there is no room, they are left for the next
    worker that ends.
    """
    if DIRECTORY not in os.environ:
        return
    from prometheus_client.multiprocess import mark_process_dead as mark

    directory = Path(os.environ[DIRECTORY])
    try:
        mark(pid)  # type: ignore[no-untyped-call]
        with _locked(directory, fcntl.LOCK_EX | fcntl.LOCK_NB):
            for kind in KINDS:
                _fold(directory, kind, pid)
    except BlockingIOError:
        pass
    except OSError as error:
        _log.warning("the counts of ended workers are not added up: %s", error.strerror)


@contextlib.contextmanager
def _locked(directory: Path, how: int) -> Iterator[None]:
    descriptor = os.open(directory / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, how)
        yield
    finally:
        os.close(descriptor)


def _fold(directory: Path, kind: str, pid: int) -> None:
    """Add the files of this process, and of others that live no more, to that of process 0."""
    files = {int(file.stem.rpartition("_")[2]): file for file in directory.glob(f"{kind}_*.db")}
    dead = [file for one, file in files.items() if one and (one == pid or not _lives(one))]
    if not dead:
        return
    whole = directory / f"{kind}_0.db"
    values: dict[str, float] = {}
    for file in [whole, *dead]:
        for key, value in _values(file):
            values[key] = values.get(key, 0.0) + value
    new = whole.with_suffix(".new")
    new.write_bytes(_encoded(values))
    new.replace(whole)
    for file in dead:
        file.unlink()


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _values(file: Path) -> list[tuple[str, float]]:
    """What the file says; nothing, when its process ended before it could be read, or there is no such file."""
    from prometheus_client.mmap_dict import MmapedDict

    try:
        rows = MmapedDict.read_all_values_from_file(file)  # type: ignore[no-untyped-call]
        return [(key, value) for key, value, *_ in rows]
    except (FileNotFoundError, ValueError, RuntimeError, struct.error):
        return []


def _encoded(values: dict[str, float]) -> bytes:
    """A file as MmapedDict has it. Its own writing goes through a mapped file: a full disk is a SIGBUS then."""
    rows = []
    for key, value in values.items():
        text = key.encode()
        padded = text + b" " * (8 - (len(text) + 4) % 8)
        rows.append(struct.pack(f"i{len(padded)}sdd", len(text), padded, value, 0.0))
    body = b"".join(rows)
    return struct.pack("i4x", 8 + len(body)) + body
