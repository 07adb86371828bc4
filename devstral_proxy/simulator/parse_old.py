"""Tool calls the way vLLM 0.12.0 finds them, and the JSON array of tokenizers before v11, old and new.

With v11 and later 0.12.0 loses every streamed call; without streaming a regular expression takes flat JSON only.
"""

from __future__ import annotations

import json
import re
import secrets
from typing import Any

from devstral_proxy.simulator.errors import Refused
from devstral_proxy.simulator.parse_new import call_id

_CALLS = "[TOOL_CALLS]"
_NAMED = re.compile(r"([a-zA-Z0-9_-]+)(\{[\s\S]*?\}+)", re.DOTALL)
_ARRAY = re.compile(r"\[{.*}\]", re.DOTALL)


def old_id() -> str:
    """0.12.0's ids of calls in an answer without streaming."""
    return f"chatcmpl-tool-{secrets.token_hex(8)}"


def extract_old(text: str, v11: bool) -> tuple[str | None, list[dict[str, Any]]]:
    """Content and calls of a whole answer, 0.12.0."""
    if _CALLS not in text:
        return text, []
    body = text.replace(_CALLS, "").strip()
    try:
        try:
            if v11:
                calls = [{"name": name, "arguments": json.loads(args)} for name, args in _NAMED.findall(body)]
            else:
                calls = json.loads(body)
        except json.JSONDecodeError:
            calls = json.loads(_ARRAY.findall(body)[0])
        found = [(call["name"], json.dumps(call["arguments"], ensure_ascii=False)) for call in calls]
    except (ValueError, LookupError, TypeError):
        return body if not v11 else text, []
    return text.split(_CALLS)[0] or None, [_call(old_id(), *one) for one in found]


def extract_array(text: str, forced: bool) -> tuple[str | None, list[dict[str, Any]]]:
    """Content and calls of a whole answer, 0.32.0 with a tokenizer before v11. `forced`: required or named choice."""
    content: str | None = None
    if _CALLS in text:
        content, *segments = text.split(_CALLS)
        body = next((segment.strip() for segment in segments if segment.strip()), "")
    elif forced:
        body = text.strip()
    else:
        return text, []
    try:
        parsed, _ = json.JSONDecoder().raw_decode(body)
    except json.JSONDecodeError:
        try:
            parsed = json.loads(_ARRAY.findall(body)[0])
        except (IndexError, json.JSONDecodeError):
            parsed = None
    found = _array_calls(parsed)
    if not found:
        return body, []
    return (content if content and content.strip() else None), [_call(call_id(), *one) for one in found]


def _array_calls(parsed: Any) -> list[tuple[str, str]]:
    found = []
    for call in [parsed] if isinstance(parsed, dict) else parsed if isinstance(parsed, list) else []:
        if isinstance(call, dict) and ("name" in call or "arguments" in call):
            name, arguments = call.get("name"), call.get("arguments")
            if arguments is None:
                arguments = "{}"
            elif not isinstance(arguments, str):
                arguments = json.dumps(arguments, ensure_ascii=False)
            found.append((name if isinstance(name, str) else "", arguments))
    return found


def _call(number: str, name: str, arguments: str) -> dict[str, Any]:
    return {"id": number, "type": "function", "function": {"name": name, "arguments": arguments}}


def extract_required(text: str) -> list[dict[str, Any]]:
    """The calls of a whole answer to `required`, 0.12.0: JSON by its own grammar. Raises Refused where it was cut."""
    try:
        found = [
            (call["name"], json.dumps(call.get("parameters") or {}, ensure_ascii=False)) for call in json.loads(text)
        ]
    except (ValueError, LookupError, TypeError) as error:
        raise Refused(f"1 validation error for list[function-wrap[__log_extra_fields__()]]\n  {error}") from None
    return [_call(call_id(), *one) for one in found]


class NamedParser:
    """0.12.0's streamed answer to a named choice: all of the text is the arguments."""

    def __init__(self, name: str) -> None:
        self._name: str | None = name

    def feed(self, ids: list[int], text: str, finished: bool) -> dict[str, Any] | None:
        if self._name is None:
            return {"tool_calls": [{"index": 0, "function": {"arguments": text}}]}
        function = {"name": self._name, "arguments": text}
        self._name = None
        return {"tool_calls": [{"id": old_id(), "type": "function", "index": 0, "function": function}]}


