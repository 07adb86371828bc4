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
_CALL: Final = frozenset(("id", "type", "function"))
_FUNCTION: Final = frozenset(("name", "arguments"))


def quickly(choice: Any, number: int, context: AnswerContext, log: RewriteLog) -> dict[str, Any] | None:
    """The choice for the client; None where it takes a reader to tell."""
    if not isinstance(choice, dict) or choice.get("token_ids") is not None:
        return None
    message = choice.get("message")
    if not isinstance(message, dict) or not message.keys() <= _MESSAGE or message.get("role") != "assistant":
        return None
    if message.get("reasoning") is not None or message.get("reasoning_content") is not None:
        return None
    content, calls, reason = message.get("content"), message.get("tool_calls"), choice.get("finish_reason")
    if content is not None and (not isinstance(content, str) or (context.reads_text and _may_hold_call(content))):
        return None
    if not calls:
        if not content or reason not in ("stop", "content_filter"):
            return None
        if "tool_calls" not in message:
            return choice
        log.add("empty_calls_dropped", _where(choice, number))
        return {**choice, "message": {key: value for key, value in message.items() if key != "tool_calls"}}
    if reason != "tool_calls" or not isinstance(calls, list) or len(calls) > context.max_calls:
        return None
    ids = []
    for call in calls:
        if not _is_right(call, context):
            return None
        ids.append(tool_ids.mapped(call["id"]))
    if len(ids) > 1 and len(set(ids)) < len(ids):
        return None
    renamed = []
    for place, call in enumerate(calls):
        if call["id"] != ids[place]:
            log.add("answer_id", f"{_where(choice, number)}.tool_calls[{place}]")
            call = {**call, "id": ids[place]}
        renamed.append(call)
    if renamed == calls:
        return choice
    return {**choice, "message": {**message, "tool_calls": renamed}}


def _is_right(call: Any, context: AnswerContext) -> bool:
    """A call that a client can take as it is, but for its id."""
    if not isinstance(call, dict) or call.keys() != _CALL or call["type"] != "function":
        return False
    id, function = call["id"], call["function"]
    if not isinstance(id, str) or not id or id == "null":
        return False
    if not isinstance(function, dict) or function.keys() != _FUNCTION:
        return False
    name, arguments = function["name"], function["arguments"]
    return (
        isinstance(name, str)
        and name in context.tools
        and name not in context.names
        and name not in context.custom
        and isinstance(arguments, str)
        and is_whole(arguments)
    )


def _may_hold_call(text: str) -> bool:
    """One of these is in every text that holds a call (see `tool_markup`)."""
    return "[" in text or "{" in text or "TOOL_CALLS" in text


def _where(choice: dict[str, Any], number: int) -> str:
    index = choice.get("index", number)
    return f"choices[{index if isinstance(index, int) else number}]"
