"""What token ids tell of an answer whose calls upstream has read itself: what it lost, and whether it was cut.

Some releases lose calls, or text before them, when the end of the answer comes in one piece with them, and all before
0.32 call a cut answer finished (vLLM 0.20 to 0.23). The ids do not hold the answer, but they tell how many calls there
were and how it ended; what was lost has to be asked for again, in the other way (`capabilities.ask_again`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from devstral_proxy.errors import UpstreamProtocolError
from devstral_proxy.mistral.token_reader import CALL_TOKEN

END_TOKEN: Final = 2
_SPELLED: Final = (9197, 8568, 74483)
"""`TOOL`, `_C`, `ALL`: the marker written out, in the Tekken vocabulary that all v11 and later models share."""


class AnswerLost(UpstreamProtocolError):
    """vLLM lost a part of this answer on its way; the model is not to blame, and asking in another way helps."""

    default_code = "upstream_answer_lost"

    def __init__(self) -> None:
        super().__init__("this release of vLLM lost a part of the answer; a later one does not")


class TokenWatch:
    """The tokens of one choice: `see` each delta's, ask at the end."""

    __slots__ = ("_last", "_markers", "_piece", "_text_first")

    def __init__(self) -> None:
        self._markers = 0
        self._last: int | None = None
        self._piece: Sequence[int] = ()
        self._text_first = False

    def see(self, ids: Sequence[int], delta: dict[str, Any], calls: int) -> None:
        """A delta and its tokens; `calls`: how many upstream had told before it."""
        if not ids:
            return
        self._text_first = not calls and CALL_TOKEN in ids[1:] and ids[0] != CALL_TOKEN and not delta.get("content")
        self._markers += ids.count(CALL_TOKEN)
        self._last = ids[-1]
        self._piece = ids

    @property
    def cut(self) -> bool:
        """The answer did not end with the end token."""
        return self._last is not None and self._last != END_TOKEN

    def lost(self, indices: Sequence[object]) -> bool:
        """At the end: whether calls or text are missing, given upstream's indices of the calls that it told."""
        told = len(indices)
        if self._last is None:
            return False
        if list(indices) != list(range(told)) or self._text_first:
            return True
        if told != self._markers and not (self.cut and told == self._markers - 1):
            return True
        piece = self._piece
        return any(tuple(piece[at : at + 3]) == _SPELLED for at, token in enumerate(piece) if token == _SPELLED[0])
