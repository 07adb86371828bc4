"""Every error that the proxy answers with, and the one place that turns it into OpenAI error JSON.

    ProxyError                    an answer that is not a 2xx, or an error event in a stream
    ├── BadRequest                400, the client's request: names the field (`param`)
    ├── Unauthorized              401, no key, or one that is not ours
    ├── NotFound                  404
    ├── MethodNotAllowed          405
    ├── RequestTimeout            408, the request did not arrive in time
    ├── PayloadTooLarge           413
    ├── RateLimited               429, this client's own limit
    ├── HeaderTooLarge            431
    ├── Overloaded                503, no room for anybody, or the proxy is stopping
    ├── InternalError             500, our own fault
    └── UpstreamError             502, whatever went wrong beyond the proxy
        ├── UpstreamUnavailable   502, nothing answers there
        ├── UpstreamTimeout       504, it answers too slowly
        ├── UpstreamProtocolError 502, what it says is no HTTP, no SSE, no JSON
        └── UpstreamRefused       vLLM's own error answer, status and text kept

The JSON is that of the OpenAI API: `{"error": {"message", "type", "param", "code"}}`. Messages of ours never hold
conversation content or secrets; text of vLLM's is passed on as it is.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal


class ProxyError(Exception):
    """An error with a status, and the four members of OpenAI's error object."""

    status: ClassVar[int] = 500
    type: ClassVar[str] = "server_error"
    default_code: ClassVar[str | None] = None

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.code = code if code is not None else self.default_code
        self.headers: list[tuple[str, str]] = []
        """Headers that the answer needs, as Retry-After."""


class BadRequest(ProxyError):
    """The client's request is wrong. `param` is the path of the field, as in `messages[2].content`."""

    status = 400
    type = "invalid_request_error"


class Unauthorized(ProxyError):
    """No key, or one that this proxy does not know."""

    status = 401
    type = "invalid_request_error"
    default_code = "invalid_api_key"


class NotFound(ProxyError):
    """No such path or model."""

    status = 404
    type = "invalid_request_error"
    default_code = "not_found"


class MethodNotAllowed(ProxyError):
    """The path is there, the method is not."""

    status = 405
    type = "invalid_request_error"
    default_code = "method_not_allowed"


class PayloadTooLarge(ProxyError):
    """The request's body is over the limit."""

    status = 413
    type = "invalid_request_error"
    default_code = "request_too_large"


class RequestTimeout(ProxyError):
    """The request's head or body did not arrive in time."""

    status = 408
    type = "invalid_request_error"
    default_code = "request_timeout"


class RateLimited(ProxyError):
    """The client is over a limit of its own. `headers` holds Retry-After."""

    status = 429
    type = "rate_limit_error"
    default_code = "rate_limit_exceeded"


class HeaderTooLarge(ProxyError):
    """The request's head is over the limit."""

    status = 431
    type = "invalid_request_error"
    default_code = "header_too_large"


class Overloaded(ProxyError):
    """There is no room now, or the proxy is stopping. `headers` holds Retry-After."""

    status = 503
    type = "server_error"
    default_code = "overloaded"


class InternalError(ProxyError):
    """A defect of the proxy."""

    default_code = "internal_error"


class UpstreamError(ProxyError):
    """Something went wrong beyond the proxy."""

    status = 502
    default_code = "upstream_error"
    phase: Literal["", "pool", "connect", "wait", "lost", "total"] = ""
    """Where the connection failed, if that is what failed: no free one of our own, none made (so nothing was sent),
    silence on it, or it broke. "total": it did not, the request's own time was over."""


class UpstreamUnavailable(UpstreamError):
    """Nothing answers at VLLM_BASE."""

    default_code = "upstream_unavailable"


class UpstreamTimeout(UpstreamError):
    """vLLM did not answer, or went silent, for longer than the limit."""

    status = 504
    default_code = "upstream_timeout"


class UpstreamProtocolError(UpstreamError):
    """What came back is not what vLLM says: broken framing, HTML, half a JSON, an event over the limit."""

    default_code = "upstream_protocol_error"


class UpstreamRefused(UpstreamError):
    """vLLM answered with an error. `status` is vLLM's; `body` is its JSON in OpenAI's shape."""

    def __init__(self, status: int, body: dict[str, Any]) -> None:
        super().__init__(str(body.get("error", {}).get("message", "")))
        self.status = status  # type: ignore[misc]  # the one error whose status is not its class's
        self.body = body


def render(error: ProxyError) -> dict[str, Any]:
    """The error as OpenAI error JSON (a dict, to be dumped by the caller).

    An `UpstreamRefused` is already in that shape; every other error is built from its four members.
    """
    if isinstance(error, UpstreamRefused):
        return error.body
    return {"error": {"message": error.message, "type": error.type, "param": error.param, "code": error.code}}
