"""What the upstream is: vLLM's version and models, asked when needed, kept for a while, and never waited for long."""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass, field
from typing import Any

import orjson

from devstral_proxy.config import Settings
from devstral_proxy.errors import UpstreamError
from devstral_proxy.upstream.client import UpstreamClient

_log = logging.getLogger("devstral_proxy.upstream")

ASK_TIMEOUT = 1.0
"""Longest wait of a request (or of /health) for facts; after it they are unknown, and the question goes on."""
RETRY_AFTER = 2.0
"""Seconds for which a failure to answer is believed."""
_LIMIT = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Model:
    """One entry of /v1/models. `root` is what an alias stands for."""

    id: str
    root: str | None = None
    max_model_len: int | None = None
    created: int = 0


@dataclass(frozen=True, slots=True)
class Facts:
    """What was known at one time. `reachable`: something answered /v1/models at all."""

    reachable: bool = False
    version: str | None = None
    models: dict[str, Model] = field(default_factory=dict)


_NOTHING = Facts()


class Upstream:
    """Facts about the vLLM behind a client. One question at a time, however many wait for its answer."""

    def __init__(self, client: UpstreamClient, settings: Settings) -> None:
        self._client = client
        self._version = settings.vllm_version
        self._ttl = settings.facts_ttl
        self._facts: Facts | None = None
        self._asked = 0.0  # when the facts were told
        self._began = 0.0  # when the question under way was put
        self._task: asyncio.Task[Facts] | None = None

    @property
    def known(self) -> Facts:
        """The facts told last, however old; `Facts()` when there are none. Asks nothing."""
        return self._facts or _NOTHING

    async def facts(self, max_age: float | None = None) -> Facts:
        """The facts, at most `max_age` seconds old (default: FACTS_TTL); `Facts()` when there are none in time.

        Known facts over their age are used once more while new ones are asked for, unless `max_age` is given.
        Never raises.
        """
        known = self._facts
        age = time.monotonic() - self._asked
        if known is not None and age < (
            RETRY_AFTER if not known.reachable else self._ttl if max_age is None else max_age
        ):
            return known
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._ask())
            self._began = time.monotonic()
        if known is not None and known.reachable and max_age is None:
            return known
        # Only the first to ask waits the whole time: a silent upstream must not cost every request a second.
        left = self._began + ASK_TIMEOUT - time.monotonic()
        if left > 0:
            await asyncio.wait({self._task}, timeout=left)
        if self._task.done() and not self._task.cancelled():
            return self._task.result()
        return Facts(version=self._version)

    def forget(self) -> None:
        """The connection failed: what comes back may be another version with other models."""
        self._facts = None

    async def aclose(self) -> None:
        """Stop a question under way."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    async def _ask(self) -> Facts:
        version, listing = await asyncio.gather(self._get("/version"), self._get("/v1/models"))
        told = version.get("version") if isinstance(version, dict) else None
        self._facts = Facts(
            reachable=listing is not None or version is not None,
            version=self._version or (told if isinstance(told, str) else None),
            models={model.id: model for model in _models(listing)},
        )
        self._asked = time.monotonic()
        return self._facts

    async def _get(self, path: str) -> Any:
        """The JSON at a path; an empty dict when something else answers there; None when nothing does."""
        try:
            async with self._client.open("GET", path, first_byte=self._ttl) as answer:
                body = await answer.read(_LIMIT)
                return orjson.loads(body) if answer.status == 200 else {}
        except ValueError:
            return {}
        except UpstreamError:
            return None
        except Exception as error:  # facts help; a defect here must not cost a request
            _log.error("asking %s failed: %s", path, type(error).__name__, exc_info=error)
            return None


def _models(listing: Any) -> list[Model]:
    data = listing.get("data") if isinstance(listing, dict) else None
    models = []
    for entry in data if isinstance(data, list) else ():
        if isinstance(entry, dict) and isinstance(entry.get("id"), str):
            root, length, created = entry.get("root"), entry.get("max_model_len"), entry.get("created")
            models.append(
                Model(
                    entry["id"],
                    root if isinstance(root, str) and root else None,
                    length if isinstance(length, int) and length > 0 else None,
                    created if isinstance(created, int) else 0,
                )
            )
    return models
