"""Tool calls out of a model's text, by the text alone (F57 to F62).

    [TOOL_CALLS]name[ARGS]{…}   [TOOL_CALLS]name[CALL_ID]id[ARGS]{…}   [TOOL_CALLS]name{…}   [TOOL_CALLS][{"name": …}]

one or several, text before and after. With brackets or the whole marker lost (`TOOL_CALLSname{…}`, `name[ARGS]{…}`,
`name{"known key": …}`) only names of the request's own tools count, and a bare `[{"name": …}]` only when it is all of
the content. A marker counts only when a call follows it at once, and not in quotes or code, so prose about
`[TOOL_CALLS]` stays prose. Text is held back only while it may be the start of one of these.
"""

from __future__ import annotations

import re
from typing import Any, Final, NamedTuple

from devstral_proxy.mistral.answer import Answer, Call
from devstral_proxy.mistral.bare_array import MAX_BARE, calls_known, is_bare, may_be_bare
from devstral_proxy.mistral.call_reader import MAX_CALLS, MAX_HEAD, CallReader
from devstral_proxy.mistral.json_mender import MARKER

_TRIGGER = re.compile(r"TOOL_CALLS|\{|\[ARGS\]|\[CALL_ID\]")
_NAME = re.compile(r"[A-Za-z0-9_.:/-]{1,128}")
_ID = re.compile(r"[^\s\[\]{}\"]{0,128}")
_BLANK = re.compile(r"\s*")
_OBJECT = re.compile(r"\{\s*([\"}'A-Za-z_]?)")
_KEY = re.compile(r'\{\s*"((?:[^"\\]|\\.){0,256})"\s*(:?)')
_KEY_BEGUN = re.compile(r'\{\s*(?:"[^"]{0,256}(?:"\s*)?)?')
_ARRAY = re.compile(r'\[?\s*\{\s*"')
_ARRAY_BEGUN = re.compile(r"\[?\s*(?:\{\s*)?")
_LETTERS: Final = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-"
_WORD: Final = frozenset(_LETTERS)
_QUOTES: Final = frozenset("`'\"")
_QUOTING: Final = _QUOTES | frozenset("\\/$@#&]")  # `]`: of a marker that was found to be prose


class _Found(NamedTuple):
    """A call: where its markup begins, its name (None: an array follows), its id, where its arguments begin."""

    start: int
    name: str | None
    id: str | None
    end: int


class _Maybe(NamedTuple):
    """There may be one from here on: what comes next decides."""

    start: int


class Names:
    """The names of a request's tools, made ready for the search."""

    __slots__ = ("_by_end", "ends", "longest", "prefixes", "schemas", "words")

    def __init__(self, schemas: dict[str, dict[str, Any]]) -> None:
        self.schemas = schemas
        self._by_end: dict[str, list[str]] = {}
        starts = {MARKER, "TOOL_CALLS]"}
        for name in sorted(filter(None, schemas), key=len, reverse=True):
            self._by_end.setdefault(name[-1], []).append(name)
            starts |= {f"{name}[ARGS]", f"{name}[CALL_ID]"}
        self.prefixes = {start[:length] for start in starts for length in range(1, len(start))}
        """What the end of a text may be, when markup comes."""
        self.ends = frozenset(prefix[-1] for prefix in self.prefixes)
        """The last characters of these."""
        self.longest = max(map(len, starts))
        self.words = all(map(_WORD.issuperset, schemas))
        """Each name is one word, as every name is that Mistral takes."""

    def before(self, text: str, end: int) -> str | None:
        """The longest name that ends at `end`."""
        for name in self._by_end.get(text[end - 1 : end], ()):
            if len(name) <= end and text.startswith(name, end - len(name)):
                return name
        return None


class _Fence:
    """Whether the text that comes next stands in a fenced block of code."""

    __slots__ = ("inside", "ticks")

    def __init__(self, inside: bool = False, ticks: int = 0) -> None:
        self.inside = inside
        self.ticks = ticks

    def copy(self) -> _Fence:
        return _Fence(self.inside, self.ticks)

    def read(self, text: str) -> None:
        if "`" not in text:
            self.ticks = 0
            return
        text = "`" * self.ticks + text
        self.inside ^= bool(text.count("```") & 1)
        self.ticks = (len(text) - len(text.rstrip("`"))) % 3


