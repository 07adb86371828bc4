"""The store in PostgreSQL: restarts, rights, what goes wrong."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator

import psycopg
import pytest

from devstral_proxy.stores import StoreError, pool, postgres
from devstral_proxy.stores.postgres import PostgresStore
from tests.stores.conftest import TTL, Clock, record
from tests.stores.postgresql import PostgreSQL

pytestmark = pytest.mark.anyio


@pytest.fixture
async def store(database: str, clock: Clock) -> AsyncIterator[PostgresStore]:
    opened = PostgresStore(database, TTL, clock)
    yield opened
    await opened.aclose()


def sql(url: str, *statements: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement)


def ids(url: str) -> list[str]:
    with psycopg.connect(url) as connection:
        return [id for (id,) in connection.execute("SELECT id FROM devstral_responses ORDER BY id")]


async def test_it_comes_back_after_a_restart(store: PostgresStore, server: PostgreSQL) -> None:
    await asyncio.gather(*(store.put(record(f"resp_{n}")) for n in range(20)))
    server.stop()
    server.start()
    found = await asyncio.gather(*(store.get(f"resp_{n}", "alice") for n in range(20)))
    assert found == [record(f"resp_{n}") for n in range(20)]


async def test_while_the_server_is_away(
    store: PostgresStore,
    server: PostgreSQL,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    await asyncio.gather(*(store.put(record("resp_1")) for _ in range(20)))
    server.stop()
    try:
        monkeypatch.setattr(pool, "PATIENCE", 0.3)
        with caplog.at_level(logging.DEBUG), pytest.raises(StoreError) as caught:
            await store.put(record("resp_2", text="a private matter"))
        assert (caught.value.status, caught.value.headers) == (503, [("retry-after", "2")])
        for told in (str(caught.value), caplog.text):
            assert "seCret" not in told
            assert "private" not in told
        assert str(server.folder) not in str(caught.value)
        assert "PostgreSQL failed" in caplog.text
    finally:
        server.start()
    monkeypatch.undo()
    await store.put(record("resp_2"))
    assert await store.get("resp_1", "alice") == record("resp_1")
    assert await store.get("resp_2", "alice") == record("resp_2")


async def test_a_request_waits_for_a_short_restart(store: PostgresStore, server: PostgreSQL) -> None:
    await store.put(record("resp_1"))
    server.stop()
    waiting = asyncio.create_task(store.get("resp_1", "alice"))
    await asyncio.sleep(0.1)
    server.start()
    assert await waiting == record("resp_1")


async def test_connections_that_an_administrator_ends(store: PostgresStore, database: str) -> None:
    await asyncio.gather(*(store.put(record(f"resp_{n}")) for n in range(20)))
    sql(
        database,
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'devstral-proxy'",
    )
    assert await store.get("resp_7", "alice") == record("resp_7")


async def test_the_expired_leave_the_table(store: PostgresStore, database: str, clock: Clock) -> None:
    for n in range(postgres.PURGED_AT_ONCE + 20):
        await store.put(record(f"resp_{n}"))
    clock.now += TTL
    await store.put(record("a", created=clock.now))
    assert len(ids(database)) == 21
    await store.put(record("b", created=clock.now))
    assert ids(database) == ["a", "b"]


async def test_the_right_to_create_is_not_needed_where_the_table_is(
    store: PostgresStore, database: str, clock: Clock
) -> None:
    await store.put(record("resp_1"))
    sql(
        database,
        "DROP ROLE IF EXISTS plain",
        "CREATE ROLE plain LOGIN",
        "GRANT SELECT, INSERT, UPDATE, DELETE ON devstral_responses TO plain",
    )
    plain = PostgresStore(database.replace("//tests:", "//plain:"), TTL, clock)
    await plain.put(record("resp_2", previous="resp_1"))
    chain = await plain.chain("resp_2", "alice")
    await plain.aclose()
    sql(database, "DROP OWNED BY plain", "DROP ROLE plain")
    assert chain == [record("resp_1"), record("resp_2", previous="resp_1")]


async def test_no_rights_at_all(database: str, caplog: pytest.LogCaptureFixture) -> None:
    sql(database, "DROP ROLE IF EXISTS nobody", "CREATE ROLE nobody LOGIN")
    nobody = PostgresStore(database.replace("//tests:", "//nobody:"), TTL)
    with caplog.at_level(logging.DEBUG), pytest.raises(StoreError):
        await nobody.put(record("resp_1", text="a private matter"))
    await nobody.aclose()
    sql(database, "DROP ROLE nobody")
    assert "private" not in caplog.text
    assert "seCret" not in caplog.text


async def test_a_statement_that_the_server_refuses(
    store: PostgresStore, database: str, caplog: pytest.LogCaptureFixture
) -> None:
    await store.put(record("resp_1"))
    sql(database, "ALTER TABLE devstral_responses ADD CHECK (length(body) < 1000)")
    with pytest.raises(StoreError) as caught:
        await store.put(record("resp_2", text="a private matter" * 1000))
    assert "private" not in str(caught.value) + caplog.text
    assert "CheckViolation (23514)" in caplog.text
    assert await store.get("resp_1", "alice") == record("resp_1")


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII"])
async def test_a_database_of_another_encoding(database: str, clock: Clock, encoding: str) -> None:
    name = f"other_{encoding.lower()}"
    sql(database, f"DROP DATABASE IF EXISTS {name}", f"CREATE DATABASE {name} TEMPLATE template0 ENCODING '{encoding}'")
    store = PostgresStore(database.replace("/postgres?", f"/{name}?"), TTL, clock)
    kept = record("resp_é\x00😀", "owner \ud83d", text="é\x00😀")
    await store.put(kept)
    found = await store.chain(kept.id, kept.owner)
    await store.aclose()
    assert found == [kept]


async def test_no_more_connections_than_said(database: str, clock: Clock) -> None:
    store = PostgresStore(f"{database}&application_name=counted", TTL, clock)
    await asyncio.gather(*(store.put(record(f"resp_{n}")) for n in range(200)))
    with psycopg.connect(database) as connection:
        row = connection.execute("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'counted'").fetchone()
    await store.aclose()
    assert row is not None
    assert 1 <= row[0] <= pool.SIZE


async def test_a_server_that_hangs_is_not_waited_for(
    store: PostgresStore, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await store.put(record("resp_1"))
    with psycopg.connect(database) as connection:
        connection.execute("LOCK TABLE devstral_responses")
        monkeypatch.setattr(postgres, "TIMEOUT", 0.2)
        with pytest.raises(StoreError):
            await store.put(record("resp_1", text="again"))
    monkeypatch.undo()
    assert await store.get("resp_1", "alice") == record("resp_1")


async def test_one_that_gives_up_leaves_its_connection(store: PostgresStore, database: str) -> None:
    await store.put(record("resp_1"))
    with psycopg.connect(database) as connection:
        connection.execute("LOCK TABLE devstral_responses")
        tasks = [asyncio.create_task(store.put(record("resp_1", text="again"))) for _ in range(3 * pool.SIZE)]
        await asyncio.sleep(0.1)
        for task in tasks:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert {type(result) for result in results} == {asyncio.CancelledError}
    assert await store.get("resp_1", "alice") == record("resp_1")


async def test_a_server_without_room_for_all(server: PostgreSQL, database: str, clock: Clock) -> None:
    stores = [PostgresStore(database, TTL, clock) for _ in range(8)]  # 64 connections, where 40 are allowed
    await stores[0].put(record("first"))
    await asyncio.gather(*(one.put(record(f"{n}_{m}")) for m in range(20) for n, one in enumerate(stores)))
    for one in stores:
        await one.aclose()
    assert len(ids(database)) == 161
