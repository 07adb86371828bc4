"""create_app: routes, lifespan and wiring, and nothing else."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import httpx
from starlette.applications import Starlette
from starlette.routing import Route
from starlette.types import ASGIApp

from devstral_proxy.config import Settings
from devstral_proxy.dialects.messages import Messages
from devstral_proxy.mistral.profiles import Profiles
from devstral_proxy.server.admission import admission
from devstral_proxy.server.chat import ChatCompletions, MessagesApi
from devstral_proxy.server.content_log import content_log_of
from devstral_proxy.server.count import CountTokens
from devstral_proxy.server.gate import Endpoint, Gate, not_found
from devstral_proxy.server.keys import Keys
from devstral_proxy.server.lifecycle import Lifecycle
from devstral_proxy.server.limits import rate_limits
from devstral_proxy.server.metrics import Reading, metrics_of, of_admission, of_target
from devstral_proxy.server.pages import Pages
from devstral_proxy.server.relay import Models, Relay
from devstral_proxy.server.responses import ResponsesApi, StoredResponse
from devstral_proxy.server.services import Services
from devstral_proxy.server.shape import image_policy
from devstral_proxy.server.traces import tracing
from devstral_proxy.stores import open_store
from devstral_proxy.upstream.fleet import Fleet
from devstral_proxy.upstream.target import Target

EXPOSED = [
    "request-id", "retry-after", "x-devstral-profile", "x-devstral-rewrites", "x-devstral-token-count", "x-request-id",
    *(f"x-ratelimit-{what}-{of}" for what in ("limit", "remaining", "reset") for of in ("requests", "tokens")),
]  # fmt: skip
"""Headers of answers that web pages may read, where they may call at all."""
COLLECT_AFTER = 20_000
"""New objects after which the collector of cycles runs. With Python's 700 it took an eighth of the time of a request:
64 requests under way are far more objects than that, and none of them is garbage."""
STORING = 2.0
"""Seconds at the end for what is on its way into the store."""
RELAYED = ("/v1/completions", "/v1/embeddings", "/tokenize", "/detokenize")
"""Paths of vLLM's that are passed on as they are. Only these, and what is translated, reach vLLM."""


def endpoints(services: Services) -> dict[tuple[str, str], Endpoint]:
    """What answers at each method and fixed path."""
    chat = Endpoint(ChatCompletions(services), "/v1/chat/completions")
    anthropic: Any = {"render": Messages("").error, "id_header": b"request-id"}
    table = {
        ("POST", "/v1/chat/completions"): chat,
        ("POST", "/chat/completions"): chat,
        ("POST", "/v1/responses"): Endpoint(ResponsesApi(services), "/v1/responses"),
        ("POST", "/v1/messages"): Endpoint(MessagesApi(services), "/v1/messages", **anthropic),
        ("POST", "/v1/messages/count_tokens"): Endpoint(
            CountTokens(services), "/v1/messages/count_tokens", **anthropic
        ),
        ("GET", "/v1/models"): Endpoint(Models(services), "/v1/models"),
        **{("POST", path): Endpoint(Relay(services, path), path) for path in RELAYED},
    }
    pages = Pages(services, sorted({path for _, path in table}))
    for path, page in (
        ("/", pages.root),
        ("/health", pages.health),
        ("/health/live", pages.live),
        ("/health/ready", pages.ready),
    ):
        table["GET", path] = table["HEAD", path] = Endpoint(page, path, open=True)
    if services.metrics is not None:
        table["GET", "/metrics"] = Endpoint(services.metrics.page, "/metrics", open=True)  # it asks for a key itself
    return table


def routes(services: Services, table: dict[tuple[str, str], Endpoint]) -> list[Route]:
    """Paths with parameters; the fixed ones too, for methods that they do not take."""
    stored = "/v1/responses/{id}"
    methods: dict[str, list[str]] = {}
    for method, path in table:
        methods.setdefault(path, []).append(method)
    return [
        Route("/v1/models/{model:path}", Models(services), methods=["GET"]),
        Route(stored, StoredResponse(services), methods=["GET", "DELETE"]),
        Route(stored + "/cancel", StoredResponse(services, "cancel"), methods=["POST"]),
        Route(stored + "/input_items", StoredResponse(services, "input_items"), methods=["GET"]),
        *(Route(path, table[allowed[0], path].app, methods=allowed) for path, allowed in methods.items()),
    ]


def services_of(settings: Settings, transport: httpx.AsyncBaseTransport | None, lifecycle: Lifecycle) -> Services:
    """Everything that the settings ask for. Raises ConfigError where an extra is missing, or a file cannot be had."""
    keys = Keys(settings.client_keys)
    return Services(
        settings=settings,
        fleet=Fleet(settings, transport),
        profiles=Profiles(settings.profile_overrides),
        keys=keys,
        limits=rate_limits(settings),
        admission=admission(settings),
        images=image_policy(settings),
        store=open_store(settings),
        metrics=metrics_of(settings, keys.check),
        traces=tracing(settings),
        content=content_log_of(settings),
        lifecycle=lifecycle,
    )


def create_app(
    settings: Settings, *, transport: httpx.AsyncBaseTransport | None = None, lifecycle: Lifecycle | None = None
) -> Starlette:
    """The proxy as an ASGI application. `transport` replaces the network to vLLM, for tests."""
    services = services_of(settings, transport, lifecycle or Lifecycle())
    table = endpoints(services)
    _observe(services)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        await services.fleet.start()
        metrics = services.metrics
        collecting = asyncio.create_task(metrics.collecting()) if metrics is not None and metrics.multiprocess else None
        # What is there now stays, and what requests leave behind is freed without the collector: it need not look at
        # either every few requests, and finds what is left (errors' tracebacks) in time.
        gc.collect()
        gc.freeze()
        gc.set_threshold(COLLECT_AFTER, 5, 5)
        yield
        if collecting is not None:
            collecting.cancel()
            await asyncio.wait({collecting})
        await services.fleet.aclose()
        if services.storing:
            await asyncio.wait(services.storing, timeout=STORING)
        await services.store.aclose()
        await services.traces.aclose()
        if services.limits is not None:
            await services.limits.aclose()

    app = Starlette(routes=routes(services, table), lifespan=lifespan)
    app.router.redirect_slashes = False
    app.router.default = not_found
    gate = Gate(app.router, table, services)
    app.middleware_stack = _for_pages(settings, gate)  # in the place of Starlette's own: errors are the gate's
    app.state.services = services
    return app


def _for_pages(settings: Settings, gate: Gate) -> ASGIApp:
    """Web pages of CORS_ORIGINS may call the APIs; without it a browser lets none."""
    origins = [origin.strip() for origin in settings.cors_origins.split(",") if origin.strip()]
    if not origins:
        return gate
    from starlette.middleware.cors import CORSMiddleware

    return CORSMiddleware(
        gate,
        allow_origins=origins,
        allow_methods=["GET", "POST", "DELETE"],
        allow_headers=["*"],
        expose_headers=EXPOSED,
        max_age=600,
    )


def _observe(services: Services) -> None:
    metrics = services.metrics
    if metrics is None:
        return
    metrics.source(lambda: of_admission(services.admission))
    for target in services.fleet.targets:
        metrics.source(partial(_state_of, target, services.fleet.clock))


def _state_of(target: Target, clock: Callable[[], float]) -> Reading:
    breaker = target.breaker
    # Only a request turns an open breaker; one that waits for nothing but a request is no reason for an alarm.
    state = "half-open" if breaker.state == "open" and breaker.ready(clock()) else breaker.state
    return of_target(target.name, target.running, state, target.client.pool)
