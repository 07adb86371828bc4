"""The tokens of JSON that is read as it comes, and of what models write instead."""

from __future__ import annotations

import re
from typing import Any, Final

import orjson

SPACE = re.compile(r"[ \t\n\r]*")
NUMBER_RUN = re.compile(r"[-+0-9.eE]+")
NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?")
WORD_RUN = re.compile(r"[A-Za-z_$][A-Za-z0-9_$.-]*")
LITERALS: Final = {
    "true": "true",
    "false": "false",
    "null": "null",
    "True": "true",
    "False": "false",
    "None": "null",
    "NaN": "null",
    "undefined": "null",
}

STOP: Final = {'"': re.compile(r'["\\\x00-\x1f]'), "'": re.compile(r"[\"'\\\x00-\x1f]")}
"""By the quote that the string began with: where to stop."""

_ESCAPE = re.compile(r'\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4})')
_LOW = re.compile(r"\\u[dD][c-fC-F][0-9a-fA-F]{2}")
_CONTROL: Final = {"\n": "\\n", "\r": "\\r", "\t": "\\t", "\b": "\\b", "\f": "\\f"}


def special(text: str, position: int) -> tuple[str | None, int, bool]:
    """What is to stand for the character where STOP stopped, the position behind it, and whether it was wrong.

    None: the escape is not whole yet. A half of a surrogate pair, which most parsers refuse, becomes U+FFFD.
    """
    char = text[position]
    if char == '"':  # within single quotes
        return '\\"', position + 1, False
    if char != "\\":
        return _CONTROL.get(char) or f"\\u{ord(char):04x}", position + 1, True
    escape = _ESCAPE.match(text, position)
    if escape is None:
        follows = text[position + 1 : position + 2]
        if not follows or (follows == "u" and len(text) - position < 6):
            return None, len(text), False
        return ("'", position + 2, True) if follows == "'" else ("\\\\", position + 1, True)
    token, end = escape.group(), escape.end()
    if token[1] != "u" or not 0xD800 <= (code := int(token[2:], 16)) <= 0xDFFF:
        return token, end, False
    if code < 0xDC00:  # the first half of a pair: the second must follow
        if low := _LOW.match(text, end):
            return token + low.group(), low.end(), False
        if len(text) - end < 6 and "\\u".startswith(text[end : end + 2]):
            return None, len(text), False
    return "\\ufffd", end, True


def loads(text: str) -> Any:
    """The value, or None where the text is no JSON."""
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return None
