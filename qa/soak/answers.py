"""What an answer says, in each API's words, read as strictly as any client reads it: `Seen`."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

Json = dict[str, Any]


class Wrong(Exception):
    """The answer is not what it has to be."""


def expect(condition: object, message: str) -> None:
    """Raise Wrong with the message unless the condition holds."""
    if not condition:
        raise Wrong(message)


@dataclass
class Seen:
    """What a client takes an answer for. `done`: it was told to be complete; `error`: it was told that it broke off."""

    text: str = ""
    calls: list[tuple[str, Any]] = field(default_factory=list)
    finish: str = ""
    done: bool = False
    error: str = ""
    id: str = ""


def _events(body: bytearray) -> Iterator[tuple[str, bytes]]:
    """Names and data of a stream's events; comments are left out. Raises Wrong."""
    text = bytes(body)
    expect(text.endswith(b"\n\n"), "the stream ends within an event")
    for block in text.split(b"\n\n")[:-1]:
        name, data = "", None
        for line in block.split(b"\n"):
            if line.startswith(b"event: "):
                name = line[7:].decode()
            elif line.startswith(b"data: "):
                expect(data is None, "an event with two data lines")
                data = line[6:]
            else:
                expect(line.startswith(b":"), f"a line that is none of a stream's: {line[:40]!r}")
        if data is not None:
            yield name, data


def _json(data: bytes | bytearray) -> Json:
    try:
        value = json.loads(data)
    except ValueError:
        raise Wrong(f"no JSON: {bytes(data[:80])!r}") from None
    expect(isinstance(value, dict), "JSON, but no object")
    found: Json = value
    return found


def error_of(api: str, value: Json) -> str:
    """The type and code of error JSON. Raises Wrong where it is not in the API's shape."""
    error = value.get("error")
    if not isinstance(error, dict):
        raise Wrong(f"no error object: {str(value)[:80]}")
    expect(isinstance(error.get("message"), str) and error["message"], "an error without a message")
    expect(isinstance(error.get("type"), str), "an error without a type")
    if api == "messages":
        expect(value.get("type") == "error", "an error that is not Anthropic's")
        return str(error["type"])
    expect({"message", "type", "param", "code"} <= error.keys(), f"not OpenAI's error: {sorted(error)}")
    return str(error["code"] or error["type"])


# ---------------------------------------------------------------- chat completions


def _chat_whole(body: bytearray) -> Seen:
    value = _json(body)
    expect(value.get("object") == "chat.completion", "no chat completion")
    choice = value["choices"][0]
    message = choice["message"]
    expect(message.get("role") == "assistant", "the message's role is not assistant")
    calls = [(call["function"]["name"], _arguments(call["function"])) for call in message.get("tool_calls") or ()]
    return Seen(message.get("content") or "", calls, choice["finish_reason"], True, id=value["id"])


def _arguments(function: Json) -> Any:
    try:
        return json.loads(function["arguments"])
    except ValueError:
        raise Wrong(f"arguments that are no JSON: {function['arguments'][:80]!r}") from None


def _chat_stream(body: bytearray) -> Seen:
    seen = Seen()
    calls: dict[int, Json] = {}
    ended = False
    for _, data in _events(body):
        expect(not ended, "an event after [DONE]")
        if data == b"[DONE]":
            ended = True
            continue
        chunk = _json(data)
        if "error" in chunk:
            seen.error = error_of("chat", chunk)
            continue
        expect(not seen.error, "a chunk after the error")
        seen.id = seen.id or chunk["id"]
        expect(chunk["id"] == seen.id, "two ids in one stream")
        for choice in chunk["choices"]:
            expect(not seen.finish, "a delta after the finish reason")
            _chat_delta(choice["delta"], seen, calls)
            seen.finish = choice["finish_reason"] or ""
    expect(ended, "no [DONE]")
    expect(seen.finish or seen.error, "neither a finish reason nor an error")
    seen.done = not seen.error
    if seen.finish:
        seen.calls = [(call["name"], _arguments(call)) for _, call in sorted(calls.items())]
    return seen


def _chat_delta(delta: Json, seen: Seen, calls: dict[int, Json]) -> None:
    seen.text += delta.get("content") or ""
    for call in delta.get("tool_calls") or ():
        if "id" in call:
            expect(call["index"] not in calls, "a call begins twice")
            calls[call["index"]] = {"name": call["function"]["name"], "arguments": ""}
        expect(call["index"] in calls, "a piece of a call that has not begun")
        calls[call["index"]]["arguments"] += (call.get("function") or {}).get("arguments") or ""


# ---------------------------------------------------------------- messages


def _messages_whole(body: bytearray) -> Seen:
    value = _json(body)
    expect(value.get("type") == "message" and value.get("role") == "assistant", "no message")
    seen = Seen(finish=value["stop_reason"], done=True, id=value["id"])
    for block in value["content"]:
        if block["type"] == "text":
            seen.text += block["text"]
        else:
            seen.calls.append((block["name"], block["input"]))
    return seen


