"""What a check is, and what it gets to see."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import httpx

from qa.client import Api, Skipped

Where = Literal["any", "new", "old", "down", "keys"]
"""What a check needs: any proxy; one that qa started, in front of simulated models of vLLM 0.32.0 or 0.12.0; one with
nothing behind it; or any that asks for API keys."""


@dataclass(frozen=True)
class World:
    """A running proxy. `upstream` is the simulated vLLM behind it, None where it is somebody's real one."""

    api: Api
    model: str
    upstream: Api | None = None

    def told(self) -> dict[str, Any]:
        """What the simulated vLLM has seen: `asked` requests, and the `last` accepted one."""
        if self.upstream is None:
            raise Skipped("the upstream cannot be asked what came")
        told: dict[str, Any] = self.upstream.request("GET", "/_fleet").json()
        return told

    def asked(self) -> int:
        """How many requests reached the simulated vLLM; 0 where nobody counts."""
        return self.told()["asked"] if self.upstream is not None else 0

    def models(self) -> dict[str, dict[str, Any]]:
        """The served models by name."""
        response: httpx.Response = self.api.request("GET", "/v1/models")
        return {entry["id"]: entry for entry in response.json()["data"]}


@dataclass(frozen=True)
class Check:
    """One line of the report. `run` raises Failed or Skipped."""

    name: str
    says: str
    run: Callable[[World], None]
    where: Where = "any"
