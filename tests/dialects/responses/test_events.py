"""Repaired chat answers as events and as whole responses: in order, strictly typed, and both the same."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from devstral_proxy.dialects.responses.reasoning import sealed
from devstral_proxy.errors import BadRequest, InternalError, RateLimited, UpstreamProtocolError, UpstreamRefused
from devstral_proxy.mistral.fold import fold, unfold
from devstral_proxy.upstream.sse import DONE, Event, encode
from tests.dialects.responses.help import (
    SPACE,
    TOOLS,
    USAGE_TOLD,
    asked,
    begun,
    chunk,
    custom,
    custom_input,
    dialect,
    goes_on,
    read,
    stream,
    told,
    whole,
)


def short(bodies: list[dict[str, Any]]) -> list[str]:
    """The types, without the prefix; neighbours of one type once."""
    names = [body["type"].removeprefix("response.") for body in bodies]
    return [name for index, name in enumerate(names) if index == 0 or names[index - 1] != name]


def test_text() -> None:
    made = asked(stream=True)
    bodies = told(made, stream({"content": "Hel"}, {"content": "lo"}))
    assert short(bodies) == [
        "created",
        "in_progress",
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "completed",
    ]
    response = bodies[-1]["response"]
    assert response["output"] == [
        {
            "id": made.id.replace("resp_", "msg_") + "00",
            "type": "message",
            "status": "completed",
            "role": "assistant",
            "content": [{"type": "output_text", "text": "Hello", "annotations": [], "logprobs": []}],
        }
    ]
    assert response["usage"] == USAGE_TOLD
    assert response["id"] == bodies[0]["response"]["id"] == made.id
    assert (response["status"], bodies[0]["response"]["status"]) == ("completed", "in_progress")
    assert made.result == response


@pytest.mark.parametrize(("finish", "at"), [("stop", 1_700_000_009), ("tool_calls", 1_700_000_009), ("length", None)])
def test_a_clock_tells_when_it_was_completed(finish: str, at: int | None) -> None:
    made = dialect(clock=lambda: 1_700_000_009)
    made.request({"model": "m", "input": "hi", "stream": True})
    bodies = told(made, stream({"content": "a"}, finish=finish))
    assert bodies[0]["response"]["completed_at"] is None
    assert bodies[-1]["response"]["completed_at"] == at
    without = told(asked(stream=True), stream({"content": "a"}, finish=finish))
    assert without[-1]["response"]["completed_at"] is None


def test_reasoning_text_and_calls() -> None:
    deltas = [
        {"reasoning_content": "hm", "reasoning": "hm"},
        {"reasoning_content": "m", "reasoning": "m"},
        {"content": "I read."},
        begun(0, "read_file", '{"pa'),
        goes_on(0, 'th": "a"}'),
        begun(1, "agents__close", "{}"),
        custom(2, "apply_patch"),
        custom_input(2, "*** Begin\n*** End"),
    ]
    bodies = told(asked(stream=True, tools=TOOLS), stream(*deltas, finish="tool_calls"))
    thought, message, reads, closes, patch = bodies[-1]["response"]["output"]
    assert thought["summary"] == [{"type": "summary_text", "text": "hmm"}]
    assert "encrypted_content" not in thought
    assert message["content"][0]["text"] == "I read."
    assert {key: reads[key] for key in ("name", "arguments", "call_id", "status")} == {
        "name": "read_file",
        "arguments": '{"path": "a"}',
        "call_id": "call00000",
        "status": "completed",
    }
    assert "namespace" not in reads
    assert (closes["namespace"], closes["name"]) == ("agents", "close")
    assert (patch["type"], patch["name"], patch["input"]) == (
        "custom_tool_call",
        "apply_patch",
        "*** Begin\n*** End",
    )
    prefixes = [item["id"].partition("_")[0] for item in bodies[-1]["response"]["output"]]
    assert prefixes == ["rs", "msg", "fc", "fc", "ctc"]
    assert short(bodies)[2:8] == [
        "output_item.added",
        "reasoning_summary_part.added",
        "reasoning_summary_text.delta",
        "reasoning_summary_text.done",
        "reasoning_summary_part.done",
        "output_item.done",
    ]


def test_encrypted_reasoning_only_where_asked_for() -> None:
    made = asked(stream=True, include=["reasoning.encrypted_content"])
    bodies = told(made, stream({"reasoning_content": "hm"}, {"content": "x"}))
    assert bodies[-1]["response"]["output"][0]["encrypted_content"] == sealed("hm")


def test_an_item_ends_when_the_next_begins() -> None:
    """Codex runs a call as soon as it is done."""
    made = asked(stream=True, tools=TOOLS)
    events = stream(begun(0, "read_file", '{"path": "a"}'), begun(1, "read_file", '{"path": "b"}'), finish="tool_calls")
    names = [body["type"] for body in told(made, events)]
    assert names.index("response.output_item.done") < len(names) - 1 - names[::-1].index("response.output_item.added")


def test_a_call_completed_late_stays_open() -> None:
    """The repair closes arguments of earlier calls at the end (F66), and tells custom tools' inputs there."""
    deltas = [
        begun(0, "read_file", '{"path": "a"'),
        custom(1, "apply_patch"),
        custom(2, "apply_patch"),
        goes_on(0, "}"),
        custom_input(1, "one"),
        custom_input(2, "two"),
    ]
    bodies = told(asked(stream=True, tools=TOOLS), stream(*deltas, finish="tool_calls"))
    output = bodies[-1]["response"]["output"]
    assert [item.get("arguments") or item["input"] for item in output] == ['{"path": "a"}', "one", "two"]


