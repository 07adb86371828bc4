"""The outermost middleware: every request gets an id, every failure an answer, and every answer one log line."""

from __future__ import annotations

import asyncio
import logging
import re
import uuid

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from devstral_proxy.errors import MethodNotAllowed, NotFound, ProxyError, UpstreamRefused, render
from devstral_proxy.server.exchange import ClientGone, Exchange, begin, of, send_json, told

access_log = logging.getLogger("devstral_proxy.access")

_SANE_ID = re.compile(rb"[A-Za-z0-9._-]{1,128}")
CLIENT_GONE = 499
"""The status in the log (nginx's) of a request whose client left before the answer began."""


def request_id(headers: list[tuple[bytes, bytes]]) -> str:
    """The client's own `x-request-id` if it is a sane token, else a new one."""
    for name, value in headers:
        if name == b"x-request-id" and _SANE_ID.fullmatch(value):
            return value.decode("ascii")
    return uuid.uuid4().hex


class Gate:
    """Pure ASGI. Errors that reach it before the answer has begun become OpenAI error JSON."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        exchange = begin(scope, request_id(scope["headers"]), send)

        async def send_marked(message: Message) -> None:
            if message["type"] == "http.response.start":
                exchange.status = message["status"]
                message["headers"] = [*message.get("headers", ()), *exchange.headers]
            await send(message)

        try:
            await self._app(_tidied(scope), receive, send_marked)
        except ClientGone:
            exchange.note = exchange.note or "client gone"
            exchange.status = exchange.status or CLIENT_GONE
        except asyncio.CancelledError:
            exchange.note = "cancelled"
            raise
        except Exception as error:
            await _answer(told(error, exchange), exchange, send_marked)
        finally:
            if access_log.isEnabledFor(logging.INFO):
                _write_line(scope, exchange)


def http_exception(request: Request, error: Exception) -> None:
    """Starlette's own refusals (no such path, wrong method), as errors of ours for `Gate`."""
    path = f"{request.method} {request.url.path[:200]}"
    if isinstance(error, HTTPException) and error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "")
        of(request.scope).header(b"allow", ", ".join(sorted(allowed.split(", "))))
        raise MethodNotAllowed(f"{path}: this path takes {allowed or 'other methods'}") from None
    raise NotFound(f"{path}: no such path here; the API is under /v1, as /v1/chat/completions") from None


async def not_found(scope: Scope, receive: Receive, send: Send) -> None:
    """The router's last resort."""
    if scope["type"] == "http":
        http_exception(Request(scope), HTTPException(404))
    elif scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1000})


def _tidied(scope: Scope) -> Scope:
    """A base URL ending in a slash makes clients ask for //v1/…, a careless one for …/: both mean the same path."""
    path: str = scope["path"]
    if path.startswith("//") or (path.endswith("/") and path != "/"):
        scope["path"] = "/" + path.strip("/")
    return scope


async def _answer(error: ProxyError, exchange: Exchange, send: Send) -> None:
    refused = isinstance(error, UpstreamRefused)
    exchange.note = exchange.note or ("refused by vLLM" if refused else f"error {error.code}")
    if exchange.status == 0:
        await send_json(send, error.status, render(error))


def _write_line(scope: Scope, exchange: Exchange) -> None:
    rewrites: dict[str, int] = {}
    for name, _ in exchange.rewrites:
        rewrites[name] = rewrites.get(name, 0) + 1
    fields = {
        "id": exchange.id,
        "method": scope["method"],
        "path": scope["path"],
        "model": exchange.model,
        "status": exchange.status,
        "ms": exchange.milliseconds,
        "rewrites": rewrites,
        "note": exchange.note,
    }
    access_log.info("", extra={"fields": fields})
