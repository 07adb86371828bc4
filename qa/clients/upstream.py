"""The scripted upstream: the simulator, with a fault where the scenario wants it, and a memory of the requests."""

from __future__ import annotations

import json
import re
import secrets
import threading
import time
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import uvicorn
from starlette.types import Message, Receive, Scope, Send

from devstral_proxy.simulator.app import create_simulator
from devstral_proxy.simulator.options import SimulatorOptions
from qa.clients.model import MODEL
from qa.clients.scenarios import Scenario
from qa.clients.script import Script

FAULT_AT: Final = 2
"""The request that the fault hits: the first after the model has called a tool. Without tools: the first."""
_CHAT: Final = "/v1/chat/completions"
_SHORT: Final = re.compile(r"[A-Za-z0-9]{9}")


@dataclass
class Seen:
    """One chat completion that the upstream was asked for. `status`: its answer's, 0 before there is one."""

    body: dict[str, Any]
    fault: str = ""
    status: int = 0
    refusal: str = ""


@dataclass
class Upstream:
    """The scripted upstream as an ASGI application."""

    script: Script
    scenario: Scenario
    seen: list[Seen] = field(default_factory=list)
    fired: bool = False
    agent: int = 0

    def __post_init__(self) -> None:
        options = SimulatorOptions(
            model=MODEL, script=self.script, images=self.scenario.image, reasoning=self.scenario.rich, merge=2
        )
        self._simulator = create_simulator(options)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI: chat completions are counted and remembered, everything else is the simulator's own affair."""
        if scope["type"] != "http" or scope["path"] != _CHAT:
            await self._simulator(scope, receive, send)
            return
        data = await _body(receive)
        seen = Seen(_object(data), self._fault(_object(data)))
        self.seen.append(seen)
        if seen.fault:
            scope = {**scope, "headers": [*scope["headers"], (b"x-simulate", seen.fault.encode())]}
        told = False

        async def replayed() -> Message:
            nonlocal told
            if told:
                return await receive()
            told = True
            return {"type": "http.request", "body": data, "more_body": False}

        async def watched(message: Message) -> None:
            if message["type"] == "http.response.start":
                seen.status = message["status"]
                if self.scenario.long_ids:  # a whole body grows: chunked then
                    kept = [one for one in message.get("headers", ()) if one[0].lower() != b"content-length"]
                    message = {**message, "headers": kept}
            elif seen.status >= 400:
                seen.refusal += message.get("body", b"").decode(errors="replace")[:2000]
            elif self.scenario.long_ids:
                message = _lengthened(message)
            await send(message)

        await self._simulator(scope, replayed, watched)

    def _fault(self, body: MutableMapping[str, Any]) -> str:
        """The fault that this request meets; it comes once."""
        counts = bool(body.get("tools")) or not self.script.tools
        self.agent += counts
        due = self.agent >= (FAULT_AT if self.script.tools else 1)
        if not (self.scenario.fault and counts and due) or self.fired:
            return ""
        self.fired = True
        return self.scenario.fault


@contextmanager
def serving(upstream: Upstream) -> Iterator[str]:
    """The upstream on a free port of loopback, from a thread of its own; gives the address."""
    config = uvicorn.Config(upstream, host="127.0.0.1", port=0, log_level="critical", lifespan="off", ws="none")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    until = time.monotonic() + 30
    while not server.started:
        if time.monotonic() > until or not thread.is_alive():
            raise RuntimeError("the scripted upstream did not start")
        time.sleep(0.02)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = server.force_exit = True
        thread.join(10)


async def _body(receive: Receive) -> bytes:
    pieces = []
    while True:
        message = await receive()
        pieces.append(message.get("body", b""))
        if message["type"] != "http.request" or not message.get("more_body"):
            return b"".join(pieces)


def _object(data: bytes) -> dict[str, Any]:
    try:
        found = json.loads(data)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _lengthened(message: Message) -> Message:
    """The message with long ids in its calls. Events come whole from the simulator; a whole body does too."""
    body: bytes = message.get("body", b"")
    event = body.startswith(b"data: {")
    found = _object(body.removeprefix(b"data: ") if event else body)
    if not long_ids(found):
        return message
    data = json.dumps(found).encode()
    return {**message, "body": b"data: " + data + b"\n\n" if event else data}


def long_ids(answer: dict[str, Any]) -> bool:
    """Puts ids of another form into the calls of a chunk or a whole answer; whether there was one."""
    changed = False
    for choice in answer.get("choices") or ():
        for call in (choice.get("delta") or choice.get("message") or {}).get("tool_calls") or ():
            if isinstance(call.get("id"), str) and _SHORT.fullmatch(call["id"]):
                call["id"] = f"chatcmpl-tool-{secrets.token_hex(16)}"
                changed = True
    return changed
