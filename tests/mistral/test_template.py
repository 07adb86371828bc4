"""Chunks read without parsing: what the template reads is what a parser would read, or nothing."""

from __future__ import annotations

import json
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from devstral_proxy.mistral.template import MAX_LEARNT, learn
from tests.streams import call, chunk, piece, text


def data(event: bytes) -> bytes:
    return event[6:-2]


def event(data: bytes) -> bytes:
    return b"data: " + data + b"\n\n"


def learned(event: bytes) -> Any:
    parsed = orjson.loads(data(event))
    choice = parsed["choices"][0]
    return learn(choice["index"], choice["delta"], data(event))


@given(st.text(max_size=20), st.text(max_size=20), st.booleans())
def test_content(first: str, second: str, ascii: bool) -> None:
    template = learned(text(first))
    assert (template.choice, template.call) == (0, None)
    other = json.dumps(orjson.loads(data(text(second))), ensure_ascii=ascii, separators=(",", ":")).encode(
        "utf-8", "surrogatepass"
    )
    assert template.read(event(other)) in (second, None)
    if not any(0xD800 <= ord(char) <= 0xDFFF for char in second):
        assert template.read(event(other)) == second


@given(st.text(max_size=20), st.text(max_size=20))
def test_arguments(first: str, second: str) -> None:
    template = learned(call(first, at=2))
    assert (template.choice, template.call) == (0, 2)
    assert template.read(call(second, at=2)) == second
    assert template.read(call(second, at=1)) is None
    assert template.read(text(second)) is None
    assert template.read(call(second, at=2) + call(second, at=2)) is None


@given(st.binary(max_size=12))
def test_any_bytes_between(inner: bytes) -> None:
    """What is no JSON string is read by nobody but the parser."""
    head, tail = data(text("XX")).split(b"XX")
    try:
        expected = orjson.loads(head + inner + tail)["choices"][0]["delta"]["content"]
        same = orjson.loads(data(text(expected)))
        exact = orjson.loads(head + inner + tail) == same
    except (orjson.JSONDecodeError, KeyError, TypeError):
        expected, exact = None, False
    assert learned(text("a")).read(event(head + inner + tail)) == (expected if exact else None)


@pytest.mark.parametrize(
    "event",
    [
        chunk(piece({"role": "assistant", "content": ""})),
        chunk(piece({"content": "a", "reasoning": "b"})),
        chunk(piece({"content": "a", "tool_calls": [{"index": 0, "function": {"arguments": "b"}}]})),
        chunk(piece({"content": None})),
        chunk(piece({})),
        call("a", "get_weather", "abcDEF123"),
        call("a", at=None),
        chunk(piece({"tool_calls": [{"index": 0, "function": {}}, {"index": 1, "function": {}}]})),
    ],
)
def test_what_is_not_learned(event: bytes) -> None:
    assert learned(event) is None


SPACED = '{"choices": [ {"delta" : {"content" :  "%s"} , "index": 0} ]}'
MISLEADING = r'{"a":"\"content\":\"x\"","content":"y","choices":[{"index":0,"delta":{"content":"%s"}}]}'


@pytest.mark.parametrize("template", [SPACED, MISLEADING])
def test_other_servers_spaces(template: str) -> None:
    first, second = ((template % word).encode() for word in ("one", "two"))
    parsed = orjson.loads(first)
    found = learn(0, parsed["choices"][0]["delta"], first)
    assert found is not None
    assert found.read(event(second)) == "two"


def test_an_event_of_several_lines_is_not_learned_from() -> None:
    """On the wire it does not look like its data."""
    first = json.dumps(orjson.loads(data(text("a"))), indent=1).encode()
    assert learn(0, {"content": "a"}, first) is None


def test_a_large_chunk_is_not_learned_from() -> None:
    """One event may be of any size up to MAX_EVENT_BYTES; the search in it must not cost a multiple of that."""
    delta = {"content": "x" * MAX_LEARNT}
    chunk = {"choices": [{"index": 0, "delta": delta, "finish_reason": None}]}
    assert learn(0, delta, orjson.dumps(chunk)) is None
