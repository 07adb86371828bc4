"""What a dialect is: a client's API in terms of chat completions."""

from __future__ import annotations

from typing import Any, Protocol

from devstral_proxy.errors import ProxyError
from devstral_proxy.mistral.rewrites import RewriteLog
from devstral_proxy.upstream import sse


class Dialect(Protocol):
    """One request's way into chat completions and back: one instance a request, called in the order of the methods."""

    name: str
    stream: bool
    """The client wants a stream; known once `request` has been called."""
    rewrites: RewriteLog
    """What the dialect itself had to change or leave out."""

    def request(self, body: dict[str, Any]) -> dict[str, Any]:
        """The chat completion request that says the same: a new dict, the client's own is not changed.

        Raises BadRequest that names the field of the client's own API.
        """

    def opening(self) -> list[sse.Event]:
        """Events that may go out as soon as vLLM has taken the request."""

    def events(self, events: list[sse.Event]) -> list[sse.Event]:
        """Repaired chat chunks, `[DONE]` included, as the dialect's own events."""

    def body(self, completion: dict[str, Any]) -> dict[str, Any]:
        """A repaired chat completion as the dialect's whole answer."""

    def error(self, error: ProxyError) -> dict[str, Any]:
        """The error's JSON; its status stays `error.status`."""

    def broken(self, error: ProxyError) -> list[sse.Event]:
        """The events that end a stream which has begun."""
