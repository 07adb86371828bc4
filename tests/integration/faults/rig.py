"""The four ways to ask, a served proxy that can be looked into, and what clients read."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any, NamedTuple

import httpx
import orjson
import pytest
import uvicorn
from prometheus_client.parser import text_string_to_metric_families

from devstral_proxy.app import create_app
from devstral_proxy.commands.serve import bind, server_config
from devstral_proxy.server.services import Services
from devstral_proxy.upstream.transport.pool import Pool
from tests.server.upstreams import COMPLETION, DONE, MODEL, STREAM, Connection, Handler, Raw, chunk, settings

SECONDS = 10
BEGUN = chunk({"role": "assistant", "content": ""}) + chunk({"content": "Hel"})
ANSWER = json.dumps(COMPLETION).encode()
TEXT_COMPLETION = (
    b'{"id":"cmpl-1","object":"text_completion","created":1,"model":"m",'
    b'"choices":[{"index":0,"text":"Hello.","finish_reason":"stop"}],'
    b'"usage":{"prompt_tokens":1,"completion_tokens":1,"total_tokens":2}}'
)


class Api(NamedTuple):
    """One way to ask. `text` in a request is the user's."""

    name: str
    path: str
    make: Callable[[str], dict[str, Any]]
    more: Mapping[str, Any] = {}

    def request(self, text: str = "Hi.", stream: bool = False, **more: Any) -> dict[str, Any]:
        return {"model": MODEL, "temperature": 0.2, **self.make(text), "stream": stream, **more}


CHAT = Api("chat", "/v1/chat/completions", lambda text: {"messages": [{"role": "user", "content": text}]})
RESPONSES = Api("responses", "/v1/responses", lambda text: {"input": text})
MESSAGES = Api(
    "messages", "/v1/messages", lambda text: {"messages": [{"role": "user", "content": text}], "max_tokens": 99}
)
RELAY = Api("relay", "/v1/completions", lambda text: {"prompt": text})
DIALECTS = (CHAT, RESPONSES, MESSAGES)
APIS = (*DIALECTS, RELAY)


def each(*apis: Api) -> Any:
    """A test for each of them."""
    return pytest.mark.parametrize("api", apis, ids=lambda api: api.name)


def error_of(api: Api, response: httpx.Response) -> dict[str, Any]:
    """The error of an answer that is none, in the one shape of this API."""
    assert response.status_code >= 400, response.text
    assert response.headers["content-type"] == "application/json"
    return _error(api, response.json())


def _error(api: Api, body: Any) -> dict[str, Any]:
    if api is MESSAGES:
        assert body.keys() == {"type", "error"}
        assert body["type"] == "error"
        assert body["error"].keys() >= {"type", "message"}
    else:
        assert body.keys() == {"error"}
        assert body["error"].keys() >= {"message", "type", "param", "code"}
    error: dict[str, Any] = body["error"]
    assert error["message"]
    return error


class Ending(NamedTuple):
    """How a stream ended: `clean`, or with an error of its API's; never both, and never with neither."""

    clean: bool
    error: dict[str, Any]
    text: str


def ending(api: Api, body: bytes) -> Ending:
    """Read a whole stream as a client of this API does."""
    error: dict[str, Any] = {}
    text, finished = "", False
    events = list(_events(body))
    assert events, "an empty stream"
    for name, data in events:
        assert not error or data == "[DONE]", "something after the error"
        if data == "[DONE]":
            assert api in (CHAT, RELAY)
            continue
        value = json.loads(data)
        assert name == (value["type"] if api in (RESPONSES, MESSAGES) else ""), name
        if api is RESPONSES:
            text += value["delta"] if name == "response.output_text.delta" else ""
            finished = finished or name in ("response.completed", "response.incomplete")
            if name == "response.failed":
                error = value["response"]["error"]
                assert error.keys() == {"code", "message"}
        elif api is MESSAGES:
            text += value["delta"].get("text", "") if name == "content_block_delta" else ""
            finished = finished or name == "message_stop"
            error = _error(api, value) if name == "error" else error
        elif "error" in value:
            error = _error(api, value)
        else:
            choices = value["choices"]
            text += "".join((one.get("delta") or {}).get("content") or "" for one in choices)
            finished = finished or any(one["finish_reason"] for one in choices)
    if api in (CHAT, RELAY):
        assert events[-1][1] == "[DONE]"
    assert finished != bool(error), body[-600:]
    return Ending(finished, error, text)


def _events(body: bytes) -> Iterator[tuple[str, str]]:
    assert body.endswith(b"\n\n"), body[-200:]
    for block in body.decode().split("\n\n")[:-1]:
        name, data = "", []
        for line in block.split("\n"):
            field, _, value = line.partition(": ")
            if field == "event":
                name = value
            elif field == "data":
                data.append(value)
        if data:
            yield name, "\n".join(data)


