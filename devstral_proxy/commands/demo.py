"""demo: proxy and simulated vLLM in one process, and one agent's conversation through both, told turn by turn.

The agent here writes its requests as real ones do, with much in them that a Mistral tokenizer refuses; the demo shows
what vLLM says to the first of them without the proxy, and what the proxy makes of each.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import uvicorn

from devstral_proxy.app import create_app
from devstral_proxy.commands.serve import bind, server_config
from devstral_proxy.config import ConfigError, load
from devstral_proxy.mistral.rewrites import REWRITES
from devstral_proxy.simulator.app import create_simulator
from devstral_proxy.simulator.options import SimulatorOptions
from devstral_proxy.upstream import sse

MODEL = "devstral-small-2"
MOST_TURNS = 6
_TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "workspace.read_file",
            "description": "Read a file of the workspace.",
            "strict": True,
            "parameters": {
                "$schema": "http://json-schema.org/draft-07/schema#",
                "type": "object",
                "properties": {"path": {"type": "string"}},
                "required": ["path"],
                "additionalProperties": False,
            },
        },
    },
    {
        "type": "function",
        "function": {
            "name": "list_files",
            "description": "List the files of a directory.",
            "parameters": {"type": "object", "properties": {"path": {"type": "string"}}, "required": None},
        },
    },
]
_RESULTS = {
    "workspace.read_file": "# demo\n\nA format-translation reverse proxy.",
    "list_files": "README.md\nsrc/app.py\nsrc/file1.py",
}


def run(options: argparse.Namespace) -> int:
    """Run the conversation; with `--once` that is all. 0 when it ended with an answer. Raises ConfigError."""
    with _simulator() as upstream, _proxy(upstream, options) as base:
        print(f"simulated vLLM  {upstream}  ({MODEL}, mistral-common's own validators and tokenizer, v13)")
        print(f"devstral-proxy  {base}/v1\n")
        good = _Agent(base, upstream).converse()
        if options.once:
            return 0 if good else 1
        print("\nStill running; stop with Ctrl-C. Try it:\n")
        body = {"model": MODEL, "stream": True, "messages": [{"role": "developer", "content": "Be brief."},
                                                            {"role": "user", "content": "Hello!"}]}  # fmt: skip
        print(
            f"  curl -N {base}/v1/chat/completions -H 'content-type: application/json' -d '{json.dumps(body)}'\n",
            flush=True,
        )
        with contextlib.suppress(KeyboardInterrupt):
            threading.Event().wait()
    return 0


class _Agent:
    """A small agent with two tools."""

    def __init__(self, base: str, upstream: str) -> None:
        self._base = base
        self._upstream = upstream
        self._told: set[str] = set()
        self._messages: list[dict[str, Any]] = [
            {"role": "developer", "content": [{"type": "text", "text": "You are a careful coding agent."}]},
            {"role": "user", "name": "ada", "content": "What is this project? Look before you answer."},
        ]

    def converse(self) -> bool:
        """Question, calls, results, answer; whether it came to an answer after at least one call."""
        called = False
        print(f"agent     {self._messages[-1]['content']}")
        with httpx.Client(trust_env=False, timeout=60) as http:
            refusal = http.post(f"{self._upstream}/v1/chat/completions", json=self._request(stream=False))
            print(f"          (without the proxy vLLM says: {refusal.status_code} {_reason(refusal)})")
            for _ in range(MOST_TURNS):
                message = self._turn(http)
                if message is None:
                    return False
                if not message.get("tool_calls"):
                    return called and bool(message["content"])
                called = True
                self._messages.append(message)
                for number, call in enumerate(message["tool_calls"]):
                    result = _RESULTS.get(call["function"]["name"], "no such tool")
                    print(f"result    {json.dumps(result)}")
                    # As some agents do: an id of its own making, and a list of parts.
                    call["id"] = f"call_{len(self._messages)}_{number}"
                    parts = [{"type": "text", "text": result, "cache_control": {"type": "ephemeral"}}]
                    self._messages.append({"role": "tool", "tool_call_id": call["id"], "content": parts})
        return False

    def _request(self, stream: bool) -> dict[str, Any]:
        options = {"stream_options": {"include_usage": True}} if stream else {}
        return {
            "model": MODEL,
            "messages": self._messages,
            "tools": _TOOLS,
            "store": False,
            "stream": stream,
            **options,
        }

    def _turn(self, http: httpx.Client) -> dict[str, Any] | None:
        """One streamed answer as the message that the agent keeps, or None for an error."""
        message: dict[str, Any] = {"role": "assistant", "content": ""}
        calls: list[dict[str, Any]] = []
        chunks = 0
        with http.stream("POST", f"{self._base}/v1/chat/completions", json=self._request(stream=True)) as response:
            if response.status_code != 200:
                response.read()
                print(f"error     {response.status_code} {_reason(response)}")
                return None
            self._tell(response.headers.get("x-devstral-rewrites", ""))
            for chunk in _chunks(response):
                chunks += 1
                if "error" in chunk:
                    print(f"\nerror     {chunk['error']['message']}")
                    return None
                for choice in chunk["choices"]:
                    delta = choice["delta"]
                    text = delta.get("content") or ""
                    if text:
                        print(text if message["content"] else f"model     {text}", end="", flush=True)
                    message["content"] += text
                    for piece in delta.get("tool_calls") or ():
                        if piece["index"] == len(calls):
                            calls.append({**piece, "function": {"name": "", "arguments": ""}})
                        for key, value in piece["function"].items():
                            calls[piece["index"]]["function"][key] += value
        if message["content"]:
            print()
        for call in calls:
            print(f"call      {call['function']['name']} {call['function']['arguments']}  (id {call['id']})")
        print(f"          (streamed in {chunks} chunks)")
        if calls:
            message["tool_calls"] = calls
        return message

    def _tell(self, header: str) -> None:
        """The rewrites of one request: what is new with its reason, the rest by name."""
        again = []
        for entry in filter(None, header.split(",")):
            name, _, count = entry.partition("=")
            if name in self._told:
                again.append(f"{name} ×{count}")
            else:
                self._told.add(name)
                print(f"proxy     {name} ×{count}: {REWRITES[name].says}")
        if again:
            print(f"proxy     and as before {', '.join(again)}")


def _chunks(response: httpx.Response) -> Iterator[dict[str, Any]]:
    parser = sse.Parser()
    for piece in response.iter_raw():
        for event in parser.feed(piece):
            if event.data != b"[DONE]":
                yield json.loads(event.data)


def _reason(response: httpx.Response) -> str:
    try:
        return " ".join(str(response.json()["error"]["message"]).split())[:200]
    except (ValueError, KeyError, TypeError):
        return response.reason_phrase


@contextmanager
def _simulator() -> Iterator[str]:
    listener = bind("127.0.0.1", 0)
    config = uvicorn.Config(
        create_simulator(SimulatorOptions(model=MODEL)), log_config=None, access_log=False, lifespan="off", ws="none"
    )
    with _serving(config, listener) as port:
        yield f"http://127.0.0.1:{port}"


@contextmanager
def _proxy(upstream: str, options: argparse.Namespace) -> Iterator[str]:
    # What the environment says of a real vLLM is not for the simulated one.
    settings = load(vllm_base=upstream, vllm_api_key=None, vllm_version=None, model_profiles="")
    try:
        listener = bind("127.0.0.1", settings.proxy_port if options.port is None else options.port)
    except ConfigError:
        if options.port is not None:
            raise
        listener = bind("127.0.0.1", 0)
    with _serving(server_config(create_app(settings), settings), listener) as port:
        yield f"http://127.0.0.1:{port}"


@contextmanager
def _serving(config: uvicorn.Config, listener: Any) -> Iterator[int]:
    """A server in a thread of its own, up when the block begins and down after it."""
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    while not server.started:
        if not thread.is_alive():
            raise RuntimeError("the server did not start")
        time.sleep(0.01)
    try:
        yield listener.getsockname()[1]
    finally:
        server.should_exit = True
        thread.join(10)
        listener.close()
