"""The stores, each opened as the settings would."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import psycopg
import pytest

from devstral_proxy.config import load
from devstral_proxy.stores import Record, Store, open_store
from tests.stores.postgresql import PostgreSQL, why_not

TTL = 1000


class Clock:
    """Time that stands still until it is told otherwise."""

    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


Opener = Callable[[], Store]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(scope="session")
def server() -> Iterator[PostgreSQL]:
    """A PostgreSQL for the session."""
    reason = why_not()
    if reason:
        pytest.skip(reason)
    postgresql = PostgreSQL()
    postgresql.start()
    yield postgresql
    postgresql.remove()


@pytest.fixture
def database(server: PostgreSQL) -> str:
    """The URL of a database without the table."""
    with psycopg.connect(server.url, autocommit=True) as connection:
        connection.execute("DROP TABLE IF EXISTS devstral_responses")
    return server.url


@pytest.fixture
async def opener(kind: str, clock: Clock, tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Opener]:
    """Opens stores of the kind, all on the same file or database, and closes them in the end."""
    settings = load(
        responses_store=kind,
        responses_store_ttl=TTL,
        responses_store_path=tmp_path / "folder" / "responses.db",
        responses_store_url=request.getfixturevalue("database") if kind == "postgres" else None,
    )
    async with AsyncExitStack() as stack:

        def open_one() -> Store:
            store = open_store(settings, clock)
            stack.push_async_callback(store.aclose)
            return store

        yield open_one


@pytest.fixture
def store(opener: Opener) -> Store:
    return opener()


def record(
    id: str, owner: str = "alice", *, previous: str | None = None, created: float = 1_700_000_000.0, text: str = "hello"
) -> Record:
    """A record with an answer and an input."""
    response = {"id": id, "object": "response", "output": [{"type": "message", "content": text}], "usage": None}
    return Record(id, owner, created, previous, response, [{"role": "user", "content": f"{text}?"}])
