"""An upstream of the soak: the project's simulator, which says and does what the prompt orders.

python -m qa.soak.simulated --port 8000 --name a
"""

from __future__ import annotations

import argparse
from typing import Any, Final

import uvicorn
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from devstral_proxy.commands.serve import bind
from devstral_proxy.simulator import Call, Script, SimulatorOptions, Turn, create_simulator
from devstral_proxy.simulator.faults import HEADER
from qa.soak.directive import MODEL, VERSION, calls_of, last_order, orders_of, text_of

FAULTS: Final = {
    "400": "400",
    "429": "429",
    "500": "500",
    "503": "503",
    "html": "html",
    "half-json": "half-json",
    "empty": "empty",
    "redirect": "redirect",
    "cut": "cut",
    "error-event": "error-event",
    "no-done": "no-done",
    "stall": "stall:4",
    "slow-first": "slow-first:1",
}
"""Faults that the simulator knows, by the soak's names for them."""
_DELAY: Final = 0.004
_CONTEXT: Final = 4_000_000


def said(request: dict[str, Any]) -> Turn:
    """The turn that the conversation's orders ask for."""
    asked = orders_of(request)
    if not asked:
        return Turn("nothing was ordered")
    return Turn(text_of(asked), tuple(Call(name, arguments) for name, arguments in calls_of(asked)))


class Ordered:
    """Passes the request on with the header that makes the simulator show the fault."""

    def __init__(self, app: ASGIApp, name: str) -> None:
        self._app = app
        self._name = name

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        parts: list[bytes] = []
        more = True
        while more:
            message = await receive()
            if message["type"] != "http.request":
                return
            parts.append(message.get("body", b""))
            more = message.get("more_body", False)
        body: bytes | None = b"".join(parts)
        order = last_order(body or b"")
        fault = FAULTS.get(order.hits(self._name)) if order is not None else None
        if fault is not None:
            scope = {**scope, "headers": [*scope["headers"], (HEADER.encode(), fault.encode())]}

        async def replay() -> Message:
            nonlocal body
            if body is None:
                return await receive()
            told, body = body, None
            return {"type": "http.request", "body": told, "more_body": False}

        await self._app(scope, replay, send)


def main() -> None:
    """Serve until a signal ends it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--name", required=True)
    parser.add_argument("--api-key", required=True)
    chosen = parser.parse_args()
    script: Script = said
    options = SimulatorOptions(
        model=MODEL,
        version=VERSION,
        max_model_len=_CONTEXT,
        api_key=chosen.api_key,
        script=script,
        delay=_DELAY,
        merge=6,
        keep=1,
    )
    app = Ordered(create_simulator(options), chosen.name)
    config = uvicorn.Config(app, log_level="critical", lifespan="off", ws="none")
    uvicorn.Server(config).run(sockets=[bind("127.0.0.1", chosen.port)])


if __name__ == "__main__":
    main()
