"""What the server keeps of one request while it is answered, and what it sends: heads, JSON, errors."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import orjson
from starlette.types import Message, Scope

from devstral_proxy.errors import InternalError, ProxyError, UpstreamRefused

_log = logging.getLogger("devstral_proxy.server")

Headers = list[tuple[bytes, bytes]]
Send = Callable[[Message], Awaitable[None]]

_KEY = "devstral_proxy.exchange"
JSON: tuple[bytes, bytes] = (b"content-type", b"application/json")
STREAM_HEADERS: Sequence[tuple[bytes, bytes]] = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),  # nginx: pass each event on as it comes
)


class ClientGone(Exception):
    """The client has closed its connection: there is nobody to answer."""


class Exchange:
    """One request's facts for its log line, and the headers that its answer carries whatever it will be."""

    __slots__ = ("headers", "id", "model", "note", "rewrites", "send_body", "started", "status")

    def __init__(self, id: str, send_body: Send) -> None:
        self.id = id
        self.send_body = send_body
        """Takes body messages past the layers that look at the head only: one event, one call."""
        self.started = time.perf_counter()
        self.headers: Headers = [(b"x-request-id", id.encode("ascii"))]
        self.status = 0
        """The status sent; 0 as long as no answer has begun."""
        self.model = ""
        self.rewrites: list[tuple[str, str]] = []
        self.note = ""
        """How the answer ended, where the status does not tell: an error in the stream, the client gone."""

    @property
    def milliseconds(self) -> int:
        """Since the request began."""
        return round((time.perf_counter() - self.started) * 1000)

    def broken(self, error: ProxyError) -> None:
        """Note for the log that the answer broke off after its status had gone out."""
        what = "refused by vLLM" if isinstance(error, UpstreamRefused) else f"error {error.code}"
        self.note = f"{what}, in the stream"

    def header(self, name: bytes, value: str) -> None:
        """Add a header to the answer. What HTTP does not allow in a value is left out."""
        self.headers.append((name, bytes(code for code in value.encode("ascii", "ignore") if 32 <= code < 127)))


def told(error: Exception, exchange: Exchange) -> ProxyError:
    """What the client is told of a failure: an error of ours as it is, a defect as InternalError, which is logged."""
    if isinstance(error, ProxyError):
        return error
    _log.error("request %s failed: %s", exchange.id, type(error).__name__, exc_info=error)
    return InternalError(f"internal error of the proxy; its log tells more about request {exchange.id}")


def begin(scope: Scope, id: str, send: Send) -> Exchange:
    """The exchange of this request, kept in its scope."""
    exchange: Exchange = Exchange(id, send)
    scope[_KEY] = exchange
    return exchange


def of(scope: Scope) -> Exchange:
    """The exchange that `begin` put there."""
    exchange: Exchange = scope[_KEY]
    return exchange


async def send_body(send: Send, status: int, body: bytes, headers: Sequence[tuple[bytes, bytes]]) -> None:
    """A whole answer."""
    length = (b"content-length", b"%d" % len(body))
    await send({"type": "http.response.start", "status": status, "headers": [length, *headers]})
    await send({"type": "http.response.body", "body": body})


async def send_json(send: Send, status: int, value: Any, headers: Sequence[tuple[bytes, bytes]] = ()) -> None:
    """A whole answer of JSON."""
    await send_body(send, status, orjson.dumps(value), [JSON, *headers])
