"""What stands around the choices of a chunk: ids, model, usage, and what the proxy asked for on its own account."""

from __future__ import annotations

from typing import Any, Final

import orjson

from devstral_proxy.mistral.context import AnswerContext
from devstral_proxy.mistral.rewrites import RewriteLog
from devstral_proxy.upstream.sse import Event, encode

OBJECT: Final = "chat.completion.chunk"
_TYPES: Final[dict[str, type]] = {"id": str, "created": int, "model": str}
_ASKED: Final = ("token_ids", "prompt_token_ids")


class Envelope:
    """Remembers the first chunk's identity, and writes chunks that carry it."""

    def __init__(self, context: AnswerContext, log: RewriteLog) -> None:
        self.wants_usage = context.include_usage or not context.stream
        """A client that did not ask for a stream gets the usage in the whole answer."""
        self._hide_ids = context.raw_text or context.token_ids
        self._log = log
        self._head: dict[str, Any] = {}
        self._usage: dict[str, Any] | None = None
        self._hidden = False

    @property
    def id(self) -> str:
        """The completion's id."""
        return str(self._head.get("id", ""))

    def open(self, chunk: dict[str, Any]) -> bool:
        """Read a chunk's envelope; whether it can go out as it is. What must not go out is taken out of the dict."""
        clean = chunk.get("object") == OBJECT and "choices" in chunk
        head = self._head
        for key, kind in _TYPES.items():
            value = chunk.get(key)
            if not isinstance(value, kind):
                clean = False
            elif key not in head:
                head[key] = value
        if not clean:
            self._note("chunk_completed")
        if self._hide_ids:
            for key in _ASKED:
                if chunk.get(key) is not None:
                    clean = False
                    del chunk[key]
                    self._note("token_ids_hidden")
        usage = chunk.get("usage")
        if usage is not None and chunk.get("choices"):
            if isinstance(usage, dict):
                self._usage = usage
            if not self.wants_usage:
                clean = False
                del chunk["usage"]
                self._note("usage_hidden")
        return clean

    def event(self, chunk: dict[str, Any], choices: list[dict[str, Any]]) -> Event:
        """A chunk like this one, with these choices."""
        head = self._head
        written = {
            **chunk,
            "id": head.get("id", "chatcmpl-0"),
            "object": OBJECT,
            "created": head.get("created", 0),
            "model": head.get("model", ""),
            "choices": choices,
        }
        return encode(orjson.dumps(written))

    def usage_event(self) -> Event | None:
        """A usage chunk, when upstream told the usage beside its choices only."""
        return None if self._usage is None else self.event({"usage": self._usage}, [])

    def _note(self, name: str) -> None:
        if not self._hidden or (name, "") not in self._log.entries:
            self._hidden = True
            self._log.add(name)
