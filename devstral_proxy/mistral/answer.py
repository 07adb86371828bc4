"""One choice of an answer on its way out: its text, its reasoning and its calls, as deltas.

Whoever reads upstream's form (structured deltas, markup in the text, a whole message) says here what it found; here
the calls get their index, id and name, and their arguments are repaired. The deltas are those of a stream; a
non-streaming message is made of the same ones, so the two can not differ.
"""

from __future__ import annotations

from typing import Any, Final

import orjson

from devstral_proxy.mistral import tool_ids
from devstral_proxy.mistral.arguments import Arguments
from devstral_proxy.mistral.context import AnswerContext
from devstral_proxy.mistral.rewrites import RewriteLog

MAX_NAME: Final = 256


class Call:
    """One call. `index` is -1 when it is over the limit and nothing of it goes out."""

    __slots__ = ("arguments", "closed", "custom", "id", "index", "input", "name", "where")

    def __init__(self, index: int, name: str, id: str, arguments: Arguments, custom: bool, where: str) -> None:
        self.index = index
        self.name = name
        self.id = id
        self.arguments = arguments
        self.custom = custom
        self.input: list[str] = []
        self.closed = False
        self.where = where


class Answer:
    """`touched`: something to come out of `take` is not what upstream said."""

    __slots__ = (
        "_context",
        "_ids",
        "_log",
        "_logged",
        "_out",
        "calls",
        "cut",
        "index",
        "last",
        "seed",
        "touched",
    )

    def __init__(self, index: int, context: AnswerContext, log: RewriteLog) -> None:
        self.index = index
        self.calls = 0
        """Calls begun."""
        self.cut = False
        """A call did not come to its end."""
        self.last = ""
        """The last character of the text."""
        self.seed = ""
        """The completion's id: calls without an id of their own get one made from it."""
        self.touched = False
        self._context = context
        self._log = log
        self._logged: set[tuple[str, str]] = set()
        self._ids: set[str] = set()
        self._out: list[tuple[str, Call | None, list[str]]] = []

    @property
    def says(self) -> bool:
        """`take` would tell something."""
        return bool(self._out)

    @property
    def where(self) -> str:
        """The path of this choice, for the log."""
        return f"choices[{self.index}]"

    def note(self, rewrite: str, where: str | None = None) -> None:
        """Something was changed: said once for each place."""
        self.touched = True
        entry = (rewrite, self.where if where is None else where)
        if entry not in self._logged:
            self._logged.add(entry)
            self._log.add(*entry)

    # What came

    def text(self, text: str) -> None:
        """Content."""
        if text:
            self.last = text[-1]
            self._say("content", None, text)

    def reasoning(self, text: str) -> None:
        """A piece of the model's thoughts."""
        if text:
            self._say("reasoning", None, text)

    def begin(self, name: str, id: object = None) -> Call:
        """A call with its whole name begins; `id` is what upstream calls it."""
        context = self._context
        number, self.calls = self.calls, self.calls + 1
        if number >= context.max_calls:
            self.note("calls_over_limit")
            return Call(-1, name, "", Arguments(), False, "")
        where = f"{self.where}.tool_calls[{number}]"
        if name in context.names:
            self.touched = True  # not a repair: the client gets the name it gave
        elif context.tools and name not in context.tools:
            self._logged_only("tool_name_unknown", where)
        custom = name in context.custom
        call = Call(number, name, self._id(id, number, where), Arguments(context.tools.get(name)), custom, where)
        if custom:
            self.touched = True
        self._out.append(("begin", call, []))
        return call

    def arguments(self, call: Call, text: str) -> str:
        """A piece of a call's arguments; what comes back is behind their end, and no part of them.

        Of arguments that turn out to be no JSON object, what comes back is the text from there on: it may still belong
        to them.
        """
        arguments = call.arguments
        if text:
            self._arguments(call, arguments.feed(text))
            if arguments.notes:
                self._notes(call)
            if arguments.changed:
                self.touched = True
        rest, arguments.rest = arguments.rest, ""
        return rest

    def end(self, call: Call) -> None:
        """No more comes of this call: what it lacks is added."""
        if call.closed:
            return
        call.closed = True
        text, whole = call.arguments.close()
        if text:
            self.touched = True
        self._arguments(call, text)
        self._notes(call)
        if not whole and call.index >= 0:
            self.cut = True
        if call.custom and call.index >= 0:
            self._say("input", call, _unwrapped("".join(call.input)))

    # What goes out

    def take(self) -> list[dict[str, Any]]:
        """The deltas for what came since the last time."""
        deltas: list[dict[str, Any]] = []
        for kind, call, pieces in self._out:
            text = "".join(pieces)
            if kind == "content":
                deltas.append({"content": text})
            elif kind == "reasoning":
                deltas.append({"reasoning_content": text, "reasoning": text})
            elif call is not None:
                deltas.append({"tool_calls": [self._entry(kind, call, text)]})
        self._out.clear()
        self.touched = False
        return deltas

    def drop(self) -> None:
        """As `take`, when upstream's own bytes go out instead."""
        self._out.clear()

    def _entry(self, kind: str, call: Call, text: str) -> dict[str, Any]:
        if kind != "begin":
            inner = {"arguments": text} if kind == "arguments" else {"input": text}
            return {"index": call.index, "function" if kind == "arguments" else "custom": inner}
        name = self._context.names.get(call.name, call.name)
        if call.custom:
            return {"index": call.index, "id": call.id, "type": "custom", "custom": {"name": name, "input": ""}}
        function = {"name": name, "arguments": text}
        return {"index": call.index, "id": call.id, "type": "function", "function": function}

    def _say(self, kind: str, call: Call | None, text: str) -> None:
        out = self._out
        if out and out[-1][1] is call and (out[-1][0] == kind or (kind == "arguments" and out[-1][0] == "begin")):
            out[-1][2].append(text)
        else:
            out.append((kind, call, [text]))

    def _arguments(self, call: Call, text: str) -> None:
        if text and call.index >= 0:
            if call.custom:
                call.input.append(text)
                self.touched = True
            else:
                self._say("arguments", call, text)

    def _notes(self, call: Call) -> None:
        notes = call.arguments.notes
        if notes and call.index >= 0:
            for name in notes:
                if name == "arguments_invalid":
                    self._logged_only(name, call.where)
                else:
                    self.note(name, call.where)
        notes.clear()

    def _logged_only(self, name: str, where: str) -> None:
        """Something worth counting that goes out as it is."""
        touched = self.touched
        self.note(name, where)
        self.touched = touched

    def _id(self, given: object, number: int, where: str) -> str:
        """Upstream's id when it is valid and new, else one made of it, or of the place (F11, F15, F72)."""
        if isinstance(given, str) and given and given != "null":
            id = tool_ids.mapped(given)
            if id != given:
                self.note("answer_id", where)
            if id in self._ids:
                self.note("answer_id_repeated", where)
        else:
            given, id = self.seed, ""
            self.note("answer_id", where)
        attempt = 0
        while not id or id in self._ids:
            id = tool_ids.hashed(f"{given}/{self.index}/{number}/{attempt}")
            attempt += 1
        self._ids.add(id)
        return id


def _unwrapped(text: str) -> str:
    """A custom tool's free text out of the one argument that it travelled in; other arguments as they are."""
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError:
        return text
    if isinstance(value, dict) and len(value) == 1 and isinstance(value.get("input"), str):
        return str(value["input"])
    return text
