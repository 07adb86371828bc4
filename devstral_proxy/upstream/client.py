"""The one HTTP client for vLLM: pooled connections, timeouts, what may be retried, and what a failure is called.

    async with client.open("POST", "/v1/chat/completions", body) as answer:
        answer.status, answer.content_type
        async for chunk in answer: ...

Leaving the block before the body has ended closes the connection, and that is how vLLM learns that nobody waits any
more (F83). Nothing of the client's request but the body goes upstream: path and host come from the settings, the key is
VLLM_API_KEY or none.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final, Literal
from urllib.parse import urlsplit

import httpx
from pydantic import SecretStr

from devstral_proxy import __version__
from devstral_proxy.config import Settings
from devstral_proxy.errors import UpstreamError, UpstreamProtocolError, UpstreamTimeout, UpstreamUnavailable
from devstral_proxy.upstream.head import Head
from devstral_proxy.upstream.transport import FastTransport
from devstral_proxy.upstream.transport.connection import Connection
from devstral_proxy.upstream.transport.head import Head as RequestHead
from devstral_proxy.upstream.transport.pool import Pool

_log = logging.getLogger("devstral_proxy.upstream")

Headers = list[tuple[bytes, bytes]]

# The first row that fits says where the connection failed (UpstreamError.phase).
_PHASES: Final[tuple[tuple[type[httpx.TransportError], Literal["pool", "connect", "wait", "lost"]], ...]] = (
    (httpx.PoolTimeout, "pool"),
    (httpx.ConnectTimeout, "connect"),
    (httpx.ConnectError, "connect"),
    (httpx.TimeoutException, "wait"),
    (httpx.NetworkError, "lost"),
    (httpx.RemoteProtocolError, "lost"),
)


class Answer(Head):
    """A response of httpx's: the head, and the body as an asynchronous iterator of bytes as they come."""

    __slots__ = ("_client", "_response")

    def __init__(self, response: httpx.Response, client: UpstreamClient) -> None:
        super().__init__(response.status_code, response.headers.raw)
        self._response = response
        self._client = client

    async def __aiter__(self) -> AsyncIterator[bytes]:
        response = self._response
        raw = self.plain and not response.is_stream_consumed
        chunks = response.aiter_raw() if raw else response.aiter_bytes()
        try:
            async for chunk in chunks:
                yield chunk
        except (httpx.HTTPError, httpx.StreamError) as error:
            raise self._client.explain(error) from None

    async def aclose(self) -> None:
        """Give the connection back, or close it where the body has not ended."""
        await self._response.aclose()

    async def read(self, limit: int) -> bytes:
        """The whole body. Raises UpstreamProtocolError when it is over the limit."""
        parts: list[bytes] = []
        size = 0
        async for chunk in self:
            size += len(chunk)
            if size > limit:
                raise UpstreamProtocolError(f"vLLM's answer is over {limit} bytes")
            parts.append(chunk)
        return b"".join(parts)


