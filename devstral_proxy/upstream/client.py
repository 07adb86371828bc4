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
from typing import Any
from urllib.parse import urlsplit

import httpx

from devstral_proxy import __version__
from devstral_proxy.config import Settings
from devstral_proxy.errors import UpstreamError, UpstreamProtocolError, UpstreamTimeout, UpstreamUnavailable
from devstral_proxy.upstream.transport import Body, FastTransport

_log = logging.getLogger("devstral_proxy.upstream")


class Answer:
    """The head of vLLM's response, and its body as an asynchronous iterator of bytes as they come."""

    __slots__ = ("_body", "_client", "_response", "content_type", "retry_after", "status")

    def __init__(self, response: httpx.Response, client: UpstreamClient) -> None:
        self._response = response
        self._client = client
        self.status = response.status_code
        headers = response.headers
        self.content_type: str = headers.get("content-type", "")
        self.retry_after: str | None = headers.get("retry-after")
        # What is not encoded (we ask for identity) needs no decoder of httpx's.
        stream = response.stream
        self._body = stream if isinstance(stream, Body) and "content-encoding" not in headers else None

    @property
    def is_stream(self) -> bool:
        """The body is server-sent events."""
        return self.content_type.lower().startswith("text/event-stream")

    @property
    def direct(self) -> bool:
        """`take` may be used: the body comes straight from the connection."""
        return self._body is not None

    async def take(self, until: float) -> list[bytes] | None:
        """All pieces of a `direct` body that are there, at least one; none at its end; None when there is nothing by
        then (in the loop's time). Raises what breaks the body, as UpstreamError."""
        if self._body is None:
            raise TypeError("this body is read by iterating")
        try:
            return await self._body.take(until)
        except httpx.HTTPError as error:
            raise self._client.explain(error) from None

    async def __aiter__(self) -> AsyncIterator[bytes]:
        response = self._response
        plain = "content-encoding" not in response.headers and not response.is_stream_consumed
        chunks = response.aiter_raw() if plain else response.aiter_bytes()
        try:
            async for chunk in chunks:
                yield chunk
        except (httpx.HTTPError, httpx.StreamError) as error:
            raise self._client.explain(error) from None

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
    """One a process. `transport` replaces the network in tests."""

    def __init__(self, settings: Settings, transport: httpx.AsyncBaseTransport | None = None) -> None:
        self._settings = settings
        self._base = settings.vllm_base
        self.address = urlsplit(settings.vllm_base).netloc
        """host:port, for messages; the settings let no credentials into it."""
        headers = {
            "accept": "application/json, text/event-stream",
            "accept-encoding": "identity",
            "connection": "keep-alive",
            "user-agent": f"devstral-proxy/{__version__}",
        }
        if settings.vllm_api_key is not None:
            headers["authorization"] = f"Bearer {settings.vllm_api_key.get_secret_value()}"
        self._headers = [(name.encode(), value.encode()) for name, value in headers.items()]
        self._urls: dict[str, httpx.URL] = {}
        self._transport = transport or _transport(settings)
        # The transport of our own sends a request again by itself where that is safe.
        self._retries = not isinstance(self._transport, FastTransport)

    async def aclose(self) -> None:
        """Close all connections."""
        await self._transport.aclose()

    @asynccontextmanager
    async def open(
        self, method: str, path: str, body: bytes | None = None, *, first_byte: float | None = None
    ) -> AsyncIterator[Answer]:
        """Send one request; the block gets the head of the answer.

        `first_byte`: seconds until the head, and between two reads of the body. Raises UpstreamUnavailable,
        UpstreamTimeout or UpstreamProtocolError, in the block too while the body is read. A redirect is not followed.
        """
        response = await self._send(method, path, body, first_byte or self._settings.first_byte_timeout)
        try:
            if 300 <= response.status_code < 400:
                raise UpstreamProtocolError(
                    f"vLLM at {self.address} answered with a redirect ({response.status_code}); check VLLM_BASE"
                )
            yield Answer(response, self)
        finally:
            await response.aclose()

    async def _send(self, method: str, path: str, body: bytes | None, first_byte: float) -> httpx.Response:
        # Straight to the transport: httpx's client adds cookies, redirects, authentication and a log line, none of
        # which is wanted here.
        try:
            if not self._retries:
                return await self._transport.handle_async_request(self._request(method, path, body, first_byte))
            return await self._send_watched(method, path, body, first_byte)
        except httpx.HTTPError as error:
            raise self.explain(error) from None
        except httpx.InvalidURL:
            raise UpstreamUnavailable(f"{self.address} is no usable address; check VLLM_BASE") from None

    async def _send_watched(self, method: str, path: str, body: bytes | None, first_byte: float) -> httpx.Response:
        """For httpx's transport, which does not send anything twice."""
        connected = False

        async def trace(event: str, _info: dict[str, Any]) -> None:
            nonlocal connected
            connected = connected or event == "connection.connect_tcp.started"

        for attempt in (1, 2):
            request = self._request(method, path, body, first_byte)
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

    def _request(self, method: str, path: str, body: bytes | None, first_byte: float) -> httpx.Request:
        url = self._urls.get(path)
        if url is None:
            url = self._urls[path] = httpx.URL(self._base + path)
        connect = self._settings.connect_timeout
        headers = [(b"host", url.netloc), *self._headers]
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
        address = self.address
        if isinstance(error, httpx.ConnectTimeout):
            return UpstreamTimeout(
                f"timed out: vLLM at {address} did not accept a connection in {self._settings.connect_timeout:g} s; "
                "check that it runs, and VLLM_BASE"
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
                "check that it runs and has finished loading, and VLLM_BASE"
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
