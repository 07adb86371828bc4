"""Affinity: one conversation, one replica; few of them move when a replica goes or comes."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devstral_proxy.upstream.affinity import affinity_of, overloaded, ranked
from tests.conversations import Conversation, odd_conversations, plain_conversations

replicas = st.dictionaries(st.text(min_size=1, max_size=20), st.floats(0.01, 100), min_size=1, max_size=8)
json_values = st.recursive(
    st.none() | st.integers() | st.text(),
    lambda inner: (
        st.lists(inner) | st.dictionaries(st.sampled_from(["role", "content", "text", "messages", "prompt"]), inner)
    ),
)
affinities = st.binary(min_size=16, max_size=16)


@given(st.one_of(plain_conversations(), odd_conversations()))
def test_it_is_the_same_at_every_turn(conversation: Conversation) -> None:
    lengths = [*conversation.turns(), len(conversation.messages)]
    told = {affinity_of(conversation.body(length), "key") for length in lengths}
    assert len(told) == 1


def body(system: Any = "You code.", user: Any = "Fix it.", model: Any = "m") -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "system", "content": system}, {"role": "user", "content": user}]}


def test_conversations_differ() -> None:
    bodies = [body(), body(system="You write."), body(user="Fix that."), body(model="n"), body(user=""), body(None)]
    bodies.append({"model": "m", "prompt": "x"})
    bodies.append({"model": "m", "prompt": "y"})
    assert len({affinity_of(one, key) for one in bodies for key in ("", "a", "b")}) == 3 * len(bodies)


def test_parts_are_their_text() -> None:
    parts = [{"type": "text", "text": "Fix"}, {"type": "image_url", "image_url": {"url": "data:"}}, " it."]
    assert affinity_of(body(user=parts), "") == affinity_of(body(), "")


def test_only_the_beginning_of_a_text_counts() -> None:
    assert affinity_of(body(user="x" * 4096 + "a"), "") == affinity_of(body(user="x" * 4096 + "b"), "")
    assert affinity_of(body(user="x" * 4095 + "a"), "") != affinity_of(body(user="x" * 4095 + "b"), "")


@pytest.mark.parametrize(
    "odd",
    [
        {},
        {"messages": None},
        {"messages": [None, 1, [], {}]},
        {"messages": [{"role": ["user"], "content": {"a": 1}}]},
        {"messages": [{"role": "user", "content": [None, 1, {"text": 5}, {"text": "\ud800"}]}]},
        {"model": 7, "input": [1, 2], "messages": "x"},
        {"prompt": [[1, 2]]},
    ],
)
def test_odd_requests_do_no_harm(odd: dict[str, Any]) -> None:
    assert len(affinity_of(odd, "")) == 16


@given(json_values)
def test_any_json_has_one(value: Any) -> None:
    assert len(affinity_of({"model": "m", "messages": value}, "")) == 16


@given(affinities, replicas)
def test_every_replica_has_its_place(affinity: bytes, names: dict[str, float]) -> None:
    assert sorted(ranked(affinity, list(names.items()))) == list(range(len(names)))


@given(affinities, replicas, st.data())
def test_one_that_goes_moves_nobody_else(affinity: bytes, names: dict[str, float], data: Any) -> None:
    there = list(names.items())
    gone = data.draw(st.sampled_from(there))
    left = [one for one in there if one is not gone]
    before = [there[index] for index in ranked(affinity, there) if there[index] is not gone]
    assert [left[index] for index in ranked(affinity, left)] == before


def conversations(count: int) -> list[bytes]:
    return [affinity_of(body(user=str(number)), "") for number in range(count)]


def test_the_share_is_that_of_the_weights() -> None:
    names = [("a", 1.0), ("b", 2.0), ("c", 5.0)]
    first = Counter(names[ranked(affinity, names)[0]][0] for affinity in conversations(4000))
    for name, weight in names:
        assert abs(first[name] / 4000 - weight / 8) < 0.03


def test_one_that_comes_takes_only_its_share() -> None:
    old = [("a", 1.0), ("b", 1.0), ("c", 1.0)]
    new = [*old, ("d", 1.0)]
    moved = Counter((old[ranked(one, old)[0]][0], new[ranked(one, new)[0]][0]) for one in conversations(2000))
    changed = {pair: count for pair, count in moved.items() if pair[0] != pair[1]}
    assert {after for _, after in changed} == {"d"}
    assert abs(sum(changed.values()) / 2000 - 0.25) < 0.04


# running, weight, all running, all weights, factor
LOADS: list[tuple[tuple[int, float, int, float, float], bool]] = [
    ((3, 1, 3, 3, 2), False),  # a few are never too many
    ((4, 1, 4, 3, 2), True),
    ((4, 1, 8, 3, 2), False),
    ((7, 1, 9, 3, 2), True),
    ((20, 1, 60, 3, 2), False),
    ((40, 1, 60, 3, 2), False),
    ((42, 1, 60, 3, 2), True),
    ((42, 2, 60, 4, 2), False),
    ((1000, 1, 1000, 3, 0), False),
    ((1000, 1, 1000, 1, 1), False),
    ((1000, 1, 1000, 1, 2), False),
]


@pytest.mark.parametrize(("load", "wanted"), LOADS)
def test_too_much_to_do(load: tuple[int, float, int, float, float], wanted: bool) -> None:
    assert overloaded(*load) is wanted


@given(st.lists(st.tuples(st.integers(0, 1000), st.floats(0.1, 10)), min_size=1, max_size=8), st.floats(1, 5))
def test_somebody_is_always_free(loads: list[tuple[int, float]], factor: float) -> None:
    running, weights = sum(load for load, _ in loads), sum(weight for _, weight in loads)
    assert not all(overloaded(load, weight, running, weights, factor) for load, weight in loads)
