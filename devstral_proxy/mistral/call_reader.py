"""What all readers of a model's text share: the call that is open, and what may stand behind one."""

from __future__ import annotations

from typing import Any, Final

from devstral_proxy.mistral.answer import Answer, Call
from devstral_proxy.mistral.arguments import Arguments
from devstral_proxy.mistral.call_array import CallArray
from devstral_proxy.mistral.json_mender import MARKER

BLOCK: Final = 1 << 14
"""Text is read in blocks of so many characters, so that cutting it up stays linear."""
MAX_HEAD: Final = 600
"""Most characters between a marker and the start of its arguments."""
MAX_BLANK: Final = 1024
"""Most blanks behind a call that are held until it is known whether they are text."""
MAX_CALLS: Final = 1024
"""Most calls, and doubled objects, that are read out of one text: what comes after so many stays text."""


class CallReader:
    """One choice's text. How they know that a call begins is where `TextReader` and `TokenReader` differ."""

    def __init__(self, answer: Answer, schemas: dict[str, dict[str, Any]]) -> None:
        self._answer = answer
        self._schemas = schemas
        self._held = ""  # text that may be the start of markup, or blanks behind a call
        self._after = False  # a call has ended, and no text has come since
        self._doubled = 0
        self._open: Call | CallArray | Arguments | None = None  # Arguments: an object to be left out

    @property
    def waiting(self) -> bool:
        """Something that came has not been said yet."""
        if isinstance(self._open, Call):
            return bool(self._held) or self._open.arguments.waiting
        if isinstance(self._open, CallArray):
            return self._open.waiting
        return bool(self._held)

    @property
    def inside(self) -> bool:
        """A call is open."""
        return self._open is not None

    @property
    def in_string(self) -> bool:
        """A call is open, and what comes next stands in a string of its arguments."""
        return isinstance(self._open, Call) and self._open.arguments.in_string

    def feed(self, text: str) -> None:
        """A piece of the content."""
        if len(text) <= BLOCK:
            self._read(text)
        else:
            for start in range(0, len(text), BLOCK):
                self._read(text[start : start + BLOCK])

    def passes(self, text: str) -> bool:
        """Whether a piece of the content is text and nothing else: then it has been read. False: `feed` it."""
        return False

    def after_call(self, rest: str) -> None:
        """What stands behind the arguments of a call that upstream itself had told apart (F62)."""
        if self._open is None:
            self._after = True
        self.feed(rest)

    def other_call(self) -> None:
        """Upstream begins a call of its own: what is open here has ended, what is held is text."""
        if self._held.strip() == MARKER:
            self._held = ""  # its own marker, left in the text
            self._answer.note("calls_from_text")
        self.end(cut=False)
        self._after = True

    def marker(self) -> None:
        """A real marker, which upstream has taken out of the text."""
        raise AssertionError  # each reader has its own

    def end(self, cut: bool) -> None:
        """The content has ended; `cut`: by max_tokens."""
        raise AssertionError  # each reader has its own

    def _read(self, text: str) -> None:
        raise AssertionError  # each reader has its own

    def _begin(self, name: str | None, id: str | None = None) -> None:
        """A call begins here; `name` None: an array of them."""
        self._answer.note("calls_from_text")
        self._close()
        self._after = False
        self._open = CallArray(self._answer) if name is None else self._answer.begin(name, id)

    def _close(self) -> None:
        """What is open has ended."""
        opened, self._open = self._open, None
        if isinstance(opened, Call):
            self._answer.end(opened)
        elif isinstance(opened, CallArray):
            opened.end()
        if opened is not None:
            self._after = True

    def _inside(self, text: str) -> str:
        """Pass on to what is open; what comes back is behind its end, and nothing is open any more."""
        opened = self._open
        self._answer.touched = True  # upstream calls it content
        if isinstance(opened, Call):
            rest = self._answer.arguments(opened, text)
            ended = opened.arguments.ended
        elif opened is not None:
            opened.feed(text)
            rest, ended = opened.rest, opened.ended
        else:
            return text
        if ended:
            self._close()
        elif isinstance(opened, Arguments) and opened.broken:
            self._open = None  # no second object after all: what follows is text
            self._after = False
        return rest

    def _behind(self, text: str) -> str:
        """Text directly behind a call, without what the model wrote twice: brackets, or a second object.

        Blanks alone wait in `_held` for what follows them.
        """
        text, self._held = self._held + text, ""
        rest = text.lstrip()
        if rest[:1] in ("}", "]", "{") and self._doubled < MAX_CALLS:
            self._doubled += 1
            self._answer.note("arguments_doubled")
            if rest[0] == "{":
                self._open = Arguments()
                return rest
            return rest.lstrip("}]")
        if not rest:
            if len(text) <= MAX_BLANK:
                self._held = text
                return ""
            self._after = False
        return text

    def _say(self, text: str) -> None:
        """Text for the client; blanks between two calls are none."""
        if text:
            self._after = False
            self._answer.text(text)
