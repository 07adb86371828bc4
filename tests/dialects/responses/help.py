"""What these tests share: repaired chat streams made up, and the strictest reading of the events made of them."""

from __future__ import annotations

import json
import warnings
from typing import Any

from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from devstral_proxy.dialects.responses import Responses
from devstral_proxy.mistral.profiles import ModelProfile
from devstral_proxy.mistral.translator import Translator
from devstral_proxy.upstream.sse import DONE, Event, encode

EVENTS: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
USAGE = {
    "prompt_tokens": 10,
    "completion_tokens": 7,
    "total_tokens": 17,
    "prompt_tokens_details": {"cached_tokens": 4},
    "completion_tokens_details": {"reasoning_tokens": 2},
}
USAGE_TOLD = {
    "input_tokens": 10,
    "input_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 0},
    "output_tokens": 7,
    "output_tokens_details": {"reasoning_tokens": 2},
    "total_tokens": 17,
}
READ_FILE = {
    "type": "function",
    "name": "read_file",
    "description": "Reads a file.",
    "parameters": {"type": "object", "properties": {"path": {"type": "string"}}, "required": ["path"]},
    "strict": True,
}
PATCH = {
    "type": "custom",
    "name": "apply_patch",
    "description": "Patches.",
    "format": {"type": "grammar", "syntax": "lark", "definition": 'start: "x"'},
}
SPACE = {
    "type": "namespace",
    "name": "agents",
    "description": "Other agents.",
    "tools": [{"type": "function", "name": "close", "parameters": {"type": "object", "properties": {}}}],
}
TOOLS: list[dict[str, Any]] = [READ_FILE, PATCH, SPACE]


def dialect(seed: str = "seed", **more: Any) -> Responses:
    """A dialect at a fixed time."""
    return Responses(1_700_000_000, seed, **more)


def asked(seed: str = "seed", previous: list[dict[str, Any]] | None = None, **body: Any) -> Responses:
    """One whose request has been read."""
    made = dialect(seed, previous=previous)
    made.request({"model": "m", "input": "hi", **body})
    return made


def chat_of(previous: list[dict[str, Any]] | None = None, **body: Any) -> dict[str, Any]:
    """The chat request made of a body."""
    return dialect(previous=previous).request({"model": "m", "input": "hi", **body})


def messages_of(*items: Any, **body: Any) -> list[dict[str, Any]]:
    """The chat messages made of input items."""
    messages: list[dict[str, Any]] = chat_of(input=list(items), **body)["messages"]
    return messages


def translated(chat: dict[str, Any], **profile: Any) -> dict[str, Any]:
    """A chat request as it goes to vLLM."""
    given = {"tokenizer": "v13", "images": True, **profile}
    return Translator(ModelProfile("m", **given)).request(chat)


# -- repaired chat streams


def chunk(delta: dict[str, Any], finish: str | None = None, **more: Any) -> Event:
    """One chunk."""
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish, **more}
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "served"}
    return encode(json.dumps({**head, "choices": [choice]}).encode())


def stream(*deltas: dict[str, Any], finish: str | None = "stop", usage: Any = USAGE) -> list[Event]:
    """A whole stream: the role, the deltas, the finish, the usage, the end."""
    events = [chunk({"role": "assistant", "content": ""}), *map(chunk, deltas)]
    if finish:
        events.append(chunk({}, finish))
    if usage:
        events.append(encode(json.dumps({"choices": [], "usage": usage}).encode()))
    return [*events, DONE]


def begun(index: int, name: str, arguments: str = "", id: str = "") -> dict[str, Any]:
    """The delta that begins a call."""
    function = {"name": name, "arguments": arguments}
    call = {"index": index, "id": id or f"call0000{index}", "type": "function", "function": function}
    return {"tool_calls": [call]}


def goes_on(index: int, arguments: str) -> dict[str, Any]:
    """One that goes on with it."""
    return {"tool_calls": [{"index": index, "function": {"arguments": arguments}}]}


def custom(index: int, name: str) -> dict[str, Any]:
    """The delta that begins a call of a custom tool."""
    call = {"index": index, "id": f"call0000{index}", "type": "custom", "custom": {"name": name, "input": ""}}
    return {"tool_calls": [call]}


def custom_input(index: int, text: str) -> dict[str, Any]:
    """Its input."""
    return {"tool_calls": [{"index": index, "custom": {"input": text}}]}


# -- reading the events


def told(made: Responses, events: list[Event], size: int = 0) -> list[dict[str, Any]]:
    """The dialect's events for a repaired stream, `size` at a time, each read strictly."""
    out = made.opening()
    step = size or len(events) or 1
    for start in range(0, len(events), step):
        out += made.events(events[start : start + step])
    return read(out)


def read(events: list[Event]) -> list[dict[str, Any]]:
    """The events' JSON. AssertionError, or pydantic's, where a strict reader would stumble."""
    bodies: list[dict[str, Any]] = []
    for number, event in enumerate(events):
        assert event.raw == b"event: %b\ndata: %b\n\n" % (event.type, event.data)
        body = json.loads(event.data)
        assert body["type"] == event.type.decode()
        assert body["sequence_number"] == number
        EVENTS.validate_json(event.data, strict=True)
        bodies.append(body)
    if bodies:
        assert [body["type"] for body in bodies[:2]] == ["response.created", "response.in_progress"]
    _check_order(bodies[2:])
    return bodies


def _check_order(bodies: list[dict[str, Any]]) -> None:
    """Every item is added once, in order, gets its deltas, and ends with what they add up to."""
    added: list[dict[str, Any]] = []
    texts: dict[str, str] = {}
    done: dict[int, dict[str, Any]] = {}
    for body in bodies:
        kind = body["type"]
        if kind == "response.output_item.added":
            assert body["output_index"] == len(added)
            added.append(body["item"])
            texts[body["item"]["id"]] = ""
        elif kind == "response.output_item.done":
            assert body["output_index"] not in done
            assert body["item"]["id"] == added[body["output_index"]]["id"]
            done[body["output_index"]] = body["item"]
        elif kind in ENDS:
            assert body is bodies[-1], "something follows the end"
            whole(body["response"])
            for index, item in enumerate(body["response"]["output"]):
                assert item["id"] == added[index]["id"]
                if item.get("status") == "incomplete" and kind == "response.failed":
                    assert index not in done
                elif item.get("status") == "incomplete" and item["type"] != "message":
                    assert index not in done, "half a call would be run"
                else:
                    assert done[index] == item
            assert len(body["response"]["output"]) == len(added)
        elif kind.endswith((".delta", ".done", ".added")):
            assert added[body["output_index"]]["id"] == body["item_id"]
            assert body["output_index"] not in done, "an item goes on after its end"
            if kind.endswith(".delta"):
                assert body["delta"]
                texts[body["item_id"]] += body["delta"]
            elif "part" not in body:
                text = next(body[key] for key in ("text", "arguments", "input") if key in body)
                assert text == texts[body["item_id"]]


ENDS = ("response.completed", "response.incomplete", "response.failed")


def whole(response: dict[str, Any]) -> Response:
    """The response object, read strictly."""
    text = json.dumps(response)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return Response.model_validate_json(text, strict=True)
