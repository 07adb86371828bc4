"""What the simulator's tests share: applications made once, and requests to them without a socket."""

from __future__ import annotations

import functools
import json
from typing import Any

import httpx
from starlette.applications import Starlette

from devstral_proxy.simulator import SimulatorOptions, create_simulator

NEW, OLD = "0.32.0", "0.12.0"
CHAT = "/v1/chat/completions"
READ = {
    "type": "function",
    "function": {
        "name": "read_file",
        "description": "Reads a file.",
        "parameters": {"type": "object", "properties": {"path": {"type": "string"}}, "required": ["path"]},
    },
}
BASH = {
    "type": "function",
    "function": {
        "name": "bash",
        "description": "Runs a command.",
        "parameters": {"type": "object", "properties": {"command": {"type": "string"}}, "required": ["command"]},
    },
}
QUESTION = {"messages": [{"role": "user", "content": "What is in the file?"}]}


@functools.cache
def application(version: str = NEW, **options: Any) -> Starlette:
    return create_simulator(SimulatorOptions(version=version, **options))


def client(app: Starlette, *, raising: bool = True) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(app, raise_app_exceptions=raising)
    return httpx.AsyncClient(transport=transport, base_url="http://simulator")


async def chat(app: Starlette, body: dict[str, Any], **headers: str) -> httpx.Response:
    async with client(app) as asking:
        return await asking.post(CHAT, json=body, headers={name.replace("_", "-"): v for name, v in headers.items()})


def events(response: httpx.Response) -> list[Any]:
    """The events of a streamed answer, `[DONE]` as it stands. Everything in it must be `data: …` and an empty line."""
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    parts = response.text.split("\n\n")
    assert parts.pop() == ""
    assert all(part.startswith("data: ") and "\n" not in part for part in parts)
    return [json.loads(part[6:]) if part != "data: [DONE]" else "[DONE]" for part in parts]


def deltas(response: httpx.Response, index: int = 0) -> list[dict[str, Any]]:
    """The deltas of one choice."""
    found = [event for event in events(response) if event != "[DONE]"]
    return [choice["delta"] for event in found for choice in event["choices"] if choice["index"] == index]


def same(value: Any) -> Any:
    """JSON without what differs from run to run: ids, times, the model's name, measured log probabilities."""
    if isinstance(value, list):
        return [same(element) for element in value]
    if not isinstance(value, dict):
        return value
    kept = {key: same(member) for key, member in value.items() if key not in ("created", "model")}
    if isinstance(kept.get("id"), str):
        kept["id"] = len(kept["id"])
    if kept.get("system_fingerprint"):
        kept["system_fingerprint"] = "vllm"
    if "logprob" in kept:
        kept["logprob"] = 0
    return kept
