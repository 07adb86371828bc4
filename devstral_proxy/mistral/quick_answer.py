"""A whole answer in which there is nothing to read twice: most answers are, and are told by a look at each field.

What `quickly` gives is what the reading of the message gives (`response`), or it gives nothing.
"""

from __future__ import annotations

from typing import Any, Final

from devstral_proxy.mistral import tool_ids
from devstral_proxy.mistral.arguments import is_whole
from devstral_proxy.mistral.context import AnswerContext
from devstral_proxy.mistral.rewrites import RewriteLog

_MESSAGE: Final = frozenset(
    (
        "role",
        "content",
        "tool_calls",
        "reasoning",
        "reasoning_content",
        "refusal",
        "annotations",
        "audio",
        "function_call",
    )
)


def quickly(choice: Any, number: int, context: AnswerContext, log: RewriteLog) -> dict[str, Any] | None:
    """The choice for the client; None where it takes a reader to tell."""
    if type(choice) is not dict or choice.get("token_ids") is not None:
        return None
    try:
        message, reason = choice["message"], choice["finish_reason"]
        role, content = message["role"], message["content"]
    except (KeyError, TypeError):
        return None
    if type(message) is not dict or role != "assistant" or not _MESSAGE.issuperset(message):
        return None
    if message.get("reasoning") is not None or message.get("reasoning_content") is not None:
        return None
    if content is not None:
        if type(content) is not str:
            return None
        # One of these is in every text that holds a call (see `tool_markup`).
        if ("[" in content or "{" in content or "TOOL_CALLS" in content) and context.reads_text:
            return None
    calls = message.get("tool_calls")
    if not calls:
        if not content or reason not in ("stop", "content_filter"):
            return None
        if "tool_calls" not in message:
            return choice
        log.add("empty_calls_dropped", _where(choice, number))
        return {**choice, "message": {key: value for key, value in message.items() if key != "tool_calls"}}
    if reason != "tool_calls" or type(calls) is not list or len(calls) > context.max_calls:
        return None
    ids: list[str] = []
    renamed: list[dict[str, Any]] = []
    changes: list[int] = []
    for call in calls:
        id = _id(call, context)
        if id is None:
            return None
        own = tool_ids.mapped(id)
        if own != id:
            changes.append(len(ids))
            call = call.copy()
            call["id"] = own
        ids.append(own)
        renamed.append(call)
    if len(ids) > 1 and len(set(ids)) < len(ids):
        return None
    if not changes:
        return choice
    for place in changes:
        log.add("answer_id", f"{_where(choice, number)}.tool_calls[{place}]")
    message = message.copy()
    message["tool_calls"] = renamed
    repaired: dict[str, Any] = choice.copy()
    repaired["message"] = message
    return repaired


def _id(call: Any, context: AnswerContext) -> str | None:
    """The id of a call that a client can take as it is, but for this; else None."""
    try:
        id, function = call["id"], call["function"]
        name, arguments = function["name"], function["arguments"]
        if call["type"] != "function" or len(call) != 3 or len(function) != 2:
            return None
    except (KeyError, TypeError):
        return None
    if type(id) is not str or not id or id == "null" or type(name) is not str or type(arguments) is not str:
        return None
    if name not in context.tools or name in context.names or name in context.custom:
        return None
    return id if is_whole(arguments) else None


def _where(choice: dict[str, Any], number: int) -> str:
    index = choice.get("index", number)
    if type(index) is int and index == 0:  # as nearly always: it need not be written out
        return "choices[0]"
    return f"choices[{index if isinstance(index, int) else number}]"
