"""Tool-call ids: any id becomes nine of a-z, A-Z, 0-9, the same way on every turn.

Mistral's tokenizers v3 to v11 take no other form, and v11 writes the id into the prompt (F07 to F10): so the mapping is
a hash, never random, and a history translates to the same tokens each time it is sent.
"""

from __future__ import annotations

import re
from functools import lru_cache
from hashlib import blake2b
from typing import Final

LENGTH = 9
_ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_PAIRS = [low + high for high in _ALPHABET for low in _ALPHABET]
_VALID = re.compile(r"[a-zA-Z0-9]{9}").fullmatch


def is_valid(tool_call_id: object) -> bool:
    """Whether Mistral's strictest tokenizer takes this id as it is."""
    return isinstance(tool_call_id, str) and _VALID(tool_call_id) is not None


def hashed(text: str) -> str:
    """Nine alphanumerics that depend on `text` alone."""
    number = int.from_bytes(blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")
    number, a = divmod(number, 3844)
    number, b = divmod(number, 3844)
    number, c = divmod(number, 3844)
    number, d = divmod(number, 3844)
    return _PAIRS[a] + _PAIRS[b] + _PAIRS[c] + _PAIRS[d] + _ALPHABET[number % 62]


MAX_KEPT: Final = 64
"""Longer ids, which no server makes, are mapped anew each time: what is remembered has to be bounded."""


@lru_cache(maxsize=8192)  # a history's ids come again with each turn
def kept(tool_call_id: str) -> str:
    """`mapped`, for ids up to MAX_KEPT."""
    return tool_call_id if _VALID(tool_call_id) else hashed(tool_call_id)


def mapped(tool_call_id: str) -> str:
    """The id itself where it is valid, else its hash."""
    return kept(tool_call_id) if len(tool_call_id) <= MAX_KEPT else hashed(tool_call_id)
