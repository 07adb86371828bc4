"""What the fleet as a whole serves: the list of models, and whether it is ready for requests."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from devstral_proxy.errors import UpstreamUnavailable
from devstral_proxy.upstream.fleet import Fleet
from devstral_proxy.upstream.models import Facts, Model
from devstral_proxy.upstream.target import Target

OWNER = "vllm"


async def listing(fleet: Fleet) -> dict[str, Any]:
    """GET /v1/models: every model of UPSTREAMS (without it, of VLLM_BASE) and each alias as an entry of its own.

    What UPSTREAMS names is listed whether or not its servers answer; `max_model_len` is what all of them that do can
    take. Patterns of MODEL_ALIASES are no names, and are left out. Raises UpstreamUnavailable where VLLM_BASE alone
    would have to tell and does not.
    """
    entries: dict[str, dict[str, Any]] = {}
    facts = await _facts(fleet, None)
    single = fleet.single
    if single is not None:
        if not facts[single].reachable:
            raise UpstreamUnavailable(
                f"connection error: vLLM at {single.client.address} does not tell its models; check VLLM_BASE"
            )
        for model in facts[single].models.values():
            entries[model.id] = _entry(model.id, [model], None)
    for entry in fleet.models:
        route = fleet.route_of(entry.name)
        found = [facts[target].models.get(entry.served) for target in route.targets]
        known = [model for model in found if model is not None]
        entries[entry.name] = _entry(entry.name, known, None)
        for alias in entry.aliases:
            entries[alias] = _entry(alias, known, entry.name)
    for alias, name in fleet.settings.aliases.items():
        aliased = entries.get(name)
        if aliased is not None and not any(char in alias for char in "*?["):
            entries.setdefault(alias, {**aliased, "id": alias, "parent": aliased["parent"] or name})
    return {"object": "list", "data": list(entries.values())}


def entry_of(models: dict[str, Any], model: str) -> dict[str, Any] | None:
    """The entry of a `listing` with this id."""
    return next((entry for entry in models["data"] if entry["id"] == model), None)


async def ready(fleet: Fleet, max_age: float) -> dict[str, Any]:
    """Whether requests can be served, by facts at most `max_age` seconds old.

    `{"ready": …, "models": {name: {"ready": …, "servers": {name: state}}}}`. A server's state is "ok", "failing" (the
    breaker leaves it alone), "unreachable" or "model missing". A model is ready when one of its own servers is "ok".
    The whole is ready when any model is: a proxy that is taken out of service for the one that is down would take the
    others with it. Without UPSTREAMS the one "model" is named "" and stands for whatever VLLM_BASE serves.
    """
    facts = await _facts(fleet, max_age)
    models: dict[str, Any] = {}
    if fleet.single is not None:
        models[""] = _readiness([fleet.single], "", facts, fleet.clock())
    for entry in fleet.models:
        models[entry.name] = _readiness(fleet.route_of(entry.name).targets, entry.served, facts, fleet.clock())
    return {"ready": any(model["ready"] for model in models.values()), "models": models}


def _readiness(targets: Sequence[Target], served: str, facts: dict[Target, Facts], now: float) -> dict[str, Any]:
    states = {target.name: _state(target, served, facts[target], now) for target in targets}
    return {"ready": "ok" in states.values(), "servers": states}


def _state(target: Target, served: str, facts: Facts, now: float) -> str:
    if not target.breaker.ready(now):
        return "failing"
    if not facts.reachable:
        return "unreachable"
    return "ok" if (served in facts.models if served else facts.models) else "model missing"


async def _facts(fleet: Fleet, max_age: float | None) -> dict[Target, Facts]:
    """Of every server, asked at the same time; each waits for a second at most."""
    targets = fleet.targets
    told = await asyncio.gather(*(target.facts.facts(max_age) for target in targets))
    return dict(zip(targets, told, strict=True))


def _entry(name: str, models: list[Model], alias_of: str | None) -> dict[str, Any]:
    lengths = [model.max_model_len for model in models if model.max_model_len is not None]
    return {
        "id": name,
        "object": "model",
        "created": models[0].created if models else 0,
        "owned_by": OWNER,
        "root": models[0].root if models else None,
        "parent": alias_of,
        "max_model_len": min(lengths) if lengths else None,
    }
