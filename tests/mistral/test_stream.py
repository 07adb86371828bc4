"""StreamRepair: healthy streams go on as they came, other forms become the one, and no end is a false one."""

from __future__ import annotations

import json
from typing import Any

import orjson
import pytest

from devstral_proxy.errors import UpstreamTimeout
from devstral_proxy.mistral.rewrites import RewriteLog
from devstral_proxy.mistral.stream import StreamRepair
from devstral_proxy.upstream.sse import DONE as DONE_EVENT
from devstral_proxy.upstream.sse import Event, encode
from tests.streams import (
    DONE,
    END,
    PARIS,
    USAGE,
    WEATHER,
    answer,
    body,
    call,
    chunk,
    context,
    finish,
    only,
    piece,
    raw,
    repair,
    role,
    said,
    text,
)

# Nothing to repair, nothing changed


def logprob(token: str) -> dict[str, Any]:
    return {"token": token, "logprob": -0.5, "bytes": list(token.encode()), "top_logprobs": []}


HEALTHY: dict[str, bytes] = {
    "text": body(role(), text("Hello", ", ", "wor\u2028ld.\n", '"x" \\ é🥳'), finish("stop"), END),
    "text that may become markup": body(
        role(), text("[", "TOOL", "_CALLS] get", "_wea", "ther [1, 2]"), finish("stop"), END
    ),
    "empty deltas": body(role(), text("", "a", "", ""), finish("stop"), END),
    "old servers' nulls": body(
        chunk(piece({"role": "assistant", "content": "", "reasoning_content": None})),
        chunk(piece({"content": "Hi", "reasoning_content": None})),
        chunk(piece({"content": "", "reasoning_content": None}, "stop", stop_reason=None, token_ids=None)),
        END,
    ),
    "cut by length": body(role(), text("Hello"), finish("length"), END),
    "two choices": body(
        role(0),
        role(1),
        text("a", index=0),
        text("b", index=1),
        finish("stop", 0),
        text("c", index=1),
        finish("length", 1),
        END,
    ),
    "a call": body(
        role(),
        text("Let me look."),
        call('{"', "get_weather", "abcDEF123"),
        call("city"),
        call('": "'),
        call("Par"),
        call('is"}'),
        finish("tool_calls"),
        END,
    ),
    "two calls": body(
        role(),
        call("", "get_weather", "abcDEF123"),
        call(PARIS),
        call("", "read_file", "123abcDEF", at=1),
        call('{"path": "', at=1),
        call('a"}', at=1),
        finish("tool_calls"),
        END,
    ),
    "log probabilities": body(
        role(),
        chunk({"index": 0, "delta": {"content": "a"}, "logprobs": {"content": [logprob("a")]}, "finish_reason": None}),
        chunk({"index": 0, "delta": {"content": "b"}, "logprobs": {"content": [logprob("b")]}, "finish_reason": None}),
        finish("stop"),
        END,
    ),
    "usage all along": body(chunk(piece({"role": "assistant", "content": "a"}), usage=USAGE), finish("stop"), END),
    "reasoning under both names": body(
        role(), chunk(piece({"reasoning_content": "hm", "reasoning": "hm"})), text("Yes."), finish("stop"), END
    ),
}


@pytest.mark.parametrize("name", HEALTHY)
@pytest.mark.parametrize("tools", [True, False])
def test_a_healthy_stream_goes_on_as_it_came(name: str, tools: bool) -> None:
    log = RewriteLog()
    given = context() if tools else context(tools={})
    assert raw(repair(HEALTHY[name], given, log=log)) == HEALTHY[name]
    answer(HEALTHY[name], given)
    assert not log


def test_text_goes_on_without_delay() -> None:
    stream = StreamRepair(context(), RewriteLog())
    stream.feed(encode(role()[6:-2]))
    for word in ("Hello", " world", "[x]", " `list` ", "{", "}", " list", "_", "x"):
        event = encode(text(word)[6:-2])
        held = word in (" list", "_")
        assert (stream.feed(event) == [event]) is not held or word == "x"


# Text, reasoning, roles


def test_finish_with_text_is_split() -> None:
    """F71."""
    upstream = body(role(), text("Hel"), chunk(piece({"content": "lo."}, "stop")), END)
    assert said(only(upstream)) == ("Hello.", [], "stop")


@pytest.mark.parametrize("key", ["reasoning", "reasoning_content"])
def test_reasoning_stands_under_both_names(key: str) -> None:
    """F77."""
    upstream = body(
        chunk(piece({"role": "assistant", "content": "", key: "Let "})),
        chunk(piece({key: "me"})),
        text("Yes."),
        finish("stop"),
        END,
    )
    choice = only(upstream)
    assert (choice.reasoning, choice.content) == ("Let me", "Yes.")


