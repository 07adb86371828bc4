"""Model profiles: what a served model's tokenizer takes, by the name that the model is served under.

A profile is a row of `BUILT_IN`. A model's name finds its row in any spelling, as in
`mistralai/Devstral-Small-2-24B-Instruct-2512`, a path, or an alias such as `devstral2:latest`; see `Profiles.find`. A
name that finds none gets `STRICTEST`, whose form every Mistral tokenizer takes.

Tokenizer versions, temperatures: the model cards and `tekken.json` / `tokenizer.model` files of the models.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Final, Literal, get_args

TokenizerVersion = Literal["v3", "v7", "v11", "v13", "v15"]
RequiredWord = Literal["required", "any"]


@dataclass(frozen=True, slots=True)
class ModelProfile:
    """What one model takes and how it is best asked."""

    name: str
    tokenizer: TokenizerVersion = "v3"
    """Version of the tokenizer: what the messages may look like."""
    images: bool = False
    """The model sees images in user messages."""
    reasoning: bool = False
    """The model thinks: replayed reasoning goes back to it as thinking parts (v13 and v15 only)."""
    strict: bool = False
    """Check every translated request with mistral-common's own validators before it is sent."""
    user_after_tool: bool = False
    """The server takes a user message right after a tool's result: mistral-common 1.11.1 or later (F02)."""
    parallel_tool_calls: bool = True
    """Whether answers may hold more than one call; false also limits clients that ask for more."""
    max_tool_calls: int = 128
    """Most calls let through in one answer."""
    required: RequiredWord = "required"
    """The server's word for a tool_choice that forces a call: `any` on old servers (F40)."""
    timeout: float | None = None
    """Seconds for one whole request; None: the proxy's own limit."""
    sampling: Mapping[str, float] = field(default_factory=dict)
    """Sampling fields filled in where the client names none."""
    max_tokens: int | None = None
    """`max_tokens` where the client names none; None: what the context leaves."""


STRICTEST: Final = ModelProfile("strictest")

_DEVSTRAL: Final[Mapping[str, float]] = {"temperature": 0.15}
_SMALL: Final[Mapping[str, float]] = {"temperature": 0.15}
_MAGISTRAL: Final[Mapping[str, float]] = {"temperature": 0.7, "top_p": 0.95}


def _row(
    name: str,
    tokenizer: TokenizerVersion,
    *patterns: str,
    sampling: Mapping[str, float] | None = None,
    **more: bool,
) -> tuple[ModelProfile, tuple[re.Pattern[str], ...]]:
    profile = ModelProfile(name, tokenizer, sampling=sampling or {}, **more)  # type: ignore[arg-type]  # only booleans
    return profile, tuple(re.compile(pattern) for pattern in patterns)


