"""Between the two forms of an answer."""

from __future__ import annotations

import json
from typing import Any

import pytest

from devstral_proxy.errors import UpstreamError, UpstreamProtocolError, UpstreamRefused, UpstreamTimeout
from devstral_proxy.mistral.fold import fold, unfold
from tests.streams import END, USAGE, call, chunk, context, finish, piece, raw, repair, role, text
from tests.strict_reader import read_events

PARIS = '{"city": "Paris"}'


def whole(message: dict[str, Any], reason: str = "stop", **more: Any) -> dict[str, Any]:
    choice = {
        "index": 0,
        "message": {"role": "assistant", **message},
        "logprobs": None,
        "finish_reason": reason,
        **more,
    }
    return {
        "id": "chatcmpl-1",
        "created": 5,
        "model": "m",
        "object": "chat.completion",
        "choices": [choice],
        "usage": USAGE,
    }


CALLS = [
    {"id": "abcDEF123", "type": "function", "function": {"name": "get_weather", "arguments": PARIS}},
    {"id": "123abcDEF", "type": "custom", "custom": {"name": "apply_patch", "input": "x\ny"}},
]
ANSWERS = {
    "text": whole({"content": "Hello."}),
    "nothing": whole({"content": ""}),
    "calls": whole({"content": None, "tool_calls": CALLS}, "tool_calls"),
    "both": whole({"content": "Hm.", "tool_calls": CALLS[:1]}, "tool_calls"),
    "cut": whole({"content": "Hel"}, "length"),
    "reasoning": whole({"content": "a", "reasoning_content": "hm", "reasoning": "hm"}),
    "refusal": whole({"content": "a", "refusal": "no"}),
    "log probabilities": whole({"content": "a"}, logprobs={"content": [{"token": "a"}]}),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_there_and_back(name: str) -> None:
    body = ANSWERS[name]
    events = unfold(body, include_usage=True)
    assert read_events(events).error is None
    assert fold(events) == body


@pytest.mark.parametrize("asked", [True, False])
def test_usage_exactly_when_asked_for(asked: bool) -> None:
    events = unfold(ANSWERS["text"], include_usage=asked)
    assert (b'"usage"' in raw(events)) is asked
    read_events(events, usage=asked)


def test_a_body_without_identity() -> None:
    events = unfold({"choices": [{"message": {"content": "a"}, "finish_reason": "stop"}]}, include_usage=True)
    assert read_events(events, usage=False).choices[0].content == "a"


def test_a_stream_of_two_choices() -> None:
    body = role(1) + role(0) + text("b", index=1) + text("a", "c") + finish("stop") + finish("length", 1) + END
    answer = fold(repair(body, context(stream=False)))
    assert answer["usage"] == USAGE
    assert [
        (choice["index"], choice["message"]["content"], choice["finish_reason"]) for choice in answer["choices"]
    ] == [
        (0, "ac", "stop"),
        (1, "b", "length"),
    ]


def test_log_probabilities_add_up() -> None:
    parts = [
        chunk(
            {
                "index": 0,
                "delta": {"content": letter},
                "logprobs": {"content": [{"token": letter}]},
                "finish_reason": None,
            }
        )
        for letter in "abc"
    ]
    answer = fold(repair(role() + b"".join(parts) + finish("stop") + END))
    assert [entry["token"] for entry in answer["choices"][0]["logprobs"]["content"]] == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("error", "status"),
    [
        ({"message": "x", "type": "InternalServerError", "param": None, "code": 500}, 500),
        ({"message": "x", "type": "BadRequestError", "param": None, "code": 400}, 400),
        ({"message": "x", "type": "other", "param": None, "code": "odd"}, 502),
        ({"message": "x", "type": "other", "param": None, "code": 200}, 502),
    ],
)
def test_an_error_event_is_raised(error: dict[str, Any], status: int) -> None:
    body = role() + text("Hello") + b"data: " + json.dumps({"error": error}).encode() + b"\n\ndata: [DONE]\n\n"
    with pytest.raises(UpstreamRefused) as caught:
        fold(repair(body))
    assert caught.value.status == status
    assert caught.value.body["error"]["message"] == "x"


@pytest.mark.parametrize(
    ("ours", "status"), [(UpstreamTimeout("slow"), 504), (UpstreamProtocolError("odd"), 502), (None, 502)]
)
def test_an_end_too_early_is_raised(ours: UpstreamError | None, status: int) -> None:
    with pytest.raises(UpstreamRefused) as caught:
        fold(repair(role() + text("Hello"), error=ours))
    assert caught.value.status == status


def test_nothing_at_all() -> None:
    with pytest.raises(UpstreamProtocolError):
        fold([])
    with pytest.raises(UpstreamProtocolError):
        fold(repair(call(PARIS, "get_weather") + END)[-1:])


def test_a_piece_that_only_ends() -> None:
    answer = fold(repair(chunk(piece({}, "stop")) + END))
    assert answer["choices"][0]["message"] == {"role": "assistant", "content": ""}
