"""Failures on demand: the request header `x-simulate: NAME` (or `NAME:SECONDS`).

| name           | what happens                                                                      |
|----------------|-----------------------------------------------------------------------------------|
| 400, 404, 500  | that error, in vLLM's shape                                                       |
| 401            | `{"error": "Unauthorized"}`, as with a wrong key                                   |
| 429, 503       | that error, with `Retry-After: 1`                                                 |
| redirect       | 307 to the same path with a slash                                                 |
| html           | 200 with an HTML page, as from a gateway                                          |
| half-json      | 200, JSON that breaks off                                                         |
| empty          | 200 without a body                                                                |
| cut            | the connection breaks in the middle of the answer                                 |
| error-event    | an error event in the middle of the stream, then `[DONE]`, as when the engine dies |
| no-finish      | no chunk has a finish_reason                                                      |
| no-done        | the stream ends without `[DONE]`                                                  |
| stall:SECONDS  | silence in the middle of the answer                                               |
| slow-first:SECONDS | silence before the first byte of the body                                     |

The errors and whole bodies come before the request is looked at; the others need one that is accepted.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from starlette.responses import HTMLResponse, JSONResponse, Response

from devstral_proxy.simulator.errors import Refused

HEADER = "x-simulate"
_TYPES = {
    400: "BadRequestError",
    404: "NotFoundError",
    429: "Too Many Requests",
    500: "InternalServerError",
    503: "Service Unavailable",
}
_ENGINE_DIED = {
    "error": {"message": "Internal server error", "type": "InternalServerError", "param": None, "code": 500}
}
_STREAM_ONLY = ("error-event", "no-finish", "no-done")
_NAMES = ("cut", "stall", "slow-first", *_STREAM_ONLY)


class CutOff(Exception):
    """Raised in the middle of a body, so that the ASGI server breaks the connection off."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One of the faults that hit an accepted request. No name: none."""

    name: str = ""
    seconds: float = 0.0

    @classmethod
    def parse(cls, value: str | None) -> Fault:
        """Raises Refused (400) for a name that is not in the table."""
        name, _, seconds = (value or "").partition(":")
        if name and name not in _NAMES:
            raise Refused(f"no simulated fault {name!r}")
        return cls(name, float(seconds or 1))

    async def before(self) -> None:
        if self.name == "slow-first":
            await asyncio.sleep(self.seconds)

    async def stream(self, events: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """The events of a stream with the fault worked in, after the third of them."""
        count = 0
        async for event in events:
            if self.name == "no-done" and event.startswith(b"data: [DONE]"):
                return
            if self.name == "no-finish":
                event = _without_finish(event)
            count += 1
            if count == 3:
                if self.name == "error-event":
                    yield b"data: " + json.dumps(_ENGINE_DIED).encode() + b"\n\n"
                    yield b"data: [DONE]\n\n"
                    return
                if self.name == "cut":
                    yield event[: len(event) // 2]
                    raise CutOff
                if self.name == "stall":
                    await asyncio.sleep(self.seconds)
            yield event

    async def whole(self, body: bytes) -> AsyncIterator[bytes]:
        """One JSON body with the fault worked in."""
        half = len(body) // 2
        yield body[:half]
        if self.name == "cut":
            raise CutOff
        if self.name == "stall":
            await asyncio.sleep(self.seconds)
        yield body[half:]


def at_once(value: str | None) -> Response | None:
    """The answer of a fault that needs no request, None for the others."""
    if value is None:
        return None
    if value == "401":
        return JSONResponse({"error": "Unauthorized"}, 401)
    if value.isdigit() and int(value) in _TYPES:
        error = Refused("simulated", status=int(value), type=_TYPES[int(value)])
        headers = {"retry-after": "1"} if value in ("429", "503") else None
        return JSONResponse(error.body(), error.status, headers)
    bodies: dict[str, Response] = {
        "redirect": Response(None, 307, {"location": "/v1/chat/completions/"}),
        "html": HTMLResponse("<html><body><h1>502 Bad Gateway</h1></body></html>"),
        "half-json": Response(b'{"id":"chatcmpl-1","object":"chat.completion","choi', media_type="application/json"),
        "empty": Response(b"", media_type="application/json"),
    }
    return bodies.get(value)


def _without_finish(event: bytes) -> bytes:
    try:
        chunk: Any = json.loads(event.removeprefix(b"data: "))
    except ValueError:
        return event
    for choice in chunk.get("choices", ()):
        choice["finish_reason"] = None
    return b"data: " + json.dumps(chunk, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"
