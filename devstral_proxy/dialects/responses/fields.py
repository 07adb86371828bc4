"""The request's other fields: checked as the API checks them, told to chat, and told back in the response.

`PASSED` has a row for each field that chat has too, `ECHOED` one for each that the response repeats. What stands in
neither, and is not read by the dialect, is dropped under a name: clients send fields of their own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from devstral_proxy.dialects.responses.tools import echoed
from devstral_proxy.errors import BadRequest
from devstral_proxy.mistral.fields import CHECKS
from devstral_proxy.mistral.rewrites import RewriteLog

LOGPROBS: Final = "message.output_text.logprobs"
ENCRYPTED: Final = "reasoning.encrypted_content"
_METADATA_PAIRS: Final = 16
_FORMAT_KEYS: Final = ("type", "name", "description", "schema", "strict")


def _kind(kind: type, name: str) -> Callable[[str, Any], Any]:
    def check(field: str, value: Any) -> Any:
        if not isinstance(value, kind):
            raise BadRequest(f"'{field}' must be {name}.", param=field)
        return value

    return check


_string = _kind(str, "a string")
_object = _kind(dict, "an object")


def _one_of(*values: str) -> Callable[[str, Any], Any]:
    def check(field: str, value: Any) -> Any:
        if value not in values:
            known = ", ".join(f"'{known}'" for known in values)
            raise BadRequest(f"'{field}' must be one of {known}.", param=field)
        return value

    return check


def _strings(field: str, value: Any) -> Any:
    if not isinstance(value, list) or not all(isinstance(entry, str) for entry in value):
        raise BadRequest(f"'{field}' must be an array of strings.", param=field)
    return value


def _metadata(field: str, value: Any) -> Any:
    _object(field, value)
    if len(value) > _METADATA_PAIRS:
        raise BadRequest(f"'{field}' may have at most {_METADATA_PAIRS} members.", param=field)
    for key, entry in value.items():
        if not isinstance(entry, str):
            raise BadRequest("A member of 'metadata' must be a string.", param=f"{field}.{key}")
    return value


def _background(field: str, value: Any) -> Any:
    if CHECKS["stream"](field, value):
        raise BadRequest("Responses in the background are not supported here: leave 'background' out.", param=field)
    return value


def _not_here(field: str, value: Any) -> Any:
    raise BadRequest(f"'{field}' is kept by OpenAI's own service and cannot be resolved here.", param=field)


# Checked for every request. Chat's own checks, where the field is chat's too.
_CHECKS: Final[dict[str, Callable[[str, Any], Any]]] = {
    "model": _string,
    "stream": CHECKS["stream"],
    "stream_options": _object,
    "store": CHECKS["stream"],
    "background": _background,
    "conversation": _not_here,
    "prompt": _not_here,
    "instructions": _string,
    "previous_response_id": _string,
    "include": _strings,
    "metadata": _metadata,
    "truncation": _one_of("auto", "disabled"),
    "max_output_tokens": CHECKS["max_tokens"],
    "max_tool_calls": CHECKS["max_tokens"],
    "temperature": CHECKS["temperature"],
    "top_p": CHECKS["top_p"],
    "top_logprobs": CHECKS["top_logprobs"],
    "parallel_tool_calls": CHECKS["parallel_tool_calls"],
    "reasoning": _object,
    "text": _object,
    "user": _string,
    "safety_identifier": _string,
    "prompt_cache_key": _string,
    **{key: CHECKS[key] for key in ("seed", "stop", "presence_penalty", "frequency_penalty", "logit_bias")},
}

# Name here -> name in chat. The last ones are vLLM's, and chat's: the API has no such fields, clients send them.
PASSED: Final[dict[str, str]] = {
    "model": "model",
    "stream": "stream",
    "temperature": "temperature",
    "top_p": "top_p",
    "max_output_tokens": "max_tokens",
    "parallel_tool_calls": "parallel_tool_calls",
    **{
        key: key
        for key in (
            "seed", "stop", "presence_penalty", "frequency_penalty", "logit_bias", "top_k", "min_p",
            "repetition_penalty", "min_tokens", "stop_token_ids", "ignore_eos",
        )
    },
}  # fmt: skip

# Repeated in the response; the value is what it says when the request says nothing.
ECHOED: Final[dict[str, Any]] = {
    "instructions": None, "max_output_tokens": None, "max_tool_calls": None, "parallel_tool_calls": True,
    "previous_response_id": None, "prompt_cache_key": None, "safety_identifier": None, "store": True,
    "temperature": None, "tool_choice": "auto", "top_logprobs": 0, "top_p": None, "truncation": "disabled",
    "user": None,
}  # fmt: skip

_READ: Final = frozenset(
    (
        *PASSED, "input", "instructions", "tools", "tool_choice", "stream_options", "store",
        "background", "previous_response_id", "include", "metadata", "reasoning", "text", "top_logprobs",
    )
)  # fmt: skip


def chat_fields(body: dict[str, Any], log: RewriteLog) -> dict[str, Any]:
    """A new chat request without messages and tools. Raises BadRequest that names the field of this API."""
    chat: dict[str, Any] = {}
    for field, value in body.items():
        if value is None:
            continue
        check = _CHECKS.get(field)
        if check is not None:
            value = check(field, value)
        if field in PASSED:
            chat[PASSED[field]] = value
        elif field not in _READ:
            log.add("field_dropped", field)
    if not chat.get("model"):
        raise BadRequest("'model' must be a string that names the model.", param="model")
    if chat.get("stream"):
        chat["stream_options"] = {"include_usage": True}
    elif body.get("stream_options") is not None:
        raise BadRequest("'stream_options' is only allowed when 'stream' is true.", param="stream_options")
    if body.get("top_logprobs") or LOGPROBS in (body.get("include") or ()):
        chat["logprobs"] = True
        chat["top_logprobs"] = body.get("top_logprobs") or 0
    if any(value not in (LOGPROBS, ENCRYPTED) for value in body.get("include") or ()):
        log.add("field_dropped", "include")
    _reasoning(body.get("reasoning") or {}, chat, log)
    _text(body.get("text") or {}, chat, log)
    return chat


def _note_others(given: dict[str, Any], known: tuple[str, ...], where: str, log: RewriteLog) -> None:
    for key, value in given.items():
        if key not in known and value is not None:
            log.add("field_dropped", f"{where}.{key}")


def _reasoning(reasoning: dict[str, Any], chat: dict[str, Any], log: RewriteLog) -> None:
    # Whatever `summary` asks for, all of the thought is told as its summary.
    _note_others(reasoning, ("effort", "summary"), "reasoning", log)
    effort = reasoning.get("effort")
    if effort is not None:
        chat["reasoning_effort"] = _string("reasoning.effort", effort)


def _text(text: dict[str, Any], chat: dict[str, Any], log: RewriteLog) -> None:
    if text.get("verbosity") is not None:
        _one_of("low", "medium", "high")("text.verbosity", text["verbosity"])
        log.add("field_dropped", "text.verbosity")
    _note_others(text, ("format", "verbosity"), "text", log)
    form = text.get("format")
    if form is None:
        return
    kind = _object("text.format", form).get("type")
    _one_of("text", "json_object", "json_schema")("text.format.type", kind)
    _note_others(form, _FORMAT_KEYS if kind == "json_schema" else ("type",), "text.format", log)
    if kind == "json_object":
        chat["response_format"] = {"type": "json_object"}
    elif kind == "json_schema":
        if not isinstance(form.get("name"), str) or not form["name"]:
            raise BadRequest("A text format needs a name.", param="text.format.name")
        _object("text.format.schema", form.get("schema"))
        schema = {key: form[key] for key in _FORMAT_KEYS[1:] if form.get(key) is not None}
        chat["response_format"] = {"type": "json_schema", "json_schema": schema}


def response_head(body: dict[str, Any], id: str, created: int) -> dict[str, Any]:
    """The response object of a request that has been checked, as it is before the answer begins."""
    reasoning, text = body.get("reasoning") or {}, body.get("text") or {}
    echo = {key: default if body.get(key) is None else body[key] for key, default in ECHOED.items()}
    return {
        "id": id,
        "object": "response",
        "created_at": created,
        "status": "in_progress",
        "background": False,
        "completed_at": None,
        "error": None,
        "incomplete_details": None,
        "model": body["model"],
        "output": [],
        "metadata": body.get("metadata") or {},
        "reasoning": {"effort": reasoning.get("effort"), "summary": reasoning.get("summary")},
        "service_tier": "default",
        "text": {**text, "format": text.get("format") or {"type": "text"}},
        "tools": echoed(body.get("tools")),
        "usage": None,
        **echo,
    }
