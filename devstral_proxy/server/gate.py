"""The outermost application: every request gets an id, every failure an answer, and every answer one log line."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Receive, Scope, Send

from devstral_proxy.errors import MethodNotAllowed, NotFound, ProxyError, render
from devstral_proxy.server import access
from devstral_proxy.server.exchange import KEY, ClientGone, Exchange, told
from devstral_proxy.server.services import Services

CLIENT_GONE = 499
"""The status in the log (nginx's) of a request whose client left before the answer began."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """What answers at a path: `open` to everybody, or to those with a key; `render`: how its API tells an error;
    `id_header`: where its clients look for the request's id, beside x-request-id."""

    app: ASGIApp
    path: str
    open: bool = False
    render: Callable[[ProxyError], dict[str, Any]] = render
    id_header: bytes | None = None


class Gate:
    """Errors that reach it before the answer has begun become error JSON.

    `direct`: what answers at a method and path without the router's help, whose search costs more than the rest of a
    short request's way. `router` has the paths with parameters.
    """

    def __init__(self, router: ASGIApp, direct: Mapping[tuple[str, str], Endpoint], services: Services) -> None:
        self._router = Endpoint(router, "")
        # Wrong methods, and paths below: `/v1/messages/batches` is a 404 of Anthropic's API.
        self._prefixes = [
            (endpoint.path, replace(endpoint, app=router, path=""))
            for endpoint in direct.values()
            if endpoint.render is not render
        ]
        self._direct = direct
        self._services = services

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._router.app(scope, receive, send)
            return
        services = self._services
        headers: list[tuple[bytes, bytes]] = scope["headers"]
        exchange = scope[KEY] = Exchange(scope, send)
        services.traces.begin(exchange)
        try:
            endpoint = self._direct.get((exchange.method, scope["path"]))
            if endpoint is None:
                path = _tidied(scope)
                endpoint = self._direct.get((exchange.method, path)) or self._routed(path)
            exchange.path = endpoint.path
            exchange.render = endpoint.render
            if endpoint.id_header is not None:
                exchange.headers.append((endpoint.id_header, exchange.id.encode("ascii")))
            if not endpoint.open:
                exchange.key = services.keys.check(headers)
            exchange.task = exchange.current_task()
            with services.lifecycle.interruptible(exchange.task) as exchange.block:
                await endpoint.app(scope, receive, exchange.send)
        except ClientGone as gone:
            exchange.note = exchange.note or str(gone) or "client gone"
            exchange.status = exchange.status or CLIENT_GONE
        except asyncio.CancelledError:
            exchange.note = "cancelled"
            raise
        except HTTPException as error:
            await _answer(_refusal(error, exchange), exchange)
        except Exception as error:
            await _answer(told(error, exchange), exchange)
        finally:
            access.write(exchange)
            if services.metrics is not None:
                services.metrics.finished(exchange)
            services.traces.finished(exchange)
            del scope[KEY]  # the two refer to each other: else it takes the collector to free what is theirs

    def _routed(self, path: str) -> Endpoint:
        """The router, which tells errors in the words of the API that the path belongs to."""
        return next((found for prefix, found in self._prefixes if path.startswith(prefix)), self._router)


def _refusal(error: HTTPException, exchange: Exchange) -> ProxyError:
    """The router's own refusals (no such path, wrong method) as errors of ours."""
    path = f"{exchange.method} {exchange.scope['path'][:200]}"
    if error.status_code == 405:
        allowed = ", ".join(sorted((error.headers or {}).get("Allow", "").split(", ")))
        exchange.header(b"allow", allowed)
        return MethodNotAllowed(f"{path}: this path takes {allowed or 'other methods'}")
    return NotFound(f"{path}: no such path here; the API is under /v1, as /v1/chat/completions")


async def not_found(scope: Scope, receive: Receive, send: Send) -> None:
    """The router's last resort."""
    if scope["type"] == "http":
        raise HTTPException(404)
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1000})


def _tidied(scope: Scope) -> str:
    """A base URL ending in a slash makes clients ask for //v1/…, a careless one for …/: both mean the same path."""
    path: str = scope["path"]
    if path.startswith("//") or (path.endswith("/") and path != "/"):
        path = scope["path"] = "/" + path.strip("/")
    return path


async def _answer(error: ProxyError, exchange: Exchange) -> None:
    exchange.failed(error)
    if exchange.status == 0:
        for name, value in error.headers:
            exchange.header(name.lower().encode("ascii"), value)
        await exchange.reply_json(error.status, exchange.render(error))
