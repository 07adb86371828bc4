"""A few kept connections to PostgreSQL.

psycopg_pool is not used: after a restart of the server its pauses grow with every broken connection that it meets, to
seconds, while here the first request connects anew at once.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Final

import psycopg
from psycopg.conninfo import conninfo_to_dict
from psycopg.pq import TransactionStatus
from psycopg.rows import TupleRow

SIZE: Final = 8
"""Most connections at a time."""
MAX_IDLE: Final = 60.0
"""Seconds after which an unused connection is not used again."""
PATIENCE: Final = 5.0
"""Seconds from the beginning of an outage for which requests wait for its end; later ones fail at once."""
PAUSE: Final = 0.1
"""Seconds between two attempts to connect."""

Connection = psycopg.AsyncConnection[TupleRow]

_DEFAULTS: Final[dict[str, Any]] = {
    "application_name": "devstral-proxy",
    "connect_timeout": 5,
    # A server that vanished with its machine is noticed within a minute.
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
}


class Pool:
    """Connections in autocommit mode, made when they are needed; `configure` is called with each new one."""

    def __init__(self, url: str, configure: Callable[[Connection], Awaitable[None]]) -> None:
        """`url`: a URL or the keywords that libpq takes. Raises psycopg.ProgrammingError when it is neither."""
        given = conninfo_to_dict(url)
        self._parameters: dict[str, Any] = {**_DEFAULTS, **given, "client_encoding": "UTF8"}
        self._configure = configure
        self._slots = asyncio.Semaphore(SIZE)
        self._idle: list[tuple[Connection, float]] = []
        self._down_since: float | None = None
        self._closed = False

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """A connection that answered just now. Raises psycopg.Error when none can be had."""
        async with self._slots:
            connection = await self._take()
            try:
                yield connection
            finally:
                await self._give_back(connection)

    async def aclose(self) -> None:
        """Close what is idle now, and what is in use when it is given back."""
        self._closed = True
        while self._idle:
            await self._idle.pop()[0].close()

    async def _take(self) -> Connection:
        while True:
            try:
                connection = await self._kept() or await self._new()
                self._down_since = None
                return connection
            except psycopg.OperationalError:  # away, starting, or without room: others may give a connection back
                now = time.monotonic()
                self._down_since = self._down_since or now
                if now - self._down_since > PATIENCE:
                    raise
            await asyncio.sleep(PAUSE)

    async def _kept(self) -> Connection | None:
        """The connection that was used last and still answers."""
        while self._idle:
            connection, since = self._idle.pop()
            alive = False
            try:
                if time.monotonic() - since < MAX_IDLE:
                    await connection.execute("")
                    alive = True
            except psycopg.Error:
                pass  # the server, or something between, ended it
            finally:
                if not alive:
                    await connection.close()
            if alive:
                return connection
        return None

    async def _new(self) -> Connection:
        # Statements are not prepared: a pooler between may give each another server.
        connection = await psycopg.AsyncConnection.connect(
            "", autocommit=True, prepare_threshold=None, **self._parameters
        )
        try:
            await self._configure(connection)
        except BaseException:
            await connection.close()
            raise
        return connection

    async def _give_back(self, connection: Connection) -> None:
        if self._closed or connection.closed or connection.pgconn.transaction_status != TransactionStatus.IDLE:
            await connection.close()
        else:
            self._idle.append((connection, time.monotonic()))
