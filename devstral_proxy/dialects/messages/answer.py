"""A chat completion as Anthropic's message: what both forms of the answer, whole and streamed, have in common."""

from __future__ import annotations

import base64
import hashlib
from typing import Any, Final

import orjson

from devstral_proxy.mistral.history import history_arguments

_STOP_REASONS: Final = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "function_call": "tool_use",
    "content_filter": "refusal",
}


def message_id(seed: str) -> str:
    """The message's id, always the same for the same seed."""
    return "msg_" + hashlib.sha256(f"message {seed}".encode()).hexdigest()[:24]


def signature(seed: str) -> str:
    """What stands for the signature of a thought: clients send a thought back only when it has one, and the translation
    takes it without looking at it."""
    return base64.b64encode(hashlib.sha256(f"thought {seed}".encode()).digest()).decode()


def head(seed: str, model: str) -> dict[str, Any]:
    """The message before anything of its content is known. The counts come with the end."""
    return {
        "id": message_id(seed),
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": usage_of(None),
    }


def ending(finish: Any, stopped_by: Any) -> dict[str, Any]:
    """`stop_reason` and `stop_sequence`, given the finish reason and vLLM's own `stop_reason`: the stop string that it
    met, where it met one."""
    if finish == "stop" and isinstance(stopped_by, str) and stopped_by:
        return {"stop_reason": "stop_sequence", "stop_sequence": stopped_by}
    return {"stop_reason": _STOP_REASONS.get(finish, "end_turn"), "stop_sequence": None}


def usage_of(usage: Any) -> dict[str, int]:
    """Anthropic's counts: `input_tokens` are those that came from no cache."""
    given: dict[str, Any] = usage if isinstance(usage, dict) else {}
    details = given.get("prompt_tokens_details")
    cached = _count(details.get("cached_tokens")) if isinstance(details, dict) else 0
    return {
        "input_tokens": max(_count(given.get("prompt_tokens")) - cached, 0),
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": cached,
        "output_tokens": _count(given.get("completion_tokens")),
    }


def whole(completion: dict[str, Any], seed: str, model: str) -> dict[str, Any]:
    """A repaired chat completion as the whole message."""
    choice = completion["choices"][0]
    said = choice["message"]
    content: list[dict[str, Any]] = []
    thought = said.get("reasoning_content") or said.get("reasoning")
    if thought:
        content.append({"type": "thinking", "thinking": thought, "signature": signature(seed)})
    if said.get("content"):
        content.append({"type": "text", "text": said["content"]})
    for call in said.get("tool_calls") or ():
        function = call["function"]
        block = {"type": "tool_use", "id": call["id"], "name": function["name"]}
        content.append({**block, "input": input_of(function["arguments"])})
    return {
        **head(seed, model),
        "content": content,
        **ending(choice["finish_reason"], choice.get("stop_reason")),
        "usage": usage_of(completion.get("usage")),
    }


def input_of(arguments: str) -> dict[str, Any]:
    """A call's arguments as the object that `input` has to be."""
    value: dict[str, Any] = orjson.loads(history_arguments(arguments)[0])
    return value


def _count(value: Any) -> int:
    return value if isinstance(value, int) else 0
