"""Upstreams for tests: a table of answers behind httpx's interface, and raw servers on loopback that misbehave."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import httpx
import uvicorn

from devstral_proxy.app import create_app
from devstral_proxy.commands.serve import bind, server_config
from devstral_proxy.config import Settings

MODEL = "devstral-small-2"
MODELS = {
    "object": "list",
    "data": [{"id": MODEL, "object": "model", "root": "mistralai/Devstral", "max_model_len": 4096}],
}
COMPLETION: dict[str, Any] = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "created": 1,
    "model": MODEL,
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hello."}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
}


def chunk(delta: Mapping[str, Any], finish: str | None = None, **more: Any) -> bytes:
    """One chunk of vLLM's as an event."""
    choices = [{"index": 0, "delta": delta, "finish_reason": finish}]
    body = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": MODEL, "choices": choices}
    return b"data: " + json.dumps({**body, **more}, separators=(",", ":")).encode() + b"\n\n"


DONE = b"data: [DONE]\n\n"
STREAM = (
    chunk({"role": "assistant", "content": ""})
    + chunk({"content": "Hel"})
    + chunk({"content": "lo."})
    + chunk({}, "stop")
    + DONE
)


def request(**more: Any) -> dict[str, Any]:
    """A chat completion request that needs no rewrite."""
    return {"model": MODEL, "messages": [{"role": "user", "content": "Hi."}], "temperature": 0.2, **more}


def settings(**values: Any) -> Settings:
    """Settings for an upstream that is not there."""
    return Settings(**{"vllm_base": "http://vllm.test:8000", **values})


def sse(content: bytes | AsyncIterator[bytes]) -> httpx.Response:
    """An event stream."""
    return httpx.Response(200, headers={"content-type": "text/event-stream; charset=utf-8"}, content=content)


Answer = httpx.Response | Exception | Callable[[httpx.Request], httpx.Response]


class Vllm(httpx.MockTransport):
    """Answers by path; chat completions one after the other, the last one again and again. Keeps what was asked."""

    def __init__(
        self, *chat: Answer, version: str | None = "0.32.0", others: Mapping[str, Answer] | None = None
    ) -> None:
        super().__init__(self._answer)
        self.chat: list[Answer] = list(chat) or [httpx.Response(200, json=COMPLETION)]
        self.version = version
        self.others = dict(others or {})
        self.requests: list[httpx.Request] = []

    @property
    def bodies(self) -> list[dict[str, Any]]:
        """The chat completions that were asked for."""
        asked = [one for one in self.requests if one.url.path == "/v1/chat/completions"]
        return [json.loads(one.content) for one in asked]

    def _answer(self, asked: httpx.Request) -> httpx.Response:
        self.requests.append(asked)
        path = asked.url.path
        answer: Answer
        if path in self.others:
            answer = self.others[path]
        elif path == "/v1/chat/completions":
            answer = self.chat.pop(0) if len(self.chat) > 1 else self.chat[0]
        elif path == "/version":
            answer = httpx.Response(200, json={"version": self.version}) if self.version else httpx.Response(404)
        elif path == "/v1/models":
            answer = httpx.Response(200, json=MODELS)
        else:
            answer = httpx.Response(404, json={"detail": "Not Found"})
        if isinstance(answer, Exception):
            raise answer
        return answer if isinstance(answer, httpx.Response) else answer(asked)


@asynccontextmanager
async def proxied(upstream: httpx.AsyncBaseTransport, **values: Any) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the proxy's application, with this upstream behind it."""
    app = create_app(settings(**values), transport=upstream)
    async with app.router.lifespan_context(app):
        transport = httpx.ASGITransport(app, raise_app_exceptions=True)
        async with httpx.AsyncClient(transport=transport, base_url="http://proxy.test") as client:
            yield client


class Connection:
    """One connection to a `Raw` upstream."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self.writer = writer
        self.closed = asyncio.Event()
        """The proxy has closed its side."""

    async def request(self) -> tuple[str, bytes]:
        """The next request: its first line and its body. Raises IncompleteReadError when there is none."""
        head = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        length = 0
        for line in head.split("\r\n")[1:]:
            name, _, value = line.partition(":")
            if name.lower() == "content-length":
                length = int(value)
        return head.split("\r\n")[0], await self._reader.readexactly(length)

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def head(self, kind: bytes = b"text/event-stream", status: bytes = b"200 OK") -> None:
        """The head of a chunked answer."""
        await self.send(b"HTTP/1.1 %b\r\ncontent-type: %b\r\ntransfer-encoding: chunked\r\n\r\n" % (status, kind))

    async def piece(self, data: bytes) -> None:
        """One piece of a chunked answer; empty ends it."""
        await self.send(b"%x\r\n%b\r\n" % (len(data), data))

    async def whole(self, body: bytes, kind: bytes = b"application/json", status: bytes = b"200 OK") -> None:
        """A whole answer."""
        head = b"HTTP/1.1 %b\r\ncontent-type: %b\r\ncontent-length: %d\r\n\r\n" % (status, kind, len(body))
        await self.send(head + body)

    async def until_closed(self) -> None:
        """Wait until the proxy closes the connection."""
        while await self._reader.read(65536):
            pass
        self.closed.set()


Handler = Callable[["Raw", Connection, str, bytes], Awaitable[None]]


class Raw:
    """A server on loopback. /version and /v1/models are answered; everything else is the handler's."""

    def __init__(self, handler: Handler) -> None:
        self._handler = handler
        self._tasks: set[asyncio.Task[None]] = set()
        self.connections: list[Connection] = []
        self.asked: list[tuple[str, bytes]] = []
        self.answering: list[Connection] = []
        """The connections of the requests in `asked`."""
        self.arrived = asyncio.Event()
        """A request has come that is the handler's."""

    @asynccontextmanager
    async def serve(self) -> AsyncIterator[str]:
        server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        try:
            yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            server.close()
            for connection in self.connections:
                connection.writer.transport.abort()
            await server.wait_closed()
            await asyncio.sleep(0)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = Connection(reader, writer)
        self.connections.append(connection)
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            while True:
                line, body = await connection.request()
                if line.startswith("GET /version"):
                    await connection.whole(b'{"version": "0.32.0"}')
                elif line.startswith("GET /v1/models"):
                    await connection.whole(json.dumps(MODELS).encode())
                else:
                    self.asked.append((line, body))
                    self.answering.append(connection)
                    self.arrived.set()
                    await self._handler(self, connection, line, body)
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            connection.closed.set()
        finally:
            self._tasks.discard(task)
            writer.close()


@asynccontextmanager
async def live(base: str, **values: Any) -> AsyncIterator[str]:
    """The proxy on a port of its own, as it is served; its base URL."""
    chosen = settings(vllm_base=base, proxy_port=0, **values)
    listener = bind("127.0.0.1", 0)
    server = uvicorn.Server(server_config(create_app(chosen), chosen))
    task = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        while not server.started:  # noqa: ASYNC110  # uvicorn tells it in no other way
            await asyncio.sleep(0.01)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        await task
        listener.close()
