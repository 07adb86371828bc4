"""All servers behind the proxy, and which of them a request may go to, in which order.

Without UPSTREAMS that is one server, VLLM_BASE, and any model's name goes there as it is. With it, a model has
replicas, aliases, a name of its own upstream, and other models that step in.
"""

from __future__ import annotations

import asyncio
import math
import random as random_module
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import httpx
from pydantic import SecretStr

from devstral_proxy.config import Settings
from devstral_proxy.errors import BadRequest, NotFound, Overloaded
from devstral_proxy.topology import ServedModel, Server
from devstral_proxy.upstream.affinity import overloaded, ranked
from devstral_proxy.upstream.aliases import Aliases
from devstral_proxy.upstream.breaker import Breaker
from devstral_proxy.upstream.client import UpstreamClient
from devstral_proxy.upstream.health import HealthChecks
from devstral_proxy.upstream.models import Upstream
from devstral_proxy.upstream.target import Target


class Candidate(NamedTuple):
    """A server to try. `model` goes upstream ("": as the client said it); `name` is the model's name in UPSTREAMS."""

    target: Target
    model: str
    name: str


class Route:
    """Where the requests for one model may go."""

    __slots__ = ("_all", "_clock", "_fallbacks", "_overload", "_own", "_weights", "model", "served")

    def __init__(
        self,
        own: Sequence[tuple[Candidate, float]],
        fallbacks: Sequence[Route],
        overload: float,
        clock: Callable[[], float],
        model: str = "",
    ) -> None:
        self.model = model
        """The model's own name for clients; "" where the client's word is passed on."""
        self.served = own[0][0].model
        """The name to be sent upstream, "" for the client's; a fallback's candidates have another."""
        self._own = tuple(own)
        self._fallbacks = fallbacks
        self._weights = sum(weight for _, weight in own)
        self._overload = overload
        self._clock = clock
        self._all = tuple(candidate for candidate, _ in own)

    @property
    def spread(self) -> bool:
        """There is a choice of replicas: `candidates` needs to know the conversation."""
        return len(self._own) > 1

    @property
    def targets(self) -> Sequence[Target]:
        """The model's own servers."""
        return [candidate.target for candidate in self._all]

    def candidates(self, affinity: bytes = b"") -> Sequence[Candidate]:
        """Who may be tried, in this order; at least one. Raises Overloaded (503 with Retry-After) when nobody may.

        The model's replicas come by affinity, those with far more than their fair share to do after the others; then
        the models that step in; at last those of which a health check says that they fail. Servers that the breaker
        leaves alone are not among them.
        """
        if len(self._all) == 1 and not self._fallbacks and self._all[0].target.breaker.state == "closed":
            return self._all
        now = self._clock()
        found = self._ready(affinity, now)
        for route in self._fallbacks:
            found += route._ready(affinity, now)
        if not found:
            raise self._down(now)
        found.sort(key=lambda candidate: candidate.target.doubtful)  # stable
        return found

    def _ready(self, affinity: bytes, now: float) -> list[Candidate]:
        own = self._own
        if len(own) == 1:
            return [own[0][0]] if own[0][0].target.breaker.ready(now) else []
        running = sum(candidate.target.running for candidate, _ in own)
        free: list[Candidate] = []
        busy: list[Candidate] = []
        for index in ranked(affinity, [(candidate.target.name, weight) for candidate, weight in own]):
            candidate, weight = own[index]
            if candidate.target.breaker.ready(now):
                full = overloaded(candidate.target.running, weight, running, self._weights, self._overload)
                (busy if full else free).append(candidate)
        return free + busy

    def _down(self, now: float) -> Overloaded:
        breakers = [candidate.target.breaker for route in (self, *self._fallbacks) for candidate in route._all]
        return down(min(breaker.retry_after(now) for breaker in breakers))


def down(seconds: float) -> Overloaded:
    """The answer while no server may be asked: 503, with the time after which one may."""
    wait = max(1, math.ceil(seconds))
    error = Overloaded(
        f"connection error: no vLLM server for this model answers; it is asked again in {wait} s",
        code="upstream_unavailable",
    )
    error.headers.append(("Retry-After", str(wait)))
    return error