def _messages_stream(body: bytearray) -> Seen:
    seen = Seen()
    open_block: Json | None = None
    blocks = 0
    for name, data in _events(body):
        event = _json(data)
        expect(event.get("type") == name, "an event's name is not its type")
        expect(not seen.done and not seen.error, f"{name} after the end")
        if name == "error":
            seen.error = error_of("messages", event)
        elif name == "message_start":
            expect(not seen.id, "two starts")
            seen.id = event["message"]["id"]
        elif name == "content_block_start":
            expect(open_block is None and not seen.finish and event["index"] == blocks, "a block that may not begin")
            open_block = {**event["content_block"], "json": ""}
            blocks += 1
        elif name == "content_block_delta":
            expect(open_block is not None and event["index"] == blocks - 1, "a delta of no block")
            delta = event["delta"]
            if open_block is not None and delta["type"] == "input_json_delta":
                open_block["json"] += delta["partial_json"]
            elif delta["type"] == "text_delta":
                seen.text += delta["text"]
        elif name == "content_block_stop":
            if open_block is None:
                raise Wrong("a block ends that is not there")
            if open_block["type"] == "tool_use":
                seen.calls.append((open_block["name"], _arguments({"arguments": open_block["json"] or "{}"})))
            open_block = None
        elif name == "message_delta":
            expect(open_block is None and not seen.finish, "a second end, or one within a block")
            seen.finish = event["delta"]["stop_reason"]
        elif name == "message_stop":
            expect(seen.id and open_block is None and seen.finish, "it stops before its end, or without a start")
            seen.done = True
        else:
            expect(name == "ping", f"unknown event {name}")
    expect(seen.done or seen.error, "neither message_stop nor an error")
    return seen


# ---------------------------------------------------------------- responses


def _response_of(value: Json) -> Seen:
    """What a response object says."""
    expect(value.get("object") == "response", "no response")
    seen = Seen(id=value["id"], finish=value["status"], done=value["status"] == "completed")
    if value.get("error"):
        seen.error = str(value["error"]["code"])
    for item in value["output"]:
        if item["type"] == "message":
            seen.text += "".join(part["text"] for part in item["content"])
        elif item["type"] == "function_call" and item["status"] == "completed":
            seen.calls.append((item["name"], _arguments(item)))
    return seen


def _responses_whole(body: bytearray) -> Seen:
    return _response_of(_json(body))


def _responses_stream(body: bytearray) -> Seen:
    text, last = "", ""
    told: list[Any] = []
    seen: Seen | None = None
    for number, (name, data) in enumerate(_events(body)):
        event = _json(data)
        expect(event.get("type") == name, "an event's name is not its type")
        expect(seen is None, f"{name} after the end")
        expect(event["sequence_number"] == number, "a sequence number is wrong")
        expect(number or name == "response.created", "it does not begin with response.created")
        last = name
        if name == "response.output_text.delta":
            text += event["delta"]
        elif name == "response.function_call_arguments.done":
            told.append(_arguments(event))
        elif name in ("response.completed", "response.failed", "response.incomplete"):
            seen = _response_of(event["response"])
            expect(name == f"response.{seen.finish}", "the last event's name is not the response's status")
    if seen is None:
        raise Wrong(f"it ends with {last!r}")
    expect(seen.text == text, "the deltas are not the text of the response")
    expect(seen.error or [arguments for _, arguments in seen.calls] == told, "the calls told are not the response's")
    return seen


# ---------------------------------------------------------------- text completions


def _completions_whole(body: bytearray) -> Seen:
    value = _json(body)
    expect(value.get("object") == "text_completion", "no text completion")
    choice = value["choices"][0]
    return Seen(choice["text"], [], choice["finish_reason"], True, id=value["id"])


def _completions_stream(body: bytearray) -> Seen:
    seen = Seen()
    ended = False
    for _, data in _events(body):
        expect(not ended, "an event after [DONE]")
        if data == b"[DONE]":
            ended = True
            continue
        chunk = _json(data)
        if "error" in chunk:
            seen.error = error_of("chat", chunk)
            continue
        for choice in chunk["choices"]:
            seen.text += choice["text"]
            seen.finish = choice["finish_reason"] or seen.finish
    expect(ended, "no [DONE]")
    seen.done = not seen.error
    return seen


READERS: Final[dict[tuple[str, bool], Callable[[bytearray], Seen]]] = {
    ("chat", False): _chat_whole,
    ("chat", True): _chat_stream,
    ("messages", False): _messages_whole,
    ("messages", True): _messages_stream,
    ("responses", False): _responses_whole,
    ("responses", True): _responses_stream,
    ("completions", False): _completions_whole,
    ("completions", True): _completions_stream,
}


def read(api: str, stream: bool, body: bytearray) -> Seen:
    """What the answer says. Raises Wrong where it breaks the API's rules, whichever way."""
    try:
        return READERS[api, stream](body)
    except (KeyError, TypeError, IndexError, AttributeError) as error:
        raise Wrong(f"not the API's shape: {type(error).__name__} {error}") from None
