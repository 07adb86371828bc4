"""Active health checks: one task that asks each server again and again, each check in a task of its own.

`/health` of vLLM says 200, or 503 when its engine is dead; a server that has no such path is asked for its models. What
comes of it goes to the target: its breaker and its facts. One server alone is not asked as long as it answers, since
there is no other to go to; whether it is back is what has to be found out.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Final

from devstral_proxy.errors import UpstreamError
from devstral_proxy.upstream.target import Target

_log = logging.getLogger("devstral_proxy.upstream")

RECHECK: Final = 1.0
"""Seconds between two checks of a server that fails, unless HEALTH_INTERVAL is shorter."""
_LIMIT: Final = 4 * 1024 * 1024


class HealthChecks:
    """`interval` and `timeout` in seconds; `interval` 0: nothing ever runs."""

    def __init__(self, interval: float, timeout: float, random: Callable[[], float]) -> None:
        self._interval = interval
        self._timeout = timeout
        self._random = random
        self._targets: Sequence[Target] = ()
        self._due: dict[Target, float] = {}
        self._checks: dict[Target, asyncio.Task[None]] = {}
        self._changed: asyncio.Event | None = None
        self._task: asyncio.Task[None] | None = None

    def start(self, targets: Sequence[Target]) -> None:
        """Begin, in the running event loop."""
        if not self._interval or self._task is not None:
            return
        self._targets = targets
        now = asyncio.get_running_loop().time()
        self._due = {target: now + self._random() * min(self._interval, RECHECK) for target in targets}
        self._changed = asyncio.Event()
        self._task = asyncio.create_task(self._run())

    def wake(self) -> None:
        """A breaker has opened or closed: look whom to ask, and when."""
        if self._changed is not None:
            self._changed.set()

    async def aclose(self) -> None:
        """Stop all checks."""
        tasks = [*self._checks.values(), *([self._task] if self._task is not None else [])]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        self._task = self._changed = None

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        changed = self._changed = self._changed or asyncio.Event()
        while True:
            changed.clear()
            now = loop.time()
            nearest: float | None = None
            for target in self._targets:
                if target in self._checks or not self._wanted(target):
                    continue
                due = min(self._due[target], now + self._pause(target))
                if due <= now:
                    self._checks[target] = asyncio.create_task(self._check(target))
                    continue
                self._due[target] = due
                nearest = due if nearest is None else min(nearest, due)
            try:
                async with asyncio.timeout_at(nearest):
                    await changed.wait()
            except TimeoutError:
                pass

    def _wanted(self, target: Target) -> bool:
        return len(self._targets) > 1 or target.breaker.state != "closed"

    def _pause(self, target: Target) -> float:
        fine = target.breaker.state == "closed" and target.checked is not False
        return (self._interval if fine else min(self._interval, RECHECK)) * (0.8 + 0.4 * self._random())

    async def _check(self, target: Target) -> None:
        try:
            async with asyncio.timeout(self._timeout):
                status = await self._status(target)
            target.passed(status < 500, f"status {status}")
            if status < 500:
                await target.facts.facts()  # kept fresh, so that no request waits for them
        except TimeoutError:
            target.passed(False, f"silent for {self._timeout:g} s")
        except UpstreamError as error:
            if error.phase != "pool":  # the server has done nothing wrong when we have no connection left
                target.passed(False, error.code or "")
        except Exception as error:  # a defect here must not end the checks
            _log.error("the health check of %s failed: %s", target.name, type(error).__name__, exc_info=error)
        finally:
            del self._checks[target]
            self._due[target] = asyncio.get_running_loop().time() + self._pause(target)
            self.wake()

    async def _status(self, target: Target) -> int:
        status = await self._ask(target)
        if status in (404, 405) and target.check == "/health":
            target.check = "/v1/models"
            status = await self._ask(target)
        return status

    async def _ask(self, target: Target) -> int:
        async with target.client.open("GET", target.check, first_byte=self._timeout) as answer:
            await answer.read(_LIMIT)
            return answer.status
