"""Responses kept in a file of SQLite's, which several processes of one machine may share."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sqlite3
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, TypeVar

from devstral_proxy.stores.base import MAX_CHAIN, Record, check_chain, from_row, key_text, to_row
from devstral_proxy.stores.errors import StoreError

_log = logging.getLogger("devstral_proxy.stores")
T = TypeVar("T")

BUSY_TIMEOUT: Final = 5.0
"""Seconds to wait for another process that writes."""
TIMEOUT: Final = 10.0
"""Seconds for one operation, the wait behind others of this process included."""
CHECKPOINT_TIMEOUT: Final = 0.2
"""Seconds to wait for those who still read what is being removed for good."""
PURGED_AT_ONCE: Final = 100
"""Most expired records that one put removes."""

_TABLE: Final = """
CREATE TABLE IF NOT EXISTS devstral_responses (
    owner TEXT NOT NULL, id TEXT NOT NULL, created REAL NOT NULL, previous TEXT, body BLOB NOT NULL,
    PRIMARY KEY (owner, id)
)"""
_INDEX: Final = "CREATE INDEX IF NOT EXISTS devstral_responses_created ON devstral_responses (created)"
_PUT: Final = """
INSERT INTO devstral_responses (owner, id, created, previous, body) VALUES (?, ?, ?, ?, ?)
ON CONFLICT (owner, id) DO UPDATE SET created = excluded.created, previous = excluded.previous, body = excluded.body"""
_PURGE: Final = """
DELETE FROM devstral_responses WHERE rowid IN (SELECT rowid FROM devstral_responses WHERE created <= ? LIMIT ?)"""
_GET: Final = """
SELECT owner, id, created, previous, body FROM devstral_responses WHERE owner = ? AND id = ? AND created > ?"""
# The bodies are read only when it is known how much they are.
_LINKS: Final = """
WITH RECURSIVE chain (depth, id, previous, size) AS (
    SELECT 1, id, previous, length(body) FROM devstral_responses WHERE owner = :owner AND id = :id AND created > :oldest
    UNION ALL
    SELECT depth + 1, r.id, r.previous, length(r.body)
    FROM chain JOIN devstral_responses AS r ON r.owner = :owner AND r.id = chain.previous AND r.created > :oldest
    WHERE depth <= :most
) SELECT id, previous, size FROM chain ORDER BY depth"""
_DELETE: Final = "DELETE FROM devstral_responses WHERE owner = ? AND id = ? AND created > ?"


class SQLiteStore:
    """Records in the file `path`, none older than `ttl` seconds.

    One thread does all the work, with one connection; the event loop never waits for the disk. What `put` has taken
    survives a kill of the process (write-ahead log), and the latest puts may be lost with the machine's power.
    """

    def __init__(self, path: Path, ttl: float, clock: Callable[[], float] = time.time) -> None:
        """Makes the file, its folder and its table where they are missing.

        Raises OSError and sqlite3.Error when the file cannot be had.
        """
        self._path = path
        self._ttl = ttl
        self._clock = clock
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _open(path).close()
        # Threads and connections are not inherited by forked workers: both begin with the first use.
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="devstral-store")
        self._connection: sqlite3.Connection | None = None
        self._closed = False
        self._left = False  # something that was removed may still stand in the write-ahead log

    async def put(self, record: Record) -> None:
        """Keep a record, and remove some that have expired."""
        row, oldest = to_row(record), self._oldest()

        def work(connection: sqlite3.Connection) -> None:
            connection.execute(_PUT, row)
            purged = connection.execute(_PURGE, (oldest, PURGED_AT_ONCE)).rowcount
            if purged > 0 or self._left:
                self._empty_log(connection)

        await self._run(work)

    async def get(self, id: str, owner: str) -> Record | None:
        """The record."""
        oldest = self._oldest()
        return await self._run(lambda connection: _get(connection, key_text(id), key_text(owner), oldest))

    async def chain(self, id: str, owner: str) -> list[Record] | None:
        """The chain, oldest first."""
        oldest = self._oldest()
        key = key_text(owner)
        names = {"owner": key, "id": key_text(id), "oldest": oldest, "most": MAX_CHAIN}

        def work(connection: sqlite3.Connection) -> list[Record] | None:
            links = connection.execute(_LINKS, names).fetchall()
            check_chain(size for _, _, size in links)
            if not links or links[-1][1] is not None:
                return None
            found = [_get(connection, link, key, oldest) for link, _, _ in reversed(links)]
            records = [record for record in found if record is not None]
            return records if len(records) == len(links) else None  # one was deleted between the questions

        return await self._run(work)

    async def delete(self, id: str, owner: str) -> bool:
        """Forget a record."""
        row = (key_text(owner), key_text(id), self._oldest())

        def work(connection: sqlite3.Connection) -> bool:
            deleted = connection.execute(_DELETE, row).rowcount > 0
            if deleted or self._left:
                self._empty_log(connection)
            return deleted

        return await self._run(work)

    async def aclose(self) -> None:
        """Close the file, after what is under way."""
        if self._closed:
            return
        self._closed = True
        await asyncio.get_running_loop().run_in_executor(self._thread, self._disconnect)
        self._thread.shutdown(wait=False)

    def _oldest(self) -> float:
        return self._clock() - self._ttl

    async def _run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        if self._closed:
            raise StoreError
        try:
            async with asyncio.timeout(TIMEOUT):
                return await asyncio.get_running_loop().run_in_executor(self._thread, self._work, work)
        except TimeoutError:
            _log.error("responses: SQLite took longer than %g s", TIMEOUT)
            raise StoreError from None

    def _work(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """In the thread."""
        try:
            if self._connection is None:
                self._connection = _open(self._path)
            return work(self._connection)
        except (sqlite3.Error, OSError, ValueError) as error:
            _log.error("responses: SQLite failed: %s", getattr(error, "sqlite_errorname", type(error).__name__))
            self._disconnect()  # the next operation begins anew
            raise StoreError from None

    def _empty_log(self, connection: sqlite3.Connection) -> None:
        """Take what was removed out of the write-ahead log too; the next time, when somebody still reads it."""
        self._left = True
        connection.execute(f"PRAGMA busy_timeout = {CHECKPOINT_TIMEOUT * 1000:.0f}")
        try:
            busy, _, _ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            self._left = bool(busy)
        finally:
            connection.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT * 1000:.0f}")

    def _disconnect(self) -> None:
        if self._connection is not None:
            with contextlib.suppress(sqlite3.Error):
                self._connection.close()
            self._connection = None


def _open(path: Path) -> sqlite3.Connection:
    # SQLite gives the files beside it (-wal, -shm) the same mode.
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    # autocommit: every statement is a transaction of its own, and waits for its lock before it reads.
    connection = sqlite3.connect(path, timeout=BUSY_TIMEOUT, isolation_level=None)
    try:
        _use_wal(connection)
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute("PRAGMA secure_delete = ON")  # what a client deletes is not left in the file
        connection.execute(_TABLE)
        connection.execute(_INDEX)
    except BaseException:
        connection.close()
        raise
    return connection


def _use_wal(connection: sqlite3.Connection) -> None:
    """Switch to the write-ahead log. SQLite does not wait for others here, whatever the busy timeout."""
    until = time.monotonic() + BUSY_TIMEOUT
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > until:
                raise
            time.sleep(0.02)


def _get(connection: sqlite3.Connection, id: str, owner: str, oldest: float) -> Record | None:
    row = connection.execute(_GET, (owner, id, oldest)).fetchone()
    return from_row(row) if row is not None else None