def test_text_after_a_call_is_a_message_of_its_own() -> None:
    deltas = [{"content": "a"}, begun(0, "read_file", '{"path": "a"}'), {"content": "b"}]
    bodies = told(asked(stream=True, tools=TOOLS), stream(*deltas, finish="tool_calls"))
    assert [item["type"] for item in bodies[-1]["response"]["output"]] == ["message", "function_call", "message"]


def test_one_delta_may_say_everything() -> None:
    delta = {"reasoning_content": "r", "content": "c", **begun(0, "read_file", "{}")}
    bodies = told(asked(stream=True, tools=TOOLS), stream(delta, finish="tool_calls"))
    assert [item["type"] for item in bodies[-1]["response"]["output"]] == ["reasoning", "message", "function_call"]


def test_an_answer_without_a_word_is_an_empty_message() -> None:
    bodies = told(asked(stream=True), stream())
    (item,) = bodies[-1]["response"]["output"]
    assert item["content"][0]["text"] == ""


@pytest.mark.parametrize(
    ("finish", "status", "reason", "last"),
    [
        ("stop", "completed", None, "completed"),
        ("tool_calls", "completed", None, "completed"),
        ("length", "incomplete", "max_output_tokens", "incomplete"),
        ("content_filter", "incomplete", "content_filter", "incomplete"),
    ],
)
def test_how_it_ends(finish: str, status: str, reason: str | None, last: str) -> None:
    bodies = told(asked(stream=True, tools=TOOLS), stream({"content": "a"}, begun(0, "read_file", "{}"), finish=finish))
    assert bodies[-1]["type"] == f"response.{status}"
    response = bodies[-1]["response"]
    assert response["status"] == status
    assert response["incomplete_details"] == ({"reason": reason} if reason else None)
    assert [item["status"] for item in response["output"]] == ["completed", last]


def test_a_call_that_was_cut_is_never_done() -> None:
    """Codex runs every call that is told to be done, whatever its status."""
    made = asked(stream=True, tools=TOOLS)
    bodies = told(made, stream(begun(0, "read_file", '{"path": "half"}'), finish="length"))
    assert short(bodies)[2:] == ["output_item.added", "function_call_arguments.delta", "incomplete"]
    assert bodies[-1]["response"]["output"][0]["status"] == "incomplete"


def test_no_usage_is_null() -> None:
    assert told(asked(stream=True), stream({"content": "a"}, usage=None))[-1]["response"]["usage"] is None


def test_nothing_follows_the_end() -> None:
    made = asked(stream=True)
    told(made, stream({"content": "a"}))
    assert made.events(stream({"content": "b"})) == []
    assert made.broken(InternalError("x")) == []
    assert made.opening() == []


# ---------------------------------------------------------------- failures


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (InternalError("x"), "server_error"),
        (UpstreamProtocolError("x"), "server_error"),
        (RateLimited("x"), "rate_limit_exceeded"),
        (BadRequest("x", param="input"), "invalid_prompt"),
        (UpstreamRefused(400, {"error": {"message": "x", "code": "invalid_value"}}), "invalid_prompt"),
    ],
)
@pytest.mark.parametrize("early", [True, False])
def test_broken(error: Any, code: str, early: bool) -> None:
    made = asked(stream=True, tools=TOOLS)
    events: list[Event] = []
    if not early:
        events += made.opening() + made.events(stream({"content": "a"}, begun(0, "read_file", "{"))[:-3])
    bodies = read(events + made.broken(error))
    response = bodies[-1]["response"]
    assert bodies[-1]["type"] == "response.failed"
    assert response["error"] == {"code": code, "message": "x"}
    assert response["status"] == "failed"
    assert [item["status"] for item in response["output"]] == ([] if early else ["completed", "incomplete"])


