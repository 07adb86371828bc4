"""create_app: routes, lifespan and wiring, and nothing else."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.routing import Route

from devstral_proxy.config import Settings
from devstral_proxy.mistral.profiles import Profiles
from devstral_proxy.server.chat import ChatCompletions
from devstral_proxy.server.gate import Gate, http_exception, not_found
from devstral_proxy.server.pages import Pages
from devstral_proxy.server.relay import OneModel, Relay
from devstral_proxy.server.services import Services
from devstral_proxy.upstream.client import UpstreamClient
from devstral_proxy.upstream.models import Upstream


def routes(services: Services) -> list[Route]:
    """Every path there is. Only what stands here reaches vLLM."""
    chat = ChatCompletions(services)
    pages = Pages(services)
    return [
        Route("/v1/chat/completions", chat, methods=["POST"]),
        Route("/chat/completions", chat, methods=["POST"]),
        Route("/health", pages.health),
        Route("/", pages.root),
        Route("/v1/models", Relay(services, "GET", "/v1/models"), methods=["GET"]),
        Route("/v1/models/{model:path}", OneModel(services), methods=["GET"]),
        *(
            Route(path, Relay(services, "POST", path), methods=["POST"])
            for path in ("/v1/completions", "/v1/embeddings", "/tokenize", "/detokenize")
        ),
    ]


def create_app(settings: Settings, *, transport: httpx.AsyncBaseTransport | None = None) -> Starlette:
    """The proxy as an ASGI application. `transport` replaces the network to vLLM, for tests."""
    client = UpstreamClient(settings, transport)
    upstream = Upstream(client, settings)
    services = Services(settings, client, upstream, Profiles(settings.profile_overrides))

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        yield
        await upstream.aclose()
        await client.aclose()

    app = Starlette(
        routes=routes(services),
        middleware=[Middleware(Gate)],
        exception_handlers={HTTPException: http_exception},  # type: ignore[dict-item]  # it raises
        lifespan=lifespan,
    )
    app.router.redirect_slashes = False
    app.router.default = not_found
    app.state.services = services
    return app
