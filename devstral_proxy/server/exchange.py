"""What the server keeps of one request while it is answered, and how it answers: whole, or piece by piece."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import orjson
from starlette.types import Message, Scope

from devstral_proxy.errors import InternalError, ProxyError, UpstreamRefused, render
from devstral_proxy.mistral.rewrites import counted
from devstral_proxy.server.http.incoming import EXTENSION, Incoming

if TYPE_CHECKING:
    from devstral_proxy.server.lifecycle import Interruptible
    from devstral_proxy.server.metrics import Gaps

_log = logging.getLogger("devstral_proxy.server")

Headers = list[tuple[bytes, bytes]]
Send = Callable[[Message], Awaitable[None]]

KEY = "devstral_proxy.exchange"
JSON: tuple[bytes, bytes] = (b"content-type", b"application/json")
NO_SNIFFING: tuple[bytes, bytes] = (b"x-content-type-options", b"nosniff")
"""What a model wrote is never taken for a page."""
STREAM_HEADERS: Sequence[tuple[bytes, bytes]] = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),  # nginx: pass each event on as it comes
)


_SANE_ID = re.compile(rb"[A-Za-z0-9._-]{1,128}")


class ClientGone(Exception):
    """The client has closed its connection: there is nobody to answer."""


class Exchange:
    """One request's facts for its log line, metrics and trace, and the way of its answer: `reply`, `write`, or ASGI's
    `send`. Each adds `headers` to the head.

    `model` is the client's own text, of any length and content; `path`, `served` and `upstream` are ours, and few.
    """

    __slots__ = (
        "_incoming", "_send", "attempts", "block", "cached_tokens", "dialect", "error", "estimated", "fields",
        "finish", "first_token", "gaps", "headers", "id", "input_tokens", "key", "method", "model", "note",
        "output_tokens", "path", "profile", "queued", "render", "repairs", "rewrites", "scope", "served", "started",
        "status", "stream", "task", "upstream",
    )  # fmt: skip

    def __init__(self, scope: Scope, send: Send) -> None:
        self.scope = scope
        self.fields: dict[bytes, bytes] = dict(scope["headers"])
        """The request's headers for a quick look; of one that is there twice, the last."""
        id = self.fields.get(b"x-request-id")
        self.id = id.decode("ascii") if id is not None and _SANE_ID.fullmatch(id) else new_id()
        """The client's own `x-request-id` if it is a sane token, else a new one."""
        self._send = send
        incoming: Incoming | None = scope.get("extensions", {}).get(EXTENSION)
        # Our own protocol is told without messages, where no middleware stands between.
        self._incoming = incoming if incoming is not None and send == incoming.send else None
        self.started = time.perf_counter()
        self.headers: Headers = [(b"x-request-id", self.id.encode("ascii")), NO_SNIFFING]
        self.method: str = scope["method"]
        self.path = ""
        """The route that answers, as `/v1/models/{model}`."""
        self.status = 0
        """The status sent; 0 as long as no answer has begun."""
        self.key = ""
        """The name of the client's key."""
        self.dialect = ""
        self.model = ""
        """What the client asked for."""
        self.served = ""
        """The model that is asked, where it is one that the settings or vLLM know."""
        self.upstream = ""
        """The name of the server that was asked."""
        self.profile = ""
        self.stream = False
        self.rewrites: list[tuple[str, str]] = []
        """Names of rewrites of the request, and where."""
        self.repairs: list[tuple[str, str]] = []
        """The same of the answer."""
        self.input_tokens = self.output_tokens = self.cached_tokens = 0
        self.estimated = 0
        """Tokens that an answer which broke off before vLLM told them has cost, judged by its length."""
        self.task: asyncio.Task[Any]
        """What answers; the gate sets it."""
        self.block: Interruptible
        """What the end of the process would end; the gate sets it."""
        self.first_token = 0.0
        """When the first event of the answer went out (as `started`); 0: none yet."""
        self.gaps: Gaps | None = None
        self.queued = 0.0
        """Seconds of waiting for admission."""
        self.attempts = 0
        """Requests sent to vLLM."""
        self.finish = ""
        """The finish reason of the first choice."""
        self.error = ""
        """The code of the error that the client got."""
        self.note = ""
        """How the answer ended, where the status does not tell: an error in the stream, the client gone."""
        self.render: Callable[[ProxyError], dict[str, Any]] = render
        """Error JSON in the words of the client's API."""

    def current_task(self) -> asyncio.Task[Any]:
        """The task that runs; our own protocol tells it without a system call."""
        task = self._incoming.task if self._incoming is not None else asyncio.current_task()
        if task is None:
            raise RuntimeError("a request is answered in a task")
        return task

    def taken(self) -> bytes | None:
        """The request's body, where all of it is here already; None where ASGI's receive has to be asked."""
        return None if self._incoming is None else self._incoming.taken()

    async def send(self, message: Message) -> None:
        """ASGI's send, for applications that are not ours."""
        if message["type"] == "http.response.start":
            message["headers"] = self._head(message["status"], message.get("headers", ()))
        await self._send(message)

    async def reply(self, status: int, body: bytes, headers: Iterable[tuple[bytes, bytes]] = ()) -> None:
        """A whole answer."""
        headers = self._head(status, [(b"content-length", b"%d" % len(body)), *headers])
        if self._incoming is not None:
            self._incoming.start(status, headers)
            self._incoming.write(body, False)
        else:
            await self._send({"type": "http.response.start", "status": status, "headers": headers})
            await self._send({"type": "http.response.body", "body": body})

    async def reply_json(self, status: int, value: Any, headers: Iterable[tuple[bytes, bytes]] = ()) -> None:
        """A whole answer of JSON."""
        await self.reply(status, orjson.dumps(value), (JSON, *headers))

    async def write(self, data: bytes, more: bool) -> None:
        """A piece of a stream, with its head if it is the first. Waits while the client does not read."""
        incoming = self._incoming
        if incoming is not None:
            if self.status == 0:
                incoming.start(200, self._head(200, STREAM_HEADERS))
            if incoming.write(data, more):
                await incoming.drained()
            return
        if self.status == 0:
            headers = self._head(200, STREAM_HEADERS)
            await self._send({"type": "http.response.start", "status": 200, "headers": headers})
        await self._send({"type": "http.response.body", "body": data, "more_body": more})

    def _head(self, status: int, headers: Iterable[tuple[bytes, bytes]]) -> Headers:
        """All headers of the answer. It has begun."""
        self.status = status
        headers = [*headers, *self.headers]
        if self.profile:
            headers.append((b"x-devstral-profile", self.profile.encode("ascii", "replace")))
        if self.rewrites:
            headers.append((b"x-devstral-rewrites", counted(self.rewrites).encode("ascii")))
        return headers

    def failed(self, error: ProxyError) -> None:
        """Note an error for the log. Nothing is noted over what is there already."""
        self.error = self.error or error.code or error.type
        refused = isinstance(error, UpstreamRefused)
        self.note = self.note or ("refused by vLLM" if refused else f"error {error.code}")

    def broken(self, error: ProxyError) -> None:
        """Note that the answer broke off after its status had gone out."""
        self.failed(error)
        self.note += ", in the stream"

    def header(self, name: bytes, value: str) -> None:
        """Add a header to the answer. What HTTP does not allow in a value is left out."""
        if not (value.isascii() and value.isprintable()):
            value = "".join(char for char in value if " " <= char <= "~")
        self.headers.append((name, value.encode("ascii")))


def told(error: Exception, exchange: Exchange) -> ProxyError:
    """What the client is told of a failure: an error of ours as it is, a defect as InternalError, which is logged."""
    if isinstance(error, ProxyError):
        return error
    _log.error("request %s failed: %s", exchange.id, type(error).__name__, exc_info=error)
    return InternalError(f"internal error of the proxy; its log tells more about request {exchange.id}")


def count_of(value: object) -> int:
    """A number of tokens as vLLM told it; 0 for what is none."""
    return value if type(value) is int and value > 0 else 0


def new_id() -> str:
    """An id that nobody has: 32 hexadecimal digits."""
    return os.urandom(16).hex()


def of(scope: Scope) -> Exchange:
    """The exchange that the gate put into the scope."""
    exchange: Exchange = scope[KEY]
    return exchange
