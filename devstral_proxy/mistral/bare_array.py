"""A bare `[{"name": …, "arguments": …}]` that is all of a model's answer, and nothing else (F60)."""

from __future__ import annotations

import re
from typing import Any, Final

from devstral_proxy.mistral.answer import Answer, Call
from devstral_proxy.mistral.arguments import Arguments
from devstral_proxy.mistral.call_array import CallArray

MAX_BARE: Final = 1 << 16
"""Most characters that are held until it is known that nothing else follows."""

_BARE = re.compile(r'\s*\[\s*\{\s*"(?:name|function|type|id|arguments|parameters)"\s*:')
_KEYS: Final = ('"name"', '"function"', '"type"', '"id"', '"arguments"', '"parameters"')


def is_bare(content: str) -> bool:
    """The content begins like such an array."""
    return _BARE.match(content) is not None


def may_be_bare(content: str) -> bool:
    """It may still turn out to begin so."""
    if is_bare(content):
        return True
    rest = content.lstrip()
    for opener in "[{":
        if not rest:
            return True
        if rest[0] != opener:
            return False
        rest = rest[1:].lstrip()
    return any(key.startswith(rest[: len(key)]) and not rest[len(key) :].strip() for key in _KEYS)


def calls_known(content: str, schemas: dict[str, dict[str, Any]], cut: bool) -> bool:
    """Whether it is an array of calls of known tools, and nothing behind it. `cut`: it may be incomplete."""
    names = _NamesOnly(schemas)
    array = CallArray(names)
    array.feed(content.lstrip())
    array.end()
    return names.some and names.known and not array.rest.strip() and (array.ended or cut)


class _NamesOnly(Answer):
    """An answer that nobody reads."""

    __slots__ = ("_schemas", "known", "some")

    def __init__(self, schemas: dict[str, dict[str, Any]]) -> None:
        self._schemas = schemas
        self.some = False
        self.known = True

    def begin(self, name: str, id: object = None) -> Call:
        """See whether the tool is known."""
        self.some = True
        self.known = self.known and name in self._schemas
        return Call(-1, name, "", Arguments(), False, "")

    def arguments(self, call: Call, text: str) -> str:
        """Find the end of the arguments."""
        call.arguments.feed(text)
        rest, call.arguments.rest = call.arguments.rest, ""
        return rest

    def end(self, call: Call) -> None:
        """Nothing to do."""
