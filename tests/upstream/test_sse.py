"""The SSE parser: one table of bodies, each whole, byte by byte, with CR LF and with CR."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devstral_proxy.errors import UpstreamProtocolError
from devstral_proxy.upstream.sse import DONE, KEEPALIVE, Event, EventTooLarge, Parser, encode

CASES: dict[str, tuple[bytes, list[tuple[bytes, bytes]]]] = {
    "one": (b"data: a\n\n", [(b"a", b"")]),
    "two in one chunk": (b"data: a\n\ndata: b\n\n", [(b"a", b""), (b"b", b"")]),
    "no space behind the colon": (b"data:a\n\n", [(b"a", b"")]),
    "two spaces: one belongs to the data": (b"data:  a\n\n", [(b" a", b"")]),
    "several data lines": (b"data: a\ndata: b\ndata:\n\n", [(b"a\nb\n", b"")]),
    "empty data": (b"data:\n\n", [(b"", b"")]),
    "data without a colon": (b"data\n\n", [(b"", b"")]),
    "a comment": (b": keepalive\n\ndata: a\n\n", [(b"a", b"")]),
    "a comment within": (b"data: a\n: x\ndata: b\n\n", [(b"a\nb", b"")]),
    "a bare comment": (b":\ndata: a\n\n", [(b"a", b"")]),
    "a name": (b"event: error\ndata: a\n\ndata: b\n\n", [(b"a", b"error"), (b"b", b"")]),
    "a name without data": (b"event: x\n\ndata: a\n\n", [(b"a", b"")]),
    "id and retry": (b"id: 1\nretry: 5\ndata: a\n\n", [(b"a", b"")]),
    "an unknown field": (b"date: 1\ndata: a\n\n", [(b"a", b"")]),
    "many blank lines": (b"\n\n\ndata: a\n\n\n\n\ndata: b\n\n", [(b"a", b""), (b"b", b"")]),
    "a byte order mark": (b"\xef\xbb\xbfdata: a\n\ndata: b\n\n", [(b"a", b""), (b"b", b"")]),
    "a byte order mark that is none": (b"data: a\n\n\xef\xbb\xbfdata: b\n\ndata: c\n\n", [(b"a", b""), (b"c", b"")]),
    "line separators of Unicode": (
        "data: a\u2028b\u2029c\u0085d\n\n".encode(),
        [("a\u2028b\u2029c\u0085d".encode(), b"")],
    ),
    "form feed and vertical tab": (b"data: a\x0bb\x0cc\n\n", [(b"a\x0bb\x0cc", b"")]),
    "no UTF-8": (b"data: \xff\xfe\n\n", [(b"\xff\xfe", b"")]),
    "no final blank line": (b"data: a\n\ndata: b\n", [(b"a", b""), (b"b", b"")]),
    "no final line end": (b"data: a\n\ndata: b", [(b"a", b""), (b"b", b"")]),
    "a field cut at the end": (b"data: a\n\ndat", [(b"a", b"")]),
    "nothing": (b"", []),
    "only comments": (b": a\n\n: b\n\n", []),
}


def parse(body: bytes, step: int = 0, limit: int = 1 << 20) -> list[Event]:
    parser = Parser(limit)
    events: list[Event] = []
    step = step or max(1, len(body))
    for start in range(0, len(body), step):
        events += parser.feed(body[start : start + step])
    return events + parser.eof()


def told(events: list[Event]) -> list[tuple[bytes, bytes]]:
    return [(event.data, event.type) for event in events]


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
@pytest.mark.parametrize("step", [0, 1, 2, 3, 5])
def test_bodies(name: str, end: bytes, step: int) -> None:
    body, expected = CASES[name]
    assert told(parse(body.replace(b"\n", end), step)) == expected


@pytest.mark.parametrize("name", CASES)
def test_raw_is_one_form(name: str) -> None:
    body, expected = CASES[name]
    again = parse(b"".join(event.raw for event in parse(body)))
    assert told(again) == expected


def test_a_healthy_event_goes_on_as_it_came() -> None:
    body = b'data: {"a": 1}\n\ndata: [DONE]\n\n'
    assert b"".join(event.raw for event in parse(body)) == body


def test_written() -> None:
    assert DONE.raw == b"data: [DONE]\n\n"
    assert KEEPALIVE == b": keepalive\n\n"
    assert encode(b"a\nb", b"x").raw == b"event: x\ndata: a\ndata: b\n\n"
    assert told(parse(KEEPALIVE + DONE.raw)) == [(b"[DONE]", b"")]


@pytest.mark.parametrize(
    "body",
    [
        b"data: " + b"x" * 200 + b"\n\n",
        b"data: " + b"x" * 200,
        b": " + b"x" * 200,
        b"data: x\n" * 30,
        b"x" * 200 + b"\n\n",
    ],
)
@pytest.mark.parametrize("step", [0, 1, 7])
def test_an_event_over_the_limit(body: bytes, step: int) -> None:
    parser = Parser(100)
    first = b"data: first\n\n"
    events: list[Event] = []
    step = step or len(first + body)

    def read() -> None:
        for start in range(0, len(first + body), step):
            events.extend(parser.feed((first + body)[start : start + step]))
        parser.eof()

    with pytest.raises(EventTooLarge, match="100 bytes") as caught:
        read()
    assert isinstance(caught.value, UpstreamProtocolError)
    assert caught.value.code == "upstream_event_too_large"
    assert told(events) == [(b"first", b"")], "what was complete before it is not lost"
    with pytest.raises(EventTooLarge):
        parser.feed(b"data: more\n\n")


def test_the_limit_itself_is_allowed() -> None:
    body = b"data: " + b"x" * 94 + b"\n\n"
    for step in (0, 1):
        assert len(parse(body, step, limit=100)) == 1


def test_comments_do_not_add_up() -> None:
    assert told(parse(b": keepalive\n\n" * 50 + b"data: a\n\n", limit=100)) == [(b"a", b"")]


LINES = st.sampled_from(
    [b"data: a", b"data:", b"data", b"data: \xe2\x80\xa8", b"event: e", b": c", b":", b"id: 1", b"x: y", b"", b""]
)


@given(st.lists(LINES, max_size=12), st.sampled_from([b"\n", b"\r\n", b"\r"]), st.lists(st.integers(1, 9), max_size=20))
def test_any_cut_is_the_same(lines: list[bytes], end: bytes, cuts: list[int]) -> None:
    body = end.join(lines)
    expected = [(event.data, event.raw) for event in parse(body)]
    parser = Parser()
    events: list[Event] = []
    rest = body
    for cut in cuts:
        events += parser.feed(rest[:cut])
        rest = rest[cut:]
    events += parser.feed(rest)
    assert [(event.data, event.raw) for event in events + parser.eof()] == expected


@given(st.binary(max_size=300), st.integers(1, 40))
def test_any_bytes(body: bytes, step: int) -> None:
    events = parse(body, step)
    assert told(events) == told(parse(body))
    for event in events:
        assert event.raw.endswith(b"\n\n")
        assert b"\r" not in event.raw
