"""JSON that was cut short or doubled, made whole again: linear time, and nothing is guessed that is not in the text."""

from __future__ import annotations

import json
import re
from typing import Any, Final

_PIECE: Final = re.compile(r'"(?:[^"\\]|\\.)*+"|[{}\[\]:,]|[^"{}\[\]:,\s]++|"', re.DOTALL)
_CUT_ESCAPE: Final = re.compile(r"\\(?:u[0-9a-fA-F]{0,3})?$")
_LITERALS: Final = ("true", "false", "null")
_CLOSER: Final = {"{": "}", "[": "]"}


def load_lenient(text: str) -> Any:
    """What Python's own json makes of it, raw control characters in strings taken too; None where it is no JSON."""
    try:
        return json.loads(text, strict=False)
    except (ValueError, RecursionError):
        return None


def dump(value: Any) -> str:
    """JSON text that any pieceizer can encode: lone surrogates become '?'."""
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "replace").decode()


def completed_object(text: str) -> str | None:
    """The text of a JSON object, completed where it was cut and cut where it was doubled; None where it is none.

    Only closing quotes, brackets and braces are added, and `null` for a value that never came.
    """
    if not text.lstrip().startswith("{"):
        return None
    try:
        value, end = json.JSONDecoder(strict=False).raw_decode(text.lstrip())
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
