"""LOG_CONTENT=hash: the same content has the same hash, and no text is in the line."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devstral_proxy.server.content_log import MOST_MESSAGES, ContentLog, content_log_of, digest
from tests.server.upstreams import settings

KEY = b"k" * 32
CALL = {"id": "abcdefghi", "type": "function", "function": {"name": "read", "arguments": '{"path": "x"}'}}
MESSAGES: list[dict[str, Any]] = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": [{"type": "text", "text": "Look:"}, {"type": "image_url", "image_url": {"url": "u"}}]},
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    {"role": "tool", "tool_call_id": "abcdefghi", "content": "contents"},
]


def test_the_form() -> None:
    entries = digest(MESSAGES, KEY)
    assert [entry.split(":")[:2] for entry in entries] == [
        ["system", "9"],
        ["user", "5"],
        ["assistant", "0"],
        ["tool", "8"],
    ]
    assert "+part:" in entries[1]
    assert "+call:" in entries[2]
    assert ":13:" in entries[2]  # the arguments' length


def test_a_longer_conversation_begins_the_same() -> None:
    assert digest([*MESSAGES, {"role": "user", "content": "more"}], KEY)[:-1] == digest(MESSAGES, KEY)


CHANGES: list[tuple[int, dict[str, Any]]] = [
    (0, {"content": "Be brief!"}),
    (0, {"role": "user"}),
    (1, {"content": "Look:"}),
    (2, {"tool_calls": [{**CALL, "function": {"name": "read", "arguments": '{"path": "y"}'}}]}),
    (2, {"tool_calls": [{**CALL, "function": {"name": "road", "arguments": '{"path": "x"}'}}]}),
    (2, {"tool_calls": []}),
]


@pytest.mark.parametrize(("at", "change"), CHANGES)
def test_a_change_shows_in_its_message_only(at: int, change: dict[str, Any]) -> None:
    changed = [{**message, **change} if index == at else message for index, message in enumerate(MESSAGES)]
    pairs = zip(digest(MESSAGES, KEY), digest(changed, KEY), strict=True)
    assert [before != after for before, after in pairs] == [index == at for index in range(4)]


def test_the_key_counts() -> None:
    assert digest(MESSAGES, KEY) != digest(MESSAGES, b"another")


def test_what_is_earlier_is_one_entry() -> None:
    many = [{"role": "user", "content": str(number)} for number in range(MOST_MESSAGES + 5)]
    entries = digest(many, KEY)
    assert len(entries) == MOST_MESSAGES + 1
    assert entries[0].startswith("earlier:5:")
    many[0] = {"role": "user", "content": "other"}
    assert [a == b for a, b in zip(entries, digest(many, KEY), strict=True)] == [False] + [True] * MOST_MESSAGES


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
messages = st.fixed_dictionaries(
    {}, optional={"role": json_values, "content": json_values, "tool_calls": json_values, "x": json_values}
)


@given(st.lists(messages | json_values, max_size=4) | json_values)
def test_whatever_a_client_sends(value: Any) -> None:
    assert digest(value, KEY) == digest(value, KEY)


WORDS = st.text(alphabet="ghijklmnopqrstuvwxyz", min_size=12, max_size=20)  # no hexadecimal digits, no role


@given(WORDS, WORDS)
def test_no_text_is_in_it(one: str, two: str) -> None:
    call = {"function": {"name": one, "arguments": two}, "type": two}
    told = [
        {"role": one, "content": two},
        {"role": "user", "content": [{"text": one}, {one: two}], "tool_calls": [call]},
    ]
    says = " ".join(digest([*told, one, {one: two}], KEY))
    assert one not in says
    assert two not in says


def test_a_lone_surrogate_and_deep_nesting() -> None:
    deep: Any = []
    for _ in range(5000):
        deep = [deep]
    assert len(digest([{"role": "user", "content": "\ud800"}, {"role": "user", "content": [{"a": deep}]}], KEY)) == 2


def test_the_line(caplog: pytest.LogCaptureFixture) -> None:
    writer = ContentLog("our key")
    request = {"messages": MESSAGES, "tools": [{"function": {"name": "secret tool"}}]}
    with caplog.at_level("INFO", "devstral_proxy.content"):
        writer.write("request-1", request)
        ContentLog("our key").write("request-1", request)
        ContentLog().write("request-1", request)
    fields = [record.__dict__["fields"] for record in caplog.records]
    assert fields[0] == fields[1] != fields[2]
    assert list(fields[0]) == ["id", "messages", "tools"]
    assert "secret" not in json.dumps(fields)


def test_it_is_off_unless_asked_for() -> None:
    assert content_log_of(settings()) is None
    assert content_log_of(settings(log_content="hash")) is not None
    assert content_log_of(settings(log_content="hash", log_content_key="k")) is not None
