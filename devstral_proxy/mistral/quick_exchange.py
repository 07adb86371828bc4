"""Exchanges as nearly all of an agent's are: an assistant message with calls, and a text result for each, in order; or
plain text and no calls.

Nothing has to be paired, moved or mended there, at most ids renamed. What `quickly` gives is what the walk over the
exchange gives (`messages`), or it gives nothing. A history of hundreds of turns is read again with each request.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from devstral_proxy.mistral import tool_ids
from devstral_proxy.mistral.calls import NO_IDS
from devstral_proxy.mistral.history import is_right
from devstral_proxy.mistral.names import is_valid
from devstral_proxy.mistral.rewrites import RewriteLog


def is_plain(message: dict[str, Any]) -> bool:
    """A message of text, and nothing else."""
    content = message.get("content")
    return type(content) is str and content != "" and len(message) == 2  # the other key is the role


def plain_end(messages: list[dict[str, Any]], start: int) -> int:
    """Where the exchange ends that begins at `start`, when it is a plain assistant message, a plain user message, or
    the one and then the other: they stay what they are. Else `start`."""
    end, size = start, len(messages)
    for role in ("assistant", "user"):
        if end < size and messages[end]["role"] == role:
            if not is_plain(messages[end]):
                return start
            end += 1
    if end == size or (messages[end]["role"] == "assistant" and messages[end - 1]["role"] == "user" and end > start):
        return end
    return start


class Exchange(NamedTuple):
    """Its messages in Mistral's form, and the client's ids of its calls."""

    messages: list[dict[str, Any]]
    ids: list[str]


def quickly(messages: list[dict[str, Any]], start: int, splits_text: bool, log: RewriteLog) -> Exchange | None:
    """The exchange with calls that begins at `start`; None where it takes a walk to tell. `splits_text`: text beside
    calls is refused, and becomes a message of its own (tokenizer v3)."""
    message = messages[start]
    if len(message) != 3 or message["role"] != "assistant":
        return None
    calls, content = message.get("tool_calls"), message.get("content", _NOTHING)
    if type(calls) is not list or not calls:
        return None
    if content is not None and (type(content) is not str or (splits_text and content)):
        return None
    end = start + 1 + len(calls)
    if end > len(messages) or (end < len(messages) and messages[end]["role"] != "assistant"):
        return None
    ids: list[str] = []
    for place, call in enumerate(calls, start + 1):
        id = _id(call)
        if id is None or not _answers(messages[place], id):
            return None
        ids.append(id)
    mapped = [tool_ids.mapped(id) for id in ids]
    if len(mapped) > 1 and len(set(mapped)) < len(mapped):
        return None
    if mapped == ids:
        return Exchange(messages[start:end], ids)
    renamed: list[dict[str, Any]] = []
    out = [{"role": "assistant", "content": content, "tool_calls": renamed}]
    for place, id in enumerate(mapped):
        call = calls[place]
        if ids[place] != id:
            log.add("tool_call_id", f"messages[{start}].tool_calls[{place}].id")
            call = {"id": id, "type": "function", "function": call["function"]}
        renamed.append(call)
    for place, id in enumerate(mapped, start + 1):
        result = messages[place]
        if result["tool_call_id"] != id:
            log.add("tool_call_id", f"messages[{place}].tool_call_id")
            result = {**result, "tool_call_id": id}
        out.append(result)
    return Exchange(out, ids)


_NOTHING: Final = object()


def _id(call: Any) -> str | None:
    """The id of a call in which nothing but this may have to be changed."""
    try:
        id, kind, function = call["id"], call["type"], call["function"]
        name, arguments = function["name"], function["arguments"]
    except (KeyError, TypeError, IndexError):
        return None
    if type(id) is not str or id in NO_IDS or kind != "function" or len(call) != 3 or len(function) != 2:
        return None
    if type(name) is not str or not is_valid(name) or type(arguments) is not str:
        return None
    return id if is_right(arguments) else None


def _answers(result: dict[str, Any], id: str) -> bool:
    """It is a text result of the call with this id, and nothing more."""
    if result["role"] != "tool" or result.get("tool_call_id") != id or type(result.get("content")) is not str:
        return False
    if len(result) == 3:
        return True
    name = result.get("name")
    return len(result) == 4 and isinstance(name, str) and is_valid(name)
