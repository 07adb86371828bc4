"""/v1/completions, /tokenize and /detokenize: the endpoints that take a prompt as it is."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from devstral_proxy.simulator.checks import check_sampling
from devstral_proxy.simulator.engine import Simulator
from devstral_proxy.simulator.errors import InvalidField, Refused
from devstral_proxy.simulator.generate import Step, steps
from devstral_proxy.simulator.messages import ChatMessage
from devstral_proxy.simulator.protocol import (
    ChatCompletionToolsParam,
    ChatRequest,
    Open,
    Scalar,
    StreamOptions,
    refusal,
)

_SAYS = "This is simulated text."
Model = TypeVar("Model", bound=BaseModel)


class CompletionRequest(Open):
    """The fields of /v1/completions that the stand-in heeds."""

    prompt: list[int] | list[list[int]] | str | list[str] | None = None
    model: str | None = None
    max_tokens: int | None = 16
    n: int = 1
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    stop: str | list[str] | None = None
    temperature: float | None = None
    top_p: float | None = None
    echo: bool | None = False
    return_token_ids: bool | None = None
    vllm_xargs: dict[str, Scalar | list[Scalar]] | None = None


class TokenizeCompletionRequest(Open):
    prompt: str
    model: str | None = None
    add_special_tokens: bool = True
    return_token_strs: bool | None = False


class TokenizeChatRequest(Open):
    messages: list[ChatMessage]
    model: str | None = None
    add_generation_prompt: bool = True
    continue_final_message: bool = False
    return_token_strs: bool | None = False
    tools: list[ChatCompletionToolsParam] | None = None
    chat_template: str | None = None
    chat_template_kwargs: dict[str, Any] | None = None


class DetokenizeRequest(Open):
    tokens: list[int]
    model: str | None = None


def _model(model: type[Model], body: Any, old: bool) -> Model:
    try:
        return model.model_validate(body)
    except ValidationError as error:
        raise refusal(error.errors(include_url=False), old) from None


@dataclass(slots=True)
class Asked:
    """An accepted text completion: for each prompt its ids, and what comes out."""

    request: CompletionRequest
    prompts: list[list[int]]
    max_tokens: int
    outputs: list[list[int]]
    id: str

    @property
    def stream(self) -> bool:
        return bool(self.request.stream)


def check(simulator: Simulator, body: Any) -> Asked:
    """The completion that a body asks for. Raises Refused."""
    request = _model(CompletionRequest, body, simulator.old)
    simulator.check_model(request.model)
    prompts = [_ids(simulator, prompt) for prompt in _prompts(request.prompt)]
    if not prompts:
        raise Refused("Either prompt or prompt_embeds must be provided and non-empty.")
    for prompt in prompts:
        simulator.check_length(len(prompt))
    rest = simulator.options.max_model_len - max(map(len, prompts))
    max_tokens = rest if request.max_tokens is None else min(rest, request.max_tokens)
    sampling = {key: getattr(request, key) for key in ("n", "temperature", "top_p", "stop")}
    check_sampling(ChatRequest.model_validate({"messages": [], **sampling}), max_tokens, simulator.old)
    outputs = [simulator.continues(prompt, request.vllm_xargs) for prompt in prompts]
    return Asked(request, prompts, max_tokens, outputs, f"cmpl-{secrets.token_hex(8)}")


def _prompts(prompt: Any) -> list[Any]:
    """One prompt or several: text, ids, or a list of either."""
    if isinstance(prompt, str):
        return [prompt]
    if isinstance(prompt, list) and prompt and isinstance(prompt[0], int):
        return [prompt]
    return list(prompt or ())


def _ids(simulator: Simulator, prompt: Any) -> list[int]:
    return simulator.tokenizer.encode(prompt, bos=True) if isinstance(prompt, str) else list(prompt)


def _choices(simulator: Simulator, asked: Asked) -> list[Iterator[Step]]:
    request = asked.request
    listed = [request.stop] if isinstance(request.stop, str) else list(request.stop or ())
    return [
        steps(output, simulator.tokenizer, shown=simulator.shown, max_tokens=asked.max_tokens, stops=listed)
        for output in asked.outputs
        for _ in range(request.n)
    ]


def _head(simulator: Simulator, asked: Asked) -> dict[str, Any]:
    model = simulator.options.model
    return {"id": asked.id, "object": "text_completion", "created": int(time.time()), "model": model}


def stream(simulator: Simulator, asked: Asked) -> Iterator[dict[str, Any]]:
    """The chunks of a streamed text completion, without `[DONE]`."""
    request, total, head = asked.request, 0, _head(simulator, asked)
    with_ids = bool(request.return_token_ids)
    for index, source in enumerate(_choices(simulator, asked)):
        prompt: list[int] | None = asked.prompts[index // request.n] if with_ids else None
        for step in source:
            total += len(step.ids)
            choice = {"index": index, "text": step.text, "logprobs": None, "finish_reason": step.finish}
            choice |= {"stop_reason": step.stop, "prompt_token_ids": prompt}
            yield {**head, "choices": [choice | {"token_ids": step.ids if with_ids else None}]}
            prompt = None
    if request.stream_options and request.stream_options.include_usage:
        final = {**head, "choices": [], "usage": _usage(asked, total)}
        yield final if simulator.old else final | {"system_fingerprint": simulator.fingerprint}


def whole(simulator: Simulator, asked: Asked) -> dict[str, Any]:
    """A text completion without streaming."""
    choices, total, old = [], 0, simulator.old
    for index, source in enumerate(_choices(simulator, asked)):
        found = list(source)
        ids = [number for step in found for number in step.ids]
        total += len(ids)
        with_ids = bool(asked.request.return_token_ids)
        choice = {"index": index, "text": "".join(step.text for step in found), "logprobs": None}
        choice |= {"finish_reason": found[-1].finish, "stop_reason": found[-1].stop}
        choice |= {"token_ids": ids if with_ids else None, "prompt_logprobs": None}
        choice |= {"prompt_token_ids": asked.prompts[index // asked.request.n] if with_ids else None}
        choices.append(choice if old else choice | {"routed_experts": None})
    usage = _usage(asked, total) | {"prompt_tokens_details": None}
    body = {**_head(simulator, asked), "choices": choices, "service_tier": None}
    body |= {"system_fingerprint": None if old else simulator.fingerprint}
    if old:
        return body | {"usage": usage, "kv_transfer_params": None}
    usage |= {"completion_tokens_details": None}
    return body | {"usage": usage, "kv_transfer_params": None, "ec_transfer_params": None, "metrics": None}


def _usage(asked: Asked, count: int) -> dict[str, Any]:
    prompt = sum(map(len, asked.prompts))
    return {"prompt_tokens": prompt, "total_tokens": prompt + count, "completion_tokens": count}


def tokenize(simulator: Simulator, body: Any) -> dict[str, Any]:
    """Ids of a text, or of a conversation with its tools. Raises Refused."""
    request = _tokenize_request(body, simulator.old)
    simulator.check_model(request.model)
    if isinstance(request, TokenizeCompletionRequest):
        ids = simulator.tokenizer.encode(request.prompt, bos=request.add_special_tokens)
    else:
        _refuse_iterators(body["messages"], simulator.old)
        fields = ("continue_final_message", "add_generation_prompt", "tools", "chat_template", "chat_template_kwargs")
        chat = ChatRequest.model_construct(messages=request.messages, **{key: getattr(request, key) for key in fields})
        ids = simulator.render(chat)
        simulator.remember(ids, body)
    strings = [simulator.tokenizer.piece(number) for number in ids] if request.return_token_strs else None
    return {"count": len(ids), "max_model_len": simulator.options.max_model_len, "tokens": ids, "token_strs": strings}


def _refuse_iterators(messages: list[dict[str, Any]], old: bool) -> None:
    """pydantic gives an iterator for `tool_calls`: beside `content: null`, and in old vLLM always. Chat mends it."""
    for message in messages:
        if message.get("tool_calls") is not None and (old or message.get("content", "") is None):
            raise Refused("tool_calls must be a list, got <class 'pydantic_core._pydantic_core.ValidatorIterator'>")


def _tokenize_request(body: Any, old: bool) -> TokenizeCompletionRequest | TokenizeChatRequest:
    errors: list[Any] = []
    models: tuple[type[TokenizeCompletionRequest] | type[TokenizeChatRequest], ...]
    models = (TokenizeCompletionRequest, TokenizeChatRequest)
    for model in models:
        try:
            return model.model_validate(body)
        except ValidationError as error:
            errors += error.errors(include_url=False)
    raise refusal(errors, old)


def detokenize(simulator: Simulator, body: Any) -> dict[str, Any]:
    """The text of ids, control tokens spelled out. Raises Refused."""
    request = _model(DetokenizeRequest, body, simulator.old)
    simulator.check_model(request.model)
    wrong = [number for number in request.tokens if not 0 <= number < simulator.tokenizer.size]
    if wrong:
        raise InvalidField(f"Token id {wrong[0]} is out of vocabulary")
    return {"prompt": simulator.tokenizer.text(request.tokens)}
