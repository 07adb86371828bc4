"""What the proxy says of itself: GET /, /health, /health/live, /health/ready."""

from __future__ import annotations

import asyncio
from typing import Any

from starlette.types import Receive, Scope, Send

from devstral_proxy import __version__
from devstral_proxy.errors import Unauthorized
from devstral_proxy.server.exchange import of
from devstral_proxy.server.services import Services
from devstral_proxy.upstream.catalog import ready

HEALTH_TTL = 5.0
"""Seconds for which an answer of vLLM's stands in /health and /health/ready."""


class Pages:
    """Each answers at once, also when vLLM does not: it is asked at most every HEALTH_TTL seconds, and for one."""

    def __init__(self, services: Services, paths: list[str]) -> None:
        self._services = services
        self._paths = paths

    async def root(self, scope: Scope, receive: Receive, send: Send) -> None:
        """What this is, and where the APIs are."""
        told = {"name": "devstral-proxy", "version": __version__, "api": "/v1", "endpoints": self._paths}
        await of(scope).reply_json(200, told)

    async def health(self, scope: Scope, receive: Receive, send: Send) -> None:
        """200 as long as the proxy runs; what it knows of vLLM is in the JSON, for those who have a key."""
        if not self._may_know(scope):
            await of(scope).reply_json(200, {"status": "ok"})
            return
        fleet = self._services.fleet
        told = await asyncio.gather(*(target.facts.facts(HEALTH_TTL) for target in fleet.targets))
        servers: dict[str, Any] = {
            target.name: {
                "reachable": facts.reachable,
                "version": facts.version,
                "models": sorted(facts.models),
                "breaker": target.breaker.state,
            }
            for target, facts in zip(fleet.targets, told, strict=True)
        }
        body: dict[str, Any] = {"status": "ok", "version": __version__}
        if fleet.single is not None:
            body["upstream"] = servers[fleet.single.name]
        else:
            body["upstreams"] = servers
        await of(scope).reply_json(200, body)

    async def live(self, scope: Scope, receive: Receive, send: Send) -> None:
        """200: the process runs, and its event loop turns."""
        await of(scope).reply_json(200, {"status": "ok"})

    async def ready(self, scope: Scope, receive: Receive, send: Send) -> None:
        """200 when requests can be served: vLLM answers, a model is there, and the proxy is not stopping. Else 503."""
        if self._services.lifecycle.draining:
            await of(scope).reply_json(503, {"status": "draining"})
            return
        told = await ready(self._services.fleet, HEALTH_TTL)
        status = "ready" if told["ready"] else "not ready"
        body = {"status": status, "models": told["models"]} if self._may_know(scope) else {"status": status}
        await of(scope).reply_json(200 if told["ready"] else 503, body)

    def _may_know(self, scope: Scope) -> bool:
        """Names of servers and models are for those who may use them; a probe needs the status alone."""
        try:
            self._services.keys.check(scope["headers"])
        except Unauthorized:
            return False
        return True
