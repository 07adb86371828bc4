"""Bodies that are too large, too deep, or no JSON, through every API, on a real socket."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import AsyncIterator

import pytest

from tests.integration.faults.rig import APIS, MESSAGES, RELAY, Api, Proxy, each, error_of, good, pair, says, until
from tests.server.upstreams import MODEL

pytestmark = pytest.mark.anyio

DEEP = 100_000
LIMIT = 1_000_000
WHERE = {"chat": "messages", "responses": "input", "messages": "messages", "relay": "prompt"}


def body(api: Api, extra: bytes) -> bytes:
    """A good request, and this in it."""
    return json.dumps(api.request()).encode()[:-1] + b", " + extra + b"}"


REFUSED: dict[str, bytes] = {
    "nested arrays": b'"x": ' + b"[" * DEEP + b"]" * DEEP,
    "nested objects": b'"x": ' + b'{"a":' * DEEP + b"1" + b"}" * DEEP,
    "nested, and no end": b'"x": ' + b"[" * DEEP,
    "nested tools": b'"tools": ' + b'[{"function": ' * DEEP + b"1" + b"}]" * DEEP,
    "NaN": b'"temperature": NaN',
    "infinity": b'"temperature": -Infinity',
    "a number without bounds": b'"max_tokens": 1' + b"0" * 400,
    "a float without bounds": b'"temperature": 1e400',
    "bad UTF-8": b'"user": "\xff\xfe"',
    "overlong UTF-8": b'"user": "\xc0\x80"',
    "a surrogate in UTF-8": b'"user": "\xed\xa0\xbd"',
    "a bare control character": b'"user": "a\x00b"',
    "a comment": b'"user": 1 /* no */',
    "a trailing comma": b'"user": 1,',
}


@each(*APIS)
async def test_what_is_no_json_is_refused_and_the_connection_lives(api: Api) -> None:
    async with pair(good) as (upstream, proxy):
        for case, extra in REFUSED.items():
            response = await proxy.client.post(api.path, content=body(api, extra))
            assert response.status_code == 400, (case, response.text)
            error = error_of(api, response)
            assert api is MESSAGES or error["code"] == "invalid_json", case
            assert len(response.content) < 500
        assert upstream.asked == []
        await proxy.works(api)


TAKEN: dict[str, bytes] = {
    "an integer of 64 bits": b'"max_tokens_": 18446744073709551615',
    "an integer beyond 64 bits": b'"max_tokens_": 99999999999999999999999',
    "half a pair": b'"user": "x\\ud83d"',
    "halves the wrong way round": b'"user": "\\ude00\\ud83d"',
    "a key twice": b'"user": "a", "user": "b"',
    "the model twice": f'"model": "{MODEL}"'.encode(),
    "300 deep": b'"x": ' + b"[" * 300 + b"]" * 300,
    "an empty name": b'"": ""',
    "a name of a megabyte": b'"' + b"n" * 1_000_000 + b'": 1',
}


@each(*APIS)
async def test_what_is_odd_is_answered_all_the_same(api: Api) -> None:
    """Taken, or refused for a field of the API's own; never a 500, and what goes upstream is JSON."""
    async with pair(good) as (upstream, proxy):
        for case, extra in TAKEN.items():
            response = await proxy.client.post(api.path, content=body(api, extra))
            assert response.status_code in (200, 400), (case, response.text)
            if response.status_code == 400:
                error_of(api, response)
        for _, sent in upstream.asked:
            sent.decode("utf-8")
            if api is not RELAY:
                json.loads(sent)
        assert upstream.asked
        await proxy.works(api)


@each(*APIS)
async def test_the_users_text_survives_half_an_emoji(api: Api) -> None:
    async with pair(good) as (upstream, proxy):
        data = json.dumps(api.request("MARK")).replace("MARK", "x\\ud83dy")
        response = await proxy.client.post(api.path, content=data)
        assert response.status_code == 200
        sent = upstream.asked[0][1]
        assert says(sent) in ("x\ufffdy", "x\ud83dy")


