"""Ids of responses and items, all made from one seed: an item's id tells the response that it belongs to."""

from __future__ import annotations

import re
from hashlib import sha256
from typing import Final

_LENGTH: Final = 32
_OWN = re.compile(r"[a-z]+_([0-9a-f]{32})(?:[0-9a-f]{2,}|i[0-9]+)").fullmatch

PREFIXES: Final[dict[str, str]] = {
    "message": "msg",
    "reasoning": "rs",
    "function_call": "fc",
    "function_call_output": "fco",
    "custom_tool_call": "ctc",
    "custom_tool_call_output": "ctco",
}


class Ids:
    """The ids of one exchange."""

    __slots__ = ("_hash", "response")

    def __init__(self, seed: str) -> None:
        self._hash = sha256(seed.encode()).hexdigest()[:_LENGTH]
        self.response = f"resp_{self._hash}"

    def output(self, kind: str, number: int) -> str:
        """The id of the item at this place of the output."""
        return f"{PREFIXES[kind]}_{self._hash}{number:02x}"

    def input(self, kind: str, number: int) -> str:
        """The id of an input item that came without one."""
        return f"{PREFIXES.get(kind, 'item')}_{self._hash}i{number}"


def response_of(item: str) -> str | None:
    """The id of the response that an item of ours belongs to, to its input or output; None for an id of others'."""
    found = _OWN(item)
    return f"resp_{found[1]}" if found else None
