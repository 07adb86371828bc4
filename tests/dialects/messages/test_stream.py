"""Chat chunks as Anthropic's events: tables, and the one answer whatever the cut."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devstral_proxy.dialects.messages import Messages
from devstral_proxy.dialects.messages.answer import signature
from devstral_proxy.errors import InternalError, UpstreamTimeout, render
from devstral_proxy.mistral.fold import fold
from devstral_proxy.upstream.sse import DONE, Event, encode
from tests.dialects.messages.material import (
    asked,
    call,
    chunk,
    folded,
    ordered,
    read,
    stream_of,
    strict_message,
    usage_chunk,
)

START = {
    "type": "message_start",
    "message": {
        "id": "msg_8f7d5a2f",
        "type": "message",
        "role": "assistant",
        "model": "claude-x",
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": {
            "input_tokens": 0,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 0,
            "output_tokens": 0,
        },
    },
}
COUNTS = {
    "input_tokens": 20,
    "cache_creation_input_tokens": 0,
    "cache_read_input_tokens": 30,
    "output_tokens": 7,
}


def brief(events: list[Event]) -> list[str]:
    """Each event in a few words."""
    lines = []
    for event in read(events):
        kind = event["type"].removeprefix("content_block_")
        if kind == "start":
            block = event["content_block"]
            lines.append(f"{event['index']} {block['type']} {block.get('name', '')}".rstrip())
        elif kind == "delta":
            delta = event["delta"]
            said = next(value for key, value in delta.items() if key != "type")
            lines.append("signature" if delta["type"] == "signature_delta" else f"{delta['type'][:4]}:{said}")
        elif kind == "message_delta":
            lines.append(event["delta"]["stop_reason"])
        elif kind not in ("message_start", "ping", "message_stop"):
            lines.append(kind)
    return lines


THINK = {"reasoning_content": "hm", "reasoning": "hm"}
CASES: list[tuple[str, list[dict[str, Any]], str, list[str]]] = [
    ("nothing", [], "stop", ["end_turn"]),
    (
        "text",
        [{"content": "a"}, {"content": ""}, {"content": "b"}],
        "stop",
        ["0 text", "text:a", "text:b", "stop", "end_turn"],
    ),
    ("cut", [{"content": "a"}], "length", ["0 text", "text:a", "stop", "max_tokens"]),
    ("filtered", [{"content": "a"}], "content_filter", ["0 text", "text:a", "stop", "refusal"]),
    (
        "thought and text",
        [THINK, {**THINK, "content": "a"}],
        "stop",
        ["0 thinking", "thin:hm", "thin:hm", "signature", "stop", "1 text", "text:a", "stop", "end_turn"],
    ),
    (
        "text and call",
        [{"content": "a"}, call(0, "f"), call(0, "", '{"a"'), call(0, "", ":1}")],
        "tool_calls",
        ["0 text", "text:a", "stop", "1 tool_use f", 'inpu:{"a"', "inpu::1}", "stop", "tool_use"],
    ),
    (
        "two calls",
        [call(0, "f", "{}"), call(1, "g", "{"), call(1, "", "}")],
        "tool_calls",
        ["0 tool_use f", "inpu:{}", "stop", "1 tool_use g", "inpu:{", "inpu:}", "stop", "tool_use"],
    ),
    (
        "interleaved calls",
        [call(0, "f", "{"), call(1, "g", "["), call(2, "h"), call(0, "", '"}'), call(0, "", '"}'), call(1, "", "]")],
        "tool_calls",
        [
            "0 tool_use f", "inpu:{", 'inpu:"}', 'inpu:"}', "stop", "1 tool_use g", "inpu:[", "inpu:]", "stop",
            "2 tool_use h", "stop", "tool_use",
        ],
    ),
    (
        "interleaved to the end",
        [call(0, "f", '{"\\'), call(1, "g", "{}"), call(0, "", '"}')],
        "length",
        ["0 tool_use f", 'inpu:{"\\', 'inpu:"}', "stop", "1 tool_use g", "inpu:{}", "stop", "max_tokens"],
    ),
    (
        "text behind a call",
        [call(0, "f", "{}"), {"content": "a"}],
        "tool_calls",
        ["0 tool_use f", "inpu:{}", "stop", "1 text", "text:a", "stop", "tool_use"],
    ),
    (
        "text within a call",
        [call(0, "f", "{"), {"content": "a"}, {"content": "b"}, call(0, "", "}"), {"content": "c"}],
        "tool_calls",
        ["0 tool_use f", "inpu:{", "inpu:}", "stop", "1 text", "text:ab", "text:c", "stop", "tool_use"],
    ),
    ("call without arguments", [call(0, "f")], "tool_calls", ["0 tool_use f", "stop", "tool_use"]),
]  # fmt: skip


@pytest.mark.parametrize(("deltas", "finish", "expected"), [row[1:] for row in CASES], ids=[row[0] for row in CASES])
def test_events(deltas: list[dict[str, Any]], finish: str, expected: list[str]) -> None:
    events = asked(stream=True).events(stream_of(*deltas, finish=finish))
    ordered(read(events))
    assert brief(events) == expected


def test_beginning_and_end_are_told_once() -> None:
    dialect = asked(stream=True)
    opening = dialect.opening()
    assert dialect.opening() == []
    first = read(opening)
    assert first[0]["message"].pop("id").startswith("msg_")
    start = {**START, "message": {key: value for key, value in START["message"].items() if key != "id"}}  # type: ignore[attr-defined]
    assert first == [start, {"type": "ping"}]
    events = dialect.events(stream_of({"content": "a"}))
    assert [event["type"] for event in read(events)][:1] == ["content_block_start"]
    last = read(events)[-2:]
    assert last == [
        {"type": "message_delta", "delta": {"stop_reason": "end_turn", "stop_sequence": None}, "usage": COUNTS},
        {"type": "message_stop"},
    ]
    assert dialect.events([DONE]) == []
    assert dialect.broken(InternalError("x")) == []


@pytest.mark.parametrize(
    ("finish", "told", "expected"),
    [
        ("stop", None, ("end_turn", None)),
        ("stop", "END", ("stop_sequence", "END")),
        ("stop", 2, ("end_turn", None)),
        ("length", "END", ("max_tokens", None)),
        ("tool_calls", None, ("tool_use", None)),
        ("content_filter", None, ("refusal", None)),
    ],
)
def test_stop_reasons(finish: str, told: Any, expected: tuple[str, str | None]) -> None:
    source = stream_of({"content": "a"}, finish=finish, stop_reason=told)
    whole = strict_message(asked().body(fold(source)))
    streamed = folded(asked(stream=True).events(source))
    for message in (whole, streamed):
        assert (message.stop_reason, message.stop_sequence) == expected


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        ({"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}, (5, 0, 2)),
        ({"prompt_tokens": 5, "completion_tokens": 2, "prompt_tokens_details": None}, (5, 0, 2)),
        ({"prompt_tokens": 5, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 3}}, (2, 3, 2)),
        ({"prompt_tokens": 5, "completion_tokens": None, "prompt_tokens_details": {"cached_tokens": None}}, (5, 0, 0)),
        ({}, (0, 0, 0)),
    ],
)
def test_counts(usage: dict[str, Any], expected: tuple[int, int, int]) -> None:
    source = [*stream_of({"content": "a"})[:-2], usage_chunk(usage), DONE]
    for message in (strict_message(asked().body(fold(source))), folded(asked(stream=True).events(source))):
        counts = message.usage
        assert (counts.input_tokens, counts.cache_read_input_tokens, counts.output_tokens) == expected


def test_an_answer_without_counts() -> None:
    source = [event for event in stream_of({"content": "a"}) if b'"usage"' not in event.data]
    assert folded(asked(stream=True).events(source)).usage.output_tokens == 0
    assert strict_message(asked().body(fold(source))).usage.output_tokens == 0


def test_ids_come_from_the_seed() -> None:
    def of(seed: str) -> dict[str, Any]:
        dialect = Messages(seed)
        dialect.request({"model": "m", "max_tokens": 1, "messages": [{"role": "user", "content": "a"}]})
        return dialect.body(fold(stream_of(THINK, {"content": "a"})))

    assert of("a") == of("a")
    assert of("a")["id"] != of("b")["id"]
    assert of("a")["content"][0]["signature"] == signature("a") != signature("b")


ERROR = {"message": "gone", "type": "server_error", "param": None, "code": None}


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (ERROR, "api_error", "gone"),
        ({**ERROR, "code": 400}, "invalid_request_error", "gone"),
        ({**ERROR, "code": 503}, "overloaded_error", "gone"),
        ({**ERROR, "code": "overloaded"}, "overloaded_error", "gone"),
        ({**ERROR, "code": "upstream_timeout"}, "timeout_error", "gone"),
        ({**ERROR, "code": "rate_limit_exceeded"}, "rate_limit_error", "gone"),
        ({**ERROR, "code": "upstream_stream_ended"}, "api_error", "gone"),
        (
            {
                **ERROR,
                "code": "context_length_exceeded",
                "message": "This model's maximum context length is 10 tokens. However, your prompt contains 12 tokens",
            },
            "invalid_request_error",
            "prompt is too long: 12 tokens > 10 maximum",
        ),
    ],
)
def test_an_error_event_is_the_end(error: dict[str, Any], kind: str, message: str) -> None:
    dialect = asked(stream=True)
    source = [chunk({"role": "assistant", "content": "a"}), encode(json.dumps({"error": error}).encode()), DONE]
    *before, last = read(dialect.events(source))
    assert [event["type"] for event in before][-1] == "content_block_delta"
    assert last == {"type": "error", "error": {"type": kind, "message": message}}
    assert dialect.broken(InternalError("x")) == []
    assert dialect.events(stream_of()) == []


def test_a_broken_stream_ends_with_an_error() -> None:
    dialect = asked(stream=True)
    dialect.opening()
    error = UpstreamTimeout("too slow")
    (event,) = dialect.broken(error)
    assert event.type == b"error"
    assert read([event]) == [{"type": "error", "error": {"type": "timeout_error", "message": "too slow"}}]
    assert dialect.broken(error) == []
    assert render(error)["error"]["message"] == "too slow"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
ARGUMENTS = st.dictionaries(st.text(max_size=4), JSON, max_size=3).map(
    lambda value: json.dumps(value, ensure_ascii=False).encode("utf-8", "replace").decode()
)
TEXT = st.text(st.characters(codec="utf-8"), max_size=12)


@st.composite
def answers(draw: st.DrawFn) -> tuple[list[Event], bool]:
    """A repaired stream cut anywhere, its calls side by side or one after the other."""

    def cut(text: str) -> list[str]:
        places = sorted(draw(st.lists(st.integers(0, len(text)), max_size=4)))
        return [text[a:b] for a, b in zip([0, *places], [*places, len(text)], strict=True)]

    deltas: list[dict[str, Any]] = []
    deltas += [{"reasoning_content": piece, "reasoning": piece} for piece in cut(draw(TEXT))]
    deltas += [{"content": piece} for piece in cut(draw(TEXT))]
    lines = []
    for index in range(draw(st.integers(0, 3))):
        first, *rest = cut(draw(ARGUMENTS))
        lines.append([call(index, f"tool_{index}", first), *(call(index, "", piece) for piece in rest)])
    side_by_side = draw(st.booleans())
    begun = 0
    while any(lines):
        ready = [n for n, line in enumerate(lines) if line and n <= begun]
        n = draw(st.sampled_from(ready)) if side_by_side else ready[0]
        deltas.append(lines[n].pop(0))
        begun = max(begun, n + 1)
    return stream_of(*deltas, finish="tool_calls" if begun else "stop"), side_by_side


@given(answers(), st.data())
def test_folding_the_events_gives_the_whole_message(answer: tuple[list[Event], bool], data: st.DataObject) -> None:
    source, _ = answer
    dialect = asked(stream=True)
    events: list[Event] = []
    rest = source
    while rest:
        size = data.draw(st.integers(1, len(rest)))
        events += dialect.events(rest[:size])
        rest = rest[size:]
    whole = asked().body(fold(source))
    assert folded(events).model_dump(exclude_none=True) == strict_message(whole).model_dump(exclude_none=True)