@each(*APIS)
async def test_more_levels_than_are_allowed(api: Api) -> None:
    async with pair(good, max_json_depth=16) as (upstream, proxy):
        for levels, status in ((15, 200), (16, 400)):  # and the braces around them
            response = await proxy.client.post(api.path, content=body(api, b'"x": ' + b"[" * levels + b"]" * levels))
            assert response.status_code == status, response.text
        assert "nested over 16 levels deep" in error_of(api, response)["message"]
        assert len(upstream.asked) == 1
        await proxy.works(api)


async def chunked(size: int) -> AsyncIterator[bytes]:
    for _ in range(size // 10_000):
        yield b" " * 10_000


async def raw_answer(proxy: Proxy, api: Api, head: bytes, data: bytes) -> bytes:
    """What comes back for bytes that no client library would send."""
    reader, writer = await asyncio.open_connection("127.0.0.1", int(proxy.base.rsplit(":", 1)[1]))
    writer.write(b"POST %b HTTP/1.1\r\nhost: x\r\n%b\r\n\r\n" % (api.path.encode(), head) + data)
    async with asyncio.timeout(10):
        answer = await reader.read()
    writer.close()
    return answer


@each(*APIS)
async def test_a_body_over_the_limit(api: Api) -> None:
    async with pair(good, body_limit=LIMIT) as (upstream, proxy):
        told = await raw_answer(proxy, api, b"content-length: %d" % (LIMIT + 1), b"")
        assert told.startswith(b"HTTP/1.1 413 ")  # before a byte of it has come
        assert b"BODY_LIMIT" in told
        lied = await raw_answer(
            proxy, api, b"transfer-encoding: chunked", b"f4240\r\n" + b" " * 1_000_000 + b"\r\n1\r\n \r\n0\r\n\r\n"
        )
        assert lied.startswith(b"HTTP/1.1 413 ")
        response = await proxy.client.post(api.path, content=b" " * (LIMIT + 1))
        assert response.status_code == 413
        error_of(api, response)
        response = await proxy.client.post(api.path, content=chunked(LIMIT + 10_000))
        assert response.status_code == 413
        error_of(api, response)
        exact = body(api, b'"x": ""')
        exact = exact[:-2] + b" " * (LIMIT - len(exact)) + exact[-2:]
        assert len(exact) == LIMIT
        assert (await proxy.client.post(api.path, content=exact)).status_code in (200, 400)
        await proxy.works(api)
        await until(lambda: proxy.idle)
        assert len(upstream.asked) <= 3


@each(*APIS)
async def test_a_gzip_bomb_is_not_opened(api: Api) -> None:
    bomb = gzip.compress(body(api, b'"x": "' + b"0" * 20_000_000 + b'"'))
    assert len(bomb) < 50_000
    async with pair(good) as (upstream, proxy):
        for coding in ("gzip", "x-gzip", "GZIP", "deflate", "br", "zstd", "identity, gzip"):
            response = await proxy.client.post(api.path, content=bomb, headers={"content-encoding": coding})
            assert response.status_code == 415, coding
            assert response.headers["accept-encoding"] == "identity"
            error_of(api, response)
        response = await proxy.client.post(api.path, content=bomb)
        assert response.status_code == 400
        error_of(api, response)
        assert upstream.asked == []
        await proxy.works(api)


@each(*APIS)
async def test_what_lies_deep_in_the_conversation(api: Api) -> None:
    """What orjson reads, and a walk in Python could not: just under its own limit of depth."""
    async with pair(good) as (_, proxy):
        for depth in (200, 250, 500, 900, 1020):
            nested = b'{"a":' * depth + b"1" + b"}" * depth
            for extra in (
                b'"tools": [{"type": "function", "function": {"name": "f", "parameters": %b}}]' % nested,
                b'"tools": [{"type": "function", "name": "f", "parameters": %b}]' % nested,
                b'"tools": [{"name": "f", "input_schema": %b}]' % nested,
                b'"response_format": %b' % nested,
                b'"metadata": %b' % nested,
                b'"%b": [%b]' % (WHERE[api.name].encode(), nested),
                b'"%b": [{"role": "user", "content": [%b]}]' % (WHERE[api.name].encode(), nested),
                b'"stop": %b' % nested,
                b'"model": %b' % nested,
            ):
                response = await proxy.client.post(api.path, content=body(api, extra))
                assert response.status_code in (200, 400, 404), (extra[:60], depth, response.text)
                if response.status_code != 200:
                    error_of(api, response)
        await proxy.works(api)