class Fleet:
    """One a process. `transport` replaces the network, for all servers, in tests; so do `clock` and `random`."""

    def __init__(
        self,
        settings: Settings,
        transport: httpx.AsyncBaseTransport | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        random: Callable[[], float] = random_module.random,
    ) -> None:
        self.settings = settings
        self.clock = clock
        self.random = random
        self._transport = transport
        self._targets: dict[str, Target] = {}
        self._routes: dict[str, Route] = {}
        self.models = settings.served_models
        """The entries of UPSTREAMS; empty for the one server of VLLM_BASE."""
        self.aliases = _aliases(settings)
        """MODEL_ALIASES and DEFAULT_MODEL; None without them."""
        self._health = HealthChecks(settings.health_interval, settings.health_timeout, random)
        self._single: Route | None = None
        self._only: Target | None = None
        if self.models:
            self._build()
        else:
            client = UpstreamClient(settings, transport)
            target = self._target(client.address, settings.vllm_base, client)
            self._single = self._route([(Candidate(target, "", ""), 1.0)])
            self._only = target
        self._plain = self._single if self.aliases is None else None

    @property
    def targets(self) -> Sequence[Target]:
        """Every server, once."""
        return list(self._targets.values())

    @property
    def single(self) -> Target | None:
        """The server of VLLM_BASE; None with UPSTREAMS."""
        return self._only

    def resolve(self, model: str) -> Route:
        """Where the requests for this model go; "": the request names none.

        Raises NotFound when UPSTREAMS is set and neither it nor an alias knows the model, BadRequest when the request
        has to name one. Without UPSTREAMS it is vLLM's to say.
        """
        if self._plain is not None:
            return self._plain
        if self._single is not None:
            return self._renamed(self._single, model)
        name = model if self.aliases is None else self.aliases.resolve(model, self._routes)
        route = self._routes.get(name)
        if route is not None:
            return route
        if model:
            raise no_model(model)
        if len(self.models) > 1:
            raise BadRequest("you must provide a model parameter", param="model")
        return self._routes[self.models[0].name]

    async def learn(self) -> None:
        """Wait until it is known what VLLM_BASE serves, for those who need that: `resolve` with aliases or a default
        model, and whoever counts by model. Where it does not answer in time, the wait ends without."""
        if self._only is not None:
            await self._only.facts.facts()

    def route_of(self, name: str) -> Route:
        """The route of an entry of UPSTREAMS."""
        return self._routes[name]

    async def start(self) -> None:
        """Begin the health checks, if there are to be any."""
        self._health.start(self.targets)

    async def aclose(self) -> None:
        """Stop what runs, and close all connections."""
        await self._health.aclose()
        for target in self._targets.values():
            await target.facts.aclose()
        await asyncio.gather(*(target.client.aclose() for target in self._targets.values()))

    def _renamed(self, single: Route, model: str) -> Route:
        """VLLM_BASE with aliases: the same server, and perhaps another name."""
        target = single.targets[0]
        name = self.aliases.resolve(model, target.facts.known.models) if self.aliases is not None else model
        return single if name == model else self._route([(Candidate(target, name, name), 1.0)])

    def _build(self) -> None:
        first: dict[str, Route] = {}
        for model in self.models:
            own = [(Candidate(self._server(one), model.served, model.name), one.weight) for one in model.servers]
            first[model.name] = self._route(own, (), model)
        for model in self.models:
            route = first[model.name]
            if model.fallback:
                route = self._route(route._own, [first[name] for name in model.fallback], model)
            for name in (model.name, *model.aliases):
                self._routes[name] = route

    def _route(
        self,
        own: Sequence[tuple[Candidate, float]],
        fallbacks: Sequence[Route] = (),
        model: ServedModel | None = None,
    ) -> Route:
        return Route(own, fallbacks, self.settings.affinity_overload, self.clock, model.name if model else "")

    def _server(self, server: Server) -> Target:
        known = self._targets.get(server.url)
        if known is not None:
            return known
        key = self.settings.vllm_api_key
        if server.api_key is not None:
            key = SecretStr(server.api_key) if server.api_key else None
        client = UpstreamClient(self.settings, self._transport, base=server.url, api_key=key)
        return self._target(server.name, server.url, client)

    def _target(self, name: str, url: str, client: UpstreamClient) -> Target:
        settings = self.settings
        breaker = Breaker(settings.breaker_failures, settings.breaker_open, self.random)
        facts = Upstream(client, settings)
        target = self._targets[url] = Target(name, client, facts, breaker, self.clock, self._health.wake)
        return target


def no_model(model: str) -> NotFound:
    """404 in OpenAI's words."""
    return NotFound(
        f"The model `{model[:200]}` does not exist or you do not have access to it.",
        param="model",
        code="model_not_found",
    )


def _aliases(settings: Settings) -> Aliases | None:
    if not settings.aliases and settings.default_model is None:
        return None
    return Aliases(settings.aliases, settings.default_model)
