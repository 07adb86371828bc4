"""Answers for clients that sent the legacy `functions`: `function_call` instead of `tool_calls`.

Such a client reads one call an answer, under the older name, without id. The repair works as for everybody (the context
lets one call through); what it gives is renamed here.
"""

from __future__ import annotations

from typing import Any

import orjson

from devstral_proxy.upstream.sse import Event, encode


def renamed(body: dict[str, Any]) -> dict[str, Any]:
    """A repaired chat completion, or chunk, with `function_call`; the same dict where it holds no call."""
    choices = body.get("choices")
    if not isinstance(choices, list) or not any(_concerned(choice) for choice in choices):
        return body
    return {**body, "choices": [_choice(choice) for choice in choices]}


def _concerned(choice: Any) -> bool:
    return isinstance(choice, dict) and (
        choice.get("finish_reason") == "tool_calls"
        or any("tool_calls" in (choice.get(key) or ()) for key in ("message", "delta"))
    )


def _choice(choice: dict[str, Any]) -> dict[str, Any]:
    new = dict(choice)
    if new.get("finish_reason") == "tool_calls":
        new["finish_reason"] = "function_call"
    for key in ("message", "delta"):
        if "tool_calls" in (new.get(key) or ()):
            inner = dict(new[key])
            calls = inner.pop("tool_calls")
            if calls and "function" in calls[0]:
                inner["function_call"] = calls[0]["function"]
            new[key] = inner
    return new


def renamed_event(event: Event) -> Event:
    """A repaired event with its chunk renamed; the same event where there is no call in it."""
    if b"tool_calls" not in event.data:
        return event
    chunk = orjson.loads(event.data)
    new = renamed(chunk)
    return event if new is chunk else encode(orjson.dumps(new))