# Each row's patterns are searched in the served name in lower case with `-` for every run of other characters. The
# rows are tried from the top: dated releases, then numbered ones, then the bare families, whose rows are the strictest
# of the family, since the name does not tell which of them is served.
BUILT_IN: Final = (
    # Devstral
    _row("devstral-small-2", "v13", r"devstral-small.*-2512", r"devstral-2-(small|24b)", r"devstral-?small-?v?2(?!\d)",
         images=True, sampling=_DEVSTRAL),
    _row("devstral-2", "v13", r"devstral.*-2512", r"devstral(-medium)?-?v?2(?!\d)", r"devstral-.*123b",
         sampling=_DEVSTRAL),
    _row("devstral-small-2507", "v11", r"devstral.*-2507", r"devstral-small-v?1-1", sampling=_DEVSTRAL),
    _row("devstral-small-2505", "v7", r"devstral.*-2505", r"devstral-small-v?1(?!\d)", sampling=_DEVSTRAL),
    _row("devstral-medium", "v11", r"devstral-medium", sampling=_DEVSTRAL),
    _row("devstral", "v7", r"devstral", sampling=_DEVSTRAL),
    # Magistral: v11 has no tokens for thoughts
    _row("magistral-2506", "v11", r"magistral.*-2506", r"magistral-(small|medium)-1-0", sampling=_MAGISTRAL),
    _row("magistral-2507", "v13", r"magistral.*-2507", r"magistral-(small|medium)-1-1", reasoning=True,
         sampling=_MAGISTRAL),
    _row("magistral-2509", "v13", r"magistral.*-2509", r"magistral-(small|medium)-1-2", reasoning=True, images=True,
         sampling=_MAGISTRAL),
    _row("magistral", "v11", r"magistral", sampling=_MAGISTRAL),
    # Mistral Small
    _row("mistral-small-4", "v15", r"mistral-?small.*-2603", r"mistral-?small-?v?4(?!\d)", reasoning=True, images=True),
    _row("mistral-small-3.2", "v11", r"mistral-?small.*-2506", r"mistral-?small-?3-2", images=True, sampling=_SMALL),
    _row("mistral-small-3.1", "v7", r"mistral-?small.*-2503", r"mistral-?small-?3-1", images=True, sampling=_SMALL),
    _row("mistral-small-3", "v7", r"mistral-?small.*-2501", r"mistral-?small-?(3|24b)(?!\d)", sampling=_SMALL),
    _row("mistral-small-2409", "v3", r"mistral-?small.*-2409"),
    # Ministral
    _row("ministral-3-reasoning", "v13", r"ministral-.*reasoning", reasoning=True, images=True, sampling=_MAGISTRAL),
    _row("ministral-3", "v13", r"ministral.*-2512", r"ministral-?3(?!b|\d)", images=True, sampling=_SMALL),
    _row("ministral-2410", "v3", r"ministral.*-2410", r"ministral-?(3b|8b)"),
    # Mistral Large
    _row("mistral-large-3", "v13", r"mistral-?large.*-2512", r"mistral-?large-?3(?!\d)", images=True, sampling=_SMALL),
    _row("pixtral-large", "v7", r"pixtral-?large", images=True),
    _row("mistral-large-2411", "v7", r"mistral-?large.*-2411", r"mistral-?large-?(instruct-)?2-1"),
    _row("mistral-large-2407", "v3", r"mistral-?large.*-2407"),
    # Mistral Medium
    _row("mistral-medium-3.5", "v15", r"mistral-?medium.*-26\d\d", r"mistral-?medium-?(3-5|4)(?!\d)", reasoning=True,
         images=True),
    _row("mistral-medium-3", "v11", r"mistral-?medium.*-25\d\d", r"mistral-?medium-?3(?!\d)", images=True),
    # Others of the house
    _row("pixtral-12b", "v3", r"pixtral", images=True),
)  # fmt: skip

_OTHERS = re.compile(r"[^a-z0-9]+")


class Profiles:
    """All profiles: the built-in rows, and those that MODEL_PROFILES adds or overrides."""

    def __init__(self, overrides: Mapping[str, Mapping[str, Any]] | None = None) -> None:
        """`overrides` maps a model's name, or the name of a built-in profile, to the fields that differ.

        Fields that are not named keep the value of the profile that the name would find without the override.
        Raises ValueError, with one line that names entry and field, for what is no profile.
        """
        self._own: dict[str, ModelProfile] = {}
        self._found: dict[tuple[str, str | None], ModelProfile] = {}
        for name, entry in (overrides or {}).items():
            if not isinstance(entry, Mapping):
                raise ValueError(f"{name}: must be an object of profile fields")
            if not _spelling(name):
                raise ValueError(f"{name!r}: a profile needs a name")
            if _spelling(name) in self._own:
                raise ValueError(f"{name}: the same name is there in another spelling")
            self._own[_spelling(name)] = _override(name, _built_in(name) or STRICTEST, entry)

    def find(self, model: str, root: str | None = None) -> ModelProfile:
        """The profile of a served model.

        `root` is what `/v1/models` says that the name stands for; it is asked where the name alone tells nothing.
        An own entry goes before the built-in ones, by the name itself, its last path segment, or the profile's name.
        """
        key = (model, root)
        found = self._found.get(key)
        if found is None:
            if len(model) > _LONGEST_NAME:  # no name that anybody serves; the patterns are not made for it
                return self._own.get("strictest", STRICTEST)
            found = (
                self._search(model) or (self._search(root) if root else None) or self._own.get("strictest", STRICTEST)
            )
            if len(self._found) < _MOST_REMEMBERED:  # the name is the client's: what is kept has to be bounded
                self._found[key] = found
        return found

    def _search(self, model: str) -> ModelProfile | None:
        own = self._own.get(_spelling(model)) or self._own.get(_spelling(model.rstrip("/").rpartition("/")[2]))
        if own is not None:
            return own
        built_in = _built_in(model)
        return self._own.get(_spelling(built_in.name), built_in) if built_in is not None else None


