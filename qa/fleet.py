"""Several simulated models behind one address, as a gateway in front of several vLLM serves them.

    python -m qa.fleet [--version 0.32.0]

serves on a free port of loopback and prints it. One proxy in front of it meets every tokenizer version, with and
without images and reasoning. `GET /_fleet` says how many requests came, and what the last accepted one was.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from typing import Any, Final

import uvicorn
from mistral_common.tokens.tokenizers.base import TokenizerVersion as Known
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from devstral_proxy.commands.serve import bind
from devstral_proxy.simulator import SimulatorOptions, create_simulator
from qa.models import MODELS

_FACTS: Final = ("/version", "/v1/models", "/health")
_DEFAULT: Final = "case-v13"  # refuses an unknown model in vLLM's words


@dataclass
class _Request:
    """A request's body, read once and replayed to the simulator that is asked."""

    body: bytes
    receive: Receive
    told: bool = False

    async def replay(self) -> Message:
        if self.told:
            return await self.receive()
        self.told = True
        return {"type": "http.request", "body": self.body, "more_body": False}

    @property
    def model(self) -> str | None:
        try:
            model = json.loads(self.body)["model"]
        except (ValueError, KeyError, TypeError):
            return None
        return model if isinstance(model, str) else None


class Fleet:
    """The ASGI application. A model's simulator is made when it is asked for first: each loads a tokenizer."""

    def __init__(self, version: str) -> None:
        self._version = version
        self._options = {
            name: SimulatorOptions(
                tokenizer=model.tokenizer,
                model=name,
                root=name,
                version=version,
                images=model.images,
                reasoning=model.reasoning,
                max_model_len=model.max_model_len,
                keep=1,
            )
            for name, model in MODELS.items()
            if model.tokenizer in Known.__members__  # an older mistral-common knows no v15
        }
        self._apps: dict[str, ASGIApp] = {}
        self._asked = 0  # requests for anything but facts
        self._last = _DEFAULT

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"]
        if path == "/_fleet":
            await JSONResponse(self._told())(scope, receive, send)
        elif path == "/version":
            await JSONResponse({"version": self._version})(scope, receive, send)
        elif path == "/v1/models":
            await JSONResponse(self._listing())(scope, receive, send)
        else:
            self._asked += path not in _FACTS
            request = _Request(await _body(receive), receive)
            model = request.model if request.model in self._options else None
            self._last = model or self._last
            await self._app(model or _DEFAULT)(scope, request.replay, send)

    def _app(self, model: str) -> ASGIApp:
        if model not in self._apps:
            self._apps[model] = create_simulator(self._options[model])
        return self._apps[model]

    def _told(self) -> dict[str, Any]:
        app: Any = self._apps.get(self._last)
        records = app.state.simulator.requests if app is not None else ()
        last = [{"body": r.body, "prompt": r.prompt, "prompt_tokens": r.prompt_tokens} for r in records]
        return {"asked": self._asked, "last": last[-1] if last else None}

    def _listing(self) -> dict[str, Any]:
        cards = [
            {"id": name, "object": "model", "owned_by": "vllm", "root": name, "max_model_len": options.max_model_len}
            for name, options in self._options.items()
        ]
        return {"object": "list", "data": cards}


async def _body(receive: Receive) -> bytes:
    parts, more = [], True
    while more:
        message = await receive()
        parts.append(message.get("body", b""))
        more = message.get("more_body", False)
    return b"".join(parts)


def main() -> None:
    """Serve until a signal ends it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--version", default="0.32.0", help="the vLLM that the simulators play")
    options = parser.parse_args()
    listener = bind("127.0.0.1", 0)
    print(f"fleet on port {listener.getsockname()[1]}", flush=True)
    config = uvicorn.Config(Fleet(options.version), log_level="warning", lifespan="off", ws="none")
    uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    main()