class Proxy:
    """A proxy that is served in this process."""

    def __init__(self, base: str, services: Services, client: httpx.AsyncClient) -> None:
        self.base = base
        self.services = services
        self.client = client

    @property
    def pools(self) -> list[Pool]:
        return [target.client.pool for target in self.services.fleet.targets if target.client.pool is not None]

    @property
    def idle(self) -> bool:
        """Nothing is held for anybody."""
        admission = self.services.admission
        return (
            not any(pool.busy or pool.waiting for pool in self.pools)
            and not any(target.running for target in self.services.fleet.targets)
            and not (admission.running or admission.waiting or admission._held)
            and not self.services.lifecycle.running
        )

    async def ask(self, api: Api, text: str = "Hi.", stream: bool = False, **more: Any) -> httpx.Response:
        return await self.client.post(api.path, json=api.request(text, stream, **more))

    async def works(self, api: Api) -> None:
        """The next client gets its answer, whole and streamed."""
        response = await self.ask(api, "go on")
        assert response.status_code == 200, response.text
        response = await self.ask(api, "go on", stream=True)
        assert ending(api, response.content).clean

    async def metrics(self) -> dict[str, dict[frozenset[tuple[str, str]], float]]:
        """/metrics, by sample and labels."""
        return samples((await self.client.get("/metrics")).text)


Samples = dict[str, dict[frozenset[tuple[str, str]], float]]


def samples(page: str) -> Samples:
    """A page of /metrics, by sample and labels."""
    found: Samples = {}
    for family in text_string_to_metric_families(page):
        for sample in family.samples:
            found.setdefault(sample.name, {})[frozenset(sample.labels.items())] = sample.value
    return found


def value(found: Samples, name: str, **labels: str) -> float:
    """The sum of all samples of this name with these labels."""
    return sum(one for key, one in found.get(name, {}).items() if key >= labels.items())


class _Server(uvicorn.Server):
    """It ends when it is told to, not at its next look at the clock."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.end = asyncio.Event()

    async def main_loop(self) -> None:
        await self.on_tick(0)
        await self.end.wait()


@asynccontextmanager
async def served(base: str, headers: Mapping[str, str] | None = None, **values: Any) -> AsyncIterator[Proxy]:
    """The proxy on a port of its own, as it is served. `headers`: what the client sends with each request."""
    chosen = settings(vllm_base=base, proxy_port=0, **values)
    app = create_app(chosen)
    listener = bind("127.0.0.1", 0)
    server = _Server(server_config(app, chosen))
    task = asyncio.create_task(server.serve(sockets=[listener]))
    await until(lambda: server.started)
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    try:
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
        async with httpx.AsyncClient(base_url=url, timeout=SECONDS, limits=limits, headers=headers) as client:
            yield Proxy(url, app.state.services, client)
    finally:
        server.end.set()
        await task
        listener.close()


@asynccontextmanager
async def pair(handler: Handler, **values: Any) -> AsyncIterator[tuple[Raw, Proxy]]:
    """An upstream with this handler, and the proxy before it."""
    upstream = Raw(handler)
    async with upstream.serve() as base, served(base, **values) as proxy:
        yield upstream, proxy


async def until(true: Callable[[], bool]) -> None:
    """Wait for it."""
    async with asyncio.timeout(SECONDS):
        while not true():  # noqa: ASYNC110  # many things, none of which tells
            await asyncio.sleep(0.005)


def sockets() -> int:
    """Open sockets of this process."""
    count = 0
    for name in os.listdir("/proc/self/fd"):
        with suppress(OSError):
            count += os.readlink(f"/proc/self/fd/{name}").startswith("socket:")
    return count


def parsed(body: bytes) -> dict[str, Any]:
    """A request as it came upstream: deep ones too, and those that hold half a surrogate pair."""
    try:
        request: dict[str, Any] = orjson.loads(body)
    except orjson.JSONDecodeError:
        request = json.loads(body)
    return request


def says(body: bytes) -> str:
    """The user's text in a request as it came upstream."""
    request = parsed(body)
    text: str = request["prompt"] if "prompt" in request else request["messages"][-1]["content"]
    return text


async def good(raw: Raw, connection: Connection, line: str, body: bytes) -> None:
    """An upstream that answers as it is asked."""
    if parsed(body).get("stream"):
        await connection.whole(STREAM, b"text/event-stream")
    else:
        await connection.whole(ANSWER)


def unless_told(fault: Handler) -> Handler:
    """The fault, but a good answer to those who say `go on`."""

    async def handler(raw: Raw, connection: Connection, line: str, body: bytes) -> None:
        await (good if says(body) == "go on" else fault)(raw, connection, line, body)

    return handler


__all__ = [
    "ANSWER", "APIS", "BEGUN", "CHAT", "DIALECTS", "DONE", "MESSAGES", "RELAY", "RESPONSES", "STREAM",
    "Api", "Awaitable", "Connection", "Handler", "Proxy", "Raw", "chunk", "each", "ending", "error_of", "good", "pair",
    "samples", "says", "served", "settings", "sockets", "unless_told", "until", "value",
]  # fmt: skip
