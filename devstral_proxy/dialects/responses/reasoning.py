"""Reasoning items: the thoughts of one answer, told as its summary, and read back on the next turn.

Codex, the Vercel AI SDK and the OpenAI SDKs show `summary`; `content` they hide or ignore. So the whole thought is told
as one summary part. Some clients replay a reasoning item only if it has `encrypted_content` (the AI SDK with
`store: false`). A client that includes `reasoning.encrypted_content` therefore gets it: the same text in base64 behind
a mark of ours. It hides nothing, since the summary beside it says the same, and needs no key: any instance reads it.
"""

from __future__ import annotations

import base64
import binascii
from typing import Any, Final

from devstral_proxy.errors import BadRequest
from devstral_proxy.mistral.rewrites import RewriteLog

_MARK: Final = "devstral-proxy.1."


def sealed(text: str) -> str:
    """The `encrypted_content` that stands for this thought."""
    return _MARK + base64.b64encode(text.encode()).decode()


def unsealed(value: Any) -> str | None:
    """The thought in an `encrypted_content` of ours; None for one that another service wrote."""
    if not isinstance(value, str) or not value.startswith(_MARK):
        return None
    try:
        return base64.b64decode(value[len(_MARK) :], validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        return None


def thought(item: dict[str, Any], where: str, log: RewriteLog) -> str:
    """The text of a replayed reasoning item, empty where it has none that can be read.

    `content`, the thought itself, goes before our own `encrypted_content`, and that before the summary; what one of
    them says otherwise than the one before it is dropped by name. Raises BadRequest for parts that are none.
    """
    encrypted = item.get("encrypted_content")
    own = unsealed(encrypted)
    if encrypted and own is None:
        log.add("reasoning_opaque", where + ".encrypted_content")
    told = ""
    texts = (
        ("content", _texts(item, "content", where)),
        ("encrypted_content", own),
        ("summary", _texts(item, "summary", where)),
    )
    for key, text in texts:
        if not text or text == told:
            continue
        if told:
            log.add("reasoning_dropped", f"{where}.{key}")
        else:
            told = text
    return told


def _texts(item: dict[str, Any], key: str, where: str) -> str:
    parts = item.get(key)
    if parts is None:
        return ""
    if not isinstance(parts, list):
        raise BadRequest(f"'{key}' must be an array of parts.", param=f"{where}.{key}")
    texts: list[str] = []
    for index, part in enumerate(parts):
        text = part.get("text") if isinstance(part, dict) else None
        if not isinstance(text, str):
            raise BadRequest("A part of reasoning needs 'text'.", param=f"{where}.{key}[{index}].text")
        if text:
            texts.append(text)
    return "\n".join(texts)
