"""What the answer's side must know of the request."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from devstral_proxy.mistral.tool_markup import Names


@dataclass(frozen=True, slots=True)
class AnswerContext:
    """One exchange's facts, made by the request's translation and read by the repair of the answer. Exchanges with the
    same frame share one (see `frame`)."""

    tools: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Name as sent upstream -> its parameters schema. Empty: no tools, and no text is read as a call."""
    names: dict[str, str] = field(default_factory=dict)
    """Name as sent upstream -> the client's own name, only where the two differ (F42)."""
    custom: frozenset[str] = frozenset()
    """Names, as sent upstream, of OpenAI `custom` tools: sent as a function with the one string property `input`."""
    tool_choice: str = "auto"
    """What the client asked: `auto`, `none`, `required` or `named`."""
    max_calls: int = 128
    """Most calls let through in one choice (1 when the client said `parallel_tool_calls: false`)."""
    choices: int = 1
    """How many answers the client asked for (`n`)."""
    stream: bool = True
    """The client asked for a stream."""
    include_usage: bool = False
    """The client asked for `stream_options.include_usage`."""
    raw_text: bool = False
    """Upstream was asked for the model's own text (`tool_choice: none` and `return_token_ids`, see capabilities)."""
    token_ids: bool = False
    """Upstream was asked for token ids that the client did not ask for: they are taken out again."""
    markup: Names | None = None
    """The names of `tools`, made ready for `tool_markup`, where somebody has done it already."""
    lossy: bool = False
    """Asked this way, upstream may lose a part of the answer: the token ids tell (see `token_watch`). False when it is
    asked for the second time."""

    @property
    def reads_text(self) -> bool:
        """Text may hold calls: the request has tools, and the client lets the model call them."""
        return bool(self.tools) and self.tool_choice != "none"


NOTHING_ASKED: Final = AnswerContext()
"""Before there is a request."""
