"""The request's other top-level fields: checked as OpenAI's API checks them, then brought into what vLLM takes.

`CHECKS` has a row for each field whose value OpenAI refuses when it is wrong: so does the proxy, with a 400 that names
the field, before anything goes upstream. `DROPPED` has a row for each field that vLLM ignores or, with a Mistral
tokenizer, refuses. Fields that stand in neither pass as they are: vLLM has many of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from devstral_proxy.errors import BadRequest
from devstral_proxy.mistral.profiles import ModelProfile
from devstral_proxy.mistral.rewrites import RewriteLog

_RESPONSE_FORMATS: Final = ("text", "json_object", "json_schema", "structural_tag")
_LEAST_TOP_P: Final = 1e-6
_LEAST_TEMPERATURE: Final = 0.01
"""Below it vLLM samples greedily, and greedy sampling with n > 1 is refused."""


def _number(low: float, high: float) -> Callable[[str, Any], Any]:
    def check(field: str, value: Any) -> Any:
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise BadRequest(f"'{field}' must be a number.", param=field)
        if not low <= value <= high:
            raise BadRequest(f"'{field}' must be between {low:g} and {high:g}.", param=field)
        return value

    return check


def _integer(low: int, high: int | None = None) -> Callable[[str, Any], Any]:
    def check(field: str, value: Any) -> Any:
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int):
            raise BadRequest(f"'{field}' must be an integer.", param=field)
        if value < low:
            raise BadRequest(f"'{field}' must be at least {low}.", param=field)
        if high is not None and value > high:
            raise BadRequest(f"'{field}' must be at most {high}.", param=field)
        return value

    return check


def _boolean(field: str, value: Any) -> Any:
    if not isinstance(value, bool):
        raise BadRequest(f"'{field}' must be true or false.", param=field)
    return value


def _object(field: str, value: Any) -> Any:
    if not isinstance(value, dict):
        raise BadRequest(f"'{field}' must be an object.", param=field)
    return value


def _stop(field: str, value: Any) -> Any:
    if isinstance(value, str):
        return value
    if not isinstance(value, list) or not all(isinstance(entry, str) for entry in value):
        raise BadRequest("'stop' must be a string or an array of strings.", param=field)
    return value  # how many there may be is vLLM's to say: VLLM_MAX_STOP_STRINGS, and no limit in older releases


def _logit_bias(field: str, value: Any) -> Any:
    if not isinstance(value, dict):
        raise BadRequest("'logit_bias' must be an object.", param=field)
    for token, bias in value.items():
        if not token.isdecimal():
            raise BadRequest("'logit_bias' maps token ids to numbers.", param=field)
        _number(-100, 100)(f"{field}.{token}", bias)
    return value


def _response_format(field: str, value: Any) -> Any:
    if not isinstance(value, dict) or value.get("type") not in _RESPONSE_FORMATS:
        raise BadRequest(
            "'response_format.type' must be 'text', 'json_object' or 'json_schema'.", param=field + ".type"
        )
    if value["type"] == "json_schema":
        schema = value.get("json_schema")
        if not isinstance(schema, dict):
            raise BadRequest("'response_format.json_schema' must be an object.", param=field + ".json_schema")
        if not isinstance(schema.get("name"), str) or not schema["name"]:
            raise BadRequest("A response format needs a name.", param=field + ".json_schema.name")
        if not isinstance(schema.get("schema", {}), dict):
            raise BadRequest("The schema must be an object.", param=field + ".json_schema.schema")
    return value


CHECKS: Final[dict[str, Callable[[str, Any], Any]]] = {
    "stream": _boolean,
    "stream_options": _object,
    "temperature": _number(0, 2),
    "top_p": _number(0, 1),
    "presence_penalty": _number(-2, 2),
    "frequency_penalty": _number(-2, 2),
    "n": _integer(1, 128),
    "max_tokens": _integer(1),
    "max_completion_tokens": _integer(1),
    "seed": _integer(-(2**63), 2**63 - 1),
    "logprobs": _boolean,
    "top_logprobs": _integer(0, 20),
    "logit_bias": _logit_bias,
    "parallel_tool_calls": _boolean,
    "stop": _stop,
    "response_format": _response_format,
}

DROPPED: Final[dict[str, str]] = {
    **dict.fromkeys(
        (
            "store", "metadata", "service_tier", "verbosity", "prediction", "modalities", "audio", "moderation",
            "web_search_options", "prompt_cache_key", "prompt_cache_retention", "safety_identifier", "user",
        ),
        "OpenAI's own service reads it, vLLM does not",
    ),
    "chat_template": "a Mistral tokenizer has no chat template (F46)",
    "chat_template_kwargs": "a Mistral tokenizer has no chat template (F46)",
}  # fmt: skip

_TRANSLATED_APART: Final = frozenset(("messages", "tools", "tool_choice", "functions", "function_call"))

# What Mistral's newer tokenizers (v15) know of OpenAI's efforts: none and high (F47).
_EFFORTS: Final[dict[str, str]] = {
    "none": "none", "minimal": "none", "low": "high", "medium": "high", "high": "high", "xhigh": "high", "max": "high",
}  # fmt: skip


def translate_fields(
    given: dict[str, Any], profile: ModelProfile, max_model_len: int | None, log: RewriteLog
) -> dict[str, Any]:
    """A new top-level dict without messages, tools and their choice: every field in the form that vLLM takes.

    Raises BadRequest for a value that OpenAI's API refuses.
    """
    body: dict[str, Any] = {}
    for field, value in given.items():
        if field in _TRANSLATED_APART:
            continue
        if value is None:
            log.add("null_dropped", field)
        elif field in DROPPED:
            log.add("field_dropped", field)
        else:
            check = CHECKS.get(field)
            body[field] = value if check is None else check(field, value)
    _check_model(body)
    if "stream_options" in body and not body.get("stream"):
        raise BadRequest("'stream_options' is only allowed when 'stream' is true.", param="stream_options")
    if "top_logprobs" in body and not body.get("logprobs"):
        raise BadRequest("'top_logprobs' is only allowed when 'logprobs' is true.", param="top_logprobs")
    _max_tokens(body, profile, max_model_len, log)
    _sampling(body, profile, log)
    if "stop" in body:
        _stops(body, log)
    if "reasoning" in body or "reasoning_effort" in body:
        _reasoning_effort(body, profile, log)
    if body.get("skip_special_tokens") is False:  # F48
        del body["skip_special_tokens"]
        log.add("field_dropped", "skip_special_tokens")
    return body


def _check_model(body: dict[str, Any]) -> None:
    model = body.get("model")
    if not isinstance(model, str) or not model:
        raise BadRequest("'model' must be a string that names the model.", param="model")


def _max_tokens(body: dict[str, Any], profile: ModelProfile, max_model_len: int | None, log: RewriteLog) -> None:
    """One name for the limit (F33); none at all where it could not be kept: vLLM then takes what is left (F55)."""
    if "max_completion_tokens" in body:
        log.add("max_tokens_renamed", "max_completion_tokens")
        body["max_tokens"] = body.pop("max_completion_tokens")
    limit = body.get("max_tokens")
    if limit is not None and max_model_len is not None and limit >= max_model_len:
        log.add("max_tokens_clamped", "max_tokens")
        del body["max_tokens"]
    elif limit is None and profile.max_tokens is not None:
        log.add("max_tokens_default", "max_tokens")
        body["max_tokens"] = profile.max_tokens


def _sampling(body: dict[str, Any], profile: ModelProfile, log: RewriteLog) -> None:
    for field, value in profile.sampling.items():
        if field not in body:
            log.add("sampling_default", field)
            body[field] = value
    if body.get("top_p") == 0:
        log.add("sampling_adjusted", "top_p")
        body["top_p"] = _LEAST_TOP_P
    if body.get("n", 1) > 1 and body.get("temperature", 1) < _LEAST_TEMPERATURE:
        log.add("sampling_adjusted", "temperature")
        body["temperature"] = _LEAST_TEMPERATURE


def _stops(body: dict[str, Any], log: RewriteLog) -> None:
    stop = body["stop"]
    if stop and "" not in stop:
        return
    if isinstance(stop, str) and stop:
        return
    log.add("stop_cleaned", "stop")
    kept = [entry for entry in stop if entry] if isinstance(stop, list) else []
    if kept:
        body["stop"] = kept
    else:
        del body["stop"]


def _reasoning_effort(body: dict[str, Any], profile: ModelProfile, log: RewriteLog) -> None:
    """Tokenizers before v15 refuse every effort; v15 knows two (F47)."""
    nested = body.get("reasoning")
    if isinstance(nested, dict):
        del body["reasoning"]
        log.add("reasoning_effort", "reasoning")
        if isinstance(nested.get("effort"), str):
            body.setdefault("reasoning_effort", nested["effort"])
    effort = body.get("reasoning_effort")
    if effort is None:
        return
    if not isinstance(effort, str):
        raise BadRequest("'reasoning_effort' must be a string.", param="reasoning_effort")
    known = _EFFORTS.get(effort) if profile.reasoning and profile.tokenizer == "v15" else None
    if known == effort:
        return
    log.add("reasoning_effort", "reasoning_effort")
    if known is None:
        del body["reasoning_effort"]
    else:
        body["reasoning_effort"] = known
