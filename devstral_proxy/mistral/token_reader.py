"""Tool calls out of a model's own text, where upstream tells the token ids.

They alone decide: a call begins at the token [TOOL_CALLS], and its spelling in ordinary tokens is text, or part of a
string. vLLM leaves the token `[ARGS]` out of the text, so a name ends at the first brace.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from devstral_proxy.mistral.answer import MAX_NAME, Answer, Call
from devstral_proxy.mistral.arguments import ARGS
from devstral_proxy.mistral.call_reader import BLOCK, MAX_HEAD, CallReader
from devstral_proxy.mistral.json_mender import MARKER
from devstral_proxy.mistral.schema_types import required
from devstral_proxy.mistral.template_ids import CONTENT

CALL_TOKEN: Final = 9
"""`[TOOL_CALLS]` in the Tekken tokenizers, v3 to v15."""


class TokenReader(CallReader):
    """`feed_tokens` each delta's text and ids; `end` when the choice ends."""

    def __init__(self, answer: Answer, schemas: dict[str, dict[str, Any]]) -> None:
        super().__init__(answer, schemas)
        self._markers = 0  # marker tokens whose text has not come yet: a stop string holds text back
        self._partial = ""  # the start of a marker
        self._head: str | None = None  # the text behind a marker, up to the arguments

    @property
    def waiting(self) -> bool:
        """Something that came has not been said yet."""
        return self._head is not None or bool(self._partial) or super().waiting

    def feed_tokens(self, text: str, ids: Sequence[int]) -> None:
        """A piece of the text, and the tokens that it was made of."""
        if len(ids) == 1 and text == MARKER:
            self._markers = 0
            self.marker()
            return
        self._markers += ids.count(CALL_TOKEN)
        if self._markers:
            self._find_markers(text)
        else:
            self.feed(text)

    def place(self, text: str, ids: Sequence[int]) -> int | None:
        """The index of the call in whose arguments a piece stands, and is right there; CONTENT where it is text and
        nothing else. Then it need not be read, and so nearly every piece is. None: it has to be."""
        if CALL_TOKEN in ids or text == MARKER or self._markers:
            return None
        if self._held or self._after or self._head is not None or self._partial:
            return None
        opened = self._open
        if opened is None:
            return CONTENT
        if isinstance(opened, Call) and opened.index >= 0 and not opened.custom and opened.arguments.passes(text):
            return opened.index
        return None

    def end(self, cut: bool) -> None:
        """The content has ended; `cut`: by max_tokens."""
        self._markers = 0
        partial, self._partial = self._partial, ""
        self.feed(partial)
        self._end_head(cut)
        self._held = ""
        self._close()

    def _find_markers(self, text: str) -> None:
        """Text with a marker in it, or in what comes soon."""
        text, self._partial = self._partial + text, ""
        spelled = text.count(MARKER)
        position = 0
        while self._markers and (at := text.find(MARKER, position)) >= 0:
            self.feed(text[position:at])
            position = at + len(MARKER)
            if spelled <= self._markers or self._may_begin(text, position):
                self._markers -= 1
                self.marker()
            else:
                self.feed(MARKER)
            spelled -= 1
        rest = text[position:]
        start = rest.rfind("[", -len(MARKER))
        if self._markers and start >= 0 and MARKER.startswith(rest[start:]):
            rest, self._partial = rest[:start], rest[start:]
        self.feed(rest)

    def _may_begin(self, text: str, position: int) -> bool:
        """Of more markers spelled than were tokens, is this one real? Not in a string, and not without a call."""
        if self.in_string:
            return False
        head = text[position : position + MAX_HEAD]
        name = head.partition("{")[0].removesuffix(ARGS).strip()
        return "{" in head and " " not in name and MARKER not in name

    def marker(self) -> None:
        """A real marker: whatever was open has ended."""
        self._end_head(cut=False)
        self._held = ""
        self._close()
        self._head = ""

    def _read(self, text: str) -> None:
        while text:
            if self._head is not None:
                text = self._read_head(text)
            elif self._open is not None:
                text = self._inside(text)
            elif not self._after:
                self._say(text)
                return
            else:
                text = self._behind(text)
                if self._open is None:
                    self._say(text)
                    return

    def _read_head(self, text: str) -> str:
        """The name, up to the first brace; where there is none, an array. Returns what follows it."""
        head = (self._head or "") + text
        name, brace, _ = head.partition("{")
        name, _, id = name.partition("[CALL_ID]")
        name, id = name.removesuffix(ARGS).strip(), id.removesuffix(ARGS).strip()
        if brace or name == "[":
            self._head = None
            if name in ("", "["):
                self._begin(None)
                return head.lstrip()
            self._begin(name[:MAX_NAME], id)
            return head[head.index("{") :]
        self._head = head
        if len(head) > min(MAX_HEAD, BLOCK):
            self._head = None
            self._say(MARKER + head)
        return ""

    def _end_head(self, cut: bool) -> None:
        """The text ended, or the next call began, before the arguments did."""
        head, self._head = self._head, None
        if head is None:
            return
        name = head.removesuffix(ARGS).strip()
        schema = self._schemas.get(name)
        if schema is not None and not cut and not required(schema):
            self._begin(name)
        elif name or cut:
            self._answer.note("call_cut_in_name")
            self._answer.cut = True
