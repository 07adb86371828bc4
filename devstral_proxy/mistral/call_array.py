"""The older form of tool calls: `[{"name": …, "arguments": {…}}, …]`, read as it comes."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final

import orjson

from devstral_proxy.mistral.answer import MAX_NAME, Answer, Call
from devstral_proxy.mistral.arguments import Arguments
from devstral_proxy.mistral.json_mender import MAX_HELD

_SPACE = re.compile(r"[\s,]*")
_STRING_END = re.compile(r'["\\]')
_SKIP = re.compile(r'["{}\[\],]')
_ARGUMENTS: Final = ("arguments", "parameters")


class CallArray:
    """`feed` the text from the opening bracket (or brace) on; `rest` is what comes after the closing one.

    Each element's call begins as soon as its name and the start of its arguments are there, and its arguments go on as
    they come. Arguments may also stand before the name, be a string of JSON, or stand inside a `function` object.
    """

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self._step: _Step = CallArray._element  # a function and no method, which would refer to this object
        self._depth = 0  # 1: within an element, 2: within its `function`
        self._list = False
        self._key = ""
        self._string: list[str] = []
        self._escaped = False
        self._nesting = 0  # of a value that is passed over
        self._name: str | None = None
        self._id: str | None = None
        self._early = ""  # arguments that came before the name
        self._finder = Arguments()
        self._call: Call | None = None
        self._begun = False  # this element's call has begun
        self.ended = False
        self.rest = ""

    @property
    def waiting(self) -> bool:
        """Something that came has not gone out yet; between the calls there is nothing that has to."""
        return self._call is None or self._call.arguments.waiting

    def feed(self, text: str) -> None:
        """The next piece."""
        if self.ended:
            self.rest += text
            return
        position = 0
        while position < len(text) and self._step is not CallArray._over:
            position = self._step(self, text, position)
        if self._step is CallArray._over:
            self.ended = True
            self.rest = text[position:]

    def end(self) -> None:
        """Nothing more comes."""
        if self._call is not None:
            self._answer.end(self._call)
            self._call = None
        elif self._name is not None and not self._begun:
            self._finish_element()
            self._answer.cut = True

    def _blank(self, text: str, position: int) -> int:
        return _SPACE.match(text, position).end()  # type: ignore[union-attr]  # it matches the empty string too

    def _element(self, text: str, position: int) -> int:
        """Before an element, or the end of the list."""
        position = self._blank(text, position)
        if position == len(text):
            return position
        char = text[position]
        if char == "{":
            self._depth = 1
            self._name = self._id = None
            self._early = ""
            self._begun = False
            self._step = CallArray._member
            return position + 1
        if char == "[" and not self._list:
            self._list = True
            return position + 1
        self._step = CallArray._over
        return position + 1 if char == "]" and self._list else position

    def _member(self, text: str, position: int) -> int:
        """Before a key, or the end of the object."""
        position = self._blank(text, position)
        if position == len(text):
            return position
        char = text[position]
        if char == '"':
            self._string.clear()
            self._step = CallArray._key_string
            return position + 1
        if char == "}":
            self._depth -= 1
            if not self._depth:
                self._finish_element()
                self._step = CallArray._element if self._list else CallArray._over
            return position + 1
        self._step = CallArray._over  # no JSON any more
        self._finish_element()
        return position

    def _finish_element(self) -> None:
        if self._name is not None and not self._begun:
            call = self._answer.begin(self._name, self._id)
            self._answer.arguments(call, self._early)
            self._answer.end(call)
            self._begun = True

    def _read_string(self, text: str, position: int) -> tuple[str | None, int]:
        """The string that has begun, when it ends here."""
        while position < len(text):
            if self._escaped:
                self._escaped = False
                self._string.append(text[position])
                position += 1
                continue
            stop = _STRING_END.search(text, position)
            end = len(text) if stop is None else stop.start()
            self._string.append(text[position:end])
            if stop is None:
                return None, end
            position = end + 1
            if text[end] == '"':
                raw = "".join(self._string)
                self._string.clear()
                return raw, position
            self._string.append("\\")
            self._escaped = True
        return None, position

    def _key_string(self, text: str, position: int) -> int:
        raw, position = self._read_string(text, position)
        if raw is not None:
            self._key = raw
            self._step = CallArray._colon
        return position

    def _colon(self, text: str, position: int) -> int:
        position = self._blank(text, position)
        if position == len(text):
            return position
        if text[position] == ":":
            self._step = CallArray._value
            return position + 1
        self._step = CallArray._over
        return position

    def _over(self, text: str, position: int) -> int:
        """Behind the end."""
        return position

    def _value(self, text: str, position: int) -> int:
        position = self._blank(text, position)
        if position == len(text):
            return position
        char = text[position]
        if self._key in _ARGUMENTS and char == "{":
            if self._name is None:
                self._finder = Arguments()
                self._string.clear()
                self._step = CallArray._early_arguments
            else:
                self._call = self._answer.begin(self._name, self._id)
                self._begun = True
                self._step = CallArray._arguments
            return position
        if char == "{" and self._key == "function" and self._depth == 1:
            self._depth = 2
            self._step = CallArray._member
            return position + 1
        if char == '"':
            self._string.clear()
            self._step = CallArray._value_string
            return position + 1
        self._nesting = 0
        self._step = CallArray._skip
        return position

    def _arguments(self, text: str, position: int) -> int:
        call = self._call
        if call is None:
            return position
        rest = self._answer.arguments(call, text[position:])
        if call.arguments.broken:
            self._answer.arguments(call, rest)  # nobody can tell where they end
        if not call.arguments.ended:
            return len(text)
        self._answer.end(call)
        self._call = None
        self._step = CallArray._member
        return len(text) - len(rest)

    def _early_arguments(self, text: str, position: int) -> int:
        finder = self._finder
        self._string.append(finder.feed(text[position:]))
        if not finder.ended and not finder.broken and len(self._string) < MAX_HELD:
            return len(text)
        self._early = "".join(self._string)
        self._string.clear()
        self._step = CallArray._member
        return len(text) - len(finder.rest)

    def _value_string(self, text: str, position: int) -> int:
        raw, position = self._read_string(text, position)
        if raw is None:
            return position
        self._step = CallArray._member
        value = _text(raw)
        if self._key == "name":
            self._name = value[:MAX_NAME]
        elif self._key == "id":
            self._id = value
        elif self._key in _ARGUMENTS:
            self._early = value
        return position

    def _skip(self, text: str, position: int) -> int:
        """A value that says nothing here."""
        stop = _SKIP.search(text, position)
        if stop is None:
            return len(text)
        char = stop.group()
        if char == '"':
            self._step = CallArray._skip_string
        elif char in "{[":
            self._nesting += 1
        elif not self._nesting:
            self._step = CallArray._member
            return stop.start()
        elif char in "}]":
            self._nesting -= 1
            if not self._nesting:
                self._step = CallArray._member
        return stop.end()

    def _skip_string(self, text: str, position: int) -> int:
        raw, position = self._read_string(text, position)
        if raw is not None:
            self._step = CallArray._skip if self._nesting else CallArray._member
        return position


def _text(raw: str) -> str:
    try:
        value: Any = orjson.loads(f'"{raw}"')
    except orjson.JSONDecodeError:
        return raw
    return str(value)


_Step = Callable[[CallArray, str, int], int]
