"""Errors in the shape of Anthropic's API, and context overflow in its own words.

SDKs and agents tell errors apart by status and type, and Claude Code compacts its history when it reads `prompt is too
long` (with the two numbers it knows by how much). The status stays what it is: SDKs ask again for 5xx, 429 and 408.
"""

from __future__ import annotations

import re
from typing import Any, Final

from devstral_proxy.dialects.messages.fields import NO_THREADS
from devstral_proxy.errors import BadRequest, Overloaded, ProxyError, RateLimited, UpstreamTimeout, render
from devstral_proxy.mistral.refusals import OVERFLOW

_TYPES: Final = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
    529: "overloaded_error",
}
# In a stream there is no status any more: the codes that have one of their own.
_CODES: Final[dict[Any, int]] = {
    Overloaded.default_code: 503,
    RateLimited.default_code: 429,
    UpstreamTimeout.default_code: 504,
    OVERFLOW: 400,
}
_LIMIT: Final = re.compile(r"maximum context length is (\d+) tokens|maximum model length of (\d+)")
_PROMPT: Final = re.compile(
    r"prompt contains (?:at least )?(\d+)|request has (\d+) input|resulted in (\d+) tokens"
    r"|\((\d+) in the messages|prompt \(length (\d+)\)|\((\d+) in"
)
_PLACE: Final = re.compile(r"\[(\d+)\]")
# What a field that the chat translation names is called here.
_FIELDS: Final = {
    "stop": "stop_sequences",
    "max_completion_tokens": "max_tokens",
    "tool_choice.function.name": "tool_choice.tool.name",
    "reasoning_effort": "output_config.effort",
}


def type_of(status: int) -> str:
    """Anthropic's name for the kind of error that has this status."""
    return _TYPES.get(status, "invalid_request_error" if 400 <= status < 500 else "api_error")


def error_body(error: ProxyError, where: str | None) -> dict[str, Any]:
    """The error's JSON. `where` is the path of Anthropic's field that is at fault, if one is."""
    told = render(error)["error"]
    message = told.get("message") or f"The request failed with status {error.status}"
    if told.get("code") == OVERFLOW:
        message = overflow_words(message)
    elif where and isinstance(error, BadRequest):
        message = f"{where}: {message}"
    body = _body(error.status, message)
    if error.code == NO_THREADS:
        body["error"]["details"] = {"error_code": NO_THREADS, "unsupported": []}
    return body


def told_in_stream(error: dict[str, Any]) -> dict[str, Any]:
    """The same for the error object of a chat stream's error event, which has no status."""
    code = error.get("code")
    status = code if isinstance(code, int) else _CODES.get(code, 500)
    message = str(error.get("message") or "The answer broke off")
    return _body(status, overflow_words(message) if code == OVERFLOW else message)


def overflow_words(message: str) -> str:
    """`prompt is too long: 210000 tokens > 200000 maximum`, as far as vLLM's message tells the numbers."""
    limit, prompt = (_number(pattern, message) for pattern in (_LIMIT, _PROMPT))
    if limit and prompt:
        return f"prompt is too long: {prompt} tokens > {limit} maximum"
    return f"prompt is too long: {limit} tokens is the maximum" if limit else "prompt is too long"


def field_path(param: str, messages: list[str], tools: list[str]) -> str:
    """The path of Anthropic's field for one that the chat translation names.

    `messages` and `tools` are the paths of what each chat message and tool was made from.
    """
    path = _FIELDS.get(param, param)
    for list_name, origins in (("messages", messages), ("tools", tools)):
        found = re.match(list_name + r"\[(\d+)\]", path)
        if found and int(found[1]) < len(origins):
            rest = path[found.end() :].replace(".function.parameters", ".input_schema").replace(".function", "")
            path = origins[int(found[1])] + rest
    path = path.replace("response_format.json_schema.schema", "output_config.format.schema")
    return _PLACE.sub(r".\1", path)


def _number(pattern: re.Pattern[str], message: str) -> str | None:
    found = pattern.search(message)
    return next(filter(None, found.groups()), None) if found else None


def _body(status: int, message: str) -> dict[str, Any]:
    return {"type": "error", "error": {"type": type_of(status), "message": message}}
