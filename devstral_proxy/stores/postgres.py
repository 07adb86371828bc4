"""Responses kept in PostgreSQL, for proxies on several machines. Needs the extra `postgres`."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

import psycopg

from devstral_proxy.stores.base import MAX_CHAIN, Record, check_chain, from_row, key_text, to_row
from devstral_proxy.stores.errors import StoreError
from devstral_proxy.stores.pool import Connection, Pool

_log = logging.getLogger("devstral_proxy.stores")

TIMEOUT: Final = 10.0
"""Seconds for one operation, the wait for a connection included."""
PURGED_AT_ONCE: Final = 100
"""Most expired records that one put removes."""

_LOCK: Final = 0x6465767374726C  # any number that others do not use
# CREATE TABLE IF NOT EXISTS asks for the right to create also when there is nothing to do.
_IS_THERE: Final = "SELECT to_regclass('devstral_responses') IS NOT NULL"
_TABLE: Final = """
CREATE TABLE IF NOT EXISTS devstral_responses (
    owner text NOT NULL, id text NOT NULL, created double precision NOT NULL, previous text, body bytea NOT NULL,
    PRIMARY KEY (owner, id)
)"""
_INDEX: Final = "CREATE INDEX IF NOT EXISTS devstral_responses_created ON devstral_responses (created)"
_PUT: Final = """
INSERT INTO devstral_responses (owner, id, created, previous, body) VALUES (%s, %s, %s, %s, %b)
ON CONFLICT (owner, id) DO UPDATE SET created = excluded.created, previous = excluded.previous, body = excluded.body"""
# Rows that another proxy is just removing are left to it.
_PURGE: Final = """
DELETE FROM devstral_responses WHERE (owner, id) IN (
    SELECT owner, id FROM devstral_responses WHERE created <= %s LIMIT %s FOR UPDATE SKIP LOCKED
)"""
_GET: Final = """
SELECT owner, id, created, previous, body FROM devstral_responses WHERE owner = %s AND id = %s AND created > %s"""
# The bodies are read only when it is known how much they are.
_LINKS: Final = """
WITH RECURSIVE chain (depth, id, previous, size) AS (
    SELECT 1, id, previous, length(body) FROM devstral_responses
    WHERE owner = %(owner)s AND id = %(id)s AND created > %(oldest)s
    UNION ALL
    SELECT depth + 1, r.id, r.previous, length(r.body)
    FROM chain JOIN devstral_responses AS r
    ON r.owner = %(owner)s AND r.id = chain.previous AND r.created > %(oldest)s
    WHERE depth <= %(most)s
) SELECT id, previous, size FROM chain ORDER BY depth"""
_BODIES: Final = """
SELECT owner, id, created, previous, body FROM devstral_responses
WHERE owner = %s AND id = ANY(%s) AND created > %s"""
_DELETE: Final = "DELETE FROM devstral_responses WHERE owner = %s AND id = %s AND created > %s"


class PostgresStore:
    """Records in the table `devstral_responses`, none older than `ttl` seconds.

    A connection is tried before it is used: one that a restart of the server broke is replaced.
    """

    def __init__(self, url: str, ttl: float, clock: Callable[[], float] = time.time) -> None:
        """`url`: a URL or the keywords that libpq takes. Raises psycopg.ProgrammingError when it is neither."""
        self._pool = Pool(url, _configure)
        self._ttl = ttl
        self._clock = clock
        self._closed = False

    async def put(self, record: Record) -> None:
        """Keep a record, and remove some that have expired."""
        row = to_row(record)
        async with self._connection() as connection:
            await connection.execute(_PUT, row)
            await connection.execute(_PURGE, (self._oldest(), PURGED_AT_ONCE))

    async def get(self, id: str, owner: str) -> Record | None:
        """The record."""
        async with self._connection() as connection:
            found = await connection.execute(_GET, (key_text(owner), key_text(id), self._oldest()), binary=True)
            row = await found.fetchone()
            return from_row(row) if row is not None else None

    async def chain(self, id: str, owner: str) -> list[Record] | None:
        """The chain, oldest first."""
        key, oldest = key_text(owner), self._oldest()
        names = {"owner": key, "id": key_text(id), "oldest": oldest, "most": MAX_CHAIN}
        async with self._connection() as connection:
            links = await (await connection.execute(_LINKS, names)).fetchall()
            check_chain(size for _, _, size in links)
            if not links or links[-1][1] is not None:
                return None
            ids = [link for link, _, _ in reversed(links)]
            found = await connection.execute(_BODIES, (key, ids, oldest), binary=True)
            records = {row[1]: from_row(row) async for row in found}
            # One may have been deleted between the questions.
            return [records[link] for link in ids] if len(records) == len(ids) else None

    async def delete(self, id: str, owner: str) -> bool:
        """Forget a record."""
        async with self._connection() as connection:
            done = await connection.execute(_DELETE, (key_text(owner), key_text(id), self._oldest()))
            return done.rowcount > 0

    async def aclose(self) -> None:
        """Close the connections."""
        self._closed = True
        await self._pool.aclose()

    def _oldest(self) -> float:
        return self._clock() - self._ttl

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[Connection]:
        """A connection for one operation; whatever goes wrong with it is a StoreError."""
        if self._closed:
            raise StoreError
        try:
            async with asyncio.timeout(TIMEOUT), self._pool.connection() as connection:
                yield connection
        except (psycopg.Error, TimeoutError, ValueError) as error:
            code = getattr(error, "sqlstate", None)
            _log.error("responses: PostgreSQL failed: %s%s", type(error).__name__, f" ({code})" if code else "")
            raise StoreError from None


async def _configure(connection: Connection) -> None:
    """Make the table when it is missing, one proxy at a time."""
    row = await (await connection.execute(_IS_THERE)).fetchone()
    if row is not None and row[0]:
        return
    async with connection.transaction():
        await connection.execute("SELECT pg_advisory_xact_lock(%s)", (_LOCK,))
        await connection.execute(_TABLE)
        await connection.execute(_INDEX)
