"""The head of a request: what llhttp lets through and must not pass, and the target's parts."""

from __future__ import annotations

import asyncio
from typing import Any
from urllib.parse import unquote

import httptools

from devstral_proxy.errors import BadRequest, HeaderTooLarge

Headers = list[tuple[bytes, bytes]]

_LOOKED_AT = frozenset((b"host", b"transfer-encoding", b"expect", b"content-length"))
_HOST = bytes(range(0x30, 0x3A)) + bytes(range(0x41, 0x5B)) + bytes(range(0x61, 0x7B)) + b"-._~!$&'()*+,;=%:[]"


def invalid(message: str) -> BadRequest:
    """The refusal of what is no HTTP, or HTTP that two servers could read in two ways."""
    return BadRequest(message, code="invalid_http")


def too_large(limit: int) -> HeaderTooLarge:
    """The refusal of a head over HEADER_LIMIT."""
    return HeaderTooLarge(f"the head of the request is over {limit} bytes (HEADER_LIMIT)")


def size(url: bytes, headers: Headers) -> int:
    """The bytes of a head, but for its method, version and blanks."""
    return len(url) + sum(len(name) + len(value) + 4 for name, value in headers)


def check(version: str, headers: Headers) -> tuple[bool, int]:
    """Whether the client waits for `100 Continue` (RFC 9110, 10.1.1), and the Content-Length; 0 for none.

    Raises BadRequest for a version that is neither 1.0 nor 1.1; for a Host that is missing, there twice or malformed
    (RFC 9112, 3.2); for a transfer coding other than one `chunked`, or one in HTTP/1.0 (RFC 9112, 6.1). llhttp itself
    refuses a Content-Length that is no number, there twice or beside a transfer coding, and every line end, NUL and
    blank where none may be.
    """
    hosts, expects, length = 0, False, 0
    for name, value in headers:
        if name in _LOOKED_AT:
            if name == b"host":
                hosts += 1
                if value.translate(None, _HOST):
                    raise invalid("the Host header is malformed")
            elif name == b"content-length":
                length = int(value)
            elif name == b"expect":
                expects = value.lower() == b"100-continue"
            elif version != "1.1" or value.lower() != b"chunked":
                raise invalid("it is not clear how long the request's body is")
    if version == "1.1":
        if hosts != 1:
            raise invalid("a request needs one Host header")
        return expects, length
    if version != "1.0":
        raise invalid("HTTP/1.1 is spoken here")
    if hosts > 1:
        raise invalid("a request needs one Host header")
    return False, length


def target(method: str, url: bytes) -> tuple[str, bytes, bytes]:
    """ASGI's `path`, `raw_path` and `query_string` of a request target (RFC 9112, 3.2). Raises BadRequest."""
    if method == "CONNECT" or (url == b"*" and method != "OPTIONS"):
        raise invalid("the request's target is no path")
    if url[:1] == b"/":
        raw, _, query = url.partition(b"#")[0].partition(b"?")
    elif url == b"*":
        raw, query = url, b""
    else:
        try:
            parts = httptools.parse_url(url)
        except httptools.HttpParserInvalidURLError:
            raise invalid("the request's target is no path or URL") from None
        raw, query = parts.path or b"/", parts.query or b""
        if raw[:1] != b"/":  # `http://host?query`: the parser takes the query for the path
            raw, query = b"/", raw
    path = raw.decode("ascii")
    return unquote(path) if "%" in path else path, raw, query


def scope_of(transport: asyncio.BaseTransport) -> dict[str, Any]:
    """What the scopes of all requests of a connection have in common."""
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "scheme": "http" if transport.get_extra_info("sslcontext") is None else "https",
        "root_path": "",
        "client": _address(transport.get_extra_info("peername")),
        "server": _address(transport.get_extra_info("sockname")),
    }


def _address(value: Any) -> tuple[str, int] | None:
    return (str(value[0]), int(value[1])) if isinstance(value, (tuple, list)) and len(value) >= 2 else None
