"""The APIs that are served as chat completions: one exchange, from the client's request to its last byte.

Each is an ASGI application. What differs from one API to the next is the dialect; the way to vLLM is the same.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

from starlette.types import Receive, Scope, Send

from devstral_proxy.dialects.base import Dialect
from devstral_proxy.dialects.messages import Messages
from devstral_proxy.server.body import parse_object, read_body
from devstral_proxy.server.exchange import Exchange, new_id, of
from devstral_proxy.server.services import Services
from devstral_proxy.server.shape import check_shape
from devstral_proxy.server.turn import Turn
from devstral_proxy.server.watch import Watch
from devstral_proxy.upstream.affinity import affinity_of
from devstral_proxy.upstream.fleet import Route

NOTICED = 0.0005
"""Seconds in the queue that count as having waited."""

Keep = Callable[[], Awaitable[None]]


class ChatCompletions:
    """POST /v1/chat/completions."""

    name = "chat"
    translates = False
    """It is another API than chat completions: there is a dialect."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        services, exchange = self._services, of(scope)
        exchange.dialect = self.name
        request = parse_object(await read_body(scope, receive, services.settings.body_limit))
        check_shape(request, services.settings)
        with Watch(scope, receive) as watch:
            model = request.get("model")
            exchange.model = model if isinstance(model, str) else ""
            route = await admitted(services, exchange)
            dialect: Dialect | None = None
            keep: Keep | None = None
            if self.translates:
                dialect, keep = await self._dialect(request, exchange)
                exchange.render = dialect.error
                request = dialect.request(request)
            if services.content is not None:
                services.content.write(exchange.id, request)
            affinity = affinity_of(request, exchange.key) if services.fleet.models else b""
            turn = Turn(services, exchange, request, dialect, watch, keep)
            del request  # an answer may take minutes: the turn keeps it no longer than it must
            await with_room(services, exchange, route, turn.run(route, affinity))

    async def _dialect(self, request: dict[str, Any], exchange: Exchange) -> tuple[Dialect, Keep | None]:
        """The dialect of this request, and what is to be done when its answer is whole."""
        raise NotImplementedError


async def admitted(services: Services, exchange: Exchange) -> Route:
    """Where the request for `exchange.model` goes, once the client's own limits have counted it."""
    if services.fleet.aliases is not None or services.limits is not None:
        await services.fleet.learn()  # what the server serves: a request is counted by that name
    route = services.fleet.resolve(exchange.model)
    if services.limits is not None:
        served = served_name(services, route, exchange.model)
        exchange.headers += await services.limits.admit(exchange.key, served)
    return route


async def with_room(services: Services, exchange: Exchange, route: Route, work: Awaitable[None]) -> None:
    """Do it when the proxy has room; where it has none it is closed, undone. Its tokens are counted afterwards."""
    key, admission = exchange.key, services.admission
    if not admission.free(key):
        before = time.perf_counter()
        try:
            await admission.enter(key)
        except BaseException:
            if asyncio.iscoroutine(work):
                work.close()
            raise
        waited = time.perf_counter() - before
        if waited > NOTICED:
            exchange.queued = waited
    try:
        await work
    finally:
        admission.leave(key)
        if services.limits is not None and exchange.status == 200:
            served = served_name(services, route, exchange.model)  # by now it is known what vLLM serves
            spent = exchange.input_tokens + exchange.output_tokens or exchange.estimated
            await services.limits.spend(key, served, spent)


def served_name(services: Services, route: Route, model: str) -> str:
    """The model by which a request is counted: names that are few. The client's own word counts where the one server
    has such a model."""
    named = route.model or route.served
    single = services.fleet.single
    return model if not named and single is not None and model in single.facts.known.models else named


class MessagesApi(ChatCompletions):
    """POST /v1/messages: Anthropic's API."""

    name = "messages"
    translates = True

    async def _dialect(self, request: dict[str, Any], exchange: Exchange) -> tuple[Dialect, Keep | None]:
        return Messages(new_id()), None
