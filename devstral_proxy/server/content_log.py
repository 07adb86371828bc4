"""LOG_CONTENT=hash: what a request said, as lengths and keyed hashes. No text of the conversation is ever written.

Two lines show whether two requests had the same beginning, where they part, and how long each message is. The hash is
keyed, so that nobody who has the log can try texts against it.
"""

from __future__ import annotations

import logging
import secrets
from hashlib import blake2b
from typing import Any

import orjson

from devstral_proxy.config import Settings

content_log = logging.getLogger("devstral_proxy.content")

HASH_BYTES = 6
MOST_MESSAGES = 200
"""Messages told one by one: the last ones; those before them are one entry, `earlier`."""
ROLES = frozenset({"system", "developer", "user", "assistant", "tool", "function"})


def digest(messages: Any, key: bytes) -> list[str]:
    """One entry a message of a chat completion request: `role:characters:hash`, and for each tool call of it
    `+call:hash of the name:characters of the arguments:hash`; for each part that is no text `+part:bytes:hash`.

    `key` has at most 64 bytes. What has no such form is `other`; nothing is raised for whatever a client may send.
    """
    if not isinstance(messages, list):
        return []
    earlier, last = messages[:-MOST_MESSAGES], messages[-MOST_MESSAGES:]
    entries = [_message(one, key) for one in last]
    if earlier:
        entries.insert(0, f"earlier:{len(earlier)}:{_hash(_bytes(earlier), key)}")
    return entries


class ContentLog:
    """Writes the line. Built for LOG_CONTENT=hash only."""

    def __init__(self, key: str = "") -> None:
        """`key` is LOG_CONTENT_KEY; without one it is a new one, and lines of two processes cannot be compared."""
        self._key = blake2b(key.encode(), digest_size=32).digest() if key else secrets.token_bytes(32)

    def write(self, request_id: str, request: dict[str, Any]) -> None:
        """One line for a chat completion request, before or after its translation."""
        if content_log.isEnabledFor(logging.INFO):
            tools = request.get("tools")
            entry = {
                "id": request_id,
                "messages": digest(request.get("messages"), self._key),
                "tools": _hash(_bytes(tools), self._key) if tools else "",
            }
            content_log.info("", extra={"fields": entry})


def content_log_of(settings: Settings) -> ContentLog | None:
    """The log of contents, or None when it is off."""
    if settings.log_content == "off":
        return None
    return ContentLog(settings.log_content_key.get_secret_value() if settings.log_content_key else "")


def _message(message: Any, key: bytes) -> str:
    if not isinstance(message, dict):
        return _entry("other", _bytes(message), key)
    role = message.get("role")
    name = role if isinstance(role, str) and role in ROLES else "other"
    content = message.get("content")
    text = content if isinstance(content, str) else ""
    more: list[str] = []
    for part in content if isinstance(content, list) else ():
        if isinstance(part, dict) and isinstance(part.get("text"), str):
            text += part["text"]
        elif isinstance(part, str):
            text += part
        else:
            more.append(_entry("+part", _bytes(part), key))
    calls = message.get("tool_calls")
    more += [_call(call, key) for call in (calls if isinstance(calls, list) else ())]
    return "".join([_entry(name, text, key), *more])


def _call(call: Any, key: bytes) -> str:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict):
        return _entry("+call", _bytes(call), key)
    arguments = function.get("arguments")
    return _entry(
        f"+call:{_hash(_bytes(function.get('name')), key)}",
        arguments if isinstance(arguments, str) else _bytes(arguments),
        key,
    )


def _entry(name: str, content: str | bytes, key: bytes) -> str:
    data = content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content
    return f"{name}:{len(content)}:{_hash(data, key)}"


def _bytes(value: Any) -> bytes:
    """The same bytes for the same value."""
    if isinstance(value, str):
        return value.encode("utf-8", "surrogatepass")
    try:
        return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
    except TypeError:  # nested too deeply for orjson, or numbers that it does not write
        return b"?"


def _hash(data: bytes, key: bytes) -> str:
    return blake2b(data, digest_size=HASH_BYTES, key=key).hexdigest()