class UpstreamClient:
    """One a server. Without `base` it is VLLM_BASE with VLLM_API_KEY, else the server at this URL with this key.

    `transport` replaces the network in tests.
    """

    def __init__(
        self,
        settings: Settings,
        transport: httpx.AsyncBaseTransport | None = None,
        *,
        base: str | None = None,
        api_key: SecretStr | None = None,
    ) -> None:
        self._settings = settings
        self._base = base or settings.vllm_base
        self._setting = "UPSTREAMS" if base else "VLLM_BASE"
        key = api_key if base else settings.vllm_api_key
        self.address = urlsplit(self._base).netloc
        """host:port, for messages; the settings let no credentials into it."""
        headers = {
            "accept": "application/json, text/event-stream",
            "accept-encoding": "identity",
            "connection": "keep-alive",
            "user-agent": f"devstral-proxy/{__version__}",
        }
        if key is not None:
            headers["authorization"] = f"Bearer {key.get_secret_value()}"
        self._headers = [(name.encode(), value.encode()) for name, value in headers.items()]
        self._urls: dict[str, httpx.URL] = {}
        self._transport = transport or _transport(settings)
        # The transport of our own sends a request again by itself where that is safe.
        self._retries = not isinstance(self._transport, FastTransport)
        self._fast = self._transport if isinstance(self._transport, FastTransport) else None
        self._short: dict[str, tuple[httpx.Request, RequestHead]] = {}

    @property
    def pool(self) -> Pool | None:
        """The connections, where they are in a pool of ours."""
        return None if self._fast is None else self._fast.pool

    async def aclose(self) -> None:
        """Close all connections."""
        await self._transport.aclose()

    def start(self, method: str, path: str, body: bytes | None, extra: Headers | None = None) -> Connection | None:
        """Write one request to an idle connection, whose answer is then read from it; None where none stands ready, and
        `open` is the way. The connection has to be given to `finish`, or to `decoded`."""
        transport = self._fast
        if transport is None or body is None:
            return None
        short = self._short.get(path)
        if short is None:
            request = self._request(method, path, b"", 0)
            short = self._short[path] = (request, transport.head_of(request))
        request, head = short
        return transport.start(request, head.whole(len(body), extra), body)

    def finish(self, connection: Connection) -> None:
        """Give it back, or close it where its answer has not ended."""
        if self._fast is not None:
            self._fast.finish(connection)

    def decoded(self, connection: Connection, read: float) -> Answer:
        """The answer whose head has come, its body decoded; `read`: seconds between two pieces of it."""
        if self._fast is None:
            raise TypeError("the connection is not this client's")
        return Answer(self._fast.response(connection, read), self)

    @asynccontextmanager
    async def open(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        *,
        first_byte: float | None = None,
        extra: Headers | None = None,
    ) -> AsyncIterator[Answer]:
        """Send one request; the block gets the head of the answer.

        `first_byte`: seconds until the head, and between two reads of the body; `extra`: further headers. Raises
        UpstreamUnavailable, UpstreamTimeout or UpstreamProtocolError, in the block too while the body is read. A
        redirect is not followed.
        """
        response = await self._send(method, path, body, first_byte or self._settings.first_byte_timeout, extra)
        try:
            answer = Answer(response, self)
            self.check(answer)
            yield answer
        finally:
            await response.aclose()

    def check(self, head: Head) -> None:
        """Raise UpstreamProtocolError for a redirect."""
        if 300 <= head.status < 400:
            raise UpstreamProtocolError(
                f"vLLM at {self.address} answered with a redirect ({head.status}); check VLLM_BASE"
            )

    async def _send(
        self, method: str, path: str, body: bytes | None, first_byte: float, extra: Headers | None
    ) -> httpx.Response:
        # Straight to the transport: httpx's client adds cookies, redirects, authentication and a log line, none of
        # which is wanted here.
        try:
            if not self._retries:
                return await self._transport.handle_async_request(self._request(method, path, body, first_byte, extra))
            return await self._send_watched(method, path, body, first_byte, extra)
        except httpx.HTTPError as error:
            raise self.explain(error) from None
        except httpx.InvalidURL:
            raise UpstreamUnavailable(f"{self.address} is no usable address; check {self._setting}") from None

    async def _send_watched(
        self, method: str, path: str, body: bytes | None, first_byte: float, extra: Headers | None
    ) -> httpx.Response:
        """For httpx's transport, which does not send anything twice."""
        connected = False

        async def trace(event: str, _info: dict[str, Any]) -> None:
            nonlocal connected
            connected = connected or event == "connection.connect_tcp.started"

        for attempt in (1, 2):
            request = self._request(method, path, body, first_byte, extra)
            request.extensions["trace"] = trace
            try:
                return await self._transport.handle_async_request(request)
            except (httpx.ReadError, httpx.WriteError, httpx.RemoteProtocolError):
                # A kept connection that vLLM closed at the moment of use: no byte of an answer came, so it was not
                # read there, and one more try on a new connection is safe. On a fresh connection it is vLLM's fault.
                if connected or attempt == 2:
                    raise
                _log.debug("a kept connection to %s was closed by vLLM, asking again", self.address)
        raise AssertionError  # pragma: no cover  # the loop always returns or raises

    def _request(
        self, method: str, path: str, body: bytes | None, first_byte: float, extra: Headers | None = None
    ) -> httpx.Request:
        url = self._urls.get(path)
        if url is None:
            url = self._urls[path] = httpx.URL(self._base + path)
        connect = self._settings.connect_timeout
        headers = [(b"host", url.netloc), *self._headers, *(extra or ())]
        if body is not None:
            headers += ((b"content-type", b"application/json"), (b"content-length", b"%d" % len(body)))
        return httpx.Request(
            method,
            url,
            headers=headers,
            stream=httpx.ByteStream(body or b""),
            extensions={"timeout": {"connect": connect, "read": first_byte, "write": first_byte, "pool": connect}},
        )

    def explain(self, error: httpx.HTTPError | httpx.StreamError) -> UpstreamError:
        """What a failure of httpx's is to the client: an error of ours that says what to check.

        Agents tell by words in the message whether to ask again (pi: "connection lost", "timed out"; Continue:
        "connection reset", …), since an error event in a stream has no status: each message begins with such words.
        """
        told = self._explained(error)
        told.phase = next((phase for kind, phase in _PHASES if isinstance(error, kind)), "")
        return told

    def _explained(self, error: httpx.HTTPError | httpx.StreamError) -> UpstreamError:
        address = self.address
        if isinstance(error, httpx.ConnectTimeout):
            return UpstreamTimeout(
                f"timed out: vLLM at {address} did not accept a connection in {self._settings.connect_timeout:g} s; "
                f"check that it runs, and {self._setting}"
            )
        if isinstance(error, httpx.PoolTimeout):
            return UpstreamTimeout(
                f"timed out: all {self._settings.pool_size} connections to vLLM at {address} stayed busy (POOL_SIZE)"
            )
        if isinstance(error, httpx.TimeoutException):
            return UpstreamTimeout(f"timed out: vLLM at {address} was silent for too long")
        if isinstance(error, httpx.ConnectError):
            return UpstreamUnavailable(
                f"connection error: cannot connect to vLLM at {address}; "
                f"check that it runs and has finished loading, and {self._setting}"
            )
        if isinstance(error, (httpx.RemoteProtocolError, httpx.LocalProtocolError, httpx.DecodingError)):
            return UpstreamProtocolError(
                f"connection lost: vLLM at {address} ended it early (connection reset) or sent no valid HTTP"
            )
        return UpstreamUnavailable(
            f"connection lost: the one to vLLM at {address} broke (connection reset); check that it still runs"
        )


def _transport(settings: Settings) -> httpx.AsyncBaseTransport:
    limits = httpx.Limits(
        max_connections=settings.pool_size,
        max_keepalive_connections=settings.pool_size,
        keepalive_expiry=settings.pool_idle,
    )
    if settings.upstream_transport == "httpx":
        return httpx.AsyncHTTPTransport(trust_env=False, limits=limits)
    return FastTransport(limits=limits)
