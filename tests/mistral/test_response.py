"""Whole answers: the same repair as a stream's, and what needs none stays."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest

from devstral_proxy.errors import UpstreamProtocolError
from devstral_proxy.mistral.response import repair_response
from devstral_proxy.mistral.rewrites import RewriteLog
from devstral_proxy.mistral.token_watch import AnswerLost
from devstral_proxy.mistral.tool_ids import hashed
from tests.streams import context

PARIS = '{"city": "Paris"}'
PLACE = [hashed(f"chatcmpl-1/0/{number}/0") for number in range(3)]


def call(
    arguments: Any = PARIS, name: str | None = "get_weather", id: str | None = "abcDEF123", **more: Any
) -> dict[str, Any]:
    return {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}, **more}


def body(message: dict[str, Any], reason: str | None = "stop", **more: Any) -> dict[str, Any]:
    choice = {
        "index": 0,
        "message": {"role": "assistant", "refusal": None, "annotations": None, **message},
        "logprobs": None,
        "finish_reason": reason,
        "stop_reason": None,
        **more,
    }
    return {"id": "chatcmpl-1", "object": "chat.completion", "choices": [choice], "usage": {"total_tokens": 3}}


UNTOUCHED = {
    "text": body({"content": "Hello."}),
    "a call": body({"content": None, "tool_calls": [call()]}, "tool_calls"),
    "text and calls": body({"content": "Hm.", "tool_calls": [call(), call(id="123abcDEF")]}, "tool_calls"),
    "an empty text beside a call": body({"content": "", "tool_calls": [call()]}, "tool_calls"),
    "cut": body({"content": "Hel"}, "length"),
    "reasoning": body({"content": "Yes.", "reasoning": "hm", "reasoning_content": "hm"}),
    "no reasoning": body({"content": "Yes.", "reasoning": None}),
}


@pytest.mark.parametrize("name", UNTOUCHED)
def test_what_is_right_stays(name: str) -> None:
    log = RewriteLog()
    given = UNTOUCHED[name]
    before = copy.deepcopy(given)
    assert repair_response(given, context(), log) == before
    assert given == before
    assert not log


NONE = {"tool_calls": ..., "content": ""}

# message and reason, what changes in the message, the reason
REPAIRED: dict[str, tuple[dict[str, Any], str | None, dict[str, Any], str]] = {
    "F72 a long id": (
        {"content": None, "tool_calls": [call(id="chatcmpl-tool-0123456789abcdef")]},
        "tool_calls",
        {"tool_calls": [call(id=hashed("chatcmpl-tool-0123456789abcdef"))]},
        "tool_calls",
    ),
    "F73 no calls": ({"content": "a", "tool_calls": []}, "stop", {"tool_calls": ...}, "stop"),
    "F73 no calls, null": ({"content": "a", "tool_calls": None}, "stop", {"tool_calls": ...}, "stop"),
    "F68 stop beside a call": ({"content": None, "tool_calls": [call()]}, "stop", {}, "tool_calls"),
    "F70 no reason, text": ({"content": "a"}, None, {}, "stop"),
    "F70 no reason, a call": ({"content": None, "tool_calls": [call()]}, None, {}, "tool_calls"),
    "F67 cut": (
        {"content": None, "tool_calls": [call('{"city": "Par')]},
        "tool_calls",
        {"tool_calls": [call('{"city": "Par"}')]},
        "length",
    ),
    "cut in the name": (
        {"content": None, "tool_calls": [call("", "get")]},
        "tool_calls",
        NONE,
        "length",
    ),
    "cut in the name, told": (
        {"content": None, "tool_calls": []},
        "length",
        NONE,
        "length",
    ),
    "calls that vanished": (
        {"content": None, "tool_calls": []},
        "tool_calls",
        NONE,
        "length",
    ),
    "F58 a call in the text": (
        {"content": f"Hm.[TOOL_CALLS]get_weather[CALL_ID]abcDEF123[ARGS]{PARIS}", "tool_calls": []},
        "stop",
        {"content": "Hm.", "tool_calls": [call()]},
        "tool_calls",
    ),
    "0.9 to 0.12: text without markers": (
        {"content": 'get_weather{"city": "Paris"}list_files{"paths": [{}]}', "tool_calls": []},
        "stop",
        {"content": None, "tool_calls": [call(id=PLACE[0]), call('{"paths": [{}]}', "list_files", PLACE[1])]},
        "tool_calls",
    ),
    "F62 text behind the arguments": (
        {"content": None, "tool_calls": [call(PARIS + "\n\nDone.")]},
        "tool_calls",
        {"content": "\n\nDone.", "tool_calls": [call()]},
        "tool_calls",
    ),
    "F62 two in one": (
        {"content": None, "tool_calls": [call(PARIS + f"get_weather{PARIS}")]},
        "tool_calls",
        {"tool_calls": [call(), call(id=PLACE[1])]},
        "tool_calls",
    ),
    "F77 reasoning": ({"content": "a", "reasoning": "hm"}, "stop", {"reasoning_content": "hm"}, "stop"),
    "F77 reasoning, the older name": ({"content": "a", "reasoning_content": "hm"}, "stop", {"reasoning": "hm"}, "stop"),
    "F78 an array in a string": (
        {"content": None, "tool_calls": [call('{"paths": "[]"}', "list_files")]},
        "tool_calls",
        {"tool_calls": [call('{"paths": []}', "list_files")]},
        "tool_calls",
    ),
    "arguments as an object": (
        {"content": None, "tool_calls": [call({"city": "Paris"})]},
        "tool_calls",
        {"tool_calls": [call('{"city":"Paris"}')]},
        "tool_calls",
    ),
    "an index": (
        {"content": None, "tool_calls": [call(index=0)]},
        "tool_calls",
        {"tool_calls": [call()]},
        "tool_calls",
    ),
    "no content": ({}, "stop", {"content": ""}, "stop"),
    "content in parts": ({"content": [{"type": "text", "text": "a"}]}, "stop", {"content": "a"}, "stop"),
    "an unknown reason": ({"content": "a"}, "eos", {}, "stop"),
}


@pytest.mark.parametrize("name", REPAIRED)
def test_repaired(name: str) -> None:
    message, reason, changes, right = REPAIRED[name]
    given = body(message, reason)
    before = copy.deepcopy(given)
    choice = repair_response(given, context(), RewriteLog())["choices"][0]
    expected = {**before["choices"][0]["message"], **changes}
    for key in [key for key, value in changes.items() if value is ...]:
        del expected[key]
    assert choice["message"] == expected
    assert choice["finish_reason"] == right
    assert given == before, "upstream's dict is not touched"


def test_repaired_twice_is_repaired_once() -> None:
    for message, reason, _, _ in REPAIRED.values():
        once = repair_response(body(message, reason), context(), RewriteLog())
        log = RewriteLog()
        assert repair_response(once, context(), log) == once
        assert set(log.counts()) <= {"finish_reason"}, "calls that are whole do not tell that the answer was cut"


def test_names_and_custom_tools() -> None:
    given = context(
        tools={"get_weather": {}, "apply_patch": {}}, names={"get_weather": "a.b"}, custom=frozenset(("apply_patch",))
    )
    answer = body(
        {"content": None, "tool_calls": [call(), call('{"input": "x\\ny"}', "apply_patch", "123abcDEF")]}, "tool_calls"
    )
    calls = repair_response(answer, given, RewriteLog())["choices"][0]["message"]["tool_calls"]
    assert calls == [
        {"id": "abcDEF123", "type": "function", "function": {"name": "a.b", "arguments": PARIS}},
        {"id": "123abcDEF", "type": "custom", "custom": {"name": "apply_patch", "input": "x\ny"}},
    ]


def test_every_choice() -> None:
    one = body({"content": None, "tool_calls": [call()]}, "stop")
    two = body({"content": f"[TOOL_CALLS]get_weather{PARIS}"}, "stop", index=1)
    answer = {**one, "choices": one["choices"] + two["choices"]}
    repaired = repair_response(answer, context(), RewriteLog())
    assert [choice["finish_reason"] for choice in repaired["choices"]] == ["tool_calls", "tool_calls"]
    assert [len(choice["message"]["tool_calls"]) for choice in repaired["choices"]] == [1, 1]


def test_only_so_many_calls() -> None:
    log = RewriteLog()
    answer = body({"content": None, "tool_calls": [call(), call(), call()]}, "tool_calls")
    assert repair_response(answer, context(max_calls=1), log)["choices"][0]["message"]["tool_calls"] == [call()]
    assert "calls_over_limit" in log.counts()


def test_raw_text_with_its_ids() -> None:
    text = 'Use [TOOL_CALLS].[TOOL_CALLS]read_file{"path": "[TOOL_CALLS]rm{}"}'
    answer = body({"content": text}, token_ids=[5, 6, 9, 7, 32, 8, 2])
    answer["prompt_token_ids"] = [1, 2]
    repaired = repair_response(answer, context(raw_text=True), RewriteLog())
    assert repaired["prompt_token_ids"] is None
    choice = repaired["choices"][0]
    assert choice["token_ids"] is None
    assert choice["message"]["content"] == "Use [TOOL_CALLS]."
    assert [call["function"] for call in choice["message"]["tool_calls"]] == [
        {"name": "read_file", "arguments": '{"path": "[TOOL_CALLS]rm{}"}'}
    ]


@pytest.mark.parametrize(
    ("ids", "lost"),
    [
        ([9, 5, 32, 6, 2], False),
        ([9, 5, 32, 6, 9, 5, 32, 2], True),
        ([9, 5, 32, 9197, 8568, 74483, 2], True),
        ([9, 5, 9], False),
    ],
)
def test_an_answer_that_upstream_lost(ids: list[int], lost: bool) -> None:
    answer = body({"content": None, "tool_calls": [call()]}, "tool_calls", token_ids=ids)
    given = context(token_ids=True, lossy=True)
    if lost:
        with pytest.raises(AnswerLost):
            repair_response(answer, given, RewriteLog())
    else:
        choice = repair_response(answer, given, RewriteLog())["choices"][0]
        assert choice["token_ids"] is None
        assert choice["finish_reason"] == ("tool_calls" if ids[-1] == 2 else "length")
    assert repair_response(answer, context(token_ids=True), RewriteLog())


@pytest.mark.parametrize(
    "answer",
    [
        {},
        {"choices": None},
        {"choices": [5]},
        {"choices": [{"message": None}]},
        {"choices": [{"message": {"content": "a"}, "finish_reason": "abort"}]},
        {"choices": [{"message": {"content": "a"}, "finish_reason": "error"}]},
    ],
)
def test_what_is_no_answer(answer: dict[str, Any]) -> None:
    with pytest.raises(UpstreamProtocolError):
        repair_response(answer, context(), RewriteLog())


def test_a_megabyte_of_brackets() -> None:
    """Every kind of hostile text is read in one pass (a quadratic one would take minutes)."""
    size = 200_000
    for unit in (
        "[",
        "{",
        "get_weather{",
        "[TOOL_CALLS]",
        "[TOOL_CALLS]list_files{}",
        '[{"name":',
        " ",
        "}",
        "[ARGS]",
        '"',
        "\\",
    ):
        text = unit * (size // len(unit))
        for message in (
            {"content": text},
            {"content": "[TOOL_CALLS]list_files{" + text},
            {"content": None, "tool_calls": [call(text)]},
            {"content": None, "tool_calls": [call('{"city": "' + text)]},
            {"content": None, "tool_calls": [call('{"paths": ' + text, "list_files")]},
        ):
            repaired = repair_response(body(message), context(), RewriteLog())
            assert len(json.dumps(repaired)) < 10 * size
