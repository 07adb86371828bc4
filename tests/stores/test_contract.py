"""What every store promises."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from devstral_proxy.stores import Store, StoreError, base
from devstral_proxy.stores.errors import ChainTooLong
from tests.stores.conftest import TTL, Clock, Opener, record

pytestmark = pytest.mark.anyio
ALL = pytest.mark.parametrize("kind", ["memory", "sqlite", "postgres"])
SHARED = pytest.mark.parametrize("kind", ["sqlite", "postgres"])


@ALL
async def test_what_is_put_is_found(store: Store) -> None:
    kept = record("resp_1", previous="resp_0")
    await store.put(kept)
    assert await store.get("resp_1", "alice") == kept
    assert await store.get("resp_2", "alice") is None


@ALL
async def test_a_second_put_replaces(store: Store) -> None:
    await store.put(record("resp_1", text="draft", previous="resp_0"))
    await store.put(record("resp_1", text="final"))
    assert await store.get("resp_1", "alice") == record("resp_1", text="final")
    assert await store.chain("resp_1", "alice") == [record("resp_1", text="final")]


@ALL
async def test_what_is_deleted_is_gone(store: Store) -> None:
    await store.put(record("resp_1"))
    await store.put(record("resp_2"))
    assert await store.delete("resp_1", "alice") is True
    assert await store.delete("resp_1", "alice") is False
    assert await store.get("resp_1", "alice") is None
    assert await store.get("resp_2", "alice") is not None


@ALL
async def test_no_owner_sees_another_s(store: Store) -> None:
    await store.put(record("resp_1", "alice", text="alice's"))
    assert await store.get("resp_1", "bob") is None
    assert await store.get("resp_1", "") is None
    assert await store.chain("resp_1", "bob") is None
    assert await store.delete("resp_1", "bob") is False
    await store.put(record("resp_1", "bob", text="bob's"))
    assert await store.get("resp_1", "alice") == record("resp_1", "alice", text="alice's")
    assert await store.get("resp_1", "bob") == record("resp_1", "bob", text="bob's")
    await store.put(record("resp_2", "bob", previous="resp_0"))
    await store.put(record("resp_0", "alice"))
    assert await store.chain("resp_2", "bob") is None, "a chain went on in another owner's records"


@ALL
async def test_what_the_caller_changes_later_is_not_changed_in_the_store(store: Store) -> None:
    mine = record("resp_1")
    await store.put(mine)
    mine.response["output"].append("more")
    mine.input_items.clear()
    found = await store.get("resp_1", "alice")
    assert found == record("resp_1")
    assert found is not None
    found.response.clear()
    assert await store.get("resp_1", "alice") == record("resp_1")


@ALL
async def test_a_chain_is_told_from_its_beginning(store: Store) -> None:
    turns = [record(f"resp_{n}", previous=f"resp_{n - 1}" if n else None, text=str(n)) for n in range(40)]
    for turn in reversed(turns):
        await store.put(turn)
    assert await store.chain("resp_39", "alice") == turns
    assert await store.chain("resp_7", "alice") == turns[:8]
    assert await store.chain("resp_0", "alice") == turns[:1]
    assert await store.chain("resp_40", "alice") is None


@ALL
async def test_two_conversations_may_share_their_beginning(store: Store) -> None:
    first, left, right = record("1"), record("2", previous="1"), record("3", previous="1")
    for turn in (first, left, right):
        await store.put(turn)
    assert await store.chain("2", "alice") == [first, left]
    assert await store.chain("3", "alice") == [first, right]


@ALL
@pytest.mark.parametrize("missing", [0, 1, 2, 3])
async def test_a_chain_with_a_link_missing_is_none(store: Store, missing: int) -> None:
    for n in range(4):
        await store.put(record(f"resp_{n}", previous=f"resp_{n - 1}" if n else None))
    await store.delete(f"resp_{missing}", "alice")
    assert await store.chain("resp_3", "alice") is None


@ALL
async def test_a_chain_that_is_too_long(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "MAX_CHAIN_BYTES", 100_000)
    for n in range(3):
        await store.put(record(f"resp_{n}", previous=f"resp_{n - 1}" if n else None, text="x" * 20_000))
    chain = await store.chain("resp_1", "alice")
    assert chain is not None
    assert len(chain) == 2
    with pytest.raises(ChainTooLong) as caught:
        await store.chain("resp_2", "alice")
    assert (caught.value.status, caught.value.param) == (400, "previous_response_id")
    assert await store.get("resp_2", "alice") is not None


@ALL
@pytest.mark.parametrize("previous", [{"a": "a"}, {"a": "b", "b": "a"}])
async def test_a_circle_ends(store: Store, previous: dict[str, str]) -> None:
    for id, before in previous.items():
        await store.put(record(id, previous=before))
    with pytest.raises(ChainTooLong):
        await store.chain("a", "alice")


@ALL
async def test_as_many_turns_as_promised(store: Store) -> None:
    await store.put(record("0"))
    for n in range(1, base.MAX_CHAIN):
        await store.put(record(str(n), previous=str(n - 1)))
    chain = await store.chain(str(base.MAX_CHAIN - 1), "alice")
    assert chain is not None
    assert [turn.id for turn in chain] == [str(n) for n in range(base.MAX_CHAIN)]


@ALL
async def test_nothing_is_found_after_its_time(store: Store, clock: Clock) -> None:
    await store.put(record("resp_1"))
    await store.put(record("resp_2", previous="resp_1", created=clock.now + 10))
    clock.now += TTL - 1
    assert await store.get("resp_1", "alice") is not None
    assert await store.chain("resp_2", "alice") is not None
    clock.now += 1
    assert await store.get("resp_1", "alice") is None
    assert await store.get("resp_2", "alice") is not None
    assert await store.chain("resp_2", "alice") is None
    assert await store.delete("resp_1", "alice") is False


TEXTS = {
    "nul": "a\x00b\u0000",
    "surrogate": "half \ud83d of an emoji, \udc00",
    "quotes": "'; DROP TABLE devstral_responses; -- \" \\ %s %(id)s ? :id $1 \\u0000",
    "emoji": "😀é\u2028\ufeff\uffff",
    "controls": "\x01\x1f\x7f\r\n\t\b",
    "empty": "",
}


@ALL
@pytest.mark.parametrize("name", TEXTS)
async def test_any_text_comes_back(store: Store, name: str) -> None:
    text = TEXTS[name]
    kept = record(f"resp_{text}", f"owner {text}", previous=f"before {text}", text=text)
    kept.response[text] = {text: [text]}
    await store.put(kept)
    await store.put(record(f"before {text}", f"owner {text}"))
    assert await store.get(kept.id, kept.owner) == kept
    assert await store.chain(kept.id, kept.owner) == [record(f"before {text}", f"owner {text}"), kept]
    assert await store.delete(kept.id, kept.owner)
    assert await store.get(kept.id, kept.owner) is None


@ALL
async def test_ids_that_look_alike_are_not_the_same(store: Store) -> None:
    ids = ["\\x00", "\x00", "a", "A", "a ", "é", "e\u0301", "\\xe9", "\\", "\\\\"]
    for id in ids:
        await store.put(record(id, text=id))
    for id in ids:
        assert await store.get(id, "alice") == record(id, text=id)
    assert await store.get("x" * 100_000, "alice") is None


VALUES: dict[str, Any] = {
    "numbers": [0, -1, 2**53 + 1, 2**63, 2**64, -(2**70), 10**30, 0.1, 1e300, -0.0, 5.0],
    "constants": [None, True, False, [], {}, ""],
    "deep": {"a": [[[[[[[[[[[[{"b": [{}]}]]]]]]]]]]]]},
    "both": ["\ud800", 2**70, 1.5],
}


@ALL
@pytest.mark.parametrize("name", VALUES)
async def test_any_json_comes_back(store: Store, name: str) -> None:
    kept = record("resp_1")
    kept.response["value"] = VALUES[name]
    kept.input_items.append(VALUES[name])
    await store.put(kept)
    found = await store.get("resp_1", "alice")
    assert repr(found) == repr(kept)


@ALL
async def test_what_is_nested_too_deeply_is_an_error_of_ours(store: Store) -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    kept = record("resp_1")
    kept.input_items = deep
    with pytest.raises(StoreError):
        await store.put(kept)
    assert await store.get("resp_1", "alice") is None


@ALL
async def test_ten_megabytes(store: Store) -> None:
    kept = record("resp_1", text="0123456789abcdé\n" * 640_000)
    await store.put(kept)
    await store.put(record("resp_2", previous="resp_1"))
    assert await store.get("resp_1", "alice") == kept
    assert await store.chain("resp_2", "alice") == [kept, record("resp_2", previous="resp_1")]


@ALL
async def test_many_at_once(store: Store) -> None:
    await asyncio.gather(*(store.put(record(f"resp_{n}", text=str(n))) for n in range(100)))
    found = await asyncio.gather(*(store.get(f"resp_{n}", "alice") for n in range(100)))
    assert found == [record(f"resp_{n}", text=str(n)) for n in range(100)]


@ALL
async def test_many_puts_of_one_id(store: Store) -> None:
    await asyncio.gather(*(store.put(record("resp_1", text=str(n))) for n in range(50)))
    found = await store.get("resp_1", "alice")
    assert found in [record("resp_1", text=str(n)) for n in range(50)]


@ALL
async def test_one_that_gives_up_does_not_harm_the_others(store: Store) -> None:
    tasks = [asyncio.ensure_future(store.put(record(f"resp_{n}"))) for n in range(20)]
    await asyncio.sleep(0)
    for task in tasks[::2]:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    for n in range(1, 20, 2):
        assert await store.get(f"resp_{n}", "alice") == record(f"resp_{n}")
    await store.put(record("resp_new"))
    assert await store.get("resp_new", "alice") is not None


@SHARED
async def test_two_on_the_same_agree(opener: Opener) -> None:
    one, two = opener(), opener()
    await one.put(record("resp_1"))
    assert await two.get("resp_1", "alice") == record("resp_1")
    await two.put(record("resp_2", previous="resp_1"))
    assert await one.chain("resp_2", "alice") == [record("resp_1"), record("resp_2", previous="resp_1")]
    await two.put(record("resp_1", text="again"))
    assert await one.get("resp_1", "alice") == record("resp_1", text="again")
    assert await one.delete("resp_1", "alice")
    assert await two.chain("resp_2", "alice") is None


@SHARED
async def test_many_begin_at_once(opener: Opener) -> None:
    stores = [opener() for _ in range(6)]
    await asyncio.gather(*(one.put(record(f"resp_{n}")) for n, one in enumerate(stores)))
    await asyncio.gather(
        *(one.put(record(f"resp_{n}_{m}")) for m in range(20) for n, one in enumerate(stores)),
    )
    for one in stores:
        assert [await one.get(f"resp_{n}", "alice") for n in range(6)] == [record(f"resp_{n}") for n in range(6)]
        assert await one.get("resp_5_19", "alice") is not None


@SHARED
async def test_a_new_one_finds_what_an_old_one_left(opener: Opener) -> None:
    old = opener()
    await old.put(record("resp_1"))
    await old.aclose()
    assert await opener().get("resp_1", "alice") == record("resp_1")


@ALL
async def test_a_closed_one(store: Store, kind: str) -> None:
    await store.put(record("resp_1"))
    await store.aclose()
    await store.aclose()
    if kind != "memory":
        with pytest.raises(StoreError):
            await store.get("resp_1", "alice")


@ALL
async def test_one_that_was_never_used_closes(store: Store) -> None:
    await store.aclose()
