"""The connection of a client: bytes to requests, and what must not pass.

uvicorn takes any protocol class (`Config(http=…)`). This one is for a proxy whose requests are large and whose answers
are many small writes, and for clients that are slow, broken or hostile:

- The head of an answer goes out with its first bytes, each later event in one write.
- All deadlines are kept by one timer. There is one for the head of a request, for its body (at a least rate), for a
  client that does not read, and for a connection that rests.
- Framing that two servers could read in two ways is refused, by llhttp or by `head.check`.
- A head over the limit is a 431. A refusal is the error JSON of the OpenAI API.
- Another protocol on offer (h2c, websocket) is declined: the request is answered as what it also is (RFC 9110, 7.8).
- Trailers are dropped (RFC 9110, 6.5.1). The end of the client's side, even half-closed, is the client leaving: nothing
  else tells that it left.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections import deque
from collections.abc import Callable
from typing import Any

import httptools
from starlette.types import ASGIApp

from devstral_proxy.errors import InternalError, ProxyError, RequestTimeout
from devstral_proxy.server.http import head
from devstral_proxy.server.http.deadlines import Deadlines
from devstral_proxy.server.http.incoming import EXTENSION, Incoming, told
from devstral_proxy.server.http.wire import HttpLimits, Phase, Wire

_log = logging.getLogger("devstral_proxy.server")

BODY_RATE = 1024
"""Bytes a second that a body has to come in at least, beside the seconds it has in any case."""
SLICE = 32 * 1024
"""Bytes that are parsed at once: no more requests are held as objects than fit into it."""
LAST_CHANCE = 1.0
"""Seconds that a head may still take when the process stops."""
LARGE = 32 * 1024
"""What is left of a body from here on goes past the parser, which has nothing to find in it and would copy it."""
BEHIND = 64 * 1024
"""Bytes behind a request that is being answered (pipelining) over which reading stops."""


class HttpProtocol(Wire):
    """One connection. The constructor's arguments are those that uvicorn's server passes, and those of
    `protocol_factory`."""

    __slots__ = (
        "_app", "_base", "_begun", "_behind", "_deadlines", "_fed", "_headers", "_held", "_left", "_offered",
        "_parser", "_parsing", "_past", "_queue", "_refusal", "_refused", "_running", "_state", "_stopping", "_tasks",
        "_url",
    )  # fmt: skip

    def __init__(
        self,
        config: Any,
        server_state: Any,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        limits: HttpLimits,
        deadlines: Deadlines,
        refused: Callable[[str], None] | None = None,
    ) -> None:
        super().__init__(limits, _loop or asyncio.get_running_loop())
        if not config.loaded:
            config.load()
        self._app: ASGIApp = config.loaded_app
        self._state = server_state
        self._tasks: set[asyncio.Task[None]] = server_state.tasks
        self._held = app_state
        self._deadlines = deadlines
        self._refused = refused
        self._parser: Any = httptools.HttpRequestParser(self)
        self._base: dict[str, Any] = {}
        """What the scopes of all requests have in common."""
        self._parsing: Incoming | None = None
        """The request whose body is being read."""
        self._running: Incoming | None = None
        """The one that the application answers."""
        self._queue: deque[Incoming] = deque()
        """Complete ones behind it."""
        self._behind = bytearray()
        """What came behind those, not parsed."""
        self._refusal: ProxyError | None = None
        """The answer to what came behind those, and the last one."""
        self._url = b""
        self._headers: head.Headers = []
        self._fed = 0
        """Bytes that were parsed since the last head or piece of a body, but for up to SLICE right behind it."""
        self._left = 0
        """Bytes of the body that are still to come, where its head tells."""
        self._past = False
        """They go past the parser."""
        self._stopping = False
        self._begun = False
        """A head has begun and not ended."""
        self._offered = False
        """It offers another protocol."""

    # What the event loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._state.connections.add(self)
        self._deadlines.add(self, self.loop)
        self._base = head.scope_of(transport)

    def data_received(self, data: bytes) -> None:
        if self.deaf:
            self.drop()
        elif self._running is not None and self._parsing is None:
            self._behind += data
            if len(self._behind) > BEHIND:
                self.pause()
        else:
            self._feed(data)

    def eof_received(self) -> None:
        # The transport closes itself, but not before it has sent what it has: too late for whoever works for nobody.
        if self._running is not None:
            self._running.leave()

    def connection_lost(self, exc: Exception | None) -> None:
        self._state.connections.discard(self)
        self._deadlines.discard(self)
        self.deaf = True
        self._parsing = None
        self._queue.clear()
        self._behind.clear()
        self.resume_writing()
        if self._running is not None:
            self._running.leave()
        self._parser = None  # it refers to this object

    def check(self, now: float) -> None:
        """Act on the deadlines that have passed."""
        running = self._running
        if self.takes_nothing(now) or (running is not None and now >= running.until):
            if running is not None:
                running.why = "client reads too slowly"
            self.transport.abort()
        elif now >= self.late:
            self.late = math.inf
            if self.phase is Phase.BODY:
                self._refuse(RequestTimeout("the body of the request did not arrive in time (BODY_TIMEOUT)"))
            elif self.phase is Phase.HEAD:
                self._refuse(RequestTimeout("the head of the request did not arrive in time (HEADER_TIMEOUT)"))
            else:
                self.close()

    def shutdown(self) -> None:
        """uvicorn stops: what rests is closed, what runs ends first. Whoever has only just connected may still ask, for
        a moment: another worker takes his place, and he has done nothing wrong."""
        self._stopping = True
        if self._running is not None:
            self._running.keep_alive = False
        elif self.phase is Phase.NEW or self.phase is Phase.HEAD:
            self._hurry()
        else:
            self.close()

    # What the parser calls.

    def on_message_begin(self) -> None:
        self._begun = True

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._parsing is None:
            self._headers.append((name.lower(), value.rstrip()))

    def on_headers_complete(self) -> None:
        parser, headers, url = self._parser, self._headers, self._url
        if parser.should_upgrade() and not self._offered:
            self._offered = True
            return
        if self.deaf:
            raise ConnectionAbortedError
        self._headers, self._url = [], b""
        limit = self.limits.head_bytes
        method = parser.get_method().decode("ascii")
        version = parser.get_http_version()
        scope = {**self._base, "http_version": version, "method": method, "headers": headers}
        try:
            if self._fed + SLICE > limit and head.size(url, headers) > limit:
                raise head.too_large(limit)
            expects, self._left = head.check(version, headers)
            scope["path"], scope["raw_path"], scope["query_string"] = head.target(method, url)
        except ProxyError as error:
            self._refusal = error  # the parser tells only that something was raised
            raise
        scope["state"] = self._held.copy()
        incoming = Incoming(self, scope, parser.should_keep_alive() and not self._stopping, expects)
        scope["extensions"] = {EXTENSION: incoming}
        self._parsing = incoming
        self._begun = self._offered = False
        self._fed = 0

    def on_body(self, piece: bytes) -> None:
        parsing = self._parsing
        if parsing is not None:
            self._fed = 0
            self._left -= len(piece)
            self.late += len(piece) / BODY_RATE
            if parsing.body(piece):
                self.pause()

    def on_message_complete(self) -> None:
        parsing, self._parsing = self._parsing, None
        if parsing is None:
            return
        self._fed = 0
        if not parsing.keep_alive:
            self.deaf = True
        parsing.end()
        if self._running is None:
            self._run(parsing)
        elif self._running is not parsing:
            self._queue.append(parsing)
        if self.phase is Phase.BODY:
            self.phase, self.late = Phase.ANSWER, math.inf

    # What Incoming calls.

    @property
    def default_headers(self) -> Any:
        """What uvicorn puts into every answer: the date."""
        return self._state.default_headers

    def go_on(self, told: bool) -> None:
        """The application wants the body for which the client waits to be asked."""
        if told:
            self.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        self._await_body()

    def resume_reading(self) -> None:
        """The application has taken what was read."""
        if self.paused:
            self.resume()
            self._await_body()

    def answered(self, incoming: Incoming) -> None:
        """The answer is complete. The connection rests, closes, or goes on with the next request."""
        self._state.total_requests += 1
        self._running = None
        if not incoming.keep_alive:
            if incoming.body_done and not self.dropped:
                self.close()
            else:
                self.linger()
        elif self._queue or self._parsing is not None or self._behind or self._refusal is not None:
            self._next()
        elif self._begun:
            self.await_head()
        else:
            self.rest()

    # Inside.

    def _next(self) -> None:
        """What came behind the request that is now answered."""
        if self._queue:
            self._run(self._queue.popleft())
        elif self._parsing is not None:
            self._run(self._parsing)
            self._await_body()
        elif self._refusal is not None:
            self._say(self._refusal)
        else:
            behind = bytes(self._behind)
            self._behind.clear()
            self.rest()
            self.resume_reading()
            self._feed(behind)

    def _feed(self, data: bytes) -> None:
        """Parse it, up to the end of the request in which something has to be answered."""
        if self._past or (self._left >= LARGE and self._parsing is not None):
            self._pass(data)
        elif len(data) <= SLICE:
            self._parse(data)
        else:
            view = memoryview(data)
            for start in range(0, len(data), SLICE):
                self._parse(view[start : start + SLICE])
                rest = view[start + SLICE :]
                if self.deaf:
                    self.dropped = self.dropped or bool(rest)
                    break
                if self._running is not None and self._parsing is None:
                    self._behind += rest
                    break
        parsing = self._parsing
        if parsing is not None:
            if self._running is None:
                self._run(parsing)
            self._await_body()
        elif self._begun and self._running is None and not self.deaf and self.phase is not Phase.HEAD:
            self.await_head()
            if self._stopping:
                self._hurry()

    def _pass(self, data: bytes) -> None:
        """The rest of a large body, and perhaps what comes behind it."""
        left = self._left
        if not self._past:
            self._past = True
            self._parser = httptools.HttpRequestParser(self)  # for the next request: the old one waits for this body
        self.on_body(data if len(data) <= left else data[:left])
        if self._left == 0:
            self._past = False
            self.on_message_complete()
            if self.deaf:
                self.dropped = self.dropped or len(data) > left
            else:
                self._behind += data[left:]

    def _parse(self, data: bytes | memoryview) -> None:
        self._fed += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._decline(memoryview(data)[upgrade.args[0] :])
        except httptools.HttpParserError:
            if self.deaf:
                self.dropped = True
            else:
                self._refuse(self._refusal or head.invalid("this is no valid HTTP request"))
        if self._fed > self.limits.head_bytes + SLICE and not self.deaf:
            if self._parsing is None:
                self._refuse(head.too_large(self.limits.head_bytes))
            else:
                self._refuse(head.invalid("the request's body has more framing than content"))

    def _decline(self, rest: memoryview) -> None:
        """The parser takes what follows an offer of another protocol for that protocol's. So it gets the head again,
        without the offer."""
        method = self._parser.get_method()
        version = self._parser.get_http_version().encode()
        lines = [b"%b: %b\r\n" % header for header in self._headers if header[0] != b"upgrade"]
        again = b"%b %b HTTP/%b\r\n%b\r\n" % (method, self._url, version, b"".join(lines))
        self._headers, self._url = [], b""
        self._fed -= len(rest)
        self._parse(again + bytes(rest))

    def _hurry(self) -> None:
        self.late = min(self.late, self.loop.time() + LAST_CHANCE)

    def _await_body(self) -> None:  # where it is the client's turn to send it
        parsing = self._parsing
        if parsing is None or parsing.expects or self.paused:
            if self.phase is Phase.BODY:
                self.phase, self.late = Phase.ANSWER, math.inf
        elif self.phase is not Phase.BODY:
            self.phase = Phase.BODY
            self.late = self.loop.time() + self.limits.body

    def _run(self, incoming: Incoming) -> None:
        self._running = incoming
        self.phase, self.late = Phase.ANSWER, math.inf
        incoming.task = task = self.loop.create_task(self._answer(incoming))
        self._tasks.add(task)

    async def _answer(self, incoming: Incoming) -> None:
        error: Exception | None = None
        scope = incoming.scope
        try:
            await self._app(scope, incoming.receive, incoming.send)
        except Exception as raised:
            error = raised
        except BaseException:
            self.transport.abort()
            raise
        finally:
            self._tasks.discard(incoming.task)
            incoming.let_go()
        over = incoming.complete or incoming.gone
        if incoming.gone:
            self._running = None  # it refers to this object
        if error is not None and error is not incoming.failure:
            _log.error("the application failed: %s", type(error).__name__, exc_info=error)
        elif error is None and not over:
            _log.error("a request was left without a whole answer")
        if over:
            return
        if incoming.started:
            self.transport.abort()  # so that nobody takes what there is for the whole
        else:
            self._running = None
            said = incoming.failure or InternalError("internal error of the proxy")
            self._say(said, bodyless=scope["method"] == "HEAD")

    def _refuse(self, error: ProxyError) -> None:
        """No further byte of this connection is read. What came before is answered first."""
        _log.info("a request was refused: %s", error.code)
        if self._refused is not None:
            self._refused(error.code or error.type)
        self.deaf = True
        parsing, self._parsing = self._parsing, None
        running = self._running
        if running is None:
            self._say(error)
        elif running is not parsing:
            self._refusal = error
            if self.phase is Phase.BODY:
                self.phase, self.late = Phase.ANSWER, math.inf
        elif running.started:
            self.transport.abort()
        else:
            self.phase, self.late = Phase.ANSWER, math.inf
            running.fail(error)

    def _say(self, error: ProxyError, bodyless: bool = False) -> None:
        """Answer in the application's place, and close."""
        self.write(told(error, self.default_headers, bodyless))
        self.linger()
