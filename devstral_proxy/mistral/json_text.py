"""JSON of the history that was cut short or doubled, made whole again, in linear time.

The answer's side has a reader of its own (`arguments`): it mends as the text comes and gives up half a key, since a
client acts on what it gets. What is in the history was said, so here even half a key stays.
"""

from __future__ import annotations

import json
import re
from typing import Any, Final

_PIECE: Final = re.compile(r'"(?:[^"\\]|\\.)*+"|[{}\[\]:,]|[^"{}\[\]:,\s]++|"', re.DOTALL)
_CUT_ESCAPE: Final = re.compile(r"\\(?:u[0-9a-fA-F]{0,3})?$")
_LITERALS: Final = ("true", "false", "null")
_CLOSER: Final = {"{": "}", "[": "]"}


MAX_DEPTH: Final = 200
"""Levels of nesting that every server's parser survives (vLLM 0.32.0 fails from 990 on, orjson writes 254)."""


_DEPTH_NAMED: Final = 4
"""Levels that a path names: further down it would only repeat itself."""


def _finite(number: str) -> float | str:
    value = float(number)
    return value if value - value == 0 else number


# NaN and numbers without bounds are no JSON: they are kept as text.
_DECODER: Final = json.JSONDecoder(strict=False, parse_constant=str, parse_float=_finite)


def is_deep(text: str) -> bool:
    """Whether JSON text is nested over MAX_DEPTH levels; brackets inside strings are not looked at twice."""
    if len(text) <= MAX_DEPTH or text.count("{") + text.count("[") <= MAX_DEPTH:
        return False
    depth = 0
    for match in _PIECE.finditer(text):
        piece = match.group()
        if piece in ("{", "["):
            depth += 1
            if depth > MAX_DEPTH:
                return True
        elif piece in ("}", "]"):
            depth -= 1
    return False


def load_lenient(text: str) -> Any:
    """What Python's own json makes of it, raw control characters in strings taken too; None where it is no JSON."""
    try:
        return _DECODER.decode(text)
    except (ValueError, RecursionError):
        return None


def dump(value: Any) -> str:
    """JSON text that any tokenizer can encode: lone surrogates become '?'."""
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "replace").decode()


def completed_object(text: str) -> str | None:
    """The text of a JSON object, completed where it was cut and cut where it was doubled; None where it is none.

    Only closing quotes, brackets and braces are added, and `null` for a value that never came.
    """
    if not text.lstrip().startswith("{"):
        return None
    try:
        value, end = _DECODER.raw_decode(text.lstrip())
    except (ValueError, RecursionError):
        pass
    else:
        first, rest = text.lstrip()[:end], text.lstrip()[end:].strip()
        surplus = not rest.strip("}]") or first.startswith(rest)  # brackets too many, or the object begun again
        return dump(value) if isinstance(value, dict) and surplus else None
    completed = _close(text.strip())
    value = load_lenient(completed) if completed is not None else None
    return dump(value) if isinstance(value, dict) else None


def _close(text: str) -> str | None:
    """Walk the pieces with a stack; at the end of the text close what is still open."""
    stack: list[str] = []
    key_next = False  # the next string is a member's name
    last = ""
    last_at = 0
    for match in _PIECE.finditer(text):
        piece = match.group()
        if piece in ("{", "["):
            stack.append(piece)
            key_next = piece == "{"
        elif piece in ("}", "]"):
            if not stack or _CLOSER[stack.pop()] != piece:
                return None
            key_next = False
        elif piece == ",":
            key_next = bool(stack) and stack[-1] == "{"
        elif piece == ":":
            key_next = False
        elif piece == '"':  # a string that never ends: the rest of the text is in it
            tail = text[match.start() :]
            cut = _CUT_ESCAPE.search(tail)
            if cut and (len(tail[: cut.start()]) - len(tail[: cut.start()].rstrip("\\"))) % 2 == 0:
                tail = tail[: cut.start()]
            return text[: match.start()] + tail + '"' + (": null" if key_next else "") + _closers(stack)
        last, last_at = piece, match.start()
    head = text[:last_at]
    if last == ",":
        return head + _closers(stack)
    if last == ":":
        return text + " null" + _closers(stack)
    if key_next and last.startswith('"'):
        return text + ": null" + _closers(stack)
    if last[:1].isalpha():
        literal = next((word for word in _LITERALS if word.startswith(last)), None)
        return None if literal is None else head + literal + _closers(stack)
    if last[:1] in "-0123456789" and last:
        number = last.rstrip("+-.eE")
        return head + (number or "null") + _closers(stack)
    return text + _closers(stack)


def _closers(stack: list[str]) -> str:
    return "".join(_CLOSER[opened] for opened in reversed(stack))


def deep_path(value: Any, most: int = MAX_DEPTH) -> str | None:
    """The path of the first member that is nested over `most` levels (cut short), or None. No recursion."""
    level = [value] if isinstance(value, (dict, list)) else []
    for _ in range(most):  # hardly any has such a member, and without paths that is known sooner
        level = [
            inner
            for outer in level
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, (dict, list))
        ]
        if not level:
            return None
    stack: list[tuple[Any, int, str]] = [(value, 1, "")]
    while stack:
        here, depth, path = stack.pop()
        if depth > most:
            return path
        named = depth <= _DEPTH_NAMED
        if isinstance(here, dict):
            stack += [
                (inner, depth + 1, (f"{path}.{key}" if path else str(key)) if named else path)
                for key, inner in here.items()
                if isinstance(inner, (dict, list))
            ]
        elif isinstance(here, list):
            stack += [
                (inner, depth + 1, f"{path}[{place}]" if named else path)
                for place, inner in enumerate(here)
                if isinstance(inner, (dict, list))
            ]
    return None
