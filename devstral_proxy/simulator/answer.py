"""Answers to a chat completion in vLLM's shape: the chunks of a stream, or one JSON body.

Shape, key order and order of chunks are those of recorded answers, new (0.32.0) and old (0.12.0).
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

from devstral_proxy.simulator.generate import Step
from devstral_proxy.simulator.parse_new import Parser, call_id
from devstral_proxy.simulator.parse_old import (
    ArrayParser,
    NamedParser,
    OldParser,
    extract_array,
    extract_old,
    extract_required,
)
from devstral_proxy.simulator.protocol import ChatNamed, ChatRequest
from devstral_proxy.simulator.tokenizers import ModelTokenizer

_LOGPROB = -0.5


class StreamParser(Protocol):
    def feed(self, ids: list[int], text: str, finished: bool) -> dict[str, Any] | None: ...


class _Plain:
    """No parser: every step is a delta."""

    def __init__(self, new: bool) -> None:
        self._new = new

    def feed(self, ids: list[int], text: str, finished: bool) -> dict[str, Any] | None:
        return {"content": text} if text or not self._new else None


@dataclass(slots=True)
class Exchange:
    """One accepted request and what is needed to answer it. `choices`: makes the steps of a choice, by its index."""

    request: ChatRequest
    prompt: list[int]
    tokenizer: ModelTokenizer
    choices: Callable[[int], Iterator[Step]]
    model: str
    fingerprint: str | None
    old: bool
    reasoning: bool = False
    request_id: str | None = None
    id: str = field(init=False)
    created: int = field(init=False)

    def __post_init__(self) -> None:
        self.id = f"chatcmpl-{self.request_id or secrets.token_hex(8)}"
        self.created = int(time.time())

    @property
    def n(self) -> int:
        return 1 if self.request.n is None else self.request.n

    @property
    def forced(self) -> bool:
        """The choice is `required` or names a tool."""
        return self.request.tool_choice == "required" or self.named is not None

    @property
    def named(self) -> str | None:
        choice = self.request.tool_choice
        return choice.function.name if isinstance(choice, ChatNamed) else None


def _parser(exchange: Exchange) -> StreamParser:
    request, tokenizer = exchange.request, exchange.tokenizer
    v11 = tokenizer.number >= 11
    if exchange.old:
        if not request.tools or request.tool_choice == "none":
            return _Plain(new=False)
        if exchange.named:
            return NamedParser(exchange.named)
        return ArrayParser(forced=True, new=False, joined=True) if exchange.forced else OldParser()
    if not v11 and not (request.tool_choice == "none" and request.tools):
        return ArrayParser(exchange.forced, new=True)
    return new_parser(exchange, by_text=False)


def new_parser(exchange: Exchange, by_text: bool) -> Parser:
    return Parser(
        exchange.tokenizer.spelled,
        exchange.tokenizer.spellings,
        reasoning=exchange.reasoning,
        suppress=bool(exchange.request.tool_choice == "none" and exchange.request.tools),
        by_text=by_text,
    )


def _role(exchange: Exchange) -> Any:
    request = exchange.request
    return "assistant" if request.add_generation_prompt else dict(request.messages[-1])["role"]


def stream(exchange: Exchange) -> Iterator[dict[str, Any]]:
    """The chunks, as JSON objects, without `[DONE]`."""
    request, old = exchange.request, exchange.old
    options = request.stream_options
    usage = bool(options and options.include_usage)
    running = usage and bool(options and options.continuous_usage_stats)
    counts = [0] * exchange.n

    def chunk(choice: dict[str, Any], count: int, **last: Any) -> dict[str, Any]:
        made = {**_head(exchange), "choices": [choice]}
        if running:
            made["usage"] = _usage(exchange, count) | ({} if old else {"completion_tokens_details": None})
        return made | last

    first: dict[str, Any] = {"prompt_token_ids": exchange.prompt if request.return_token_ids else None}
    if not old:
        asked = request.return_prompt_text
        first["prompt_text"] = exchange.tokenizer.text(exchange.prompt) if asked else None
    for index in range(exchange.n):
        delta = _delta({"role": _role(exchange), "content": ""}, old)
        yield chunk({"index": index, "delta": delta, "logprobs": None, "finish_reason": None}, 0, **first)

    for index, step, made in _interleaved(exchange):
        counts[index] += len(step.ids)
        logprobs = _logprobs(exchange, step.ids) if request.logprobs else None
        if made is None:
            if step.finish is None and (old or not (logprobs or request.return_token_ids)):
                continue
            made = {}
        delta = _filtered(made, request)
        choice = {"index": index, "delta": _delta(delta, old), "logprobs": logprobs, "finish_reason": step.finish}
        if step.finish is not None:
            choice["stop_reason"] = step.stop
        choice["token_ids"] = step.ids if request.return_token_ids else None
        last = {"system_fingerprint": exchange.fingerprint} if step.finish and not (usage or old) else {}
        yield chunk(choice, counts[index], **last)

    if usage:
        final = {**_head(exchange), "choices": [], "usage": _usage(exchange, sum(counts))}
        yield final if old else final | {"system_fingerprint": exchange.fingerprint}


def _interleaved(exchange: Exchange) -> Iterator[tuple[int, Step, dict[str, Any] | None]]:
    """The steps of all choices in turn, with what the parser makes of each; finish reasons as clients see them."""
    sources = {index: (exchange.choices(index), _parser(exchange)) for index in range(exchange.n)}
    called = [False] * exchange.n
    while sources:
        for index, (source, parser) in list(sources.items()):
            step = next(source, None)
            if step is None:
                del sources[index]
                continue
            made = parser.feed(step.ids, step.text, step.finish is not None)
            called[index] = called[index] or bool(made and made.get("tool_calls"))
            if step.finish == "stop" and called[index] and not exchange.named:
                step.finish = "tool_calls"
            yield index, step, made


def whole(exchange: Exchange) -> dict[str, Any]:
    """The answer without streaming."""
    request, old = exchange.request, exchange.old
    choices, total = [], 0
    for index in range(exchange.n):
        steps = list(exchange.choices(index))
        ids = [number for step in steps for number in step.ids]
        total += len(ids)
        message, called = _message(exchange, "".join(step.text for step in steps))
        finish = steps[-1].finish
        if called or (request.tool_choice == "required" and finish == "stop"):
            finish = "tool_calls"
        choice = {
            "index": index,
            "message": message,
            "logprobs": _logprobs(exchange, ids) if request.logprobs else None,
            "finish_reason": finish,
            "stop_reason": steps[-1].stop,
            "token_ids": ids if request.return_token_ids else None,
        }
        choices.append(choice if old else choice | {"routed_experts": None})
    usage = _usage(exchange, total) | {"prompt_tokens_details": None}
    prompt = exchange.prompt if request.return_token_ids else None
    body = {"id": exchange.id, "object": "chat.completion", "created": exchange.created, "model": exchange.model}
    body |= {"choices": choices, "service_tier": None, "system_fingerprint": exchange.fingerprint}
    if old:
        return body | {
            "usage": usage, "prompt_logprobs": None, "prompt_token_ids": prompt, "kv_transfer_params": None
        }  # fmt: skip
    text = exchange.tokenizer.text(exchange.prompt) if request.return_prompt_text else None
    return body | {
        "usage": usage | {"completion_tokens_details": None},
        "prompt_logprobs": None,
        "prompt_token_ids": prompt,
        "prompt_text": text,
        "kv_transfer_params": None,
        "ec_transfer_params": None,
        "metrics": None,
    }


def _message(exchange: Exchange, text: str) -> tuple[dict[str, Any], bool]:
    """The message, and whether calls of an `auto` choice are in it."""
    request = exchange.request
    content, calls, reasoning = _extract(exchange, text)
    if request.parallel_tool_calls is False:
        calls = calls[:1]
    if exchange.forced:
        content = content or ""
    message: dict[str, Any] = {"role": _role(exchange), "content": content}
    message |= {"refusal": None, "annotations": None, "audio": None, "function_call": None}
    if calls or exchange.old:
        message["tool_calls"] = calls
    message["reasoning"] = reasoning
    if exchange.old:
        message["reasoning_content"] = reasoning
    return message, bool(calls) and not exchange.forced


def _extract(exchange: Exchange, text: str) -> tuple[str | None, list[dict[str, Any]], str | None]:
    request, tokenizer = exchange.request, exchange.tokenizer
    v11 = tokenizer.number >= 11
    none = not request.tools or request.tool_choice == "none"
    if exchange.old:
        if none:
            return text, [], None
        if exchange.named:
            function = {"name": exchange.named, "arguments": text}
            return "", [{"id": call_id(), "type": "function", "function": function}], None
        if exchange.forced:
            return "", extract_required(text), None
        content, calls = extract_old(text, v11)
        return content, calls, None
    if not v11:
        if none:
            return text, [], None
        content, calls = extract_array(text, exchange.forced)
        return content, calls, None
    parser = new_parser(exchange, by_text=True)
    made = parser.feed([], text, True) or {}
    calls = [] if request.tool_choice == "none" else parser.calls()
    content = made.get("content")
    return (content.strip() or None if content and calls else content), calls, made.get("reasoning")


def _head(exchange: Exchange) -> dict[str, Any]:
    kind = "chat.completion.chunk"
    return {"id": exchange.id, "object": kind, "created": exchange.created, "model": exchange.model}


def _usage(exchange: Exchange, count: int) -> dict[str, Any]:
    prompt = len(exchange.prompt)
    return {"prompt_tokens": prompt, "total_tokens": prompt + count, "completion_tokens": count}


def _delta(delta: dict[str, Any], old: bool) -> dict[str, Any]:
    if not old:
        return delta
    calls = {"tool_calls": delta["tool_calls"]} if "tool_calls" in delta else {}
    return {key: value for key, value in delta.items() if key != "tool_calls"} | {"reasoning_content": None} | calls


def _filtered(delta: dict[str, Any], request: ChatRequest) -> dict[str, Any]:
    if request.parallel_tool_calls is not False or "tool_calls" not in delta:
        return delta
    kept = [call for call in delta["tool_calls"] if call["index"] == 0]
    rest = {key: value for key, value in delta.items() if key != "tool_calls"}
    return rest | {"tool_calls": kept} if kept else rest


def _logprobs(exchange: Exchange, ids: list[int]) -> dict[str, Any]:
    entries = []
    for number in ids:
        token = exchange.tokenizer.piece(number)
        one = {"token": token, "logprob": _LOGPROB, "bytes": list(token.encode())}
        top = [dict(one)] if exchange.request.top_logprobs else []
        entries.append(one | {"top_logprobs": top})
    return {"content": entries}
