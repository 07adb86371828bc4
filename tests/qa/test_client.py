"""The client of the regression suite: it has to stumble where some real client does."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from qa.client import Answer, Failed, error_of, read_stream

CALL = {"index": 0, "id": "abcDEF001", "type": "function", "function": {"name": "read", "arguments": '{"a":'}}
REST = {"index": 0, "function": {"arguments": "1}"}}


def event(delta: dict[str, Any], finish: str | None = None, **more: Any) -> bytes:
    body = {
        "id": "c",
        "object": "chat.completion.chunk",
        "choices": [{"index": 0, "delta": delta, "finish_reason": finish}],
        **more,
    }
    return b"data: " + json.dumps(body).encode() + b"\n\n"


ROLE = event({"role": "assistant", "content": ""})
TEXT = event({"content": "hi"})
STOP = event({}, "stop")
USAGE = event({}, choices=[], usage={"total_tokens": 2})
DONE = b"data: [DONE]\n\n"


def read(*events: bytes) -> Answer:
    answer = Answer(200, httpx.Headers())
    read_stream(b"".join(events), answer)
    return answer


def test_text() -> None:
    answer = read(b": keepalive\n\n", ROLE, TEXT, TEXT, STOP, USAGE, DONE)
    assert answer.message == {"role": "assistant", "content": "hihi"}
    assert answer.finish == "stop"
    assert answer.usage == {"total_tokens": 2}


def test_calls() -> None:
    answer = read(ROLE, event({"tool_calls": [CALL]}), event({"tool_calls": [REST]}), event({}, "tool_calls"), DONE)
    assert answer.calls == [
        {"id": "abcDEF001", "type": "function", "function": {"name": "read", "arguments": '{"a":1}'}}
    ]


BAD: dict[str, tuple[tuple[bytes, ...], str]] = {
    "no end": ((ROLE, TEXT, STOP), "DONE"),
    "two ends": ((ROLE, STOP, DONE, DONE), "DONE"),
    "no finish reason": ((ROLE, TEXT, DONE), "finish reason"),
    "two finish reasons": ((ROLE, STOP, STOP, DONE), "after the finish reason"),
    "text beside the finish reason": ((ROLE, event({"content": "x"}, "stop"), DONE), "last piece"),
    "no role": ((TEXT, STOP, DONE), "role"),
    "a role too many": ((ROLE, ROLE, STOP, DONE), "role"),
    "another id": ((ROLE, event({"content": "x"}, id="d"), STOP, DONE), "ids"),
    "an error event": ((ROLE, b'data: {"error": {"message": "dead"}}\n\n', DONE), "dead"),
    "no JSON": ((ROLE, b"data: {\n\n", DONE), "no JSON"),
    "a bare comment": ((b":\n\n", ROLE, STOP, DONE), "no event"),
    "no space after data": ((ROLE.replace(b"data: ", b"data:"), STOP, DONE), "no event"),
    "carriage returns": ((ROLE.replace(b"\n", b"\r\n"), STOP, DONE), "carriage"),
    "usage before the end": ((ROLE, USAGE, STOP, DONE), "usage"),
    "an empty list of calls": ((ROLE, event({"content": "x", "tool_calls": []}), STOP, DONE), "empty list"),
    "a call without index": (
        (ROLE, event({"tool_calls": [{k: v for k, v in CALL.items() if k != "index"}]}), STOP, DONE),
        "index",
    ),
    "a call without id": ((ROLE, event({"tool_calls": [{**CALL, "id": ""}]}), STOP, DONE), "without id"),
    "a long id": (
        (ROLE, event({"tool_calls": [{**CALL, "id": "call_1"}, REST]}), event({}, "tool_calls"), DONE),
        "nine",
    ),
    "two calls with one id": (
        (ROLE, event({"tool_calls": [CALL, REST, {**CALL, "index": 1}, {**REST, "index": 1}]}),
         event({}, "tool_calls"), DONE),
        "one id",
    ),
    "a name twice": ((ROLE, event({"tool_calls": [CALL, CALL]}), event({}, "tool_calls"), DONE), "twice"),
    "arguments cut short": ((ROLE, event({"tool_calls": [CALL]}), event({}, "tool_calls"), DONE), "no JSON object"),
    "stop beside calls": ((ROLE, event({"tool_calls": [CALL, REST]}), STOP, DONE), "no finish"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_stream(name: str) -> None:
    events, reason = BAD[name]
    with pytest.raises(Failed, match=reason):
        read(*events)


@pytest.mark.parametrize(
    "content", [b"Not Found", b'{"detail": "Not Found"}', b'{"error": "x"}', b'{"error": {"message": "x"}}']
)
def test_bad_error(content: bytes) -> None:
    with pytest.raises(Failed):
        error_of(httpx.Response(404, content=content))
