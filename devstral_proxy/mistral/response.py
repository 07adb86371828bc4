"""repair_response: upstream's whole answer, as a client can read it.

The message is read by the same `Choice` that reads a stream, so both ways give one answer.
"""

from __future__ import annotations

from typing import Any

from devstral_proxy.errors import UpstreamProtocolError
from devstral_proxy.mistral.choice import Choice
from devstral_proxy.mistral.context import AnswerContext
from devstral_proxy.mistral.fold import Message
from devstral_proxy.mistral.quick_answer import quickly
from devstral_proxy.mistral.rewrites import RewriteLog
from devstral_proxy.mistral.tool_markup import Names


def repair_response(body: dict[str, Any], context: AnswerContext, log: RewriteLog) -> dict[str, Any]:
    """The chat.completion for the client; what needs no change is shared with `body`, which is left as it is.

    Raises UpstreamProtocolError for what is no chat.completion, and for an answer that vLLM itself broke off;
    AnswerLost where the token ids say that a part of it is missing.
    """
    choices = body.get("choices")
    if not isinstance(choices, list):
        raise UpstreamProtocolError("vLLM answered with something that is no chat completion")
    repaired = body.copy()
    repaired["choices"] = made = []
    for number, choice in enumerate(choices):
        quick = quickly(choice, number, context, log)
        made.append(_choice(choice, number, body.get("id"), context, log) if quick is None else quick)
    if (context.raw_text or context.token_ids) and repaired.get("prompt_token_ids") is not None:
        log.add("token_ids_hidden")
        repaired["prompt_token_ids"] = None
    return repaired


def _choice(choice: Any, number: int, id: object, context: AnswerContext, log: RewriteLog) -> dict[str, Any]:
    """One choice, read; `id` is the completion's."""
    message = choice.get("message") if isinstance(choice, dict) else None
    if not isinstance(message, dict):
        raise UpstreamProtocolError("vLLM answered with a choice that has no message")
    reason = choice.get("finish_reason") or None
    if reason in ("abort", "error"):
        raise UpstreamProtocolError(f"vLLM ended the answer: finish_reason {reason!r}")
    index = choice.get("index", number)
    names = context.markup or Names(context.tools)
    reader = Choice(index if isinstance(index, int) else number, context, names, log)
    reader.answer.seed = id if isinstance(id, str) else ""
    ids = choice.get("token_ids") if context.raw_text or context.token_ids else None
    reader.delta(_numbered(message), ids if isinstance(ids, list) else None)
    right = reader.finish(reason, choice.get("stop_reason"))
    repaired = {**choice, "message": _message(message, reader), "finish_reason": right}
    if ids is not None:
        repaired["token_ids"] = None
    return repaired


def _numbered(message: dict[str, Any]) -> dict[str, Any]:
    """The message as one delta: in a message each entry of the list is a call of its own."""
    calls = message.get("tool_calls")
    if not isinstance(calls, list):
        return message
    numbered = [{**call, "index": number} if isinstance(call, dict) else call for number, call in enumerate(calls)]
    return {**message, "tool_calls": numbered}


def _message(message: dict[str, Any], reader: Choice) -> dict[str, Any]:
    read = Message()
    for delta in reader.answer.take():
        read.add(delta)
    repaired = {**message, "role": "assistant"}
    if read.content != (message.get("content") or ""):
        repaired["content"] = read.content or None
    elif not read.calls and message.get("content") is None:
        repaired["content"] = ""
    if read.reasoning:
        repaired["reasoning_content"] = repaired["reasoning"] = read.reasoning
    if read.calls:
        repaired["tool_calls"] = read.calls
    else:
        repaired.pop("tool_calls", None)
    return repaired
