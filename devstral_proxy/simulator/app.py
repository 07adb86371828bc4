"""A stand-in for vLLM with a Mistral tokenizer: the same refusals, the same answers, no GPU."""

from __future__ import annotations

import asyncio
import hmac
import json
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from devstral_proxy.simulator import answer, completions, faults
from devstral_proxy.simulator.checks import check_engine
from devstral_proxy.simulator.engine import Simulator
from devstral_proxy.simulator.errors import Broken, Refused
from devstral_proxy.simulator.faults import Fault
from devstral_proxy.simulator.options import SimulatorOptions
from devstral_proxy.simulator.protocol import refusal

Endpoint = Callable[[Request], Awaitable[Response]]
Handler = Callable[[Simulator, Request, Any, Any], Awaitable[Response]]
_DONE = b"data: [DONE]\n\n"


def create_simulator(options: SimulatorOptions) -> Starlette:
    """The simulator as an ASGI application; `app.state.simulator.requests` are the last accepted requests.

    Raises ValueError where the installed mistral-common knows no such tokenizer.
    """
    simulator = Simulator(options)
    routes = [
        Route("/health", _empty, methods=["GET"]),
        Route("/ping", _empty, methods=["GET", "POST"]),
        Route("/version", _fixed({"version": options.version}), methods=["GET"]),
        Route("/v1/models", _models(options), methods=["GET"]),
        Route("/v1/chat/completions", _post(simulator, _chat), methods=["POST"]),
        Route("/v1/completions", _post(simulator, _complete), methods=["POST"]),
        Route("/tokenize", _post(simulator, _tokenize), methods=["POST"]),
        Route("/detokenize", _post(simulator, _detokenize), methods=["POST"]),
        Route("/_simulator/requests", _requests(simulator), methods=["GET"]),
    ]
    app = Starlette(routes=routes, exception_handlers={HTTPException: _http_error})
    app.state.simulator = simulator
    return app


async def _empty(request: Request) -> Response:
    return Response()


def _fixed(body: Mapping[str, Any]) -> Endpoint:
    async def endpoint(request: Request) -> Response:
        return JSONResponse(body)

    return endpoint


async def _http_error(request: Request, error: Exception) -> Response:
    status, detail = (error.status_code, error.detail) if isinstance(error, HTTPException) else (500, str(error))
    headers = {"allow": error.headers["Allow"]} if isinstance(error, HTTPException) and error.headers else None
    return JSONResponse({"detail": detail}, status, headers)


def _models(options: SimulatorOptions) -> Endpoint:
    # fmt: off
    permission = {
        "id": f"modelperm-{secrets.token_hex(8)}", "object": "model_permission", "created": int(time.time()),
        "allow_create_engine": False, "allow_sampling": True, "allow_logprobs": True, "allow_search_indices": False,
        "allow_view": True, "allow_fine_tuning": False, "organization": "*", "group": None, "is_blocking": False,
    }
    card = {
        "id": options.model, "object": "model", "created": int(time.time()), "owned_by": "vllm", "root": options.root,
        "parent": None, "max_model_len": options.max_model_len, "permission": [permission],
    }
    # fmt: on
    return _guarded(options, _fixed({"object": "list", "data": [card]}))


def _requests(simulator: Simulator) -> Endpoint:
    async def endpoint(request: Request) -> Response:
        records = [
            {"body": record.body, "prompt_tokens": record.prompt_tokens, "prompt": record.prompt}
            for record in simulator.requests
        ]
        return Response(json.dumps({"requests": records}), media_type="application/json")

    return endpoint


def _guarded(options: SimulatorOptions, endpoint: Endpoint) -> Endpoint:
    """Everything under /v1 asks for the key, where there is one."""

    async def guarded(request: Request) -> Response:
        if options.api_key is not None and request.url.path.startswith("/v1"):
            given = request.headers.get("authorization", "")
            if not hmac.compare_digest(given.encode(), f"Bearer {options.api_key}".encode()):
                return JSONResponse({"error": "Unauthorized"}, 401)
        return await endpoint(request)

    return guarded


