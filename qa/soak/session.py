"""The state of a running soak: what was sent, how it ended, what was wrong around it meanwhile."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from random import Random
from typing import Final

from qa.soak.asks import Ask
from qa.soak.directive import RAW, Order
from qa.soak.stack import CROWDS, PATIENCE, SERVERS_OF, Stack, Upstream
from qa.soak.verdict import Around, Outcome, judge
from qa.soak.wire import Client, Cut, Malformed, OnPiece, Reply, connected, request

BREAKING: Final = ("429", "503", "reset", "close", "silent", "garbage")
"""Faults after which the proxy may leave a server alone."""
_MOST_DEFECTS: Final = 200
_RENEWING: Final = 40.0
"""Seconds in which all workers have been replaced, their last answers included."""


class Session:
    """One run."""

    def __init__(self, stack: Stack, seed: int) -> None:
        self.stack = stack
        self.random = Random(seed)
        self.outcomes: Counter[tuple[str, str]] = Counter()
        """By kind of request and label."""
        self.faults: Counter[tuple[str, str]] = Counter()
        """By fault and label, of the requests that ordered one."""
        self.events: Counter[str] = Counter()
        """What was done to processes."""
        self.defects: list[str] = []
        self._count = 0
        self._renewed = -_RENEWING

    @property
    def port(self) -> int:
        """The proxy's."""
        return self.stack.port

    def renew(self) -> None:
        """SIGHUP: the workers are replaced."""
        self.stack.hang_up()
        self.events["SIGHUP"] += 1
        self._renewed = time.monotonic()

    @property
    def renewing(self) -> bool:
        """Workers may be retiring. One that is closes its connections once they rest, and with them what a client has
        just sent on one: the client asks again on another."""
        return time.monotonic() < self._renewed + _RENEWING

    def nonce(self) -> str:
        """A word that no other request has."""
        self._count += 1
        return f"n{self._count:x}x{self.random.randrange(16**6):06x}"

    def key(self, name: str) -> str:
        """The secret of a key."""
        return self.stack.keys[name]

    def note(self, kind: str, outcome: Outcome, fault: str = "") -> None:
        """Count how a request ended."""
        self.outcomes[kind, outcome.label] += 1
        if fault:
            self.faults[fault, outcome.label] += 1
        if outcome.wrong and len(self.defects) < _MOST_DEFECTS:
            self.defects.append(f"{kind}: {outcome.wrong}")

    def around(self, model: str, since: float, key: str = "") -> Around:
        """What was wrong with the servers of this model since then."""
        servers = [self.stack.upstreams[name] for name in SERVERS_OF[model]]
        killed = any(server.was_dead(since) for server in servers)
        return Around(killed, all(server.was_down(since) for server in servers), key in CROWDS)

    def mark(self, order: Order, model: str) -> None:
        """A fault is ordered: remember whom it may make the proxy leave alone."""
        if order.fault in BREAKING:
            for name in SERVERS_OF[model]:
                if order.hits(name):
                    self.stack.upstreams[name].trouble()

    async def until_ready(self, upstream: Upstream) -> None:
        """Wait until it takes connections."""
        ready = upstream.ready()
        while not ready:
            await asyncio.sleep(0.1)
            ready = upstream.ready()

    @asynccontextmanager
    async def client(self, window: int = 0) -> AsyncIterator[Client]:
        """A connection of its own."""
        async with connected(self.port, window) as client:
            yield client

    def request(self, ask: Ask) -> bytes:
        """Its bytes."""
        header = "x-api-key" if ask.api == "messages" else "authorization"
        more = "anthropic-version: 2023-06-01\r\n" if ask.api == "messages" else ""
        return request("POST", ask.path, self.key(ask.key), ask.body, header=header, more=more)

    async def exchange(self, client: Client, data: bytes, on_piece: OnPiece | None = None) -> Reply | Outcome:
        """Send, and take the answer; an Outcome when there is none."""
        try:
            async with asyncio.timeout(PATIENCE):
                await client.send(data)
                return await (client.reply(on_piece) if on_piece else client.reply())
        except TimeoutError:
            return Outcome("wrong", f"it hangs: no end within {PATIENCE:g} s")
        except Cut as cut:
            return Outcome("wrong", f"the connection ended: {cut}")
        except Malformed as malformed:
            return Outcome("wrong", f"no HTTP: {malformed}")

    async def ask(
        self, ask: Ask, client: Client | None = None, kind: str = "", on_piece: OnPiece | None = None
    ) -> Outcome:
        """Send it, judge the answer, count it."""
        if client is None:
            async with self.client() as own:
                return await self.ask(ask, own, kind, on_piece)
        since = time.monotonic()
        self.mark(ask.order, ask.model)
        reply = await self.exchange(client, self.request(ask), on_piece)
        self.mark(ask.order, ask.model)
        outcome = self.judged(ask, reply, since)
        self.note(kind or ask.kind, outcome, _fault_of(ask))
        return outcome

    def judged(self, ask: Ask, reply: Reply | Outcome, since: float) -> Outcome:
        """The verdict, with what was asked when it is a bad one."""
        if isinstance(reply, Reply):
            reply_outcome = judge(ask, reply, self.around(ask.model, since, ask.key))
        else:
            reply_outcome = reply
        if not reply_outcome.wrong:
            return reply_outcome
        lasted = time.monotonic() - since
        told = f"{reply_outcome.wrong} [{ask.kind}, model {ask.model}, {ask.order}, {lasted:.1f} s]"
        return Outcome(reply_outcome.label, told)


def _fault_of(ask: Ask) -> str:
    if not ask.order.fault:
        return ""
    where = "the only server" if ask.model == RAW else "every server" if ask.order.at == "*" else "one of three"
    return f"{ask.order.fault}, {where}"
