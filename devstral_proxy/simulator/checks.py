"""vLLM's own checks: of the body before pydantic sees it, and of the sampling parameters.

Each is a function of the raw body or a row of a table. New and old (0.12.0) make the same checks but for the rows that
say so; they differ in how they tell: new raises its own error (`param` set), old a ValueError that pydantic reports.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Never

from devstral_proxy.simulator.errors import Broken, InvalidField, Refused
from devstral_proxy.simulator.grammar import check_grammar
from devstral_proxy.simulator.protocol import ChatRequest, ResponseFormat, refusal
from devstral_proxy.simulator.tokenizers import ModelTokenizer

_USAGE = 'Correct usage: `{"type": "function", "function": {"name": "my_function"}}`'
_SALT_FORBIDDEN = frozenset("@/\\\x00")


def _refuse(message: str, parameter: str | None = None, value: Any = None) -> Never:
    raise InvalidField(message, parameter, value)


def _generation_prompt(body: dict[str, Any], old: bool) -> None:
    if body.get("continue_final_message") and body.get("add_generation_prompt"):
        _refuse("Cannot set both `continue_final_message` and `add_generation_prompt` to True.")


def _tools(body: dict[str, Any], old: bool) -> None:
    tools, given = body.get("tools"), "tool_choice" in body
    if tools == [] and not old:
        _refuse(
            "`tools` must not be an empty array. Either provide at least one tool or omit the field entirely.", "tools"
        )
    if not given and tools:
        body["tool_choice"] = "auto"
    choice = body.get("tool_choice")
    if choice is None or choice == "none":
        return
    if tools is None:
        _refuse("When using `tool_choice`, `tools` must be set.", "tool_choice")
    if choice not in ("auto", "required") and not isinstance(choice, dict):
        _refuse(
            f'Invalid value for `tool_choice`: {choice}! Only named tools, "none", "auto" or "required" are supported.',
            "tool_choice",
        )
    if old and choice == "required" and tools == []:
        body["tool_choice"] = "none"
        del body["tools"]
    elif isinstance(choice, dict):
        _named_choice(choice, tools)


def _named_choice(choice: dict[str, Any], tools: Any) -> None:
    function = choice.get("function")
    if not isinstance(function, dict):
        _refuse(f"Invalid value for `function`: `{function}` in `tool_choice`! {_USAGE}", "tool_choice.function")
    if "name" not in function:
        _refuse(f"Expected field `name` in `function` in `tool_choice`! {_USAGE}", "tool_choice.function.name")
    name = function["name"]
    if not isinstance(name, str) or not name:
        _refuse(f"Invalid `name` in `function`: `{name}` in `tool_choice`! {_USAGE}", "tool_choice.function.name")
    if not any(tool["function"]["name"] == name for tool in tools):
        _refuse("The tool specified in `tool_choice` does not match any of the specified `tools`", "tool_choice")


def _structured_outputs(body: dict[str, Any], old: bool) -> None:
    constraints = body.get("structured_outputs")
    if constraints is None:
        return
    count = sum(constraints.get(key) is not None for key in ("json", "regex", "choice"))
    if count > 1:
        _refuse("You can only use one kind of constraints for structured outputs ('json', 'regex' or 'choice').")
    if count and not old and body.get("tool_choice", "none") not in ("none", "auto", "required"):
        _refuse("You can only either use constraints for structured outputs or tools, not both.")


def _logprobs(body: dict[str, Any], old: bool) -> None:
    asked, top = body.get("prompt_logprobs"), body.get("top_logprobs")
    for name, value in (("prompt_logprobs", asked), ("top_logprobs", top)):
        if value is not None and not isinstance(value, (int, float)) and not old:
            _refuse(f"`{name}` must be an integer.", name, value)
    if asked is not None:
        if body.get("stream") and (asked > 0 or asked == -1):
            _refuse("`prompt_logprobs` are not available when `stream=True`.", "prompt_logprobs")
        if asked < 0 and asked != -1:
            _refuse("`prompt_logprobs` must be a positive value or -1.", "prompt_logprobs", asked)
    if top is not None:
        if top < 0 and top != -1:
            _refuse("`top_logprobs` must be a positive value or -1.", "top_logprobs", top)
        if (top == -1 or top > 0) and not body.get("logprobs"):
            _refuse("when using `top_logprobs`, `logprobs` must be set to true.", "top_logprobs")


def _stream_options(body: dict[str, Any], old: bool) -> None:
    if body.get("stream_options") and not body.get("stream"):
        _refuse("Stream options can only be defined when `stream=True`.", "stream_options")


def _response_format(body: dict[str, Any], old: bool) -> None:
    wanted = body.get("response_format")
    if old or not isinstance(wanted, dict):
        return
    if wanted.get("type") == "json_schema" and wanted.get("json_schema") is None:
        _refuse(
            "When response_format type is 'json_schema', the 'json_schema' field must be provided.", "response_format"
        )
    if wanted.get("type") == "structural_tag" and not ("format" in wanted or "structures" in wanted):
        _refuse("Invalid response_format structural_tag specification.", "response_format")


def _cache_salt(body: dict[str, Any], old: bool) -> None:
    salt = body.get("cache_salt")
    if salt is None:
        return
    if not isinstance(salt, str) or not salt:
        _refuse("Parameter 'cache_salt' must be a non-empty string if provided.", "cache_salt")
    if not old and (len(salt) > 128 or _SALT_FORBIDDEN & set(salt)):
        _refuse(
            "Parameter 'cache_salt' must be at most 128 characters and must not contain '@', '/', '\\\\', or NUL.",
            "cache_salt",
        )


def _messages(body: dict[str, Any], old: bool) -> None:
    """The walks over `messages` that new makes before pydantic: what cannot be walked fails here."""
    if old:
        return
    messages = body.get("messages", [])
    iter(messages)
    if not isinstance(messages, list):
        return
    for message in messages:
        if isinstance(message, dict):
            calls = message.get("tool_calls")
            if calls is not None and not isinstance(calls, list):
                message["tool_calls"] = list(calls)
            thought = message.pop("reasoning_content", None)
            if thought is not None and message.get("reasoning") is None:
                message["reasoning"] = thought


# In vLLM's order (pydantic runs its "before" validators last first).
_BODY_NEW = (
    _generation_prompt, _tools, _structured_outputs, _logprobs, _stream_options, _response_format, _messages,
    _cache_salt,
)  # fmt: skip
_BODY_OLD = (_cache_salt, _generation_prompt, _tools, _structured_outputs, _logprobs, _stream_options)


def check_body(body: Any, old: bool) -> None:
    """What vLLM refuses before pydantic looks at the fields; fills in `tool_choice` and `reasoning` as vLLM does.

    Raises Refused.
    """
    if not isinstance(body, dict):
        if old:
            raise Broken("Internal Server Error", plain=True)
        return
    try:
        for check in _BODY_OLD if old else _BODY_NEW:
            check(body, old)
    except InvalidField as error:
        if not old:
            raise
        told = {"type": "value_error", "loc": (), "msg": f"Value error, {error.plain}", "input": body}
        raise refusal([{**told, "ctx": {"error": ValueError(error.plain)}}], old) from None
    except (TypeError, ValueError, OverflowError) as error:
        if old:
            raise Broken("Internal Server Error", plain=True) from None
        raise Refused(str(error)) from None
    except (KeyError, AttributeError) as error:
        raise Broken("Internal Server Error" if old else str(error), plain=old) from None


@dataclass(frozen=True, slots=True)
class _Row:
    """One rule of SamplingParams: refused where `bad` is true. `told`: new names parameter and value too."""

    field: str
    bad: Callable[[Any], bool]
    message: str
    told: bool = False
    only_new: bool = False
    default: Any = None


_SAMPLING = (
    _Row("n", lambda v: v < 1, "n must be at least 1, got {}."),
    _Row(
        "n",
        lambda v: v > 16384,
        "n must be at most 16384, got {}. To increase this limit, set the VLLM_MAX_N_SEQUENCES environment variable.",
        only_new=True,
    ),
    _Row("presence_penalty", lambda v: not -2 <= v <= 2, "presence_penalty must be in [-2, 2], got {}."),
    _Row("frequency_penalty", lambda v: not -2 <= v <= 2, "frequency_penalty must be in [-2, 2], got {}."),
    _Row(
        "repetition_penalty",
        lambda v: not math.isfinite(v),
        "repetition_penalty must be a finite number, got {}.",
        only_new=True,
    ),
    _Row("repetition_penalty", lambda v: v <= 0, "repetition_penalty must be greater than zero, got {}."),
    _Row(
        "temperature",
        lambda v: not math.isfinite(v),
        "temperature must be a finite number, got {}.",
        told=True,
        only_new=True,
    ),
    _Row("temperature", lambda v: v < 0, "temperature must be non-negative, got {}.", told=True),
    _Row("temperature", lambda v: v > 2, "temperature must be in [0, 2], got {}.", told=True, only_new=True),
    _Row("top_p", lambda v: not 0 < v <= 1, "top_p must be in (0, 1], got {}.", told=True),
    _Row("top_k", lambda v: v < -1, "top_k must be 0 (disable), or at least 1, got {}."),
    _Row("min_p", lambda v: not 0 <= v <= 1, "min_p must be in [0, 1], got {}."),
    _Row("max_tokens", lambda v: v < 1, "max_tokens must be at least 1, got {}.", told=True),
    _Row("min_tokens", lambda v: v < 0, "min_tokens must be greater than or equal to 0, got {}."),
)


def check_sampling(request: ChatRequest, max_tokens: int, old: bool) -> None:
    """What SamplingParams refuses. `max_tokens`: after the context's rest was taken into account. Raises Refused."""
    values = {name: getattr(request, name) for name in {row.field for row in _SAMPLING}} | {"max_tokens": max_tokens}
    for row in _SAMPLING:
        value = values[row.field]
        if value is not None and not (old and row.only_new) and row.bad(value):
            _tell(row.message.format(value), row.field if row.told else None, value if row.told else None, old)
    if request.min_tokens > max_tokens:
        _tell(f"min_tokens must be less than or equal to max_tokens={max_tokens}, got {request.min_tokens}.", old=old)
    keys = [key for key in request.logit_bias or {} if not key.lstrip("-").isdigit()]
    if keys:
        _tell(
            f"logit_bias contains key(s) that cannot be converted to integer token IDs: {keys}", "logit_bias", keys, old
        )
    if any(not text for text in stops(request)):
        _tell("stop cannot contain an empty string.", old=old)
    if any(not word for word in request.bad_words):
        if old:
            raise Broken("list index out of range", type=HTTPStatus(500).phrase)
        _tell(f"bad_words cannot contain an empty string. Got bad_words={request.bad_words}")
    if old and isinstance(request.response_format, ResponseFormat):
        wanted = request.response_format
        if wanted.type == "json_schema" and wanted.json_schema is None:
            raise Broken("", type=HTTPStatus(500).phrase)
    if request.use_beam_search:
        return
    temperature = 1.0 if request.temperature is None else request.temperature
    if temperature < 1e-5 and (request.n or 1) > 1:
        _tell(f"n must be 1 when using greedy sampling, got {request.n}.", old=old)


