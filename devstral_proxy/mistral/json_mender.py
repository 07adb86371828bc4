"""A JSON object read as it comes, and mended: what comes out is valid as far as it goes.

The text goes on letter by letter as long as it is right. Mended on the way: raw control characters and wrong escapes
in strings, commas too many or too few, unquoted or single-quoted strings, Python's literals, a value that never came,
forgotten brackets inside others, a string where the schema wants an array or object (F78). Half a key, escape, number
or literal is held until it is whole, so that an object that ends early can be closed with a quote and brackets alone.

Linear in the length of the text; held are at most MAX_HELD characters of one string, and one key.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import Any, Final

from devstral_proxy.mistral.json_tokens import LITERALS, NUMBER, NUMBER_RUN, SPACE, STOP, WORD_RUN, loads, special
from devstral_proxy.mistral.schema_types import member, wants_container

MARKER: Final = "[TOOL_CALLS]"
MAX_DEPTH: Final = 200
"""Deeper nesting is taken for garbage: parsers refuse it, and memory stays bounded."""
MAX_HELD: Final = 1 << 20
MAX_TOKEN: Final = 400
"""Longest number or literal."""

CLOSER: Final = {"{": "}", "[": "]"}


class At(Enum):
    """What is read next."""

    START = auto()
    WRAPPED = auto()  # in a string that stands where the object should
    AFTER_WRAPPED = auto()
    KEY_OR_END = auto()
    KEY = auto()
    IN_KEY = auto()
    COLON = auto()
    VALUE = auto()
    VALUE_OR_END = auto()
    STRING = auto()  # in a string that is a value
    ENCODED = auto()  # in a string that may hold an array or object
    NEXT = auto()  # after a value
    END = auto()


class JsonMender:
    """The steps: each reads on from a position and says where the next one begins."""

    __slots__ = (
        "_at",
        "_carry",
        "_hold",
        "_key",
        "_keys",
        "_out",
        "_quote",
        "_root",
        "_schemas",
        "_stack",
        "_string",
        "_string_size",
        "broken",
        "changed",
        "ended",
        "notes",
    )

    def __init__(self, schema: dict[str, Any] | None = None) -> None:
        self._root = schema or {}
        self._at = At.START
        self._stack: list[str] = []
        self._schemas: list[Any] = []
        self._keys: set[str] = set()  # of the outermost object
        self._key: list[str] = []
        self._quote = '"'
        self._carry = ""  # the begun token, to be read again with what follows
        self._hold: list[str] = []  # read and mended; an end here could not be closed with brackets alone
        self._out: list[str] = []
        self._string: list[str] = []
        self._string_size = 0
        self.ended = False
        self.broken = False
        self.changed = False
        self.notes: list[str] = []

    @property
    def waiting(self) -> bool:
        """Something that came has not gone out yet."""
        return bool(self._carry or self._hold or self._string)

    @property
    def in_string(self) -> bool:
        """The text that comes next stands inside a string."""
        return self._at in (At.STRING, At.ENCODED, At.IN_KEY, At.WRAPPED)

    def note(self, name: str) -> None:
        """A change was made, by this name."""
        self.changed = True
        if name not in self.notes:
            self.notes.append(name)

    def _mended(self) -> None:
        self.note("arguments_mended")

    def _take(self) -> str:
        text = "".join(self._out)
        self._out.clear()
        return text

    def _release(self, text: str) -> None:
        """This, and what was held before it, can go out."""
        if self._hold:
            self._out += self._hold
            self._hold.clear()
        self._out.append(text)

    def _break(self, position: int) -> int:
        """No object: from here on all goes as it comes."""
        if "arguments_invalid" not in self.notes:
            self.notes.append("arguments_invalid")
        self.broken = True
        self._at = At.END
        self._release("".join(self._string))
        self._string.clear()
        return position

    def _close_all(self) -> None:
        """The end, too early: close what is open, back to the last value that can be kept."""
        at = self._at
        if at is At.STRING:
            self._out.append('"')
        elif at is At.ENCODED:
            self._release('"' + "".join(self._string) + '"')
        elif at in (At.VALUE, At.VALUE_OR_END) and self._carry:
            number = NUMBER.match(self._carry)
            literal = next((word for word in ("true", "false", "null") if word.startswith(self._carry)), None)
            if number or literal:
                self._release(number.group() if number else str(literal))
        self._string.clear()
        self._hold.clear()
        self._carry = ""
        self.note("arguments_closed")
        self._out += [CLOSER[opener] for opener in reversed(self._stack)]
        self.ended = True
        self._at = At.END

    def _space(self, text: str, position: int, to: list[str]) -> int:
        end = SPACE.match(text, position).end()  # type: ignore[union-attr]  # it matches the empty string too
        if end > position:
            to.append(text[position:end])
        return end

    def _push(self, opener: str, schema: Any) -> None:
        self._release(opener)
        self._stack.append(opener)
        self._schemas.append(schema)
        self._at = At.KEY_OR_END if opener == "{" else At.VALUE_OR_END

    def _pop(self, closer: str) -> None:
        while CLOSER[self._stack[-1]] != closer:  # forgotten brackets
            self._mended()
            self._out.append(CLOSER[self._stack.pop()])
            self._schemas.pop()
        self._out.append(closer)
        self._stack.pop()
        self._schemas.pop()
        self._at = At.NEXT
        if not self._stack:
            self.ended = True
            self._at = At.END

    def _value_schema(self) -> Any:
        if not self._schemas[-1]:
            return None
        return member(self._schemas[-1], "".join(self._key) if self._stack[-1] == "{" else None, self._root)

    def _bracket(self, char: str, position: int) -> int:
        """A closing bracket; one that closes nothing is left out."""
        if any(CLOSER[opener] == char for opener in self._stack):
            self._pop(char)
        else:
            self._mended()
        return position + 1

    def _step_key(self, text: str, position: int) -> int:
        position = self._space(text, position, self._hold)
        if position == len(text):
            return position
        char = text[position]
        if char in "\"'":
            if char == "'":
                self._mended()
            self._quote = char
            self._key.clear()
            self._hold.append('"')
            self._at = At.IN_KEY
            return position + 1
        if char in "}]":
            return self._after_comma(char, position)
        if char == "," or (char == "{" and len(self._stack) == 1 and self._at is At.KEY_OR_END):
            self._mended()  # a comma too many; the first brace doubled
            return position + 1
        word = WORD_RUN.match(text, position)
        if word is None:
            return self._break(position)
        if word.end() == len(text) and len(text) - position <= MAX_TOKEN:
            self._carry = text[position:]
            return len(text)
        self._mended()
        self._hold.append(f'"{word.group()}"')
        self._key = [word.group()]
        self._at = At.COLON
        return word.end()

    def _after_comma(self, char: str, position: int) -> int:
        """A bracket where a key or an element could stand: a comma before it is one too many."""
        if "," in self._hold:
            self._mended()
            self._hold = [piece for piece in self._hold if piece != ","]
        self._release("")
        self._at = At.NEXT
        return self._bracket(char, position)

    def _step_in_key(self, text: str, position: int) -> int:
        stop = STOP[self._quote].search(text, position)
        if stop is None or stop.start() > position:
            end = len(text) if stop is None else stop.start()
            piece = text[position:end]
        elif text[position] == self._quote:
            self._hold.append('"')
            self._at = At.COLON
            return position + 1
        else:
            piece, end = self._special(text, position)
        if len(self._key) < 64:
            self._key.append(piece)
        self._hold.append(piece)
        return end

    def _step_colon(self, text: str, position: int) -> int:
        position = self._space(text, position, self._hold)
        if position == len(text):
            return position
        char = text[position]
        if char == ":":
            if len(self._stack) == 1 and len(self._keys) < 1000:
                self._keys.add("".join(self._key)[:200])
            self._hold.append(":")
            self._at = At.VALUE
            return position + 1
        if char not in ",}":
            return self._break(position)
        self._mended()
        self._release(": null")
        self._at = At.NEXT
        return position

    def _step_value(self, text: str, position: int) -> int:
        position = self._space(text, position, self._hold)
        if position == len(text):
            return position
        char = text[position]
        if char in "\"'":
            return self._begin_string(char, position)
        if char in "{[":
            if len(self._stack) >= MAX_DEPTH:
                return self._break(position)
            self._push(char, self._value_schema())
            return position + 1
        if char in "}],":
            if self._stack[-1] == "[":
                if char != ",":
                    return self._after_comma(char, position)
                self._mended()
                return position + 1
            self._mended()
            self._release("null")
            self._at = At.NEXT
            return position
        return self._scalar(text, position)

    def _begin_string(self, quote: str, position: int) -> int:
        if quote == "'":
            self._mended()
        self._quote = quote
        if quote == '"' and wants_container(self._value_schema(), self._root):
            self._at = At.ENCODED
            self._string_size = 0
        else:
            self._release('"')
            self._at = At.STRING
        return position + 1

    def _scalar(self, text: str, position: int) -> int:
        """A number or a literal; a bare word is a string without its quotes."""
        number = text[position] in "-0123456789"
        run = (NUMBER_RUN if number else WORD_RUN).match(text, position)
        if run is None:
            return self._break(position)
        token = run.group()
        if run.end() == len(text) and len(token) <= MAX_TOKEN:
            self._carry = token
            return len(text)
        written = token if number else LITERALS.get(token, f'"{token}"')
        if number and not NUMBER.fullmatch(token):
            return self._break(position)
        if written != token:
            self._mended()
        self._release(written)
        self._at = At.NEXT
        return run.end()

    def _step_next(self, text: str, position: int) -> int:
        position = self._space(text, position, self._out)
        if position == len(text):
            return position
        char = text[position]
        if char == ",":
            self._hold.append(",")
            self._at = At.KEY if self._stack[-1] == "{" else At.VALUE_OR_END
            return position + 1
        if char in "}]":
            return self._bracket(char, position)
        if char == "[" and MARKER.startswith(text[position : position + len(MARKER)]):
            if len(text) - position < len(MARKER):
                self._carry = text[position:]
                return len(text)
            self._close_all()  # the next call begins: this one lacks its brackets
            return position
        if char == '"' and self._stack[-1] == "{":
            self._mended()
            self._hold.append(",")
            self._at = At.KEY
            return position
        return self._break(position)

    def _step_string(self, text: str, position: int) -> int:
        """In a value: it can be cut anywhere but in an escape."""
        stop = STOP[self._quote].search(text, position)
        if stop is None:
            self._out.append(text[position:])
            return len(text)
        end = stop.start()
        if end > position:
            self._out.append(text[position:end])
        if text[end] == self._quote:
            self._out.append('"')
            self._at = At.NEXT
            return end + 1
        piece, end = self._special(text, end)
        self._out.append(piece)
        return end

    def _special(self, text: str, position: int) -> tuple[str, int]:
        piece, end, mended = special(text, position)
        if mended:
            self._mended()
        if piece is None:
            self._carry = text[position:]
            return "", len(text)
        return piece, end

    def _collect(self, text: str, position: int) -> tuple[bool, int]:
        """A piece of a string that is held; whether it has ended."""
        stop = STOP['"'].search(text, position)
        end = len(text) if stop is None else stop.start()
        if end > position:
            piece = text[position:end]
        elif text[end] == '"':
            return True, end + 1
        else:
            piece, end = self._special(text, position)
        self._string.append(piece)
        self._string_size += len(piece)
        return False, end

    def _step_encoded(self, text: str, position: int) -> int:
        ended, end = self._collect(text, position)
        if ended:
            raw = "".join(self._string)
            self._string.clear()
            self._at = At.NEXT
            inner = loads(f'"{raw}"')
            if isinstance(inner, str) and isinstance(loads(inner), (list, dict)):
                self.note("argument_decoded")
                self._release(inner.strip())
            else:
                self._release(f'"{raw}"')
        elif self._string_size > MAX_HELD or not _may_be_container(self._string[0]):
            self._release('"' + "".join(self._string))
            self._string.clear()
            self._at = At.STRING
        return end


def _may_be_container(start: str) -> bool:
    return not start.strip() or start.lstrip()[0] in "[{"