def test_empty_calls_are_left_out() -> None:
    """F73."""
    upstream = body(
        role(),
        chunk(piece({"content": "a", "tool_calls": []})),
        chunk(piece({"tool_calls": None})),
        finish("stop"),
        END,
    )
    log = RewriteLog()
    assert said(only(upstream, log=log)) == ("a", [], "stop")
    assert log.counts()["empty_calls_dropped"] == 1


@pytest.mark.parametrize(
    "parts",
    [
        [text("a", "b"), finish("stop")],
        [
            chunk(piece({"role": "assistant", "content": "a"})),
            chunk(piece({"role": "assistant", "content": "b"})),
            finish("stop"),
        ],
        [chunk(piece({"role": "model", "content": "a"})), text("b"), finish("stop")],
        [chunk(piece({"role": "assistant"})), text("a", "b"), finish("stop")],
        [chunk(piece({"content": "ab"}, "stop"))],
        [
            role(),
            chunk(piece({"content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]})),
            finish("stop"),
        ],
        [role(), text("ab"), chunk({"index": 0, "finish_reason": "stop"})],
        [role(), chunk({"delta": {"content": "ab"}, "finish_reason": None}), finish("stop")],
        [role(), text("ab"), finish("stop"), text("c"), finish("length")],
        [role(), chunk(piece({"content": "ab"}), object="text_completion"), finish("stop")],
        [role(), b'data:{"choices":[{"index":0,"delta":{"content":"ab"}}]}\n\n', finish("stop")],
        [b": ping\n\n", role(), b"event: message\n" + text("ab"), b":\n\n", finish("stop")],
        [role(), chunk(piece({"content": "a", "refusal": None}), piece({"content": "b"})), finish("stop")],
        [role(), chunk(), text("ab"), finish("stop")],
    ],
)
def test_forms_that_strict_readers_do_not_take(parts: list[bytes]) -> None:
    assert said(only(body(*parts, END))) == ("ab", [], "stop")


def test_other_keys_of_a_delta_stay() -> None:
    upstream = body(
        role(),
        chunk(piece({"content": "a", "refusal": "no", "annotations": None, "tool_calls": []})),
        finish("stop"),
        END,
    )
    assert b'"refusal":"no"' in raw(repair(upstream))


def test_log_probabilities_stay_with_their_text() -> None:
    parts = [
        chunk(
            {
                "index": 0,
                "delta": {"content": letter},
                "logprobs": {"content": [{"token": letter}]},
                "finish_reason": None,
            }
        )
        for letter in f"[TOOL_CALLS]get_weather{PARIS}!"
    ]
    events = repair(body(role(), *parts, finish("stop"), END))
    tokens = [
        entry["token"]
        for event in events[:-1]
        for choice in json.loads(event.data)["choices"]
        for entry in (choice["logprobs"] or {}).get("content", ())
    ]
    assert "".join(tokens) == f"[TOOL_CALLS]get_weather{PARIS}!"


# Usage (F74, F75)


@pytest.mark.parametrize("asked", [True, False])
def test_usage_exactly_when_asked_for(asked: bool) -> None:
    upstream = body(role(), text("a"), finish("stop"), END)
    read = answer(upstream, context(include_usage=asked))
    assert read.usage == (USAGE if asked else None)


def test_usage_for_a_client_that_does_not_stream() -> None:
    events = repair(body(role(), text("a"), finish("stop"), END), context(stream=False, include_usage=False))
    assert b'"usage"' in events[-2].data


def test_usage_beside_the_choices() -> None:
    upstream = body(role(), text("a"), chunk(piece({}, "stop"), usage=USAGE), DONE)
    assert answer(upstream).usage == USAGE
    assert answer(upstream, context(include_usage=False)).usage is None


def test_usage_null_and_without_choices() -> None:
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1795256452, "model": "devstral-small-2"}
    last = b"data: " + orjson.dumps({**head, "usage": USAGE}) + b"\n\n"
    upstream = body(chunk(piece({"role": "assistant", "content": "a"}), usage=None), finish("stop"), last, last, DONE)
    assert answer(upstream).usage == USAGE
    assert answer(upstream, context(include_usage=False)).usage is None


# The end


def failed(upstream: bytes, **more: Any) -> dict[str, Any]:
    read = answer(upstream, **more)
    assert read.error is not None
    assert all(choice.finish in (None, "length") for choice in read.choices.values())
    return read.error


@pytest.mark.parametrize(
    ("upstream", "code"),
    [
        (b"", "upstream_stream_ended"),
        (role(), "upstream_stream_ended"),
        (body(role(), text("Hello")), "upstream_stream_ended"),
        (body(role(), text("Hello"), DONE), "upstream_stream_ended"),
        (body(role(), text("Hello"), END), "upstream_stream_ended"),
        (body(role(), text("[TOOL_CALLS]get_weather"), END), "upstream_stream_ended"),
        (body(role(), call('{"city": "Par', "get_weather", "abcDEF123"), END), "upstream_stream_ended"),
        (body(role(), call(PARIS, "get_weather", "abcDEF123")), "upstream_stream_ended"),
        (DONE, "upstream_protocol_error"),
        (END, "upstream_protocol_error"),
        (body(role(), b"data: {\n\n"), "upstream_protocol_error"),
        (body(role(), b"data: 5\n\n"), "upstream_protocol_error"),
        (body(role(), b"data: {}\n\n"), "upstream_protocol_error"),
        (body(role(), b'data: {"choices": 5}\n\n'), "upstream_protocol_error"),
        (body(role(), b'data: {"choices": [5]}\n\n'), "upstream_protocol_error"),
        (body(role(), chunk({"index": -1, "delta": {}})), "upstream_protocol_error"),
        (body(role(), chunk({"index": "a", "delta": {}})), "upstream_protocol_error"),
        (body(role(), chunk({"index": 1000, "delta": {}})), "upstream_protocol_error"),
        (body(role(), b"data: \xff\n\n"), "upstream_protocol_error"),
        (body(role(), b"data: <html>\n\n"), "upstream_protocol_error"),
        (body(role(), finish("abort"), END), "upstream_protocol_error"),
        (body(role(), finish("error"), END), "upstream_protocol_error"),
    ],
)
def test_no_false_end(upstream: bytes, code: str) -> None:
    """F63, F69: an error event and [DONE], never a clean stop."""
    error = failed(upstream)
    assert error["code"] == code


@pytest.mark.parametrize(
    "event",
    [
        {"error": {"message": "list index out of range", "type": "InternalServerError", "param": None, "code": 500}},
        {
            "object": "error",
            "message": "list index out of range",
            "type": "BadRequestError",
            "param": None,
            "code": 400,
        },
        {"error": "list index out of range"},
    ],
)
def test_upstreams_error_event(event: dict[str, Any]) -> None:
    log = RewriteLog()
    upstream = body(
        role(), call('{"city": "Par', "get_weather", "abcDEF123"), b"data: " + orjson.dumps(event) + b"\n\n", DONE
    )
    error = failed(upstream, log=log)
    assert error["message"] == "list index out of range"


def test_a_reset_and_a_stall() -> None:
    for part in (text("Hello"), call('{"city": "Par', "get_weather", "abcDEF123"), text("[TOOL_CALLS]get_w")):
        error = failed(body(role(), part), error=UpstreamTimeout("vLLM sent nothing for 5 s"))
        assert error == {
            "message": "vLLM sent nothing for 5 s",
            "type": "server_error",
            "param": None,
            "code": "upstream_timeout",
        }


def test_text_that_was_certain_is_not_lost_with_the_error() -> None:
    read = answer(body(role(), text("Hello wor", "ld", " [TOOL_CA")))
    assert read.choices[0].content == "Hello world "


def test_a_whole_call_may_lack_its_finish_reason() -> None:
    """F70."""
    upstream = body(role(), text("a"), call(PARIS, "get_weather", "abcDEF123"), END)
    log = RewriteLog()
    assert said(only(upstream, log=log)) == ("a", [WEATHER], "tool_calls")
    assert "finish_reason" in log.counts()


def test_done_once_and_last() -> None:
    stream = StreamRepair(context(), RewriteLog())
    out: list[Event] = []
    for part in (role(), text("a"), finish("stop"), DONE, DONE, text("b"), finish("stop")):
        out += stream.feed(encode(part[6:-2]))
    assert out.count(DONE_EVENT) == 1
    assert out[-1] is DONE_EVENT
    assert stream.finish() == []
    assert stream.finish(UpstreamTimeout("late")) == []


@pytest.mark.parametrize("error", [None, UpstreamTimeout("late")])
def test_an_answer_that_lacks_only_done_is_whole(error: UpstreamTimeout | None) -> None:
    """Agents that get an error behind a whole answer ask once more, or give up."""
    log = RewriteLog()
    read = answer(body(role(), text("a"), finish("stop")), context(include_usage=False), log=log, error=error)
    assert read.error is None
    assert (read.choices[0].content, read.choices[0].finish) == ("a", "stop")
    assert log.counts() == {"done_added": 1}


@pytest.mark.parametrize("begun", [True, False])
def test_of_two_answers_both_have_to_be_whole(begun: bool) -> None:
    upstream = body(role(0), role(1) if begun else b"", text("a", index=0), finish("stop", 0))
    assert answer(upstream, context(choices=2)).error is not None


def test_one_choice_of_two_without_an_end() -> None:
    read = answer(body(role(0), role(1), text("a", index=0), finish("stop", 0), text("b", index=1), END))
    assert read.error is not None
    assert read.choices[1].finish is None
