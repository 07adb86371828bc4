"""The streams of /v1/responses and /v1/messages, read as strictly as any client does."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Final

from qa.client import expect

ENDS: Final = ("response.completed", "response.incomplete")
_TEXTS: Final = ("text", "arguments", "input")


def read_events(data: bytes) -> Iterator[dict[str, Any]]:
    """The JSON of every event; each has its type as its name too. Raises Failed."""
    expect(b"\r" not in data, "a carriage return")
    expect(data.endswith(b"\n\n"), "the last event has no end")
    for block in data.split(b"\n\n")[:-1]:
        if block.startswith(b":"):
            continue
        name, _, rest = block.partition(b"\n")
        expect(name.startswith(b"event: ") and rest.startswith(b"data: "), f"no event: {block[:80]!r}")
        expect(b"\n" not in rest, f"an event of several lines: {block[:80]!r}")
        body = json.loads(rest[6:])
        expect(body["type"] == name[7:].decode(), f"the event {name!r} has the type {body['type']!r}")
        yield body


def read_response(data: bytes) -> dict[str, Any]:
    """The response that a stream ends with; what its events told before adds up to it. Raises Failed."""
    events = list(read_events(data))
    kinds = [event["type"] for event in events]
    expect(kinds[:2] == ["response.created", "response.in_progress"], f"it begins with {kinds[:2]}")
    expect([event["sequence_number"] for event in events] == list(range(len(events))), "sequence_number has gaps")
    expect(kinds[-1] in ENDS, f"it ends with {kinds[-1]}")
    items: list[dict[str, Any]] = []
    texts: dict[str, str] = {}
    for event in events[2:-1]:
        kind = event["type"]
        if kind == "response.output_item.added":
            expect(event["output_index"] == len(items), "an item out of order")
            items.append(event["item"])
            texts[event["item"]["id"]] = ""
        elif kind == "response.output_item.done":
            expect(items[event["output_index"]]["id"] == event["item"]["id"], "an item's id changed")
            items[event["output_index"]] = event["item"]
        elif kind.endswith(".delta"):
            texts[event["item_id"]] += event["delta"]
        elif kind.endswith(".done") and "part" not in event:
            whole = next(event[key] for key in _TEXTS if key in event)
            expect(whole == texts[event["item_id"]], f"{kind} is not what the deltas add up to")
    response: dict[str, Any] = events[-1]["response"]
    expect([item["id"] for item in response["output"]] == [item["id"] for item in items], "other items at the end")
    check_response(response)
    return response


def check_response(response: dict[str, Any]) -> None:
    """Raises Failed for what is no ended response."""
    expect(response["object"] == "response" and response["id"].startswith("resp_"), "it is no response")
    expect(response["status"] in ("completed", "incomplete"), f"its status is {response['status']!r}")
    expect(response["usage"]["input_tokens"] > 0, "no usage")
    expect(response["output"], "no output")
    for item in response["output"]:
        if item["type"] == "function_call" and item["status"] == "completed":
            expect(isinstance(json.loads(item["arguments"]), dict), "a call's arguments are no object")


def read_message(data: bytes) -> dict[str, Any]:
    """The message that a stream tells. Raises Failed."""
    events = [event for event in read_events(data) if event["type"] != "ping"]
    kinds = [event["type"] for event in events]
    expect(kinds[:1] == ["message_start"], f"it begins with {kinds[:1]}")
    expect(kinds[-2:] == ["message_delta", "message_stop"], f"it ends with {kinds[-2:]}")
    message: dict[str, Any] = events[0]["message"]
    content = message["content"]
    is_open = False
    for event in events[1:-2]:
        kind = event["type"]
        index = len(content) - (0 if kind == "content_block_start" else 1)
        expect(event["index"] == index, f"{kind} for block {event['index']}, not {index}")
        expect(is_open == (kind != "content_block_start"), f"{kind} out of place")
        is_open = kind != "content_block_stop"
        if kind == "content_block_start":
            content.append({**event["content_block"], "json": ""})
        elif kind == "content_block_delta":
            delta = event["delta"]
            key = {"text_delta": "text", "thinking_delta": "thinking", "signature_delta": "signature"}.get(
                delta["type"], "json"
            )
            content[-1][key] += delta["partial_json" if key == "json" else key]
    expect(not is_open, "a block has no end")
    for block in content:
        written = block.pop("json")
        if block["type"] == "tool_use":
            block["input"] = json.loads(written or "{}")
    message.update(events[-2]["delta"])
    message["usage"] = {**message["usage"], **events[-2]["usage"]}
    check_message(message)
    return message


def check_message(message: dict[str, Any]) -> None:
    """Raises Failed for what is no ended message."""
    expect(message["type"] == "message" and message["id"].startswith("msg_"), "it is no message")
    expect(message["stop_reason"] in ("end_turn", "max_tokens", "tool_use", "stop_sequence"), "another stop_reason")
    expect(prompt_tokens(message) > 0, "no usage")
    calls = [block for block in message["content"] if block["type"] == "tool_use"]
    expect(all(isinstance(call["input"], dict) for call in calls), "a call's input is no object")
    expect(bool(calls) == (message["stop_reason"] == "tool_use") or message["stop_reason"] == "max_tokens", "no calls")


def prompt_tokens(message: dict[str, Any]) -> int:
    """All tokens of a message's prompt, those from the cache too."""
    usage = message["usage"]
    return int(usage["input_tokens"] + usage["cache_read_input_tokens"] + usage["cache_creation_input_tokens"])
