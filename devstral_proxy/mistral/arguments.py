"""The arguments of one tool call on their way to the client: pieces in, pieces of one valid JSON object out.

What comes after the object's end is no part of it (F62). An object that never ends is closed (F64, F66, F67). An object
encoded as one string is unwrapped. What cannot be read as an object goes out as it is.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final

import orjson

from devstral_proxy.mistral.json_mender import MAX_DEPTH, MAX_HELD, At, JsonMender
from devstral_proxy.mistral.json_tokens import loads
from devstral_proxy.mistral.schema_types import required

ARGS: Final = "[ARGS]"
_IN_STRING = re.compile(r'(?:[^"\\\x00-\x1f]++|\\["\\/bfnrt])*+').fullmatch


class Arguments(JsonMender):
    """`feed` the text as it comes; it returns what can go out. `close` at the end of the call.

    `ended`: the object is complete, and `rest` is what came after it. `broken`: it is no object, and everything from
    `rest` on goes out as it comes. `notes`: the names of the rewrites made; `changed`: the text out is not the text in.
    """

    __slots__ = ("rest",)

    def __init__(self, schema: dict[str, Any] | None = None) -> None:
        super().__init__(schema)
        self.rest = ""

    def feed(self, text: str) -> str:
        """What can go out now."""
        if self.broken:
            return text
        if self.ended:
            self.rest += text
            return ""
        if self._at is At.START and not self._carry and is_whole(text):
            self._finish()
            return text
        if self._carry:
            text, self._carry = self._carry + text, ""
        position, size = 0, len(text)
        while position < size and self._at is not At.END:
            position = _STEPS[self._at](self, text, position)
        if self._at is At.END:
            self.rest = text[position:]
        return self._take()

    def passes(self, text: str) -> bool:
        """Whether a piece stands in a string and is right there: then `feed` would return it, and change nothing."""
        if self._at is not At.STRING or self._carry or self.changed or self._quote != '"':
            return False
        if text.isprintable() and '"' not in text and "\\" not in text:
            return True
        return _IN_STRING(text) is not None

    def close(self) -> tuple[str, bool]:
        """The end of the call: what completes the object, and whether it was whole without that.

        An object that lacks its last brace only, and has all that the schema requires, counts as whole (F66). No
        arguments at all are an empty object.
        """
        if self.ended or self.broken:
            return "", True
        if self._at is At.START:
            self.note("arguments_mended")
            self._out.append("{}")
            self._finish()
            return self._take(), True
        if self._at is At.AFTER_WRAPPED:
            self._unwrap()
            return self._take(), True
        if self._at is At.WRAPPED:
            self._break(0)
            return self._take(), False
        whole = self._at is At.NEXT and len(self._stack) == 1 and self._keys >= required(self._root)
        self._close_all()
        return self._take(), whole

    def _finish(self) -> None:
        self._carry = ""
        self._hold.clear()
        self.ended = True
        self._at = At.END

    def _step_start(self, text: str, position: int) -> int:
        position = self._space(text, position, self._out)
        if position == len(text):
            return position
        if text[position] == "{":
            self._push("{", self._root)
            return position + 1
        if text[position] == '"':
            self._hold.append('"')
            self._string_size = 0
            self._at = At.WRAPPED
            return position + 1
        if text[position] == "[" and ARGS.startswith(text[position : position + len(ARGS)]):
            if len(text) - position < len(ARGS):
                self._carry = text[position:]
                return len(text)
            self.note("arguments_mended")  # F61: the token that ends the name
            return position + len(ARGS)
        word = text[position : position + 4]
        if "null".startswith(word) or "None".startswith(word):
            if len(word) < 4:
                self._carry = word
                return len(text)
            self.note("arguments_mended")
            self._out.append("{}")
            self._finish()
            return position + 4
        return self._break(position)

    def _step_wrapped(self, text: str, position: int) -> int:
        ended, end = self._collect(text, position)
        if ended:
            self._key = self._string.copy()
            self._string.clear()
            self._hold += [*self._key, '"']
            self._at = At.AFTER_WRAPPED
        elif self._string_size > MAX_HELD:
            return self._break(end)
        return end

    def _step_after_wrapped(self, text: str, position: int) -> int:
        """After a string where the object should be: its first key, the brace lost, or the whole of it encoded."""
        position = self._space(text, position, self._hold)
        if position == len(text):
            return position
        if text[position] != ":":
            self._unwrap()
            return self._break(position) if self.broken else position
        self.note("arguments_mended")
        self._hold.clear()
        self._push("{", self._root)
        self._hold.append('"' + "".join(self._key) + '"')
        self._at = At.COLON
        return position

    def _unwrap(self) -> None:
        raw = "".join(self._key)
        inner = loads(f'"{raw}"')
        if isinstance(inner, str) and (not inner.strip() or isinstance(loads(inner), dict)):
            self.note("arguments_unwrapped")
            self._out.append(inner.strip() or "{}")
            self._finish()
        else:
            self._break(0)


def is_whole(text: str) -> bool:
    """The text is a JSON object in which there is nothing to mend: no string that begins like an array or an object,
    and no marker. (Of most it is not known so quickly; they are read step by step.)"""
    if not text or text[0] != "{" or text[-1] != "}" or "TOOL_CALLS" in text:
        return False
    if '"[' in text or '"{' in text or '" ' in text or '"\\' in text:
        return False
    if len(text) > MAX_DEPTH and text.count("{") + text.count("[") > MAX_DEPTH:
        return False
    try:
        return type(orjson.loads(text)) is dict
    except orjson.JSONDecodeError:
        return False


_Step = Callable[[Arguments, str, int], int]
_STEPS: Final[dict[At, _Step]] = {
    At.START: Arguments._step_start,
    At.WRAPPED: Arguments._step_wrapped,
    At.AFTER_WRAPPED: Arguments._step_after_wrapped,
    At.KEY_OR_END: Arguments._step_key,
    At.KEY: Arguments._step_key,
    At.IN_KEY: Arguments._step_in_key,
    At.COLON: Arguments._step_colon,
    At.VALUE: Arguments._step_value,
    At.VALUE_OR_END: Arguments._step_value,
    At.STRING: Arguments._step_string,
    At.ENCODED: Arguments._step_encoded,
    At.NEXT: Arguments._step_next,
}