_MOST_REMEMBERED: Final = 256
_LONGEST_NAME: Final = 512


def _spelling(name: str) -> str:
    return _OTHERS.sub("-", name.lower()).strip("-")


def _built_in(model: str) -> ModelProfile | None:
    name = _spelling(model)
    return next((profile for profile, patterns in BUILT_IN if any(p.search(name) for p in patterns)), None)


def _override(name: str, base: ModelProfile, entry: Mapping[str, Any]) -> ModelProfile:
    known = {f.name for f in fields(ModelProfile)} - {"name"}
    values: dict[str, Any] = {"name": name}
    for key, value in entry.items():
        if key not in known:
            raise ValueError(f"{name}.{key}: no such field; there are {', '.join(sorted(known))}")
        problem = _FIELD_CHECKS[key](value)
        if problem:
            raise ValueError(f"{name}.{key}: {problem}")
        values[key] = dict(value) if key == "sampling" else value
    profile = replace(base, **values)
    if profile.reasoning and profile.tokenizer not in ("v13", "v15") and "reasoning" in entry:
        raise ValueError(
            f"{name}.reasoning: tokenizer {profile.tokenizer} has no tokens for thoughts, v13 and v15 have"
        )
    if profile.reasoning and profile.tokenizer not in ("v13", "v15"):
        profile = replace(profile, reasoning=False)
    return profile


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _one_of(*values: str) -> Callable[[Any], str | None]:
    return lambda value: None if value in values else f"must be one of {', '.join(values)}"


def _flag(value: Any) -> str | None:
    return None if isinstance(value, bool) else "must be true or false"


def _positive(whole: bool, optional: bool) -> Callable[[Any], str | None]:
    def check(value: Any) -> str | None:
        if (value is None and optional) or (_is_number(value) and value > 0 and (not whole or isinstance(value, int))):
            return None
        return f"must be a {'whole ' if whole else ''}number above 0" + (" or null" if optional else "")

    return check


# What vLLM takes of each sampling field.
_RANGES: Final[dict[Any, tuple[float, float]]] = {
    "temperature": (0, 2),
    "top_p": (1e-6, 1),
    "min_p": (0, 1),
    "top_k": (-1, 1_000_000),
    "presence_penalty": (-2, 2),
    "frequency_penalty": (-2, 2),
    "repetition_penalty": (0.01, 10),
}


def _sampling(value: Any) -> str | None:
    if isinstance(value, Mapping) and all(
        key in _RANGES and _is_number(number) and _RANGES[key][0] <= number <= _RANGES[key][1]
        for key, number in value.items()
    ):
        return None
    if isinstance(value, Mapping) and all(map(_is_number, value.values())):
        return "takes " + ", ".join(f"{key} {low:g} to {high:g}" for key, (low, high) in _RANGES.items())
    return 'must be an object of numbers, as in {"temperature": 0.15}'


_FIELD_CHECKS: Final[dict[str, Callable[[Any], str | None]]] = {
    "tokenizer": _one_of(*get_args(TokenizerVersion)),
    "required": _one_of(*get_args(RequiredWord)),
    **dict.fromkeys(("images", "reasoning", "strict", "user_after_tool", "parallel_tool_calls"), _flag),
    "max_tool_calls": _positive(whole=True, optional=False),
    "max_tokens": _positive(whole=True, optional=True),
    "timeout": _positive(whole=False, optional=True),
    "sampling": _sampling,
}
