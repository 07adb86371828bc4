"""Counting tokens: what to ask vLLM, in which order, and what to say when it cannot tell.

`/tokenize` counts exactly, but for some histories with tool calls: where pydantic leaves an iterator of them,
mistral-common refuses it (vLLM mends that for chat completions only). vLLM 0.12 does so for every call, 0.32 only
beside `content: null`, so that key is left out. Rendering a chat completion counts those too, and exists since vLLM
0.15 (0.32 wants `--enable-scale-out` for it). What is left is to count the same conversation with the calls written as
text, which is off by a few tokens a call, and last an estimate from the length of the text.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import orjson

from devstral_proxy.mistral.content import JOIN, as_text
from devstral_proxy.mistral.json_text import dump

COUNT_HEADER: Final = "x-devstral-token-count"
"""The header of an answer whose count is not exact."""
ESTIMATED: Final = "estimated"
"""Its value."""

_RENDER: Final = "/v1/chat/completions/render"
_TOKENIZE: Final = "/tokenize"
_FIELDS: Final[tuple[str, ...]] = ("model", "messages", "tools", "continue_final_message", "add_generation_prompt")

# Measured with Tekken: Markdown 3.4, Python 3.9, JSON Schema 4.5 bytes a token.
_BYTES_PER_TOKEN: Final = 3.5
_PER_MESSAGE: Final = 4
_PER_IMAGE: Final = 1200
"""Devstral writes 28 by 28 pixels as one token: about 1000 by 1000 pixels."""
_PER_CALL: Final = 4
"""Control tokens around a call and its result that its text does not have."""


class Attempt(NamedTuple):
    """One question to vLLM: POST `body` to `path` (from the server's root); `exact`: the answer is no estimate.
    `extra` tokens are to be added to what it tells."""

    path: str
    body: dict[str, Any]
    exact: bool
    extra: int = 0


def attempts(translated: dict[str, Any]) -> list[Attempt]:
    """Questions worth asking for a translated chat request, in order: the first answer with status 200 counts.

    A server that does not have a path, or does not let it be used, will not have it later: worth remembering.
    """
    tokenize = {key: translated[key] for key in _FIELDS if key in translated}
    tokenize.setdefault("add_generation_prompt", not tokenize.get("continue_final_message"))
    calls = sum(len(message.get("tool_calls") or ()) for message in translated["messages"])
    if not calls:
        return [Attempt(_TOKENIZE, tokenize, exact=True)]
    render = {key: translated[key] for key in (*_FIELDS, "reasoning_effort") if key in translated}
    plain = {**tokenize, "messages": without_calls(translated["messages"])}
    tokenize["messages"] = [_without_null_content(message) for message in translated["messages"]]
    return [
        Attempt(_TOKENIZE, tokenize, exact=True),
        Attempt(_RENDER, render, exact=True),
        Attempt(_TOKENIZE, plain, exact=False, extra=calls * _PER_CALL),
    ]


def tokens_told(answer: Any) -> int | None:
    """The number of tokens that an answer to an attempt tells, None where it tells none.

    `/tokenize` has `count`; rendering has `token_ids` (vLLM 0.19 and later), or the conversation and a list of prompts.
    """
    if isinstance(answer, dict):
        if isinstance(answer.get("count"), int):
            return int(answer["count"])
        ids = answer.get("token_ids")
        return len(ids) if isinstance(ids, list) else None
    if isinstance(answer, list) and len(answer) == 2 and isinstance(answer[1], list):
        ids = [prompt.get("prompt_token_ids") for prompt in answer[1] if isinstance(prompt, dict)]
        return sum(map(len, ids)) if ids and all(isinstance(one, list) for one in ids) else None
    return None


def _without_null_content(message: dict[str, Any]) -> dict[str, Any]:
    if message.get("content", "") is not None:
        return message
    return {key: value for key, value in message.items() if key != "content"}


def without_calls(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Translated messages with the calls as text of the assistant and their results as text of the user."""
    out: list[dict[str, Any]] = []
    results: list[str] = []

    def flush() -> None:
        if results:
            out.append({"role": "user", "content": JOIN.join(results)})
            results.clear()

    for message in messages:
        if message["role"] == "tool":
            results.append(message["content"])
            continue
        if message["role"] == "user" and results:
            content = message["content"]
            text = content if isinstance(content, str) else as_text(content)
            images = [] if isinstance(content, str) else [part for part in content if part["type"] == "image_url"]
            joined = JOIN.join([*results, text])
            results.clear()
            out.append({"role": "user", "content": [*images, {"type": "text", "text": joined}] if images else joined})
            continue
        flush()
        calls = message.get("tool_calls")
        if not calls:
            out.append(message)
            continue
        content = message.get("content") or ""
        said = [content if isinstance(content, str) else as_text(content)]
        for call in calls:
            said += [call["id"], call["function"]["name"], call["function"]["arguments"]]
        out.append({"role": "assistant", "content": "\n".join(text for text in said if text)})
    flush()
    return out


def estimate(chat: dict[str, Any]) -> int:
    """Tokens that the prompt of a chat request has, judged by its length: rather too many than too few."""
    size = len(orjson.dumps(chat["tools"])) if chat.get("tools") else 0
    images = 0
    for message in chat["messages"]:
        content = message.get("content")
        for part in [content] if isinstance(content, str) else content or ():
            if isinstance(part, str):
                size += len(part.encode("utf-8", "replace"))
            elif part.get("type") == "image_url":
                images += 1
            else:
                size += len(dump(part.get("text") or part.get("thinking") or "").encode())
        size += len((message.get("reasoning_content") or "").encode("utf-8", "replace"))
        size += len(dump(message["tool_calls"]).encode()) if message.get("tool_calls") else 0
    return round(size / _BYTES_PER_TOKEN) + images * _PER_IMAGE + len(chat["messages"]) * _PER_MESSAGE + 1


def counted(tokens: int) -> dict[str, Any]:
    """The answer of `/v1/messages/count_tokens`."""
    return {"input_tokens": tokens}
