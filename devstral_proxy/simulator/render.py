"""From a chat request to the prompt's token ids, the way vLLM goes: its own checks, then mistral-common.

mistral-common's `ChatCompletionRequest.from_openai`, validator, normalizer and encoding are run as they are: what they
refuse is refused here with their words.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Any, cast

from mistral_common.protocol.instruct import request
from mistral_common.protocol.instruct.request import ChatCompletionRequest
from mistral_common.protocol.instruct.tool_calls import Function, Tool

from devstral_proxy.simulator.errors import Broken, InvalidField, Refused
from devstral_proxy.simulator.parts import check_parts
from devstral_proxy.simulator.protocol import ChatRequest
from devstral_proxy.simulator.tokenizers import ModelTokenizer

_ID_LENGTH = 9
# What mistral-common takes in reasoning_effort, and vLLM 0.32.0 names. Before 1.10 it had no such field.
_EFFORTS = tuple(str(effort.value) for effort in getattr(request, "ReasoningEffort", ())) or ("none", "high")
# vLLM fetches images; the stand-in opens no connection, and takes this pixel in place of every remote image.
_PIXEL = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk"
    "+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)


def prompt_of(chat: ChatRequest, tokenizer: ModelTokenizer, *, old: bool, images: bool) -> list[int]:
    """The prompt's token ids. Raises Refused with vLLM's status, text, type and param."""
    messages = cast("list[dict[str, Any]]", chat.messages)
    try:
        _prepare_calls(messages, old)
        _check_fields(chat, old)
        check_parts(messages, old=old, images=images)
    except (ValueError, TypeError) as error:
        raise Refused(f"{error} None" if old else str(error)) from None
    except (KeyError, AttributeError) as error:  # vLLM stumbles over these itself
        raise Broken(str(error), type=HTTPStatus(500).phrase if old else "InternalServerError") from None
    try:
        _check_end(messages, chat)
        tools = [tool.dump() for tool in chat.tools] if chat.tools is not None else None
        if old:
            _adapt_old(messages, tools)
        return _encode(messages, tools, chat, tokenizer, old)
    except Exception as error:
        # Any exception of mistral-common's is a 400 with its text; old says it twice.
        raise Refused(f"{error} {error}" if old else str(error)) from None


def _prepare_calls(messages: list[dict[str, Any]], old: bool) -> None:
    """Calls as lists, ids cut to their last nine characters (F09)."""
    for message in messages:
        role = message.get("role")
        if role == "assistant":
            calls = message.get("tool_calls", ())
            if old and calls is None:
                raise TypeError("'NoneType' object is not an iterator")
            message["tool_calls"] = calls = list(calls or ())
            for call in calls:
                call["id"] = call["id"][-_ID_LENGTH:]
        elif role in ("tool", "tool_results") and "tool_call_id" in message:
            message["tool_call_id"] = message["tool_call_id"][-_ID_LENGTH:]


def _check_fields(chat: ChatRequest, old: bool) -> None:
    if chat.chat_template is not None or chat.chat_template_kwargs is not None:
        text = "chat_template is not supported for Mistral tokenizers."
        if old:
            raise ValueError(text)
        raise InvalidField(text, "chat_template")
    effort = chat.reasoning_effort
    if effort and not old and effort not in _EFFORTS:
        raise InvalidField(
            f"reasoning_effort={effort} is not supported by Mistral models. Supported values are: {list(_EFFORTS)}.",
            "reasoning_effort",
        )


def _check_end(messages: list[dict[str, Any]], chat: ChatRequest) -> None:
    last, generate, extend = messages[-1]["role"], chat.add_generation_prompt, chat.continue_final_message
    if generate and extend:
        raise ValueError("Cannot set both `add_generation_prompt` and `continue_final_message` to True.")
    if generate and last == "assistant":
        raise ValueError(
            "Cannot set `add_generation_prompt` to True when the last message is from the assistant. "
            "Consider using `continue_final_message` instead."
        )
    if extend and last != "assistant":
        raise ValueError("Cannot set `continue_final_message` to True when the last message is not from the assistant.")


def _adapt_old(messages: list[dict[str, Any]], tools: list[dict[str, Any]] | None) -> None:
    for message in messages:
        message.pop("reasoning", None)
    for tool in tools or ():
        function = tool["function"]
        if function.get("parameters") is None:
            function["parameters"] = {}
        if function.get("description") is None:
            function["description"] = ""
        for key in set(function) - set(Function.model_fields):
            del function[key]
        for key in set(tool) - set(Tool.model_fields):
            del tool[key]


def _encode(
    messages: list[dict[str, Any]],
    tools: list[dict[str, Any]] | None,
    chat: ChatRequest,
    tokenizer: ModelTokenizer,
    old: bool,
) -> list[int]:
    adapted = [_adapt_message(message) for message in messages]
    extra: dict[str, Any] = {}
    if "reasoning_effort" in ChatCompletionRequest.model_fields and not old:
        extra["reasoning_effort"] = chat.reasoning_effort if tokenizer.number >= 15 else None
    converted = ChatCompletionRequest.from_openai(
        messages=adapted, tools=tools, continue_final_message=chat.continue_final_message, **extra
    )
    tokens: list[int] = tokenizer.mistral.encode_chat_completion(converted).tokens
    return tokens


def _adapt_message(message: dict[str, Any]) -> dict[str, Any]:
    """What transformers' MistralCommonBackend does to list content: parts without a type are dropped."""
    content = message.get("content")
    if not content or isinstance(content, str):
        return message
    return {**message, "content": [_local(part) for part in content if part.get("type", None)]}


def _local(part: dict[str, Any]) -> dict[str, Any]:
    image = part.get("image_url")
    if part["type"] == "image_url" and isinstance(image, dict) and not str(image.get("url")).startswith("data:"):
        return {**part, "image_url": {**image, "url": _PIXEL}}
    return part
