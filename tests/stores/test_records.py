"""Records as bytes and rows: nothing is lost, whatever JSON holds."""

from __future__ import annotations

from typing import Any

import orjson
from hypothesis import given
from hypothesis import strategies as st

from devstral_proxy.stores.base import Record, from_row, key_text, to_row

TEXT = st.text()
# Halves of surrogate pairs too, each alone: two that follow each other are one character for JSON.
HALVES = st.sampled_from(["\ud800", "\udbff", "\udc00", "\udfff"])
ANY_TEXT = st.one_of(TEXT, st.tuples(TEXT, HALVES, st.sampled_from([" ", "x", "\x00"]), TEXT).map("".join))
NUMBERS = st.one_of(st.integers(), st.integers(-(2**100), 2**100), st.floats(allow_nan=False, allow_infinity=False))
JSON: st.SearchStrategy[Any] = st.recursive(
    st.one_of(st.none(), st.booleans(), NUMBERS, ANY_TEXT),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(ANY_TEXT, inner, max_size=4)),
    max_leaves=12,
)


@given(
    st.dictionaries(ANY_TEXT, JSON, max_size=4), st.lists(JSON, max_size=4), ANY_TEXT, ANY_TEXT, st.none() | ANY_TEXT
)
def test_a_row_gives_the_record_back(
    response: dict[str, Any], items: list[Any], id: str, owner: str, previous: str | None
) -> None:
    record = Record(id, owner, 1.5, previous, response, items)
    row = to_row(record)
    assert repr(from_row(row)) == repr(record)
    assert all(text.isascii() and "\x00" not in text for text in row if isinstance(text, str))


@given(ANY_TEXT, ANY_TEXT)
def test_two_texts_have_two_keys(one: str, two: str) -> None:
    assert (key_text(one) == key_text(two)) == (one == two)


def test_the_usual_ids_are_their_own_keys() -> None:
    assert key_text("resp_68ab-CD.12") == "resp_68ab-CD.12"


def test_the_usual_content_is_plain_json() -> None:
    body = to_row(Record("a", "b", 0.0, None, {"text": "é"}, [1]))[-1]
    assert orjson.loads(body) == [{"text": "é"}, [1]]
    assert body.startswith(b"[{")
