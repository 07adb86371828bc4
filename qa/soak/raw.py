"""An upstream of the soak that speaks HTTP by hand, so that it can speak it wrongly.

    python -m qa.soak.raw --port 8000 --name c

It answers as vLLM does, with the same answers as the simulator, and shows the faults of `FAULTS`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import socket
import struct
from collections.abc import Callable, Coroutine
from typing import Any, Final

from qa.soak.directive import CLIENT_KEY, MODEL, VERSION, Order, calls_of, last_order, orders_of, text_of

Json = dict[str, Any]
_DELAY: Final = 0.004
_STALL: Final = 6.0
_JSON: Final = b"application/json"
_SSE: Final = b"text/event-stream; charset=utf-8"
_DONE: Final = b"data: [DONE]\n\n"
_LINGER: Final = struct.pack("ii", 1, 0)
_CARD: Final = {"id": MODEL, "object": "model", "owned_by": "vllm", "root": MODEL, "max_model_len": 4_000_000}
_STATUS: Final = {200: b"OK", 400: b"Bad Request", 404: b"Not Found", 429: b"Too Many Requests"}
_TYPES: Final = {400: "BadRequestError", 404: "NotFoundError", 500: "InternalServerError"}


class Over(Exception):
    """The connection ends here."""


class Connection:
    """One connection of the proxy's."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, name: str, key: str) -> None:
        self._reader = reader
        self._writer = writer
        self._name = name
        self._key = key

    async def serve(self) -> None:
        """Answer requests until one side ends it."""
        with contextlib.suppress(Over, asyncio.IncompleteReadError, ConnectionError):
            while True:
                await self._one()
        self._writer.close()

    async def _one(self) -> None:
        head = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        lengths = [line.partition(":")[2] for line in head[1:] if line.lower().startswith("content-length:")]
        body = await self._reader.readexactly(int(lengths[0]) if lengths else 0)
        path = head[0].split(" ")[1]
        if any(CLIENT_KEY in line for line in head) or (
            path.startswith("/v1") and f"authorization: bearer {self._key}" not in map(str.lower, head)
        ):
            await self.whole({"error": {"message": "a wrong key came upstream", "code": 418}}, 418)
            return
        if not body:
            facts: dict[str, Any] = {
                "/version": {"version": VERSION},
                "/v1/models": {"object": "list", "data": [_CARD]},
            }
            await self.whole(facts.get(path, {}), 200 if path in (*facts, "/health") else 404)
            return
        order = last_order(body) or Order("none")
        request: Json = json.loads(body)
        fault = FAULTS.get(order.hits(self._name))
        if fault is not None:
            await fault(self, request, order)
        else:
            await self.right(path, request)

    async def right(self, path: str, request: Json) -> None:
        """The answer without a fault."""
        if path == "/v1/chat/completions":
            if request.get("stream"):
                await self.stream(events(request))
            else:
                await self.whole(completion(request))
        elif path == "/v1/completions":
            said = (request.get("vllm_xargs") or {}).get("say", "")
            if request.get("stream"):
                await self.stream([*(_text(piece) for piece in _pieces(said)), _text("", "stop"), _DONE])
            else:
                await self.whole({**_head("text_completion"), "choices": [_choice({"text": said}, "stop")]})
        elif path == "/v1/embeddings":
            vector = [len(str(request.get("input"))) / 2, 0.5]
            await self.whole({"object": "list", "model": MODEL, "data": [{"index": 0, "embedding": vector}]})
        elif path == "/tokenize":
            await self.whole({"count": len(json.dumps(request)) // 4, "max_model_len": 4_000_000, "tokens": []})
        else:
            await self.whole({"detail": "Not Found"}, 404)

    async def send(self, data: bytes) -> None:
        """Bytes as they are."""
        self._writer.write(data)
        await self._writer.drain()

    async def whole(self, value: Any, status: int = 200, kind: bytes = _JSON, more: bytes = b"") -> None:
        """A whole answer: bytes, or what becomes JSON."""
        body = value if isinstance(value, bytes) else json.dumps(value, separators=(",", ":")).encode()
        lines = b"HTTP/1.1 %d %b\r\ncontent-type: %b\r\ncontent-length: %d\r\n%b\r\n"
        await self.send(lines % (status, _STATUS.get(status, b"Error"), kind, len(body), more) + body)

    async def head(self) -> None:
        """The head of a stream."""
        await self.send(b"HTTP/1.1 200 OK\r\ncontent-type: %b\r\ntransfer-encoding: chunked\r\n\r\n" % _SSE)

    async def piece(self, data: bytes) -> None:
        """One piece of a stream; empty ends it."""
        await self.send(b"%x\r\n%b\r\n" % (len(data), data))

    async def stream(self, told: list[bytes], end: bool = True) -> None:
        """Events; `end`: and the end of the body."""
        await self.head()
        for event in told:
            await self.piece(event)
            await asyncio.sleep(_DELAY)
        if end:
            await self.piece(b"")

    def reset(self) -> None:
        """End the connection with a reset. Raises Over."""
        sock: socket.socket = self._writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER)
        self._writer.transport.abort()
        raise Over


def _head(kind: str) -> Json:
    return {"id": "chatcmpl-raw", "object": kind, "created": 1, "model": MODEL}


def _choice(what: Json, finish: str | None) -> Json:
    return {"index": 0, **what, "logprobs": None, "finish_reason": finish}


def _event(value: Any) -> bytes:
    return b"data: " + json.dumps(value, separators=(",", ":")).encode() + b"\n\n"


def _chunk(delta: Json, finish: str | None = None) -> bytes:
    return _event({**_head("chat.completion.chunk"), "choices": [_choice({"delta": delta}, finish)]})


def _text(text: str, finish: str | None = None) -> bytes:
    return _event({**_head("text_completion"), "choices": [_choice({"text": text}, finish)]})


def _pieces(text: str) -> list[str]:
    size = max(7, len(text) // 200)
    return [text[at : at + size] for at in range(0, len(text), size)]


def _calls(request: Json) -> list[Json]:
    asked = orders_of(request)
    return [
        {
            "id": f"raw{asked[-1].nonce[:5]:0<5}{index}",
            "type": "function",
            "function": {"name": name, "arguments": json.dumps(arguments)},
        }
        for index, (name, arguments) in enumerate(calls_of(asked) if asked else ())
    ]


def completion(request: Json) -> Json:
    """The whole chat completion."""
    asked = orders_of(request)
    calls = _calls(request)
    text = text_of(asked) if asked else "nothing was ordered"
    message: Json = {"role": "assistant", "content": text or None, "tool_calls": calls}
    usage = {"prompt_tokens": 9, "completion_tokens": 9, "total_tokens": 18}
    finish = "tool_calls" if calls else "stop"
    return {**_head("chat.completion"), "choices": [_choice({"message": message}, finish)], "usage": usage}


def events(request: Json) -> list[bytes]:
    """The same as a stream."""
    whole = completion(request)
    message, finish = whole["choices"][0]["message"], whole["choices"][0]["finish_reason"]
    told = [_chunk({"role": "assistant", "content": ""})]
    told += [_chunk({"content": piece}) for piece in _pieces(message["content"] or "")]
    for index, call in enumerate(message["tool_calls"]):
        name, arguments = call["function"]["name"], call["function"]["arguments"]
        begin = {**call, "function": {"name": name, "arguments": ""}}
        told.append(_chunk({"tool_calls": [{"index": index, **begin}]}))
        for piece in _pieces(arguments):
            told.append(_chunk({"tool_calls": [{"index": index, "function": {"arguments": piece}}]}))
    told.append(_chunk({}, finish))
    if (request.get("stream_options") or {}).get("include_usage"):
        told.append(_event({**_head("chat.completion.chunk"), "choices": [], "usage": whole["usage"]}))
    return [*told, _DONE]


# ---------------------------------------------------------------- faults

Fault = Callable[[Connection, Json, Order], Coroutine[Any, Any, None]]


def _refuse(status: int) -> Fault:
    async def fault(to: Connection, request: Json, order: Order) -> None:
        more = b"retry-after: 1\r\n" if status in (429, 503) else b""
        error = {"message": "ordered", "type": _TYPES.get(status, "Error"), "param": None, "code": status}
        await to.whole({"error": error}, status, more=more)

    return fault


def _body(data: bytes, kind: bytes, status: int = 200, more: bytes = b"") -> Fault:
    async def fault(to: Connection, request: Json, order: Order) -> None:
        await to.whole(data, status, kind, more)

    return fault


async def _before(to: Connection, request: Json, order: Order) -> None:
    to.reset()


async def _close(to: Connection, request: Json, order: Order) -> None:
    raise Over


async def _silent(to: Connection, request: Json, order: Order) -> None:
    await asyncio.sleep(3 * _STALL)
    raise Over


async def _garbage(to: Connection, request: Json, order: Order) -> None:
    await to.send(b"\x16\x03\x01 this is no HTTP\r\n\r\n")
    raise Over


async def _half(to: Connection, request: Json) -> None:
    """Half of the right answer."""
    if request.get("stream"):
        told = events(request)
        await to.stream(told[: max(2, len(told) // 2)], end=False)
    else:
        body = json.dumps(completion(request)).encode()
        await to.send(b"HTTP/1.1 200 OK\r\ncontent-type: %b\r\ncontent-length: %d\r\n\r\n" % (_JSON, len(body)))
        await to.send(body[: len(body) // 2])


async def _cut(to: Connection, request: Json, order: Order) -> None:
    await _half(to, request)
    raise Over


async def _reset_in_it(to: Connection, request: Json, order: Order) -> None:
    await _half(to, request)
    await asyncio.sleep(0.02)
    to.reset()


async def _stall(to: Connection, request: Json, order: Order) -> None:
    await _half(to, request)
    await asyncio.sleep(3 * _STALL)
    raise Over


async def _bad_chunk(to: Connection, request: Json, order: Order) -> None:
    told = events(request)
    await to.stream(told[:2], end=False)
    await to.send(b"zz\r\n" + told[2])
    raise Over


async def _half_event(to: Connection, request: Json, order: Order) -> None:
    told = events(request)
    await to.stream([*told[:2], told[2][: len(told[2]) // 2]])


async def _bad_event(to: Connection, request: Json, order: Order) -> None:
    told = events(request)
    await to.stream([*told[:2], told[2][: len(told[2]) // 2] + b"\n\n", *told[3:]])


async def _error_event(to: Connection, request: Json, order: Order) -> None:
    error = {"message": "ordered", "type": "InternalServerError", "param": None, "code": 500}
    await to.stream([*events(request)[:3], _event({"error": error}), _DONE])


async def _huge_event(to: Connection, request: Json, order: Order) -> None:
    await to.stream([*events(request)[:2], b"data: " + b"x" * 2_000_000 + b"\n\n", _DONE])


async def _huge_body(to: Connection, request: Json, order: Order) -> None:
    await to.whole(b'{"choices": [], "x": "' + b"x" * 5_000_000 + b'"}')


async def _no_done(to: Connection, request: Json, order: Order) -> None:
    await to.stream(events(request)[:-1])


async def _early_hints(to: Connection, request: Json, order: Order) -> None:
    await to.send(b"HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n")
    await to.right("/v1/chat/completions", request)


async def _close_after(to: Connection, request: Json, order: Order) -> None:
    await to.right("/v1/chat/completions", request)
    raise Over


FAULTS: Final[dict[str, Fault]] = {
    **{str(status): _refuse(status) for status in (400, 429, 500, 503)},
    "html": _body(b"<html><body><h1>502 Bad Gateway</h1></body></html>", b"text/html"),
    "half-json": _body(b'{"id":"chatcmpl-1","object":"chat.completion","choi', _JSON),
    "empty": _body(b"", _JSON),
    "redirect": _body(b"", _JSON, 307, b"location: /v1/chat/completions/\r\n"),
    "reset": _before,
    "close": _close,
    "silent": _silent,
    "garbage": _garbage,
    "cut": _cut,
    "reset-in-it": _reset_in_it,
    "stall": _stall,
    "bad-chunk": _bad_chunk,
    "half-event": _half_event,
    "bad-event": _bad_event,
    "error-event": _error_event,
    "huge-event": _huge_event,
    "huge-body": _huge_body,
    "no-done": _no_done,
    "early-hints": _early_hints,
    "close-after": _close_after,
}


async def _serve(port: int, name: str, key: str) -> None:
    async def client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await Connection(reader, writer, name, key).serve()

    server = await asyncio.start_server(client, "127.0.0.1", port)
    async with server:
        await server.serve_forever()


def main() -> None:
    """Serve until a signal ends it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--name", required=True)
    parser.add_argument("--api-key", required=True)
    chosen = parser.parse_args()
    asyncio.run(_serve(chosen.port, chosen.name, chosen.api_key.lower()))


if __name__ == "__main__":
    main()