def _tell(message: str, parameter: str | None = None, value: Any = None, old: bool = False) -> Never:
    if old:
        raise Refused(message)
    raise InvalidField(message, parameter, value)


def stops(request: ChatRequest) -> list[str]:
    """The stop strings as a list."""
    return [request.stop] if isinstance(request.stop, str) else list(request.stop or [])


def check_engine(request: ChatRequest, tokenizer: ModelTokenizer, old: bool) -> None:
    """What the engine refuses, which in new is after a streamed answer has begun. Raises Refused."""
    if not old and tokenizer.number >= 11:
        check_grammar(request)
    if request.allowed_token_ids == []:
        _tell("allowed_token_ids is not None and empty!", "allowed_token_ids", [], old)
    for field, limit in (("top_logprobs", request.logprobs), ("prompt_logprobs", True)):
        asked = getattr(request, field)
        if limit and asked is not None and asked > 20:
            kind = "sample" if field == "top_logprobs" else "prompt"
            name = "logprobs" if field == "top_logprobs" else field
            _tell(f"Requested {kind} logprobs of {asked}, which is greater than max allowed: 20", name, asked, old)
    wrong = list(_outside(request, tokenizer.size))
    if wrong:
        _tell(f"token_id(s) {wrong} in logit_bias contain out-of-vocab token ids.", "logit_bias", wrong, old)


def _outside(request: ChatRequest, vocabulary: int) -> Iterator[int]:
    for key in request.logit_bias or {}:
        if not 0 <= int(key) < vocabulary:
            yield int(key)
