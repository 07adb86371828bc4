"""Tool-call ids: any id becomes nine of a-z, A-Z, 0-9, the same way on every turn.

Mistral's tokenizers v3 to v11 take no other form, and v11 writes the id into the prompt (F07 to F10): so the mapping is
a hash, never random, and a history translates to the same tokens each time it is sent.
"""

from __future__ import annotations

import re
from hashlib import blake2b

LENGTH = 9
_ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_VALID = re.compile(r"[a-zA-Z0-9]{9}").fullmatch


def is_valid(tool_call_id: object) -> bool:
    """Whether Mistral's strictest tokenizer takes this id as it is."""
    return isinstance(tool_call_id, str) and _VALID(tool_call_id) is not None


def hashed(text: str) -> str:
    """Nine alphanumerics that depend on `text` alone."""
    number = int.from_bytes(blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")
    digits = []
    for _ in range(LENGTH):
        number, digit = divmod(number, 62)
        digits.append(_ALPHABET[digit])
    return "".join(digits)


def mapped(tool_call_id: str) -> str:
    """The id itself where it is valid, else its hash."""
    return tool_call_id if _VALID(tool_call_id) else hashed(tool_call_id)