class TextReader(CallReader):
    """`feed` each delta's text; `end` when the choice ends."""

    def __init__(self, answer: Answer, names: Names) -> None:
        super().__init__(answer, names.schemas)
        self._names = names
        self._bare: list[str] | None = [] if names.schemas else None  # the content so far, while it may be an array
        self._bare_size = 0
        self._bare_sure = False
        self._fence = _Fence()

    @property
    def waiting(self) -> bool:
        """Something that came has not been said yet."""
        return bool(self._bare) or super().waiting

    def passes(self, text: str) -> bool:
        """Whether a piece of the content is text and nothing else: then it has been read. So is nearly every piece:
        nothing is open or held, and nothing begins in it."""
        if self._after or self._held or self._open is not None or self._bare is not None:
            return False
        if "{" in text or "[" in text or "TOOL_CALLS" in text:
            return False
        if text:
            if text[-1] in self._names.ends and self._tail(text, 0) < len(text):
                return False
            if "`" in text or self._fence.ticks:
                self._fence.read(text)
        return True

    def after_call(self, rest: str) -> None:
        """What stands behind the arguments of a call that upstream itself had told apart (F62)."""
        self._end_bare(cut=False)
        super().after_call(rest)

    def marker(self) -> None:
        """A real marker, which upstream has taken out of the text."""
        self.feed(MARKER)

    def end(self, cut: bool) -> None:
        """The content has ended; `cut`: by max_tokens."""
        self._end_bare(cut)
        begun, marker, head = self._held.partition(MARKER)
        if cut and marker and self._may_be_cut(head):
            self._answer.note("call_cut_in_name")
            self._answer.cut = True
            self._held = begun
        if self._held:
            self._scan("", final=True)
            self._held = ""
        self._close()

    def _may_be_cut(self, head: str) -> bool:
        """Behind a marker at the very end: the start of a known name, or of an array; not prose that was cut."""
        return bool(head) and (
            head.lstrip()[:1] == "[" or any(name.startswith(head[: len(name)]) for name in self._schemas)
        )

    def _read(self, text: str) -> None:
        if self._bare is not None:
            self._bare.append(text)
            self._bare_size += len(text)
            if not self._bare_sure:
                content = "".join(self._bare)
                self._bare_sure = is_bare(content)
                if not self._bare_sure and (len(content) > MAX_HEAD or not may_be_bare(content)):
                    self._end_bare(cut=False)
            elif self._bare_size > MAX_BARE:
                self._end_bare(cut=True)
            return
        self._continue(text)

    def _continue(self, text: str) -> None:
        while text:
            if self._open is not None and not self._broken:
                text = self._inside(text)
            else:
                text = self._scan(text, final=False)

    @property
    def _broken(self) -> bool:
        """Inside arguments that are no JSON: only a marker can end them."""
        return isinstance(self._open, Call) and self._open.arguments.broken

    def _end_bare(self, cut: bool) -> None:
        """The content is no bare array of calls, or it has come to its end (F60)."""
        if self._bare is None:
            return
        content, self._bare = "".join(self._bare), None
        if is_bare(content) and calls_known(content, self._schemas, cut):
            self._begin(None)
            content = content.lstrip()
        self._continue(content)

    def _scan(self, text: str, final: bool) -> str:
        """Say what is text. At a call, begin it and return what follows its head."""
        if self._after:
            text = self._behind(text)
            if self._open is not None or not text:
                return text
        else:
            text, self._held = self._held + text, ""
        position = looked = 0
        fence = self._fence.copy()
        while (trigger := _TRIGGER.search(text, position)) is not None:
            found = self._look(text, trigger)
            if found is not None:
                fence.read(text[looked : found.start])
                looked = found.start
                if fence.inside:
                    found = None
            if isinstance(found, _Found) and self._answer.calls < MAX_CALLS:
                self._utter(text[: found.start])
                self._begin(found.name, found.id)
                return text[found.end :]
            if isinstance(found, _Maybe) and not final and len(text) - found.start <= MAX_HEAD:
                self._hold(text, found.start)
                return ""
            position = trigger.end()
        self._hold(text, len(text) if final else self._tail(text, position))
        return ""

    def _utter(self, text: str) -> None:
        """Text, or more of arguments that are no JSON."""
        if isinstance(self._open, Call):
            self._answer.touched = True
            self._answer.arguments(self._open, text)
        elif text.strip() or not self._after:
            self._say(text)

    def _say(self, text: str) -> None:
        super()._say(text)
        self._fence.read(text)

    def _hold(self, text: str, start: int) -> None:
        if self._after and not text[:start].strip():
            start = 0
        self._utter(text[:start])
        self._held = text[start:]

    def _tail(self, text: str, floor: int) -> int:
        """Where the end of the text that may become a marker, or a name, begins."""
        names = self._names
        if text[-1:] not in names.ends:
            return len(text)
        floor = max(floor, len(text) - names.longest)
        if names.words and "[" not in text:  # then it can be nothing but the last word, from its first letter on
            start = len(text.rstrip(_LETTERS))
            return start if start >= floor and self._begins(text, start) else len(text)
        for start in range(floor, len(text)):
            if self._begins(text, start):
                return start
        return len(text)

    def _begins(self, text: str, start: int) -> bool:
        """From here on the text is the start of a marker, or of a name that is not a part of a longer word."""
        if text[start:] not in self._names.prefixes:
            return False
        return text[start] == "[" or self._before(text, start) not in _WORD

    def _before(self, text: str, start: int) -> str:
        if start:
            return text[start - 1]
        return "" if self._after else self._answer.last

    def _look(self, text: str, trigger: re.Match[str]) -> _Found | _Maybe | None:
        """Whether the trigger belongs to a call."""
        start, end = trigger.span()
        if trigger.group() != "TOOL_CALLS":
            return None if self._open is not None else self._look_back(text, start)
        opened, closed = text[start - 1 : start] == "[", text[end : end + 1] == "]"
        if opened:
            start -= 1
        before = self._before(text, start)
        if before and before in (_QUOTES if opened else _WORD | _QUOTES):
            return None
        if closed:
            end += 1
        elif end == len(text):
            return _Maybe(start)
        return self._look_on(text, start, end, lost=not (opened and closed))

    def _look_on(self, text: str, start: int, position: int, lost: bool) -> _Found | _Maybe | None:
        """What follows a marker: a name and its arguments, or an array. `lost`: its brackets; names must be known."""
        blank = position
        position = _end(_BLANK, text, position)
        if position == len(text):
            return _Maybe(start)
        if text[position] in "[{":
            if _ARRAY.match(text, position):
                return _Found(start, None, None, position)
            return _Maybe(start) if _end(_ARRAY_BEGUN, text, position) == len(text) else None
        match = _NAME.match(text, position)
        if match is None:
            return None
        lost = lost or blank < position  # behind a blank, too, only a known name is no prose
        name, position = match.group(), match.end()
        if position == len(text):
            begun = any(f"{known}ARGS".startswith(name) for known in self._schemas)
            return _Maybe(start) if begun or not lost else None
        if name not in self._schemas and name.removesuffix("ARGS") in self._schemas:
            name = name.removesuffix("ARGS")
        known = name in self._schemas
        return None if lost and not known else self._look_head(text, start, position, name, known)

    def _look_head(self, text: str, start: int, position: int, name: str, sure: bool) -> _Found | _Maybe | None:
        """What follows a name: `[CALL_ID]id`, `[ARGS]`, the start of an object; `sure`: be it no JSON."""
        id = None
        if text.startswith("[CALL_ID]", position):
            position = _end(_ID, text, after := position + len("[CALL_ID]"))
            id = text[after:position]
        if text.startswith("[ARGS]", position):
            position += len("[ARGS]")
        elif text[position : position + 1] == "[" and any(
            token.startswith(text[position : position + 9]) for token in ("[ARGS]", "[CALL_ID]")
        ):
            return _Maybe(start)
        position = _end(_BLANK, text, position)
        if position == len(text):
            return _Maybe(start)
        brace = _OBJECT.match(text, position)
        if brace is None:
            return None
        first = brace.group(1)
        if not first:
            return _Maybe(start) if brace.end() == len(text) else None
        return _Found(start, name, id, position) if sure or first in '"}' else None

    def _look_back(self, text: str, at: int) -> _Found | _Maybe | None:
        """Arguments without a marker: does a known name stand before them, and a known key in them?"""
        name = self._names.before(text, at)
        if name is None:
            return None
        start = at - len(name)
        before = self._before(text, start)
        behind_call = self._after and not text[:start].strip()
        if not behind_call and before and (before in _WORD or before in _QUOTING):
            return None
        if text[at] == "[":
            return self._look_head(text, start, at, name, sure=False)
        schema = self._schemas[name]
        key = _KEY.match(text, at)
        if key is None or not key.group(2):
            if _OBJECT.match(text, at)[1] == "}":  # type: ignore[index]  # `text[at]` is the brace
                return None if schema.get("required") else _Found(start, name, None, at)
            return _Maybe(start) if _end(_KEY_BEGUN, text, at) == len(text) else None
        properties = schema.get("properties")
        known = not isinstance(properties, dict) or not properties or key.group(1) in properties
        return _Found(start, name, None, at) if known else None


class Reading:
    """What reads one choice's text, once there is something to read: `reader`.

    It is shared by the choice and its structured calls: neither has to know the other, which only the collector could
    part again.
    """

    __slots__ = ("_answer", "_names", "reader")

    def __init__(self, answer: Answer, names: Names) -> None:
        self._answer = answer
        self._names = names
        self.reader: CallReader | None = None

    def by_text(self) -> CallReader:
        """The reader; where there is none, it goes by the text alone."""
        if self.reader is None:
            self.reader = TextReader(self._answer, self._names)
        return self.reader


def _end(pattern: re.Pattern[str], text: str, position: int) -> int:
    """Where a match of a pattern that may match nothing ends."""
    match = pattern.match(text, position)
    return position if match is None else match.end()
