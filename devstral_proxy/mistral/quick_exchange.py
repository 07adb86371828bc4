"""Exchanges as nearly all of an agent's are: an assistant message with calls, and a text result for each, in order; or
plain text and no calls.

Nothing has to be paired, moved or mended there, at most ids renamed. What `quickly` gives is what the walk over the
exchange gives (`messages`), or it gives nothing. A history of hundreds of turns is read again with each request: so
this asks for exact types, takes keys as they should be there, and calls nothing that can be looked up.
"""

from __future__ import annotations

from collections.abc import Container
from typing import Any, Final

from orjson import loads

from devstral_proxy.mistral.calls import NO_IDS
from devstral_proxy.mistral.json_text import MAX_DEPTH, is_deep
from devstral_proxy.mistral.names import is_valid
from devstral_proxy.mistral.rewrites import RewriteLog
from devstral_proxy.mistral.tool_ids import MAX_KEPT, kept


def is_plain(message: dict[str, Any]) -> bool:
    """A message of text, and nothing else."""
    content = message.get("content")
    return type(content) is str and content != "" and len(message) == 2  # the other key is the role


def plain_end(messages: list[dict[str, Any]], start: int) -> int:
    """Where the exchange ends that begins at `start`, when it is a plain assistant message, a plain user message, or
    the one and then the other: they stay what they are. Else `start`."""
    end, size = start, len(messages)
    if messages[end]["role"] == "assistant":
        if not is_plain(messages[end]):
            return start
        end += 1
        if end == size:
            return end
    if messages[end]["role"] != "user" or not is_plain(messages[end]):
        return start
    end += 1
    return end if end == size or messages[end]["role"] == "assistant" else start


def quickly(
    messages: list[dict[str, Any]],
    start: int,
    splits_text: bool,
    valid: Container[str],
    log: RewriteLog,
    out: list[dict[str, Any]],
    given: list[str],
) -> int:
    """Append to `out` what the exchange with calls that begins at `start` comes to, and to `given` the client's ids of
    its calls; returns where the next one begins. `start` itself where it takes a walk to tell: then nothing is done.

    `splits_text`: text beside calls is refused, and becomes a message of its own (tokenizer v3). `valid`: tools' names
    that are known to be so.
    """
    message = messages[start]
    if len(message) != 3 or message["role"] != "assistant":
        return start
    try:
        calls, content = message["tool_calls"], message["content"]
    except KeyError:
        return start
    if type(calls) is not list or not calls:
        return start
    if content is not None and (type(content) is not str or (splits_text and content)):
        return start
    end = start + 1 + len(calls)
    if end > len(messages) or (end < len(messages) and messages[end]["role"] != "assistant"):
        return start
    if len(calls) > 1:
        return end if _several(messages, start, valid, log, out, given) else start
    call, result = calls[0], messages[start + 1]
    id = _id(call, result, valid)
    if id is None:
        return start
    given.append(id)
    own = kept(id)
    if own == id:
        out += (message, result)
        return end
    if start < _LISTED:
        log.entries += (_OF_CALL[start], _OF_RESULT[start])
    else:
        log.entries += (_of_call(start, 0), _of_result(start + 1))
    call = {"id": own, "type": "function", "function": call["function"]}
    result = result.copy()
    result["tool_call_id"] = own
    out += ({"role": "assistant", "content": content, "tool_calls": [call]}, result)
    return end


def _id(call: Any, result: dict[str, Any], valid: Container[str]) -> str | None:
    """The id of a call in which nothing but this may have to be changed, given the message that has to be a text result
    of this call, and nothing more. Else None."""
    try:
        id, function = call["id"], call["function"]
        name, arguments = function["name"], function["arguments"]
        if call["type"] != "function" or len(call) != 3 or len(function) != 2:
            return None
        if type(id) is not str or id in NO_IDS or len(id) > MAX_KEPT:
            return None
        if type(name) is not str or (name not in valid and not is_valid(name)):
            return None
        if result["tool_call_id"] != id or result["role"] != "tool" or type(result["content"]) is not str:
            return None
        if type(arguments) is not str or type(loads(arguments)) is not dict:
            return None
    except (KeyError, TypeError, ValueError):  # no such key, no object, no JSON
        return None
    if len(arguments) > MAX_DEPTH and is_deep(arguments):
        return None
    return id if len(result) == 3 or _is_named(result) else None


def _is_named(result: dict[str, Any]) -> bool:
    """Its one further key is the tool's name."""
    name = result.get("name")
    return len(result) == 4 and isinstance(name, str) and is_valid(name)


def _several(
    messages: list[dict[str, Any]],
    start: int,
    valid: Container[str],
    log: RewriteLog,
    out: list[dict[str, Any]],
    given: list[str],
) -> bool:
    """An exchange with several calls, and as many messages behind them."""
    message = messages[start]
    calls, results = message["tool_calls"], messages[start + 1 : start + 1 + len(message["tool_calls"])]
    ids: list[str] = []
    for call, result in zip(calls, results, strict=True):
        id = _id(call, result, valid)
        if id is None:
            return False
        ids.append(id)
    own = [kept(id) for id in ids]
    if len(set(own)) < len(own):
        return False
    given += ids
    if own == ids:
        out += (message, *results)
        return True
    renamed = []
    for number, (call, old, new) in enumerate(zip(calls, ids, own, strict=True)):
        if old != new:
            log.entries.append(_of_call(start, number))
            call = {"id": new, "type": "function", "function": call["function"]}
        renamed.append(call)
    out.append({"role": "assistant", "content": message["content"], "tool_calls": renamed})
    for place, (result, old, new) in enumerate(zip(results, ids, own, strict=True), start + 1):
        if old != new:
            log.entries.append(_of_result(place))
            result = {**result, "tool_call_id": new}
        out.append(result)
    return True


def _of_call(place: int, number: int) -> tuple[str, str]:
    return "tool_call_id", f"messages[{place}].tool_calls[{number}].id"


def _of_result(place: int) -> tuple[str, str]:
    return "tool_call_id", f"messages[{place}].tool_call_id"


_LISTED: Final = 1024
# Nearly all changes are these two of one call: they are not written out anew for each exchange of each request.
_OF_CALL: Final = [_of_call(start, 0) for start in range(_LISTED)]
_OF_RESULT: Final = [_of_result(start + 1) for start in range(_LISTED)]