class OldParser:
    """0.12.0's streamed answer with tools and `auto`: text until `[TOOL_CALLS]`, then only calls of the array form.

    Calls as v11 and later tokenizers write them are lost.
    """

    def __init__(self) -> None:
        self._text = ""
        self._array: ArrayParser | None = None
        self._waiting = ""

    def feed(self, ids: list[int], text: str, finished: bool) -> dict[str, Any] | None:
        self._text += text
        if _CALLS not in self._text:
            return {"content": text}
        if self._array is None:
            body = self._text.rpartition(_CALLS)[2].lstrip()
            if body.startswith("["):
                self._array, self._waiting = ArrayParser(forced=True, new=False), body
            return None  # the delta in which the array begins says nothing yet
        text, self._waiting = self._waiting + text, ""
        return self._array.feed(ids, text, finished)


class ArrayParser:
    """`[TOOL_CALLS][{"name": …, "arguments": {…}}, …]` streamed: each call's name, then its arguments as they come.

    `forced`: the output is the array without a marker (required and named choices). `joined`: 0.12.0 answering
    `required`, where arguments are called parameters, and come together with the name.
    """

    def __init__(self, forced: bool, new: bool, joined: bool = False) -> None:
        self._open = forced
        self._new = new
        self._member_name = "parameters" if joined else "arguments"
        self._joined = joined
        self._head: dict[str, Any] | None = None
        self._text = ""
        self._at = 0
        self._index = -1
        self._state = "array"
        self._key = ""
        self._depth = 0
        self._quoted = self._escaped = False

    def feed(self, ids: list[int], text: str, finished: bool) -> dict[str, Any] | None:
        if not self._open:
            before, marker, after = text.partition(_CALLS)
            if not marker:
                return {"content": text} if text or not self._new else None
            self._open, self._text = True, after
            return {"content": before} if before else None
        self._text += text
        calls: list[dict[str, Any]] = []
        while self._at < len(self._text) and getattr(self, f"_{self._state}")(calls):
            pass
        return {"tool_calls": calls} if calls else None

    # One method a state: False where more text is needed.

    def _array(self, calls: list[dict[str, Any]]) -> bool:
        if self._text[self._at] == "{":
            self._state, self._index = "member", self._index + 1
        self._at += 1
        return True

    def _member(self, calls: list[dict[str, Any]]) -> bool:
        if self._text[self._at] == "}":
            self._state = "array"
        elif self._text[self._at] == '"':
            found = self._value_here()
            if found is None:
                return False
            self._key, self._state = str(found[0]), "value"
            self._at = found[1] - 1
        self._at += 1
        return True

    def _value(self, calls: list[dict[str, Any]]) -> bool:
        if self._text[self._at] in ": \n\r\t":
            self._at += 1
            return True
        if self._key == self._member_name:
            self._state = "arguments"
            return True
        found = self._value_here()
        if found is None:
            return False
        value, self._at = found
        self._state = "member"
        if self._key == "name":
            number = old_id() if self._joined else call_id()
            call = {"id": number, "type": "function", "index": self._index, "function": {"name": str(value)}}
            if self._joined:
                self._head = call
            else:
                calls.append(call)
        return True

    def _arguments(self, calls: list[dict[str, Any]]) -> bool:
        start = self._at
        while self._at < len(self._text) and self._state == "arguments":
            self._step(self._text[self._at])
            self._at += 1
        text = self._text[start : self._at]
        if self._head is not None:
            self._head["function"]["arguments"] = text
            calls.append(self._head)
            self._head = None
        else:
            piece = {"index": self._index, "function": {"arguments": text}}
            calls.append({"type": "function", **piece} if self._new else piece)
        return True

    def _step(self, char: str) -> None:
        if self._escaped:
            self._escaped = False
        elif self._quoted and char == "\\":
            self._escaped = True
        elif char == '"':
            self._quoted = not self._quoted
        elif not self._quoted and char in "{[":
            self._depth += 1
        elif not self._quoted and char in "}]":
            self._depth -= 1
        if self._depth == 0 and not self._quoted:
            self._state = "member"

    def _value_here(self) -> tuple[Any, int] | None:
        try:
            value, end = json.JSONDecoder().raw_decode(self._text, self._at)
        except json.JSONDecodeError:
            return None
        return value, end
