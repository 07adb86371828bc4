"""Whether clients get the same answer from real vLLM servers of different releases, through the proxy.

    python qa/vllm_streams.py --vllm http://127.0.0.1:8471 --vllm http://127.0.0.1:8470

Each server needs a logits processor that makes the model emit the tokens named in `vllm_xargs.force_ids`. Every output
of the table is asked for with and without streaming; the streams have to satisfy a strict reader, hold what was
dictated, and be the same from all servers.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

import httpx

sys.path.insert(0, str(Path(__file__).parents[1]))

from devstral_proxy.app import create_app
from tests.server.upstreams import settings

CHAT = "/v1/chat/completions"
MARKERS = {"[TOOL_CALLS]": 9, "[ARGS]": 32}
PARIS = '{"city": "Paris"}'
SOURCE = '{"path": "src/a.py"}'
HARD = json.dumps({"path": "a.rs", "content": 'fn f() { y("{}"); } // é🎉 \\ "quoted"\n'}, ensure_ascii=False)


class Output(NamedTuple):
    """One dictated output, and what a client has to read of it."""

    says: str
    content: str
    calls: tuple[tuple[str, str], ...] = ()


OUTPUTS = (
    Output("Hello, world. Ça va? 🎉", "Hello, world. Ça va? 🎉"),
    Output(f"[TOOL_CALLS]get_weather[ARGS]{PARIS}", "", (("get_weather", PARIS),)),
    Output(f"I look.[TOOL_CALLS]get_weather[ARGS]{PARIS}", "I look.", (("get_weather", PARIS),)),
    Output(
        f"[TOOL_CALLS]get_weather[ARGS]{PARIS}[TOOL_CALLS]read_file[ARGS]{SOURCE}",
        "",
        (("get_weather", PARIS), ("read_file", SOURCE)),
    ),
    Output(f"[TOOL_CALLS]get_weather[ARGS]{PARIS}" * 3, "", (("get_weather", PARIS),) * 3),
    Output(f"So.[TOOL_CALLS]write_file[ARGS]{HARD}", "So.", (("write_file", HARD),)),
    Output("[TOOL_CALLS]get_weather[ARGS]{}", "", (("get_weather", "{}"),)),
)


def tool(name: str, *properties: str) -> dict[str, Any]:
    schema = {"type": "object", "properties": {key: {"type": "string"} for key in properties}}
    return {"type": "function", "function": {"name": name, "description": "d", "parameters": schema}}


TOOLS = [tool("get_weather", "city"), tool("read_file", "path"), tool("write_file", "path", "content")]


class Server:
    """One vLLM, and the proxy in front of it."""

    def __init__(self, base: str) -> None:
        self.direct = httpx.AsyncClient(base_url=base, timeout=120)
        app = create_app(settings(vllm_base=base))
        self.proxy = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://proxy", timeout=120)
        self.name = base

    async def begin(self) -> None:
        self.name = f"vLLM {(await self.direct.get('/version')).json()['version']}"
        self.model = (await self.direct.get("/v1/models")).json()["data"][0]["id"]

    async def ids(self, says: str) -> list[int]:
        """The tokens of an output; markers are the control tokens."""
        ids: list[int] = []
        for marker, token in MARKERS.items():
            says = says.replace(marker, f"\0{token}\0")
        for place, piece in enumerate(says.split("\0")):
            if place % 2:
                ids.append(int(piece))
            elif piece:
                body = {"model": self.model, "prompt": piece, "add_special_tokens": False}
                ids += (await self.direct.post("/tokenize", json=body)).json()["tokens"]
        return ids

    async def ask(self, output: Output, stream: bool) -> tuple[str, list[tuple[str, Any]], str]:
        """Content, calls (arguments as JSON values), finish reason, as the client gets them through the proxy."""
        body = {
            "model": self.model,
            "messages": [{"role": "user", "content": "weather?"}],
            "tools": TOOLS,
            "max_tokens": 300,
            "temperature": 0,
            "stream": stream,
            "vllm_xargs": {"force_ids": ",".join(map(str, await self.ids(output.says)))},
        }
        answer = await self.proxy.post(CHAT, json=body)
        if answer.status_code != 200:
            raise AssertionError(f"{answer.status_code} {answer.text[:300]}")
        return _streamed(answer.text) if stream else _whole(answer.json())


def _whole(body: dict[str, Any]) -> tuple[str, list[tuple[str, Any]], str]:
    choice = body["choices"][0]
    calls = choice["message"].get("tool_calls") or ()
    named = [(call["function"]["name"], json.loads(call["function"]["arguments"])) for call in calls]
    return choice["message"]["content"] or "", named, choice["finish_reason"]


def _streamed(text: str) -> tuple[str, list[tuple[str, Any]], str]:
    """Reads as strictly as clients do: one start a call, indices in order, one finish, `[DONE]` last."""
    events = [event for event in text.split("\n\n") if event and not event.startswith(":")]
    assert events[-1] == "data: [DONE]", events[-1]
    content, reason = "", ""
    calls: list[list[str]] = []
    for event in events[:-1]:
        chunk = json.loads(event.removeprefix("data: "))
        for choice in chunk["choices"]:
            delta = choice["delta"]
            content += delta.get("content") or ""
            for call in delta.get("tool_calls", ()):
                if "name" in call["function"]:
                    assert call["index"] == len(calls), "calls start in order, each once"
                    assert len(call["id"]) == 9, call["id"]
                    assert call["type"] == "function"
                    calls.append([call["function"]["name"], ""])
                calls[call["index"]][1] += call["function"].get("arguments") or ""
            if choice["finish_reason"]:
                assert not reason, "one finish reason"
                reason = choice["finish_reason"]
    return content, [(name, json.loads(arguments)) for name, arguments in calls], reason


async def main() -> int:
    """Exit code 1 when an answer is not what was dictated."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vllm", action="append", required=True)
    servers = [Server(base) for base in parser.parse_args().vllm]
    wrong = 0
    for server in servers:
        await server.begin()
        for output in OUTPUTS:
            calls = [(name, json.loads(arguments)) for name, arguments in output.calls]
            expected = (output.content, calls, "tool_calls" if calls else "stop")
            for stream in (True, False):
                try:
                    got: Any = await server.ask(output, stream)
                except (AssertionError, httpx.HTTPError, ValueError) as error:
                    got = repr(error)
                if got != expected:
                    wrong += 1
                    print(f"{server.name}, {'streamed' if stream else 'whole'}: {output.says[:60]!r}: {got}")
        print(f"{server.name}: {len(OUTPUTS) * 2} answers asked for")
    print(f"{wrong} wrong")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
