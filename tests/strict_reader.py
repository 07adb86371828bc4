"""A client that reads a stream as strictly as any: what it takes, every reader takes.

It knows nothing of the repair, only OpenAI's form (and the bytes: some readers split every line at `": "`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

FINISHES = ("stop", "length", "tool_calls", "content_filter")


@dataclass
class StrictCall:
    """One call, its arguments added up."""

    id: str
    type: str
    name: str
    arguments: str


@dataclass
class StrictChoice:
    """One choice, its deltas added up."""

    content: str = ""
    reasoning: str = ""
    calls: list[StrictCall] = field(default_factory=list)
    finish: str | None = None
    begun: bool = False

    def summary(self, ids: bool = False) -> dict[str, Any]:
        """What two ways of telling one answer must agree in; ids are vLLM's own, made anew for each answer."""
        calls = [(call.name, call.arguments, call.id if ids else "") for call in self.calls]
        return {"content": self.content, "reasoning": self.reasoning, "calls": calls, "finish": self.finish}


@dataclass
class StrictAnswer:
    """A whole stream."""

    choices: dict[int, StrictChoice] = field(default_factory=dict)
    usage: dict[str, Any] | None = None
    error: dict[str, Any] | None = None
    id: str | None = None


def read(body: bytes, *, usage: bool = True, objects: bool = True) -> StrictAnswer:
    """Read a stream's bytes. AssertionError where a strict reader would stumble.

    `usage`: the client asked for it. `objects`: the arguments of every call must be a JSON object.
    """
    assert body.endswith(b"data: [DONE]\n\n"), "the stream does not end with [DONE]"
    answer = StrictAnswer()
    *events, done, rest = body.decode().split("\n\n")
    assert rest == ""
    assert done == "data: [DONE]"
    for event in events:
        assert event.startswith("data: {"), f"no line of the one form: {event[:40]!r}"
        assert "\n" not in event
        assert "\r" not in event
        assert answer.error is None, "something follows the error event"
        chunk = json.loads(event[6:], parse_constant=_refuse)
        if "error" in chunk:
            answer.error = chunk["error"]
            assert isinstance(chunk["error"]["message"], str)
            assert chunk["error"].keys() >= {"message", "type", "param", "code"}
        else:
            _chunk(answer, chunk, usage)
    for choice in answer.choices.values():
        _settled(choice, answer.error is not None, objects)
    assert answer.error is not None or answer.choices, "an empty stream"
    assert answer.error is not None or not usage or answer.usage is not None, "no usage chunk"
    return answer


def read_events(events: Iterable[Any], *, usage: bool = True, objects: bool = True) -> StrictAnswer:
    """Read the repaired events."""
    events = list(events)
    for event in events:
        assert event.raw == b"data: " + event.data + b"\n\n"
    return read(b"".join(event.raw for event in events), usage=usage, objects=objects)


def _refuse(constant: str) -> None:
    raise AssertionError(f"{constant} is no JSON")


def _chunk(answer: StrictAnswer, chunk: dict[str, Any], usage: bool) -> None:
    assert chunk["object"] == "chat.completion.chunk"
    assert isinstance(chunk["id"], str)
    assert isinstance(chunk["created"], int)
    assert isinstance(chunk["model"], str)
    assert answer.id in (None, chunk["id"]), "the id changes"
    answer.id = chunk["id"]
    assert answer.usage is None, "a chunk follows the usage"
    if not chunk["choices"]:
        assert usage, "usage that nobody asked for"
        answer.usage = chunk["usage"]
        assert isinstance(answer.usage["total_tokens"], int)
        return
    assert usage or chunk.get("usage") is None, "usage that nobody asked for"
    for piece in chunk["choices"]:
        _piece(answer.choices.setdefault(piece["index"], StrictChoice()), piece)


def _piece(choice: StrictChoice, piece: dict[str, Any]) -> None:
    assert choice.finish is None, "a delta follows the finish reason"
    delta = piece["delta"]
    assert ("role" in delta) != choice.begun, "the role is told by the first delta, and only there"
    assert delta.get("role") in (None, "assistant")
    choice.begun = True
    assert delta.get("content") is None or isinstance(delta["content"], str)
    choice.content += delta.get("content") or ""
    assert delta.get("reasoning") == delta.get("reasoning_content"), "reasoning under two names, not equal"
    choice.reasoning += delta.get("reasoning") or ""
    if "tool_calls" in delta:
        assert delta["tool_calls"], "an empty list of calls"
        for entry in delta["tool_calls"]:
            _call(choice, entry)
    choice.finish = piece["finish_reason"]
    if choice.finish is not None:
        assert choice.finish in FINISHES
        assert not delta.get("content"), "content beside the finish reason"
        assert not delta.get("tool_calls"), "a call beside the finish reason"


def _call(choice: StrictChoice, entry: dict[str, Any]) -> None:
    index = entry["index"]
    assert type(index) is int
    assert 0 <= index <= len(choice.calls), "a call's index leaves a gap"
    if index == len(choice.calls):
        kind = entry["type"]
        assert kind in ("function", "custom")
        assert re.fullmatch("[a-zA-Z0-9]{9}", entry["id"]), "no id of nine alphanumerics"
        assert all(call.id != entry["id"] for call in choice.calls), "an id twice"
        name = entry[kind]["name"]
        assert isinstance(name, str)
        assert name
        choice.calls.append(StrictCall(entry["id"], kind, name, ""))
    else:
        assert "id" not in entry, "an id again"
        assert "name" not in entry.get("function", {}), "a name again"
    call = choice.calls[index]
    inner = entry.get("custom") if call.type == "custom" else entry["function"]
    text = (inner or {}).get("input" if call.type == "custom" else "arguments")
    assert isinstance(text, str), "arguments that are no string"
    call.arguments += text


def _settled(choice: StrictChoice, failed: bool, objects: bool) -> None:
    assert failed or choice.finish is not None, "no finish reason"
    if choice.finish == "tool_calls":
        assert choice.calls, "tool_calls without a call"
    if choice.finish == "stop":
        assert not choice.calls, "stop beside calls"
    for call in choice.calls:
        if objects and choice.finish is not None and call.type == "function":
            assert isinstance(json.loads(call.arguments), dict), "arguments that are no object"
