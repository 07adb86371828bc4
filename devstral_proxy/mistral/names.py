"""Tool names: what Mistral's tokenizer takes, and the way back to the client's own.

mistral-common takes `[a-zA-Z0-9_-]{1,64}` only; MCP servers make names with dots, slashes and colons, and longer ones
(F42). A name that does not fit is cut and gets a hash of the whole, so that two long names stay two.
"""

from __future__ import annotations

import re
from typing import Final

from devstral_proxy.mistral.tool_ids import hashed

MAX_LENGTH: Final = 64
_VALID = re.compile(r"[a-zA-Z0-9_-]{1,64}").fullmatch
_FORBIDDEN = re.compile(r"[^a-zA-Z0-9_-]+")
_HASH_LENGTH: Final = 6


def is_valid(name: str) -> bool:
    """Whether mistral-common takes this name as it is."""
    return _VALID(name) is not None


class ToolNames:
    """The names of one request: client's name to Mistral's, and back for those that differ.

    `back` may be given by others, who share it: it is replaced where a name is added.
    """

    __slots__ = ("_shared", "back")

    def __init__(self, back: dict[str, str] | None = None) -> None:
        self._shared = back is not None
        self.back = {} if back is None else back

    def mapped(self, name: str) -> str:
        """The name as it goes upstream; remembered for the way back where it differs."""
        if _VALID(name):
            return name
        tail = "_" + hashed(name)[:_HASH_LENGTH]
        valid = _FORBIDDEN.sub("_", name)[: MAX_LENGTH - len(tail)] + tail
        if self.back.get(valid) != name:
            if self._shared:
                self._shared = False
                self.back = dict(self.back)
            self.back[valid] = name
        return valid
