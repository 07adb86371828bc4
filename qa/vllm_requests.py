"""What the requests of vllm_cases.py are made of."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

MODEL = "devstral-small-2"
BASE: dict[str, Any] = {"model": MODEL, "max_tokens": 1, "temperature": 0, "return_token_ids": True}
# Makes the laboratory server say one word and stop.
SHORT: dict[str, Any] = {"vllm_xargs": {"force_ids": "22177"}}
PIXEL = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk"
    + "+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)


@dataclass(frozen=True, slots=True)
class Case:
    """One request. `raw`: the body as bytes, else `body` over BASE."""

    name: str
    body: dict[str, Any] = field(default_factory=dict)
    raw: str | None = None
    headers: dict[str, str] = field(default_factory=lambda: {"content-type": "application/json"})

    @property
    def content(self) -> bytes:
        return (json.dumps({**BASE, **self.body}) if self.raw is None else self.raw).encode()


def user(content: Any = "hi", **more: Any) -> dict[str, Any]:
    return {"role": "user", "content": content, **more}


def system(content: Any = "Be brief.", **more: Any) -> dict[str, Any]:
    return {"role": "system", "content": content, **more}


def assistant(content: Any = "ok", *calls: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": content, **({"tool_calls": list(calls)} if calls else {}), **more}


def result(number: Any = "abcdefgh1", content: Any = "done", **more: Any) -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": number, "content": content, **more}


def call(
    number: Any = "abcdefgh1", name: Any = "read", arguments: Any = '{"path": "a"}', **more: Any
) -> dict[str, Any]:
    return {"id": number, "type": "function", "function": {"name": name, "arguments": arguments}, **more}


def without(source: dict[str, Any], *keys: str) -> dict[str, Any]:
    return {key: value for key, value in source.items() if key not in keys}


def tool(name: Any = "read", parameters: Any = None, **more: Any) -> dict[str, Any]:
    schema = {"type": "object", "properties": {"path": {"type": "string"}}, "required": ["path"]}
    function = {"name": name, "description": "d", "parameters": schema if parameters is None else parameters, **more}
    return {"type": "function", "function": function}


def text(value: str, **more: Any) -> dict[str, Any]:
    return {"type": "text", "text": value, **more}
