"""What mistral-common says of a translated request: the check of strict profiles, and the prompt that `explain` shows.

mistral-common is imported on the first call: it is large, and serving does without it unless a profile is strict.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from devstral_proxy.errors import BadRequest
from devstral_proxy.mistral.profiles import TokenizerVersion

if TYPE_CHECKING:
    from mistral_common.protocol.instruct.request import ChatCompletionRequest

MOST_SHOWN = 300
"""Characters of mistral-common's reason that are passed on."""


def check(body: dict[str, Any], tokenizer: TokenizerVersion) -> None:
    """Run mistral-common's own conversion and validator on a translated request; CPU work, for a thread.

    Raises BadRequest with the reason, without the values that pydantic would quote.
    """
    from mistral_common.exceptions import MistralCommonException
    from mistral_common.protocol.instruct.validator import ValidationMode, get_validator
    from mistral_common.tokens.tokenizers.base import TokenizerVersion as Versions

    version = Versions.__members__.get(tokenizer)
    if version is None:  # an older mistral-common that does not know v15: there is nothing to check with
        return
    try:
        get_validator(version, ValidationMode.test).validate_request(_converted(body))
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        raise _refused(tokenizer, f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    except (MistralCommonException, ValueError, TypeError, KeyError, AttributeError) as error:
        raise _refused(tokenizer, str(error)) from None


def prompt(body: dict[str, Any], tokenizer: TokenizerVersion) -> str:
    """The prompt that the model reads for a translated request, control tokens spelled out; images are left out.

    Raises BadRequest where mistral-common refuses the request, ImportError where it is not installed, ValueError where
    it knows no such tokenizer.
    """
    from devstral_proxy.simulator.tokenizers import load

    check(body, tokenizer)
    loaded = load(tokenizer)
    return loaded.text(loaded.mistral.encode_chat_completion(_converted(_without_images(body))).tokens)


def _converted(body: dict[str, Any]) -> ChatCompletionRequest[Any]:
    from mistral_common.protocol.instruct.request import ChatCompletionRequest

    extra: dict[str, Any] = {}
    if body.get("reasoning_effort") and "reasoning_effort" in ChatCompletionRequest.model_fields:
        extra["reasoning_effort"] = body["reasoning_effort"]
    converted: ChatCompletionRequest[Any] = ChatCompletionRequest.from_openai(
        messages=copy.deepcopy(body["messages"]),  # from_openai writes into what it gets
        tools=copy.deepcopy(body.get("tools")),
        continue_final_message=bool(body.get("continue_final_message")),
        **extra,
    )
    return converted


def _without_images(body: dict[str, Any]) -> dict[str, Any]:
    def seen(part: Any) -> Any:
        is_image = isinstance(part, dict) and part.get("type") == "image_url"
        return {"type": "text", "text": "[image]"} if is_image else part

    messages = [
        {**message, "content": [seen(part) for part in message["content"]]}
        if isinstance(message.get("content"), list)
        else message
        for message in body["messages"]
    ]
    return {**body, "messages": messages}


def _refused(tokenizer: str, reason: str) -> BadRequest:
    text = " ".join(reason.split())[:MOST_SHOWN]
    return BadRequest(
        f"mistral-common refuses the request for tokenizer {tokenizer}: {text}",
        param="messages",
        code="strict_validation",
    )
