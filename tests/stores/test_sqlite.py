"""The store in SQLite's file: processes that share it or are killed, what is on disk, what goes wrong."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sqlite3
import stat
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from devstral_proxy.stores import StoreError, sqlite
from devstral_proxy.stores.sqlite import SQLiteStore
from tests.stores.conftest import TTL, Clock, record

pytestmark = pytest.mark.anyio


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "folder" / "responses.db"


@pytest.fixture
async def store(path: Path, clock: Clock) -> AsyncIterator[SQLiteStore]:
    opened = SQLiteStore(path, TTL, clock)
    yield opened
    await opened.aclose()


def modes(folder: Path) -> dict[str, int]:
    """The files of a folder, and who may do what with them."""
    return {file.name: stat.S_IMODE(file.stat().st_mode) for file in folder.iterdir()}


def content(path: Path) -> bytes:
    return path.read_bytes()


def damage(path: Path) -> None:
    path.write_bytes(b"no database at all, but some text that is long enough" * 100)


def rows(path: Path) -> list[str]:
    """The ids in the file."""
    connection = sqlite3.connect(path)
    try:
        return [id for (id,) in connection.execute("SELECT id FROM devstral_responses ORDER BY id")]
    finally:
        connection.close()


async def test_only_its_owner_can_read_the_file(store: SQLiteStore, path: Path) -> None:
    await store.put(record("resp_1"))
    assert modes(path.parent) == dict.fromkeys(["responses.db", "responses.db-wal", "responses.db-shm"], 0o600)
    assert modes(path.parent.parent) == {"folder": 0o700}


async def test_a_umask_makes_no_difference(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        await SQLiteStore(tmp_path / "open.db", TTL).aclose()
    finally:
        os.umask(before)
    assert modes(tmp_path) == {"open.db": 0o600}


async def test_the_expired_leave_the_file(store: SQLiteStore, path: Path, clock: Clock) -> None:
    for n in range(sqlite.PURGED_AT_ONCE + 20):
        await store.put(record(f"resp_{n}"))
    clock.now += TTL
    await store.put(record("a", created=clock.now))
    assert len(rows(path)) == 21
    await store.put(record("b", created=clock.now))
    assert rows(path) == ["a", "b"]


async def test_what_is_deleted_is_not_left_in_the_file(store: SQLiteStore, path: Path) -> None:
    await store.put(record("resp_1", text="a very secret text"))
    await store.delete("resp_1", "alice")
    await store.aclose()
    assert b"very secret" not in content(path)
    assert modes(path.parent) == {"responses.db": 0o600}


SECRET = "a very secret text"


def on_disk(path: Path) -> bytes:
    """The file and what stands beside it, while the store is open."""
    beside = path.with_name(path.name + "-wal")
    return path.read_bytes() + beside.read_bytes()


async def test_what_is_deleted_is_not_left_in_the_log_either(store: SQLiteStore, path: Path) -> None:
    await store.put(record("resp_1", text=SECRET))
    assert SECRET.encode() in on_disk(path)
    assert await store.delete("resp_1", "alice")
    assert SECRET.encode() not in on_disk(path)


async def test_what_expired_is_not_left_in_the_log_either(store: SQLiteStore, path: Path, clock: Clock) -> None:
    await store.put(record("resp_1", text=SECRET))
    clock.now += TTL
    await store.put(record("resp_2", created=clock.now))
    assert SECRET.encode() not in on_disk(path)


async def test_while_somebody_reads_it_the_log_stays_until_the_next_time(store: SQLiteStore, path: Path) -> None:
    await store.put(record("resp_1", text=SECRET))
    reader = sqlite3.connect(path, isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM devstral_responses").fetchone()
    assert await store.delete("resp_1", "alice")
    reader.execute("COMMIT")
    reader.close()
    await store.put(record("resp_2"))
    assert SECRET.encode() not in on_disk(path)


WRITER = """
import asyncio, sys
from pathlib import Path
from devstral_proxy.stores.sqlite import SQLiteStore
from tests.stores.conftest import record

