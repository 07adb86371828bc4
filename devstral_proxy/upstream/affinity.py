"""Which replica a conversation goes to: always the same one, so that vLLM's prefix cache holds its earlier turns.

Rendezvous hashing: each replica has a score for each conversation, and the highest wins. A replica that goes moves only
its own conversations, and gets the same ones back when it comes again. Pure.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from itertools import islice
from typing import Any, Final

_TEXT: Final = 4096
"""Characters of a text that count. What differs only later shares a replica, which does no harm."""
_PARTS: Final = 16
_HEAD: Final = 32
"""Messages looked at for the first one that is not the system's."""
_SPARE: Final = 4.0
"""Running requests that never count as too many: a batch takes them, and a prompt's prefill costs more."""


def affinity_of(request: Mapping[str, Any], key: str) -> bytes:
    """What the turns of one conversation have in common: model, system text at the head, first text of the user's, and
    the name of the API key. Takes any JSON object; the cost does not grow with the conversation."""
    digest = blake2b(digest_size=16)
    _add(digest, key)
    _add(digest, request.get("model"))
    messages = request.get("messages")
    if not isinstance(messages, list):  # completions, embeddings
        _add(digest, request.get("prompt", request.get("input")))
        return digest.digest()
    head = True
    for message in islice(messages, _HEAD):
        if not isinstance(message, dict):
            continue
        role = message.get("role")
        if role == "assistant":  # a greeting that the client made up
            head = False
        elif role not in ("system", "developer"):
            _add(digest, message.get("content"))
            break
        elif head:
            _add(digest, message.get("content"))
    return digest.digest()


def ranked(affinity: bytes, replicas: Sequence[tuple[str, float]]) -> list[int]:
    """The indices of the replicas (name, weight), best first, for this conversation.

    A replica's score depends on nothing but the conversation, its name and its weight; the share of conversations for
    which it is the best is its share of the weights.
    """
    scores = [_score(affinity, name, weight) for name, weight in replicas]
    return sorted(range(len(replicas)), key=scores.__getitem__, reverse=True)


def overloaded(running: int, weight: float, all_running: int, all_weights: float, factor: float) -> bool:
    """One more request would be more than `factor` times this replica's fair share of all that run, it included.

    `factor` 0: never. A few requests are never too many.
    """
    if not factor or running < _SPARE:
        return False
    return running + 1 > math.ceil(factor * (all_running + 1) * weight / all_weights)


def _score(affinity: bytes, name: str, weight: float) -> float:
    # -weight / ln(u), u even in (0, 1): the weighted form of "highest hash wins".
    number = int.from_bytes(blake2b(name.encode(), digest_size=8, key=affinity).digest(), "big") >> 12
    return -weight / math.log((number + 0.5) / 2.0**52)


def _add(digest: blake2b, value: Any) -> None:
    """The text's beginning, or that of its parts; what holds no text counts as empty."""
    if isinstance(value, str):
        digest.update(value[:_TEXT].encode("utf-8", "surrogatepass"))
    elif isinstance(value, list):
        left = _TEXT
        for part in islice(value, _PARTS):
            text = part.get("text") if isinstance(part, dict) else part
            if isinstance(text, str):
                digest.update(text[:left].encode("utf-8", "surrogatepass"))
                left -= len(text)
                if left <= 0:
                    break
    digest.update(b"\0")