def _post(simulator: Simulator, handler: Handler) -> Endpoint:
    """An endpoint that takes JSON: faults and malformed bodies are answered here."""

    async def endpoint(request: Request) -> Response:
        at_once = faults.at_once(request.headers.get(faults.HEADER))
        if at_once is not None:
            return at_once
        try:
            body, raw = _read(request, await request.body(), simulator.old)
            return await handler(simulator, request, body, raw)
        except Refused as error:
            if isinstance(error, Broken) and error.plain:
                return PlainTextResponse(error.message, error.status)
            try:
                return JSONResponse(error.body(), error.status)
            except UnicodeEncodeError as lone_surrogate:
                return JSONResponse(Refused(str(lone_surrogate)).body(), 400)

    return _guarded(simulator.options, endpoint)


def _read(request: Request, data: bytes, old: bool) -> tuple[Any, Any]:
    """The body's JSON twice, once to work on and once to keep. Raises Refused as FastAPI and vLLM do."""
    kind = request.headers.get("content-type", "").lower().split(";", maxsplit=1)[0]
    is_json = kind == "application/json" or (kind.startswith("application/") and kind.endswith("+json"))
    if data and is_json:
        try:
            body, raw = json.loads(data), json.loads(data)
        except json.JSONDecodeError as error:
            told = {"type": "json_invalid", "loc": (error.pos,), "msg": "JSON decode error", "input": {}}
            raise refusal([{**told, "ctx": {"error": error.msg}}], old) from None
        except (ValueError, RecursionError):
            raise HTTPException(400, "There was an error parsing the body") from None
    if kind != "application/json":
        raise refusal(["Unsupported Media Type: Only 'application/json' is allowed"], old)
    if not data or (body is None and not old):
        raise refusal([{"type": "missing", "loc": (), "msg": "Field required", "input": None}], old)
    return body, raw


async def _chat(simulator: Simulator, request: Request, body: Any, raw: Any) -> Response:
    exchange = simulator.accept(body, raw, request.headers.get("x-request-id"))
    late: Refused | None = None
    try:
        check_engine(exchange.request, simulator.tokenizer, simulator.old)
    except Refused as error:
        if simulator.old or not exchange.request.stream:
            raise
        late = error
    fault = Fault.parse(request.headers.get(faults.HEADER))
    await fault.before()
    if not exchange.request.stream:
        return _whole(simulator, fault, answer.whole(exchange))
    return _sse(simulator, fault, answer.stream(exchange), late)


async def _complete(simulator: Simulator, request: Request, body: Any, raw: Any) -> Response:
    asked = completions.check(simulator, body)
    fault = Fault.parse(request.headers.get(faults.HEADER))
    await fault.before()
    if not asked.stream:
        return _whole(simulator, fault, completions.whole(simulator, asked))
    return _sse(simulator, fault, completions.stream(simulator, asked), None)


async def _tokenize(simulator: Simulator, request: Request, body: Any, raw: Any) -> Response:
    return JSONResponse(completions.tokenize(simulator, body))


async def _detokenize(simulator: Simulator, request: Request, body: Any, raw: Any) -> Response:
    return JSONResponse(completions.detokenize(simulator, body))


def _dump(body: Any) -> bytes:
    return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()


def _whole(simulator: Simulator, fault: Fault, body: dict[str, Any]) -> Response:
    data, delay = _dump(body), simulator.options.delay
    if not fault.name and not delay:
        return Response(data, media_type="application/json")

    async def pieces() -> AsyncIterator[bytes]:
        await asyncio.sleep(delay)
        async for piece in fault.whole(data):
            yield piece

    headers = {"content-length": str(len(data))}
    return StreamingResponse(_watched(simulator, pieces()), media_type="application/json", headers=headers)


def _sse(simulator: Simulator, fault: Fault, chunks: Iterable[dict[str, Any]], late: Refused | None) -> Response:
    delay = simulator.options.delay

    async def events() -> AsyncIterator[bytes]:
        if late is not None:
            yield b"data: " + json.dumps(late.body()).encode() + b"\n\n"
            yield _DONE
            return
        for chunk in chunks:
            if delay:
                await asyncio.sleep(delay)
            yield b"data: " + _dump(chunk) + b"\n\n"
        yield _DONE

    stream = fault.stream(events()) if fault.name else events()
    return StreamingResponse(_watched(simulator, stream), media_type="text/event-stream")


async def _watched(simulator: Simulator, body: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The body; counts it among the running, and among the aborted where nobody reads it to its end."""
    simulator.running += 1
    try:
        async for piece in body:
            yield piece
    except (asyncio.CancelledError, GeneratorExit):
        simulator.aborted += 1
        raise
    finally:
        simulator.running -= 1