async def main():
    store = SQLiteStore(Path(sys.argv[1]), 10**10)
    for n in range(int(sys.argv[3])):
        await store.put(record(f"{sys.argv[2]}_{n}", text="x" * 20_000))
        print(n, flush=True)
    await store.aclose()

asyncio.run(main())
"""


def writer(path: Path, name: str, count: int) -> subprocess.Popen[str]:
    """Another process that puts records, and writes the number of each that was taken."""
    command = [sys.executable, "-c", WRITER, str(path), name, str(count)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2])


async def test_what_was_taken_survives_a_kill(path: Path, clock: Clock) -> None:
    process = writer(path, "killed", 1_000_000)
    assert process.stdout is not None
    taken = [process.stdout.readline() for _ in range(50)]
    process.send_signal(signal.SIGKILL)
    taken += process.stdout.readlines()
    process.stdout.close()
    assert process.wait() == -signal.SIGKILL
    store = SQLiteStore(path, TTL, clock)
    for line in taken:
        if line.endswith("\n"):
            found = await store.get(f"killed_{line.strip()}", "alice")
            assert found == record(f"killed_{line.strip()}", text="x" * 20_000)
    await store.put(record("resp_1"))
    await store.aclose()
    connection = sqlite3.connect(path)
    assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    connection.close()


async def test_several_processes_write_to_one_file(path: Path) -> None:
    processes = [writer(path, f"p{number}", 40) for number in range(4)]
    for process in processes:
        _, _ = process.communicate(timeout=60)
        assert process.returncode == 0
    assert len(rows(path)) == 160


async def test_the_event_loop_goes_on_while_the_file_is_locked(store: SQLiteStore, path: Path) -> None:
    await store.put(record("resp_1"))
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    put = asyncio.create_task(store.put(record("resp_2")))
    for _ in range(1_000):
        await asyncio.sleep(0)
    assert not put.done()
    other.execute("COMMIT")
    other.close()
    await put
    assert await store.get("resp_2", "alice") == record("resp_2")


async def test_a_file_that_stays_locked(
    path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sqlite, "BUSY_TIMEOUT", 0.05)
    store = SQLiteStore(path, TTL, clock)
    await store.put(record("resp_1"))
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with caplog.at_level(logging.DEBUG), pytest.raises(StoreError) as caught:
        await store.put(record("resp_2", text="seCret"))
    assert (caught.value.status, caught.value.code) == (503, "store_unavailable")
    assert caught.value.headers == [("retry-after", "2")]
    assert "SQLITE_BUSY" in caplog.text
    assert "seCret" not in caplog.text + str(caught.value)
    assert str(path) not in caplog.text + str(caught.value)
    other.execute("ROLLBACK")
    other.close()
    await store.put(record("resp_2"))
    assert await store.get("resp_2", "alice") is not None
    await store.aclose()


async def test_one_that_hangs_is_not_waited_for(
    store: SQLiteStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await store.put(record("resp_1"))
    monkeypatch.setattr(sqlite, "TIMEOUT", 0.05)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreError):
        await store.put(record("resp_2"))
    other.execute("ROLLBACK")
    other.close()


async def test_a_row_that_is_no_record(store: SQLiteStore, path: Path) -> None:
    await store.put(record("resp_1"))
    other = sqlite3.connect(path)
    other.execute("UPDATE devstral_responses SET body = x'00ff'")
    other.commit()
    other.close()
    with pytest.raises(StoreError):
        await store.get("resp_1", "alice")
    await store.put(record("resp_1"))
    assert await store.get("resp_1", "alice") == record("resp_1")


async def test_a_file_that_is_damaged_while_it_is_used(path: Path, clock: Clock) -> None:
    store = SQLiteStore(path, TTL, clock)
    damage(path)
    with pytest.raises(StoreError):
        await store.put(record("resp_2"))
    os.unlink(path)
    await store.put(record("resp_3"))
    await store.aclose()
    assert rows(path) == ["resp_3"]
    assert modes(path.parent) == {"responses.db": 0o600}
