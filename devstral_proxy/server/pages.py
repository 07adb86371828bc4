"""GET / and GET /health: what this is, and how it and vLLM are."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import JSONResponse

from devstral_proxy import __version__
from devstral_proxy.server.services import Services

HEALTH_TTL = 5.0
"""Seconds for which an answer of vLLM's stands in /health."""


class Pages:
    """Both answer at once, also when vLLM does not."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def root(self, request: Request) -> JSONResponse:
        """What this is, and where the API is."""
        return JSONResponse(
            {
                "name": "devstral-proxy",
                "version": __version__,
                "api": "/v1",
                "endpoints": sorted({getattr(route, "path", "") for route in request.app.routes}),
            }
        )

    async def health(self, request: Request) -> JSONResponse:
        """200 as long as the proxy runs; `upstream` says whether vLLM answers."""
        facts = await self._services.upstream.facts(HEALTH_TTL)
        return JSONResponse(
            {
                "status": "ok",
                "version": __version__,
                "upstream": {"reachable": facts.reachable, "version": facts.version, "models": sorted(facts.models)},
            }
        )