def test_an_error_event() -> None:
    error = encode(b'{"error":{"message":"engine died","type":"server_error","param":null,"code":500}}')
    bodies = told(asked(stream=True), [chunk({"content": "a"}), error, DONE])
    assert bodies[-1]["response"]["error"] == {"code": "server_error", "message": "engine died"}


def test_context_overflow_keeps_the_code_that_codex_reads() -> None:
    made = asked(stream=True)
    error = UpstreamRefused(400, {"error": {"message": "too long", "code": "context_length_exceeded"}})
    last = json.loads(made.broken(error)[-1].data)
    assert last["response"]["error"]["code"] == "context_length_exceeded"


def test_an_end_without_a_finish_reason_is_no_end() -> None:
    assert told(asked(stream=True), stream({"content": "a"}, finish=None))[-1]["type"] == "response.failed"


def test_error_json_names_the_clients_own_field() -> None:
    made = asked(
        instructions="i",
        input=[{"role": "user", "content": "a"}, {"role": "user", "content": "b"}],
        tools=[{"type": "web_search"}, SPACE],
    )
    for chat, own in [
        ("messages[2].content[0].text", "input[1].content[0].text"),
        ("messages[0].content", "instructions.content"),
        ("tools[0].function.parameters", "tools[1].tools[0].parameters"),
        ("max_tokens", "max_output_tokens"),
        ("messages", "input"),
        ("messages[99]", "messages[99]"),
        ("temperature", "temperature"),
    ]:
        assert made.error(BadRequest("x", param=chat))["error"]["param"] == own
    refused = UpstreamRefused(400, {"error": {"message": "m", "param": "max_tokens", "type": "t", "code": None}})
    assert made.error(refused)["error"]["param"] == "max_output_tokens"
    assert refused.body["error"]["param"] == "max_tokens"


# ---------------------------------------------------------------- logprobs


def test_logprobs() -> None:
    entry = {
        "token": "é",
        "logprob": -0.5,
        "bytes": None,
        "top_logprobs": [{"token": "é", "logprob": -0.5, "bytes": [195, 169]}],
    }
    events = stream({"content": "é"})
    events[1] = chunk({"content": "é"}, logprobs={"content": [entry]})
    bodies = told(asked(stream=True, top_logprobs=1), events)
    (delta,) = [body for body in bodies if body["type"] == "response.output_text.delta"]
    told_entry = {"token": "é", "logprob": -0.5, "top_logprobs": [{"token": "é", "logprob": -0.5}]}
    assert delta["logprobs"] == [told_entry]
    kept = bodies[-1]["response"]["output"][0]["content"][0]["logprobs"]
    assert kept[0]["bytes"] == [195, 169]
    assert asked(top_logprobs=1).body(fold(events)) == bodies[-1]["response"]


# ---------------------------------------------------------------- two ways, one answer

TEXT = st.text(st.characters(codec="utf-8"), min_size=1, max_size=6)


@st.composite
def answers(draw: st.DrawFn) -> list[Event]:
    """A repaired stream: thoughts, text, calls, each in pieces."""
    deltas: list[dict[str, Any]] = []
    deltas += [{"reasoning_content": text, "reasoning": text} for text in draw(st.lists(TEXT, max_size=3))]
    deltas += [{"content": text} for text in draw(st.lists(TEXT, max_size=3))]
    calls = draw(st.lists(st.sampled_from(["read_file", "agents__close", "apply_patch"]), max_size=3))
    for index, name in enumerate(calls):
        if name == "apply_patch":
            deltas += [custom(index, name), custom_input(index, draw(TEXT))]
        else:
            arguments = json.dumps({"path": draw(TEXT)})
            at = draw(st.integers(0, len(arguments)))
            deltas.append(begun(index, name, arguments[:at]))
            deltas += [goes_on(index, arguments[at:])] if arguments[at:] else []
    finish = draw(st.sampled_from(["length", "content_filter", "tool_calls" if calls else "stop"]))
    return stream(*deltas, finish=finish)


@settings(max_examples=40)
@given(answers(), st.integers(0, 5), st.booleans())
def test_folded_events_are_the_body(events: list[Event], size: int, encrypted: bool) -> None:
    include = ["reasoning.encrypted_content"] if encrypted else []
    bodies = told(asked(stream=True, tools=TOOLS, include=include), events, size)
    made = asked(stream=True, tools=TOOLS, include=include)
    response = made.body(fold(events))
    assert bodies[-1]["response"] == response == made.result
    whole(response)
    # a whole answer told as a stream says the same
    assert told(asked(tools=TOOLS, include=include), unfold(fold(events), True))[-1]["response"] == response


def test_a_completion_without_a_choice() -> None:
    with pytest.raises(UpstreamProtocolError):
        asked().body({"choices": []})
