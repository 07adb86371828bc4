"""Reading a request: a body within the limit, and JSON that is an object."""

from __future__ import annotations

import re
from typing import Any

import orjson
from starlette.types import Receive, Scope

from devstral_proxy.errors import BadRequest, PayloadTooLarge, ProxyError
from devstral_proxy.server.exchange import ClientGone, Exchange, of

_BOM = b"\xef\xbb\xbf"
# Every JSON escape, surrogate pairs as one: so a lone half is told from a whole pair, and `\\ud83d` from `\ud83d`.
_ESCAPE = re.compile(
    rb"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(u[dD][89a-fA-F][0-9a-fA-F]{2})|.)"
)
_LONE_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


class UnsupportedEncoding(ProxyError):
    """415, a body in a content coding."""

    status = 415
    type = "invalid_request_error"
    default_code = "unsupported_content_encoding"


async def read_body(scope: Scope, receive: Receive, limit: int) -> bytes:
    """The whole body.

    Raises PayloadTooLarge, as early as Content-Length tells it; UnsupportedEncoding for a compressed body; ClientGone.
    """
    exchange = of(scope)
    length = exchange.fields.get(b"content-length", b"0")
    if not length.isdigit() or len(length) > 18:
        raise BadRequest("content-length is no number", param="content-length")
    if int(length) > limit:
        raise _too_large(scope, limit)
    if b"content-encoding" in exchange.fields:
        _check_coding(exchange)
    taken = exchange.taken()
    if taken is not None:
        if len(taken) > limit:
            raise _too_large(scope, limit)
        return taken
    parts: list[bytes] = []
    size = 0
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        part: bytes = message.get("body", b"")
        if part:
            size += len(part)
            if size > limit:
                raise _too_large(scope, limit)
            parts.append(part)
        more = message.get("more_body", False)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _check_coding(exchange: Exchange) -> None:
    codings = [value for name, value in exchange.scope["headers"] if name == b"content-encoding"]
    if any(coding.strip().lower() not in (b"", b"identity") for coding in codings):
        exchange.headers.append((b"accept-encoding", b"identity"))
        raise UnsupportedEncoding("compressed request bodies are not taken; send it without content-encoding")


def parse_object(body: bytes) -> dict[str, Any]:
    """The JSON object of a body.

    Raises BadRequest that names the position and shows no content. An escaped half of a surrogate pair, which clients
    write when they cut a text inside an emoji, is not refused but becomes U+FFFD.
    """
    try:
        value = _loads(body.removeprefix(_BOM))
    except orjson.JSONDecodeError as error:
        if not body.strip():
            raise BadRequest("the request has no body; a JSON object is expected", code="invalid_json") from None
        raise BadRequest(f"the request's body is no valid JSON: {error}", code="invalid_json") from None
    if not isinstance(value, dict):
        raise BadRequest(f"the request's body must be a JSON object, not {_KINDS.get(type(value), 'null')}")
    return value


_KINDS: dict[type, str] = {list: "an array", str: "a string", int: "a number", float: "a number", bool: "a boolean"}


def _loads(body: bytes) -> Any:
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        if not _LONE_SURROGATE.search(body):
            raise
        return orjson.loads(_without_lone_surrogates(body))


def _without_lone_surrogates(body: bytes) -> bytes:
    return _ESCAPE.sub(lambda match: b"\\ufffd" if match[1] else match[0], body)


def _too_large(scope: Scope, limit: int) -> PayloadTooLarge:
    # The rest of the body is still on its way: the connection is of no more use.
    of(scope).headers.append((b"connection", b"close"))
    return PayloadTooLarge(f"the request's body is over the limit of {limit} bytes (BODY_LIMIT)")
