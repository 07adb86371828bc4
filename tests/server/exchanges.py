"""Requests that have ended, as log, metrics and traces are given them."""

from __future__ import annotations

from typing import Any

from starlette.types import Message

from devstral_proxy.server.exchange import Exchange

CHAT = "/v1/chat/completions"


async def _send(message: Message) -> None:
    raise AssertionError("nothing is sent here")


def ended(*headers: tuple[bytes, bytes], **values: Any) -> Exchange:
    """A chat completion that went well, but for these values. `first_token` and `queued` are seconds."""
    sent = [*headers, (b"x-request-id", b"request-1")]
    scope: dict[str, Any] = {"type": "http", "method": "POST", "path": "/of/the/client", "headers": sent}
    exchange = Exchange(scope, _send)
    first = values.pop("first_token", 0.0)
    for name, value in {"path": CHAT, "status": 200, "model": "devstral", "served": "devstral", **values}.items():
        setattr(exchange, name, value)
    exchange.first_token = exchange.started + first if first else 0.0
    return exchange
