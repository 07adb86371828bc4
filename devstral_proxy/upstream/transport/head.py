"""Request heads: built and checked once for each method, target and set of headers."""

from __future__ import annotations

import re
from dataclasses import dataclass

import httpx

Headers = list[tuple[bytes, bytes]]

_TOKEN = re.compile(rb"[-!#$%&'*+.^_`|~0-9A-Za-z]+").fullmatch
_VALUE = re.compile(rb"[\t\x20-\x7e\x80-\xff]*").fullmatch
_TARGET = re.compile(rb"[\x21-\x7e]+").fullmatch
_MOST = 256
"""Heads that are kept. A proxy has a handful; more means that something varies, and then keeping is no use."""


@dataclass(frozen=True, slots=True)
class Head:
    """A request's head up to where `content-length` goes, and how its body is framed."""

    start: bytes
    chunked: bool
    head_only: bool
    """The answer has no body whatever its head says: HEAD."""

    def whole(self, length: int, extra: Headers | None = None) -> bytes:
        """The bytes of the head; `length` counts for a body that is not chunked, `extra` are headers of this request
        alone. Raises httpx.LocalProtocolError for a value that must not be written."""
        start = self.start
        for name, value in extra or ():
            if not _TOKEN(name) or not _VALUE(value):
                raise httpx.LocalProtocolError("illegal header")
            start += b"%b: %b\r\n" % (name, value)
        if self.chunked:
            return start + b"\r\n"
        return b"%bcontent-length: %d\r\n\r\n" % (start, length) if length >= 0 else start + b"\r\n"


class Heads:
    """The heads built so far."""

    __slots__ = ("_heads",)

    def __init__(self) -> None:
        self._heads: dict[tuple[object, ...], Head] = {}

    def of(self, request: httpx.Request) -> tuple[Head, int]:
        """The head, and the length that the request declares for its body: -1 for none.

        Raises httpx.LocalProtocolError for what must not be written: CR LF in a value, a space in the target, ….
        """
        length = -1
        rest = []
        for pair in request.headers.raw:
            name = pair[0]
            if len(name) == 14 and name.lower() == b"content-length":
                length = _length(pair[1])
            else:
                rest.append(pair)
        target = request.extensions.get("target") or request.url.raw_path
        key = (request.method, target, *rest)
        head = self._heads.get(key)
        if head is None:
            head = _build(request.method.encode("ascii", "replace"), target, rest)
            if len(self._heads) >= _MOST:
                self._heads.clear()
            self._heads[key] = head
        return head, length


def _length(value: bytes) -> int:
    if not value.isdigit() or len(value) > 18:
        raise httpx.LocalProtocolError("bad Content-Length")
    return int(value)


def _build(method: bytes, target: bytes, headers: list[tuple[bytes, bytes]]) -> Head:
    if not _TOKEN(method) or method == b"CONNECT":
        raise httpx.LocalProtocolError("illegal method")
    if not _TARGET(target):
        raise httpx.LocalProtocolError("illegal target characters")
    lines = [b"%b %b HTTP/1.1\r\n" % (method, target)]
    hosts, chunked = 0, False
    for name, value in headers:
        if not _TOKEN(name):
            raise httpx.LocalProtocolError("illegal header name")
        if not _VALUE(value) or value != value.strip(b" \t"):
            raise httpx.LocalProtocolError("illegal header value")
        lower = name.lower()
        hosts += lower == b"host"
        if lower == b"transfer-encoding":
            if value.lower() != b"chunked" or chunked:
                raise httpx.LocalProtocolError("only one Transfer-Encoding is supported: chunked")
            chunked = True
        lines.append(b"%b: %b\r\n" % (name, value))
    if hosts != 1:
        raise httpx.LocalProtocolError("a request needs one Host header")
    return Head(b"".join(lines), chunked, method == b"HEAD")
