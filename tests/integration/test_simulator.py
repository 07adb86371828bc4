"""The whole proxy before the simulated vLLM: what real validators refuse goes through."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from devstral_proxy.simulator.app import create_simulator
from devstral_proxy.simulator.options import SimulatorOptions
from tests.server.upstreams import proxied

pytestmark = pytest.mark.anyio

CHAT = "/v1/chat/completions"
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "fs.read",
            "strict": None,
            "parameters": {"type": "object", "properties": {"path": {"type": "string"}}, "required": ["path"]},
        },
    }
]


def conversation() -> list[dict[str, Any]]:
    """Much that Mistral's validators refuse, in one history."""
    call = {"id": "call_1", "index": 0, "type": "function", "function": {"name": "fs.read", "arguments": "[1"}}
    return [
        {"role": "developer", "content": [{"type": "text", "text": "Be brief."}]},
        {"role": "user", "name": "ada", "content": "Read."},
        {"role": "assistant", "content": None, "refusal": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": [{"type": "text", "text": "text"}]},
        {"role": "system", "content": "Mind the time."},
        {"role": "user", "content": "And now?"},
    ]


@pytest.mark.parametrize("version", ["0.32.0", "0.12.0"])
@pytest.mark.parametrize("stream", [True, False])
async def test_a_refused_conversation_goes_through(version: str, stream: bool) -> None:
    app = create_simulator(SimulatorOptions(version=version))
    body = {"model": "devstral-small-2", "messages": conversation(), "tools": TOOLS, "stream": stream}
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://direct.test") as direct:
        assert (await direct.post(CHAT, json=body)).status_code == 400
    async with proxied(httpx.ASGITransport(app)) as client:
        response = await client.post(CHAT, json=body)
    assert response.status_code == 200, response.text
    assert "developer_role=1" in response.headers["x-devstral-rewrites"]
    (kept,) = app.state.simulator.requests
    for text in ("Be brief.", "Read.", "text", "Mind the time.", "And now?"):
        assert text in kept.prompt


async def test_the_other_endpoints_of_the_simulator() -> None:
    app = create_simulator(SimulatorOptions())
    async with proxied(httpx.ASGITransport(app)) as client:
        assert (await client.get("/v1/models/devstral-small-2")).json()["id"] == "devstral-small-2"
        told = await client.post("/tokenize", json={"model": "devstral-small-2", "prompt": "Hello"})
        tokens = told.json()["tokens"]
        back = await client.post("/detokenize", json={"model": "devstral-small-2", "tokens": tokens})
        assert "Hello" in back.json()["prompt"]
        asked = {"model": "devstral-small-2", "prompt": "Hello", "max_tokens": 3}
        assert (await client.post("/v1/completions", json=asked)).status_code == 200
        streamed = await client.post("/v1/completions", json={**asked, "stream": True})
        assert streamed.text.endswith("data: [DONE]\n\n")
        assert (await client.post("/v1/embeddings", json={"model": "m", "input": "x"})).status_code == 404
        health = (await client.get("/health")).json()
        assert health["upstream"]["models"] == ["devstral-small-2"]


async def test_an_overflow_has_the_code_that_agents_look_for() -> None:
    for version in ("0.32.0", "0.12.0"):
        app = create_simulator(SimulatorOptions(version=version, max_model_len=100))
        body = {"model": "devstral-small-2", "messages": [{"role": "user", "content": "word " * 200}]}
        async with proxied(httpx.ASGITransport(app)) as client:
            response = await client.post(CHAT, json=body)
        assert response.status_code == 400
        assert response.json()["error"]["code"] == "context_length_exceeded"


SERVE = """
import asyncio, json, sys, httpx
from devstral_proxy.app import create_app
from devstral_proxy.cli import parser
from devstral_proxy.config import Settings
import devstral_proxy.commands.serve

def answer(request):
    if request.url.path == "/version":
        return httpx.Response(200, json={"version": "0.32.0"})
    if request.url.path == "/v1/models":
        return httpx.Response(200, json={"data": [{"id": "devstral-small-2"}]})
    message = {"role": "assistant", "content": "Hello."}
    return httpx.Response(200, json={"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]})

async def main():
    app = create_app(Settings(), transport=httpx.MockTransport(answer))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://x") as client:
        body = {"model": "devstral-small-2", "messages": [{"role": "user", "content": "Hi."}]}
        assert (await client.post("/v1/chat/completions", json=body)).status_code == 200
    print(json.dumps(sorted(name for name in sys.modules if name.split(".")[0] in HEAVY)))

HEAVY = {"mistral_common", "numpy", "tiktoken", "PIL", "cv2", "requests", "pycountry", "jsonschema"}
asyncio.run(main())
"""


def test_serving_loads_nothing_of_mistral_common(tmp_path: Path) -> None:
    run = subprocess.run([sys.executable, "-c", SERVE], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout) == []


def test_the_sans_io_layers_import_no_io(tmp_path: Path) -> None:
    code = (
        "import sys, devstral_proxy.mistral.translator, devstral_proxy.dialects.chat, devstral_proxy.upstream.sse\n"
        "print([name for name in ('asyncio', 'httpx', 'starlette', 'socket', 'uvicorn') if name in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert run.stdout == "[]\n", run.stderr
