"""W3C Trace Context: what of a client's `traceparent` and `tracestate` may be passed on.

Whatever does not have exactly the form of the recommendation (https://www.w3.org/TR/trace-context/) is dropped, so
that nothing else of the client's gets upstream by this way.
"""

from __future__ import annotations

import re

Headers = list[tuple[bytes, bytes]]

# Version ff is forbidden, and so are ids of zeros. Later versions may be longer: those are not passed on.
_PARENT = re.compile(rb"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
_MEMBER = re.compile(
    rb"([a-z][a-z0-9_*/-]{0,255}|[a-z0-9][a-z0-9_*/-]{0,240}@[a-z][a-z0-9_*/-]{0,13})"
    rb"=[\x20-\x2b\x2d-\x3c\x3e-\x7e]{0,255}[\x21-\x2b\x2d-\x3c\x3e-\x7e]"
)
MOST_MEMBERS = 32
MOST_BYTES = 512
"""What has to be passed on of a tracestate; a longer one is dropped."""


def trace_headers(headers: Headers) -> Headers:
    """The client's valid `traceparent`, and its valid `tracestate`; [] when there is none, or more than one."""
    parents = [value for name, value in headers if name == b"traceparent"]
    if len(parents) != 1 or not _PARENT.fullmatch(parents[0]):
        return []
    state = _state([value for name, value in headers if name == b"tracestate"])
    return [(b"traceparent", parents[0]), *([(b"tracestate", state)] if state else ())]


def _state(values: list[bytes]) -> bytes:
    """The members of all tracestate headers as one value; empty when one of them is wrong."""
    if sum(map(len, values)) > MOST_BYTES:
        return b""
    members = [stripped for value in values for member in value.split(b",") if (stripped := member.strip(b" \t"))]
    keys: set[bytes] = set()
    for member in members:
        found = _MEMBER.fullmatch(member)
        if found is None or found[1] in keys:
            return b""
        keys.add(found[1])
    return b",".join(members) if len(members) <= MOST_MEMBERS else b""
