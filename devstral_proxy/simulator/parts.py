"""vLLM's look at content parts and calls before mistral-common gets them (parse_chat_messages)."""

from __future__ import annotations

import json
from typing import Any, Never

from devstral_proxy.simulator.errors import InvalidField

# fmt: off
_TEXT = {"text": "text", "thinking": "thinking", "input_text": "text", "output_text": "text", "refusal": "refusal"}
_MEDIA = {
    "image_url": "image", "input_image": "image", "image_embeds": "image", "image_pil": "image", "audio_url": "audio",
    "input_audio": "audio", "audio_embeds": "audio", "video_url": "video", "video_embeds": "video",
}
_SUPPORTED = (
    "audio_embeds", "audio_url", "image_embeds", "image_pil", "image_url", "input_audio", "input_image", "input_text",
    "output_text", "prompt_embeds", "refusal", "text", "thinking", "tool_reference", "video_embeds", "video_url",
)
# fmt: on


def check_parts(messages: list[dict[str, Any]], *, old: bool, images: bool) -> None:
    """Parts that vLLM does not know or the model cannot take, and calls that are none, are refused.

    Arguments of calls become what they say as JSON, as vLLM leaves them to mistral-common. Raises Refused, and in old
    whatever vLLM raises.
    """
    for message in messages:
        content = message.get("content")
        if content is None or isinstance(content, str):
            continue
        for part in content:
            if not isinstance(part, str):
                _check_part(part, old, images)
    read_call = _read_call_old if old else _read_call
    for message in messages:
        if message["role"] == "assistant":
            for call in message.get("tool_calls") or ():
                read_call(call)


def _check_part(part: dict[str, Any], old: bool, images: bool) -> None:
    kind = part.get("type")
    if kind is None:
        kind = next((key for key in _MEDIA if key in part), None)
        if kind is None:
            _refuse("Missing 'type' field in multimodal part.", old)
    if kind in _TEXT or (kind == "tool_reference" and not old):
        return
    modality = _MEDIA.get(kind)
    if modality is None:
        if old:
            raise ValueError(f"Unknown part type: {kind}")
        told = f"Unsupported chat content part type: {kind!r}. Supported types: {', '.join(_SUPPORTED)}."
        raise InvalidField(told, "type", kind)
    image = part.get("image_url")
    if kind == "image_url" and "type" in part and not (isinstance(image, dict) and isinstance(image.get("url"), str)):
        raise ValueError("1 validation error for ChatCompletionContentPartImageParam")
    if modality != "image" or not images:
        raise ValueError(f"At most 0 {modality}(s) may be provided in one prompt.")


def _refuse(message: str, old: bool) -> Never:
    if old:
        raise ValueError(message)
    raise InvalidField(message, "type")


def _read_call(call: Any) -> None:
    if not isinstance(call, dict):
        raise InvalidField("assistant tool_calls entries must be objects.", "tool_calls")
    function = call.get("function")
    if call.get("type", "function") != "function" or not isinstance(function, dict):
        raise InvalidField("chat completions only support assistant tool_calls of type 'function'.", "tool_calls")
    arguments = function.get("arguments")
    if isinstance(arguments, str) and arguments:
        try:
            arguments = json.loads(arguments)
        except json.JSONDecodeError:
            arguments = None
    # What is no JSON object is gone without a word (F49, F50).
    function["arguments"] = arguments if isinstance(arguments, dict) else {}


def _read_call_old(call: Any) -> None:
    function = call["function"]
    arguments = function.get("arguments")
    if not arguments:
        function["arguments"] = {}
    elif not isinstance(arguments, (dict, list)):
        function["arguments"] = json.loads(arguments)
