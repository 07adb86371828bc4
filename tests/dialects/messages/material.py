"""What the tests of this folder share: chat chunks to feed, and a reader of the events as strict as any."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from anthropic.lib.streaming._messages import accumulate_event
from anthropic.types import Message, RawMessageStreamEvent
from pydantic import BaseModel, TypeAdapter

from devstral_proxy.dialects.messages import Messages
from devstral_proxy.upstream.sse import DONE, Event, Parser, encode

EVENT: TypeAdapter[Any] = TypeAdapter(RawMessageStreamEvent)
BODY = {"model": "claude-x", "max_tokens": 100, "messages": [{"role": "user", "content": "Hi"}]}
USAGE = {
    "prompt_tokens": 50,
    "completion_tokens": 7,
    "total_tokens": 57,
    "prompt_tokens_details": {"cached_tokens": 30},
}

CACHE = {"cache_control": {"type": "ephemeral"}}
PNG = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}}
AS_URL = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
TOOL = {"name": "read", "description": "Reads.", "input_schema": {"type": "object", "properties": {}}}
FUNCTION = {
    "type": "function",
    "function": {"name": "read", "description": "Reads.", "parameters": {"type": "object", "properties": {}}},
}
USE = {"type": "tool_use", "id": "toolu_1", "name": "read", "input": {"path": "ä", "n": 1}}
CALL = {"id": "toolu_1", "type": "function", "function": {"name": "read", "arguments": '{"path": "ä", "n": 1}'}}


def asked(**more: Any) -> Messages:
    """A dialect whose request has been translated."""
    dialect = Messages("seed")
    dialect.request({**BODY, **more})
    return dialect


def chunk(delta: dict[str, Any], finish: str | None = None, **more: Any) -> Event:
    """A repaired chunk."""
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish, **more}
    return _event({"choices": [choice]})


def usage_chunk(usage: dict[str, Any] | None = None) -> Event:
    """The chunk that tells the counts."""
    return _event({"choices": [], "usage": USAGE if usage is None else usage})


def _event(members: dict[str, Any]) -> Event:
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "devstral"}
    return encode(json.dumps({**head, **members}).encode())


def call(index: int, name: str = "", arguments: str = "") -> dict[str, Any]:
    """A delta of a call: its beginning, where it has a name."""
    entry: dict[str, Any] = {"index": index, "function": {"arguments": arguments}}
    if name:
        entry = {"index": index, "id": f"abcdefg{index:02}", "type": "function"}
        entry["function"] = {"name": name, "arguments": arguments}
    return {"tool_calls": [entry]}


def stream_of(*deltas: dict[str, Any], finish: str = "stop", **last: Any) -> list[Event]:
    """A whole repaired stream."""
    first = {"role": "assistant", "content": ""}
    return [chunk(delta) for delta in (first, *deltas)] + [chunk({}, finish, **last), usage_chunk(), DONE]


def read(events: Iterable[Event]) -> list[dict[str, Any]]:
    """The events' payloads. AssertionError where their bytes, order or form are not Anthropic's."""
    events = list(events)
    parser = Parser()
    wire = parser.feed(b"".join(event.raw for event in events)) + parser.eof()
    told = []
    for event, raw in zip(wire, events, strict=True):
        payload = json.loads(event.data)
        assert raw.raw == b"event: %b\ndata: %b\n\n" % (event.type, event.data)
        assert payload["type"] == event.type.decode()
        if payload["type"] not in ("ping", "error"):
            no_extras(EVENT.validate_json(event.data, strict=True))
        told.append(payload)
    return told


def ordered(told: list[dict[str, Any]]) -> None:
    """AssertionError unless a clean stream has the order that Anthropic promises."""
    kinds = [event["type"] for event in told]
    assert kinds[:2] == ["message_start", "ping"]
    assert kinds[-2:] == ["message_delta", "message_stop"]
    index, opened = -1, False
    for event in told[2:-2]:
        if event["type"] == "content_block_start":
            assert not opened
            index, opened = index + 1, True
        elif event["type"] == "content_block_stop":
            assert opened
            opened = False
        else:
            assert event["type"] == "content_block_delta"
            assert opened
        assert event["index"] == index
    assert not opened


def folded(events: Iterable[Event]) -> Message:
    """The message that the official library makes of a stream."""
    told = read(events)
    ordered(told)
    message: Any = None
    buffers: dict[int, bytes] = {}
    for event in told:
        if event["type"] != "ping":
            message = accumulate_event(event=EVENT.validate_python(event), current_snapshot=message, json_bufs=buffers)
    return Message.model_validate(message.to_dict())


def strict_message(body: dict[str, Any]) -> Message:
    """The whole answer, read with every type checked."""
    message = Message.model_validate_json(json.dumps(body), strict=True)
    no_extras(message)
    return message


def no_extras(model: BaseModel) -> None:
    """AssertionError when there are members that the type does not have."""
    assert not model.model_extra, model.model_extra
    for value in dict(model).values():
        for inner in value if isinstance(value, list) else [value]:
            if isinstance(inner, BaseModel):
                no_extras(inner)


def text(said: str, **more: Any) -> dict[str, Any]:
    return {"type": "text", "text": said, **more}


def user(*blocks: Any) -> dict[str, Any]:
    return {"role": "user", "content": list(blocks)}


def assistant(*blocks: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": list(blocks)}


def result(content: Any = None, **more: Any) -> dict[str, Any]:
    return {"type": "tool_result", "tool_use_id": "toolu_1", "content": content, **more}


def told(content: Any) -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": "toolu_1", "content": content}


def said(role: str, content: Any) -> dict[str, Any]:
    return {"role": role, "content": content}


def document(kind: str, **more: Any) -> dict[str, Any]:
    return {"type": "document", "source": {"type": kind, **more}}
