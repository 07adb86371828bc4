"""MODEL_ALIASES and DEFAULT_MODEL: the served model behind a name that a client insists on."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from fnmatch import translate
from typing import Final

_LONGEST_NAME: Final = 256
"""No model's name is longer; patterns are not tried on more."""


class Aliases:
    """Names and patterns (`claude-*`, `gpt-[45]*`, `o?`; case counts) to served models, read once.

    Nothing here grows with what clients ask for.
    """

    def __init__(self, mapping: Mapping[str, str], default: str | None = None) -> None:
        """`mapping`: name or pattern to model. `default`: the model of names that nothing serves."""
        self._exact = dict(mapping)
        self._default = default or ""
        self._known = {*mapping.values(), self._default} - {""}
        patterns = [name for name in mapping if any(char in name for char in "*?[")]
        patterns.sort(key=len, reverse=True)  # the first stays first among those of one length
        self._patterns = [(re.compile(translate(pattern)), mapping[pattern]) for pattern in patterns]

    def resolve(self, asked: str, served: Collection[str] = ()) -> str:
        """The model to ask for instead of `asked`; `asked` itself when nothing says otherwise.

        `served`: the models that are there, empty when that is not known. A served model keeps its name; then an exact
        name wins, then the longest pattern, then the default. A model that an alias leads to counts as served for
        patterns, so that `*` does not catch it. The default is for a missing name, and for one that is known not to be
        served. An alias is not looked up again.
        """
        if asked in served:
            return asked
        if asked in self._exact:
            return self._exact[asked]
        if asked in self._known:
            return asked
        if asked and len(asked) <= _LONGEST_NAME:
            for pattern, model in self._patterns:
                if pattern.match(asked):
                    return model
        if self._default and (not asked or served):
            return self._default
        return asked
