"""Reading a request: limits, encodings, and JSON that is none."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devstral_proxy.errors import BadRequest
from devstral_proxy.server.body import parse_object
from tests.server.upstreams import Vllm, proxied, request

REFUSED: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "no body"),
    "blanks": (b" \n", "no body"),
    "no JSON": (b"model=x", "column 1"),
    "half": (b'{"model": "m"', "column 14"),
    "trailing comma": (b'{"model": "m",}', "column 14"),
    "NaN": (b'{"temperature": NaN}', "column 17"),
    "Infinity": (b'{"temperature": -Infinity}', "column"),
    "bad UTF-8": (b'{"model": "\xff\xfe"}', "valid JSON"),
    "overlong UTF-8": (b'{"model": "\xc0\xaf"}', "valid JSON"),
    "surrogate as UTF-8": (b'{"model": "\xed\xa0\xbd"}', "valid JSON"),
    "control character": (b'{"model": "a\nb"}', "column"),
    "UTF-16": ('{"model": "m"}'.encode("utf-16"), "valid JSON"),
    "too deep": (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "valid JSON"),
    "deep array": (b"[" * 100_000, "valid JSON"),
    "an array": (b"[]", "not an array"),
    "a string": (b'"secret"', "not a string"),
    "a number": (b"1", "not a number"),
    "a boolean": (b"true", "not a boolean"),
    "null": (b"null", "not null"),
    "two values": (b"{} {}", "column 4"),
    "lone surrogate in broken JSON": (b'{"a": "\\ud83d", }', "valid JSON"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_object_is_refused_with_its_place(case: str) -> None:
    body, says = REFUSED[case]
    with pytest.raises(BadRequest) as caught:
        parse_object(body)
    assert says in caught.value.message
    assert "secret" not in caught.value.message
    assert len(caught.value.message) < 200


TAKEN: dict[str, tuple[bytes, object]] = {
    "plain": (b'{"a": 1}', {"a": 1}),
    "byte order mark": (b'\xef\xbb\xbf{"a": 1}', {"a": 1}),
    "duplicate keys: the last": (b'{"a": 1, "a": 2}', {"a": 2}),
    "huge integer": (b'{"a": 1' + b"0" * 400 + b"}", None),
    "U+2028": ('{"a": "\u2028"}'.encode(), {"a": "\u2028"}),
    "a pair": (b'{"a": "\\ud83d\\ude00"}', {"a": "😀"}),
    "a lone high half": (b'{"a": "x\\ud83d"}', {"a": "x\ufffd"}),
    "a lone low half": (b'{"a": "\\uDE00y"}', {"a": "\ufffdy"}),
    "halves the wrong way round": (b'{"a": "\\ude00\\ud83d"}', {"a": "\ufffd\ufffd"}),
    "a half before a pair": (b'{"a": "\\ud83d\\ud83d\\ude00"}', {"a": "\ufffd😀"}),
    "an escaped backslash before it": (b'{"a": "\\\\ud83d \\ud83d"}', {"a": "\\ud83d \ufffd"}),
}


@pytest.mark.parametrize("case", TAKEN)
def test_what_clients_write_is_taken(case: str) -> None:
    body, value = TAKEN[case]
    if value is None:
        with pytest.raises(BadRequest):
            parse_object(body)
    else:
        assert parse_object(body) == value


@given(st.binary(max_size=200))
def test_any_bytes_are_an_object_or_one_error(body: bytes) -> None:
    with contextlib.suppress(BadRequest):
        assert isinstance(parse_object(body), dict)


@given(st.text(st.characters(codec=None, categories=["Cs", "Ll", "Po"]), max_size=20))
def test_any_text_of_escapes_is_taken(text: str) -> None:
    escaped = "".join(f"\\u{ord(char):04x}" for char in text if ord(char) < 0x10000)
    value = parse_object(b'{"a": "' + escaped.encode() + b'"}')["a"]
    value.encode()


CHAT = "/v1/chat/completions"


@pytest.mark.anyio
@pytest.mark.parametrize("path", [CHAT, "/v1/completions"])
async def test_a_body_over_the_limit_is_refused_before_it_is_read(path: str) -> None:
    read = 0

    async def body() -> AsyncIterator[bytes]:
        nonlocal read
        for _ in range(100):
            read += 1
            yield b"x" * 1024

    upstream = Vllm()
    async with proxied(upstream, body_limit=4096) as client:
        told = await client.post(path, content=b"x" * 4097)
        assert told.status_code == 413
        assert "BODY_LIMIT" in told.json()["error"]["message"]
        assert told.headers["connection"] == "close"
        early = await client.post(path, content=body(), headers={"content-length": "102400"})
        assert early.status_code == 413
        assert read <= 1
        late = await client.post(path, content=body())
        assert late.status_code == 413
        exact = await client.post(path, content=b" " * 4096)
        assert exact.status_code == 400
    assert [one.url.path for one in upstream.requests if one.method == "POST"] == []


@pytest.mark.anyio
@pytest.mark.parametrize("length", ["x", "-1", "1e3", "9" * 30])
async def test_a_content_length_that_is_no_number_is_refused(length: str) -> None:
    async def body() -> AsyncIterator[bytes]:
        yield b"{}"

    async with proxied(Vllm()) as client:
        response = await client.post(CHAT, content=body(), headers={"content-length": length})
    assert response.status_code == 400


@pytest.mark.anyio
@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "zstd", "gzip, identity"])
async def test_compressed_bodies_are_refused(coding: str) -> None:
    async with proxied(Vllm()) as client:
        response = await client.post(CHAT, content=b"\x1f\x8b", headers={"content-encoding": coding})
    assert response.status_code == 415
    assert response.headers["accept-encoding"] == "identity"
    assert response.json()["error"]["code"] == "unsupported_content_encoding"


@pytest.mark.anyio
@pytest.mark.parametrize("kind", ["application/json", "application/json; charset=utf-8", "text/plain", None])
async def test_the_content_type_does_not_matter(kind: str | None) -> None:
    headers = {"content-type": kind} if kind else {}
    upstream = Vllm()
    async with proxied(upstream) as client:
        encoded = client.build_request("POST", CHAT, json=request()).content
        response = await client.post(CHAT, content=encoded, headers={**headers, "content-encoding": "identity"})
    assert response.status_code == 200
    assert upstream.requests[-1].headers["content-type"] == "application/json"
