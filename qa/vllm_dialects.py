#!/usr/bin/env python3
"""The checks of /v1/responses and /v1/messages through a proxy in front of a real vLLM whose model says nonsense.

    qa/vllm_dialects.py --vllm http://127.0.0.1:8471

Where a check asks for a call, or for JSON by a schema, the request's tokens are dictated on the way to vLLM: that needs
a server with a logits processor which heeds `vllm_xargs.force_ids`. All that vLLM does with them is its own: grammar,
parser, stream, usage. Exit code 0 when every check passed.
"""

from __future__ import annotations

import argparse
import json
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import uvicorn

if not __package__:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from devstral_proxy.app import create_app
from devstral_proxy.commands.serve import bind, server_config
from devstral_proxy.config import Settings
from qa.client import Api
from qa.run_tests import run
from qa.suites import dialects, endpoints
from qa.suites.check import Where, World

_TOOL_CALLS, _ARGS = 9, 32  # control tokens of Mistral's Tekken


class Dictating(httpx.AsyncBaseTransport):
    """The network to vLLM, with what the model is to say put into requests that ask for a call or for JSON."""

    def __init__(self, base: str) -> None:
        self._inner = httpx.AsyncHTTPTransport()
        self._base = base

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        body: Any = None
        if request.method == "POST" and request.url.path.endswith("/chat/completions"):
            body = json.loads(await request.aread())
            ids = self._ids(body)
            if ids:
                body["vllm_xargs"] = {"force_ids": ",".join(map(str, ids))}
                headers = {key: value for key, value in request.headers.items() if key.lower() != "content-length"}
                extensions = request.extensions
                request = httpx.Request("POST", request.url, headers=headers, json=body, extensions=extensions)
        return await self._inner.handle_async_request(request)

    async def aclose(self) -> None:
        await self._inner.aclose()

    def _ids(self, body: dict[str, Any]) -> list[int]:
        if body.get("response_format"):
            return self._tokens('{"answer": "yes"}')
        if body.get("tool_choice") in ("required", "any"):
            name = body["tools"][0]["function"]["name"]
            return [_TOOL_CALLS, *self._tokens(name), _ARGS, *self._tokens('{"path": "README.md"}')]
        return []

    def _tokens(self, text: str) -> list[int]:
        asked = {"prompt": text, "add_special_tokens": False}
        tokens: list[int] = httpx.post(f"{self._base}/tokenize", json=asked).json()["tokens"]
        return tokens


@contextmanager
def _proxy(upstream: str) -> Iterator[str]:
    settings = Settings(_env_file=None, vllm_base=upstream, proxy_port=0)  # type: ignore[call-arg]  # pydantic's own
    listener = bind("127.0.0.1", 0)
    server = uvicorn.Server(server_config(create_app(settings, transport=Dictating(upstream)), settings))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        while not server.started:
            time.sleep(0.05)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()


def main() -> int:
    """The command line; the exit code."""
    parser = argparse.ArgumentParser(description="The other dialects, in front of a real vLLM.")
    parser.add_argument("--vllm", required=True, help="where it serves, as http://127.0.0.1:8000")
    with _proxy(parser.parse_args().vllm.rstrip("/")) as base, Api(base) as api:
        model = api.request("GET", "/v1/models").json()["data"][0]["id"]
        world = World(api, model)

        def worlds(where: Where) -> World:
            return world

        checks = [check for check in (*dialects.CHECKS, *endpoints.CHECKS) if check.where == "any"]
        return run(checks, worlds, verbose=True)


if __name__ == "__main__":
    sys.exit(main())
