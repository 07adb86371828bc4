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
    message = choice.get("message")
    if type(message) is not dict or not _MESSAGE.issuperset(message) or message.get("role") != "assistant":
        return None
    if message.get("reasoning") is not None or message.get("reasoning_content") is not None:
        return None
    content, calls, reason = message.get("content"), message.get("tool_calls"), choice.get("finish_reason")
    if content is not None:
        if type(content) is not str:
            return None
        # One of these is in every text that holds a call (see `tool_markup`).
        if ("[" in content or "{" in content or "TOOL_CALLS" in content) and context.reads_text:
            return None
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
    for call in calls:
        id = _id(call, context)
        if id is None:
            return None
        ids.append(tool_ids.mapped(id))
    if len(ids) > 1 and len(set(ids)) < len(ids):
        return None
    renamed = calls
    for place, call in enumerate(calls):
        if call["id"] != ids[place]:
            log.add("answer_id", f"{_where(choice, number)}.tool_calls[{place}]")
            if renamed is calls:
                renamed = calls.copy()
            renamed[place] = {**call, "id": ids[place]}
    if renamed is calls:
        return choice
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
    return f"choices[{index if isinstance(index, int) else number}]"
