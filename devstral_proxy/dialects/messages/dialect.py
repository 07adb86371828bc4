"""Messages: one request's way from Anthropic's API into chat completions, and back."""

from __future__ import annotations

from typing import Any

import orjson

from devstral_proxy.dialects.messages import answer, checks
from devstral_proxy.dialects.messages.errors import error_body, field_path, told_in_stream
from devstral_proxy.dialects.messages.events import MessageStream
from devstral_proxy.dialects.messages.fields import translate
from devstral_proxy.errors import BadRequest, ProxyError
from devstral_proxy.mistral.json_text import MAX_DEPTH, deep_path
from devstral_proxy.mistral.rewrites import RewriteLog
from devstral_proxy.upstream import sse


class Messages:
    """One instance a request, see `dialects.base.Dialect`.

    Ids of calls go through as they are, in both directions: clients take any, and the translation maps what they send
    back. The answer names the model that the client asked for.
    """

    name = "messages"

    def __init__(self, seed: str) -> None:
        """`seed`: the answer's ids are derived from it."""
        self.stream = False
        self.rewrites = RewriteLog()
        self._seed = seed
        self._model = ""
        self._messages: list[str] = []
        self._tools: list[str] = []
        self._events = MessageStream(seed, "")

    def request(self, body: dict[str, Any]) -> dict[str, Any]:
        """The chat completion request that says the same as a request to `/v1/messages`.

        Raises BadRequest naming Anthropic's field, for what its API refuses too.
        """
        return self._translated(body, counting=False)

    def count_request(self, body: dict[str, Any]) -> dict[str, Any]:
        """The same for a request to `/v1/messages/count_tokens`: the chat request whose prompt is to be counted."""
        return self._translated(body, counting=True)

    def _translated(self, body: dict[str, Any], counting: bool) -> dict[str, Any]:
        if not isinstance(body, dict):
            checks.wrong("body", "Input should be a valid dictionary")
        try:
            asked = translate(body, self.rewrites, counting)
        except RecursionError:
            raise BadRequest(f"nested over {MAX_DEPTH} levels deep", param=deep_path(body)) from None
        self.stream = asked.chat.get("stream", False)
        self._model = asked.chat["model"]
        self._messages, self._tools = asked.messages, asked.tools
        self._events = MessageStream(self._seed, self._model)
        return asked.chat

    def opening(self) -> list[sse.Event]:
        """message_start, and a ping."""
        return self._events.begin()

    def events(self, events: list[sse.Event]) -> list[sse.Event]:
        """Repaired chat chunks as Anthropic's events. There is no `[DONE]`: message_stop is the end."""
        out: list[sse.Event] = []
        for event in events:
            if event.data.startswith(b'{"error"'):
                out += self._events.fail(told_in_stream(orjson.loads(event.data)["error"]))
            else:
                out += self._events.feed(event)
        return out

    def body(self, completion: dict[str, Any]) -> dict[str, Any]:
        """A repaired chat completion as a whole message."""
        return answer.whole(completion, self._seed, self._model)

    def error(self, error: ProxyError) -> dict[str, Any]:
        """`{"type": "error", "error": {"type", "message"}}`."""
        where = field_path(error.param, self._messages, self._tools) if error.param else None
        return error_body(error, where)

    def broken(self, error: ProxyError) -> list[sse.Event]:
        """The error event, unless the message is complete."""
        return self._events.fail(self.error(error))
