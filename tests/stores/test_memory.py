"""The store in memory: its bounds."""

from __future__ import annotations

import pytest

from devstral_proxy.stores.memory import MemoryStore
from tests.stores.conftest import TTL, Clock, record

pytestmark = pytest.mark.anyio
TEXT = "x" * 5_000  # a record of it takes about 11 000 bytes: the text stands in it twice


def store_of(clock: Clock, size: int = 50_000) -> MemoryStore:
    return MemoryStore(size, TTL, clock)


async def there(store: MemoryStore, *ids: str) -> list[str]:
    """Which of the ids are kept; looking does count as use."""
    return [id for id in ids if await store.get(id, "alice") is not None]


async def test_the_least_recently_used_goes_first(clock: Clock) -> None:
    store = store_of(clock)
    for id in "abcd":
        await store.put(record(id, text=TEXT))
    assert await store.get("a", "alice") is not None
    await store.put(record("e", text=TEXT))
    assert await there(store, *"abcde") == ["a", "c", "d", "e"]


async def test_a_chain_is_used_as_a_whole(clock: Clock) -> None:
    store = store_of(clock)
    await store.put(record("1", text=TEXT))
    await store.put(record("2", text=TEXT, previous="1"))
    await store.put(record("other", text=TEXT))
    await store.put(record("another", text=TEXT))
    assert await store.chain("2", "alice") is not None
    await store.put(record("3", text=TEXT, previous="2"))
    await store.put(record("yet another", text=TEXT))
    assert await store.chain("3", "alice") is not None
    assert await there(store, "other", "another") == []


async def test_replacing_needs_no_room_of_others(clock: Clock) -> None:
    store = store_of(clock)
    for id in "abcd":
        await store.put(record(id, text=TEXT))
    for _ in range(10):
        await store.put(record("b", text=TEXT))
    assert await there(store, *"abcd") == [*"abcd"]


async def test_what_is_too_big_alone_is_not_kept(clock: Clock) -> None:
    store = store_of(clock)
    await store.put(record("a", text=TEXT))
    await store.put(record("big", text=TEXT * 10))
    assert await there(store, "a", "big") == ["a"]
    await store.put(record("a", text=TEXT * 10))
    assert await there(store, "a") == [], "an old version was left"


async def test_many_small_ones_are_bounded_too(clock: Clock) -> None:
    store = store_of(clock)
    for n in range(1_000):
        await store.put(record(str(n), text=""))
    kept = len(await there(store, *map(str, range(1_000))))
    assert 10 < kept < 100


async def test_the_expired_make_room(clock: Clock) -> None:
    store = store_of(clock)
    for id in "abc":
        await store.put(record(id, text=TEXT))
    clock.now += TTL - 10
    await store.put(record("d", text=TEXT, created=clock.now))
    await there(store, *"abc")  # used more recently than d
    clock.now += 10
    await store.put(record("e", text=TEXT, created=clock.now))
    assert store._used.keys() == store._ages.keys() == {("alice", "d"), ("alice", "e")}


async def test_nothing_is_left_in_the_end(clock: Clock) -> None:
    store = store_of(clock)
    for id in "abcdefgh":
        await store.put(record(id, text=TEXT))
    for id in "abcdefgh":
        await store.delete(id, "alice")
    assert (store._bytes, len(store._used), len(store._ages)) == (0, 0, 0)
