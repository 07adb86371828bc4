"""vLLM's error answers, read: which shape, what they mean, what a client should be told.

Status and text are vLLM's own. What agents act upon is made uniform: the shape is OpenAI's, and a prompt that does not
fit has the code `context_length_exceeded`, by which agents know that they have to compact their history (F56).
"""

from __future__ import annotations

import re
from typing import Any, Final

import orjson

from devstral_proxy.errors import UpstreamRefused

MARK: Final = "devstral-proxy"
"""The error's member `via`: the answer came through the proxy, and is not the proxy's own."""

OVERFLOW: Final = "context_length_exceeded"

# How the releases say that the prompt alone is too long. (?P<limit>) and (?P<prompt>) are tokens, where they are told.
_OVERFLOWS: Final = (
    re.compile(  # 0.20 and later
        r"maximum context length is (?P<limit>\d+) tokens\. However, your prompt contains (at least )?(?P<prompt>\d+)"
    ),
    re.compile(r"maximum context length is (?P<limit>\d+) tokens\. However, your request has (?P<prompt>\d+) input"),
    re.compile(
        r"maximum context length is (?P<limit>\d+) tokens\. However, you requested \d+ tokens \((?P<prompt>\d+) in"
    ),
    re.compile(r"prompt \(length (?P<prompt>\d+)\) is longer than the maximum model length of (?P<limit>\d+)"),
    re.compile(r"prompt \(length (?P<prompt>\d+)\) plus the number of requested output tokens"),
    re.compile(r"max_tokens must be at least 1, got -\d+"),  # up to 0.12: limit less prompt
    re.compile(r"too long to fit into the model \(context length (?P<limit>\d+)\)"),
)
# max_tokens is what does not fit; the prompt does.
_TOO_MANY: Final = (
    re.compile(r"maximum context length is (?P<limit>\d+) tokens and your request has (?P<prompt>\d+) input tokens"),
    re.compile(
        r"maximum context length is (?P<limit>\d+) tokens\. However, you requested (?P<asked>\d+) (output )?tokens"
        r".*?(?P<prompt>\d+) (input tokens|in the messages)"
    ),
)
# The server takes fewer images in one request than there are, or none.
_IMAGES: Final = (
    re.compile(r"At most (?P<most>\d+) image"),
    re.compile(r"is not a multimodal model(?P<most>)"),
)
_NO_AUTO_TOOLS: Final = "--enable-auto-tool-choice"


def translated(status: int, body: bytes, max_model_len: int | None) -> UpstreamRefused:
    """The error answer as an exception whose `body` is OpenAI's error JSON, with `via` for the proxy's mark.

    `body` may be either of vLLM's shapes (`{"error": {…}}`, and the flat one of older releases), FastAPI's
    `{"detail": …}`, or no JSON at all: then only the status is told, since the text may be anybody's.
    """
    error = _members(status, body)
    message = error["message"]
    overflow = next((found for pattern in _OVERFLOWS if (found := pattern.search(message))), None)
    if status == 400 and overflow is not None and _room(message) is None:
        error["type"] = "invalid_request_error"
        error["code"] = OVERFLOW
        error["message"] = _overflow_message(message, overflow, max_model_len)
    elif _NO_AUTO_TOOLS in message:  # F41
        error["message"] = (
            f"{message} (Start vLLM with --enable-auto-tool-choice --tool-call-parser mistral; "
            "`devstral-proxy doctor` checks it.)"
        )
    error["via"] = MARK
    return UpstreamRefused(status, {"error": error})


def room_for_answer(error: UpstreamRefused) -> int | None:
    """Tokens that the prompt leaves for the answer, where the refusal is about max_tokens and tells; else None."""
    return _room(error.message) if error.status == 400 else None


def images_taken(error: UpstreamRefused) -> int | None:
    """How many images the server takes in one request, where the refusal is about images; else None."""
    if error.status != 400:
        return None
    found = next((found for pattern in _IMAGES if (found := pattern.search(error.message))), None)
    return None if found is None else int(found["most"] or 0)


def _room(message: str) -> int | None:
    for pattern in _TOO_MANY:
        found = pattern.search(message)
        if found:
            room = int(found["limit"]) - int(found["prompt"])
            return room if room > 0 else None
    return None


def _members(status: int, body: bytes) -> dict[str, Any]:
    try:
        parsed = orjson.loads(body)
    except orjson.JSONDecodeError:
        parsed = None
    inner = parsed.get("error", parsed) if isinstance(parsed, dict) else None
    message: Any = inner
    kind: Any = None
    param: Any = None
    code: Any = status
    if isinstance(inner, dict):
        message = inner.get("message", inner.get("detail"))
        kind, param, code = inner.get("type"), inner.get("param"), inner.get("code", status)
    if not isinstance(message, str):
        message = f"vLLM answered with status {status}" if message is None else orjson.dumps(message).decode()
    return {
        "message": message,
        "type": kind if isinstance(kind, str) else "server_error",
        "param": param,
        "code": code,
    }


def _overflow_message(message: str, found: re.Match[str], max_model_len: int | None) -> str:
    """Agents look for OpenAI's words; where vLLM's own do not hold them they go before it."""
    if "maximum context length is" in message:
        return message
    groups = found.groupdict()
    limit = groups.get("limit") or max_model_len
    prompt = groups.get("prompt")
    words = (
        f"This model's maximum context length is {limit} tokens. "
        if limit
        else "The maximum context length is exceeded. "
    )
    if prompt:
        words += f"However, your messages resulted in {prompt} tokens. "
    return f"{words}Please reduce the length of the messages. (vLLM: {message})"
