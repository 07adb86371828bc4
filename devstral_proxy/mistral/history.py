"""Arguments of calls in the history: always the text of a JSON object.

vLLM turns arguments that are none into `{}` without a word (0.32.0), or refuses the request on this and every later
turn (0.12.0). So they are completed where they were cut, and wrapped where they are something else (F49, F50).
"""

from __future__ import annotations

from typing import Any, Final

import orjson

from devstral_proxy.mistral.json_text import completed_object, dump, is_deep, load_lenient

WRAPPED: Final = "input"
"""The member that holds arguments which are no object."""


def history_arguments(given: Any) -> tuple[str, str | None]:
    """The arguments as JSON text of an object, and the name of the rewrite that it took, if any.

    A string that holds an object is returned as it is, to the byte.
    """
    if isinstance(given, str):
        try:
            value = orjson.loads(given)
        except orjson.JSONDecodeError:
            return _damaged(given)
        if isinstance(value, dict):
            if is_deep(given):
                return _wrapped(given), "arguments_wrapped"
            return given, None
        if isinstance(value, str):  # encoded twice
            inner, rewrite = history_arguments(value)
            if rewrite is None:
                return inner, "arguments_repaired"
        return _wrapped(value), "arguments_wrapped"
    if given is None:
        return "{}", "arguments_filled"
    if isinstance(given, dict):
        return _dumped(given), "arguments_serialized"
    return _wrapped(given), "arguments_wrapped"


def _damaged(text: str) -> tuple[str, str | None]:
    if not text.strip():
        return "{}", "arguments_filled"
    value = load_lenient(text)  # takes what orjson does not: NaN, raw line ends in strings, lone surrogates
    if isinstance(value, dict) and not is_deep(text):
        return dump(value), "arguments_repaired"
    completed = completed_object(text)
    if completed is not None and not is_deep(completed):
        return completed, "arguments_repaired"
    return _wrapped(text), "arguments_wrapped"


def _wrapped(value: Any) -> str:
    return _dumped({WRAPPED: value})


def _dumped(value: Any) -> str:
    try:
        return orjson.dumps(value).decode()
    except TypeError:  # lone surrogates, or deep nesting; the latter fails here too
        return dump(value)
