"""What vLLM, or what stands before it, may answer instead of an answer; before the first byte of ours."""

from __future__ import annotations

import asyncio
import json
import socket

import pytest

from tests.integration.faults.rig import (
    ANSWER,
    APIS,
    CHAT,
    MESSAGES,
    RELAY,
    STREAM,
    Api,
    Connection,
    Handler,
    Raw,
    each,
    ending,
    error_of,
    good,
    pair,
    served,
    sockets,
    unless_told,
    until,
)

pytestmark = pytest.mark.anyio

TYPES = {
    400: "invalid_request_error", 404: "not_found_error", 429: "rate_limit_error", 500: "api_error", 502: "api_error",
    503: "overloaded_error", 504: "timeout_error",
}  # fmt: skip
"""Anthropic's names."""


def answers(status: bytes, body: bytes, kind: bytes = b"application/json", *headers: bytes) -> Handler:
    """Always this."""
    lines = [b"HTTP/1.1 " + status, b"content-type: " + kind, b"content-length: %d" % len(body), *headers, b"", body]
    return sends(b"\r\n".join(lines))


def sends(data: bytes) -> Handler:
    """Always these bytes, and no more: the connection is closed."""

    async def handler(raw: Raw, connection: Connection, line: str, body: bytes) -> None:
        await connection.send(data)
        raise ConnectionError

    return handler


async def silent(raw: Raw, connection: Connection, line: str, body: bytes) -> None:
    await connection.until_closed()


async def resets(raw: Raw, connection: Connection, line: str, body: bytes) -> None:
    connection.writer.transport.abort()
    raise ConnectionError


def vllm_error(status: int) -> bytes:
    return json.dumps({"error": {"message": "says vLLM", "type": "X", "param": None, "code": status}}).encode()


HTML = b"<html><body><h1>It works!</h1></body></html>"
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"
FAULTS: dict[str, tuple[Handler, int]] = {
    "silent": (silent, 504),
    "resets": (resets, 502),
    "closes": (sends(b""), 502),
    "half a head": (sends(b"HTTP/1.1 200 OK\r\ncontent-ty"), 502),
    "no HTTP": (sends(b"SSH-2.0-OpenSSH_9.6\r\n"), 502),
    "400": (answers(b"400 Bad Request", vllm_error(400)), 400),
    "404": (answers(b"404 Not Found", vllm_error(404)), 404),
    "500": (answers(b"500 Internal Server Error", vllm_error(500)), 500),
    "503": (answers(b"503 Service Unavailable", vllm_error(503), b"application/json", b"retry-after: 0"), 503),
    "500, plain text": (answers(b"500 Internal Server Error", b"Internal Server Error", b"text/plain"), 500),
    "502 of a gateway": (answers(b"502 Bad Gateway", HTML, b"text/html"), 502),
    "an error whose body is cut": (sends(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 999\r\n\r\n{"), 502),
    "HTML with 200": (answers(b"200 OK", HTML, b"text/html"), 502),
    "nothing with 200": (answers(b"200 OK", b""), 502),
    "half a JSON": (answers(b"200 OK", ANSWER[: len(ANSWER) // 2]), 502),
    "a body that is cut": (sends(HEAD + b"content-length: 999\r\n\r\n" + ANSWER[:50]), 502),
    "bad chunk": (sends(HEAD + b"transfer-encoding: chunked\r\n\r\nzz\r\n" + ANSWER), 502),
    "chunked and cut": (sends(HEAD + b"transfer-encoding: chunked\r\n\r\nfff\r\n" + ANSWER[:50]), 502),
    "a stream without an event": (answers(b"200 OK", b"", b"text/event-stream"), 502),
    "a stream whose first event is an error": (
        answers(b"200 OK", b"data: " + vllm_error(400) + b"\n\ndata: [DONE]\n\n", b"text/event-stream"), 400,
    ),
    "a length that is a lie": (sends(HEAD + b"content-length: x\r\n\r\n{}"), 502),
    "two lengths": (sends(HEAD + b"content-length: 2\r\ncontent-length: 3\r\n\r\n{}"), 502),
    "gzip that is none": (sends(HEAD + b"content-encoding: gzip\r\ncontent-length: 4\r\n\r\nnope"), 502),
    "a redirect": (answers(b"307 Temporary Redirect", b"", b"text/html", b"location: http://10.0.0.9/v1"), 502),
    "a head without end": (sends(b"HTTP/1.1 200 OK\r\nx-filler: " + b"x" * 1_000_000), 502),
}  # fmt: skip
NO_STREAM_READER = ("a stream without an event", "a stream whose first event is an error")
"""What the relay passes on as it is."""


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@each(*APIS)
async def test_each_fault_is_an_error_in_the_words_of_the_api(
    api: Api, stream: bool, caplog: pytest.LogCaptureFixture
) -> None:
    which = ""

    async def handler(raw: Raw, connection: Connection, line: str, body: bytes) -> None:
        await FAULTS[which][0](raw, connection, line, body)

    caplog.set_level("ERROR")
    values = {"first_byte_timeout": 0.1, "request_timeout": 0.2, "retry_max": 0, "breaker_failures": 0}
    async with pair(unless_told(handler), pool_size=2, **values) as (_, proxy):
        for which, (_, status) in FAULTS.items():
            if api is RELAY and which in NO_STREAM_READER:
                continue
            response = await proxy.ask(api, "fault", stream)
            assert response.status_code == status, (which, response.text)
            error = error_of(api, response)
            if api is MESSAGES:
                assert error["type"] == TYPES[status], which
            assert "10.0.0.9" not in f"{response.headers} {response.text}"
            assert "<h1>" not in response.text or status == 502
            await until(lambda: proxy.idle)
        await proxy.works(api)
    assert caplog.records == []


WAYS = [(api, stream) for api in APIS for stream in (False, True)]


async def test_a_server_that_refuses_connections() -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))  # and does not listen
        async with served(f"http://127.0.0.1:{bound.getsockname()[1]}", breaker_failures=0) as proxy:
            for api, stream in WAYS:
                response = await proxy.ask(api, stream=stream)
                assert response.status_code == 502
                error_of(api, response)
            assert proxy.idle


async def test_a_server_that_accepts_no_connection_in_time() -> None:
    """Its queue is full, so that the kernel leaves the handshake unanswered."""
    with socket.socket() as full, socket.socket() as first, socket.socket() as second:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for one in (first, second):
            one.setblocking(False)
            one.connect_ex(full.getsockname())
        base = f"http://127.0.0.1:{full.getsockname()[1]}"
        async with served(base, connect_timeout=0.1, breaker_failures=0) as proxy:
            for api, stream in WAYS:
                response = await proxy.ask(api, stream=stream)
                assert response.status_code == 504
                error_of(api, response)
            await until(lambda: proxy.idle)


@each(*APIS)
@pytest.mark.parametrize("status", [400, 500])
async def test_two_hundred_errors_cost_no_connection(api: Api, status: int) -> None:
    async def handler(raw: Raw, connection: Connection, line: str, body: bytes) -> None:
        await connection.whole(vllm_error(status), status=b"%d X" % status)

    async with pair(unless_told(handler), pool_size=4) as (upstream, proxy):
        await proxy.works(api)
        before = len(asyncio.all_tasks()), sockets()
        for _ in range(20):
            answered = await asyncio.gather(*(proxy.ask(api, "fault", stream=True) for _ in range(10)))
            for response in answered:
                assert response.status_code == status
                assert "says vLLM" in error_of(api, response)["message"]
        await until(lambda: proxy.idle)
        assert len(upstream.connections) <= 8  # they are used again
        await until(lambda: len(asyncio.all_tasks()) <= before[0] + 24 and sockets() <= before[1] + 32)
        await proxy.works(api)
        assert proxy.services.fleet.targets[0].breaker.state == "closed"


async def test_informational_answers_before_the_real_one() -> None:
    async def handler(raw: Raw, connection: Connection, line: str, body: bytes) -> None:
        await connection.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        await connection.send(b"HTTP/1.1 103 Early Hints\r\nlink: </x>; rel=preload\r\n\r\n")
        await good(raw, connection, line, body)

    async with pair(handler) as (_, proxy):
        for api, stream in WAYS:
            response = await proxy.ask(api, stream=stream)
            assert response.status_code == 200
            assert "link" not in response.headers
            assert not stream or ending(api, response.content).clean


@pytest.mark.parametrize("abruptly", [False, True])
async def test_an_idle_connection_that_closes_at_the_moment_of_use(abruptly: bool) -> None:
    """vLLM ends it when the next request is on its way: nobody has read that one, so it is sent once more."""
    used: dict[int, int] = {}

    async def handler(raw: Raw, connection: Connection, line: str, body: bytes) -> None:
        used[id(connection)] = used.get(id(connection), 0) + 1
        if used[id(connection)] > 1:
            if abruptly:
                connection.writer.transport.abort()
            raise ConnectionError
        await good(raw, connection, line, body)

    async with pair(handler, retry_max=0) as (upstream, proxy):
        for api, stream in WAYS * 3:
            response = await proxy.ask(api, stream=stream)
            assert response.status_code == 200, response.text
            assert not stream or ending(api, response.content).clean
        assert max(used.values()) == 2
        assert len(upstream.asked) == 2 * len(WAYS) * 3 - 1
        await until(lambda: proxy.idle)


async def test_a_redirect_is_not_followed() -> None:
    reached = Raw(good)
    async with reached.serve() as elsewhere:

        async def handler(raw: Raw, connection: Connection, line: str, body: bytes) -> None:
            location = b"location: %b/v1/chat/completions\r\n" % elsewhere.encode()
            await connection.send(b"HTTP/1.1 308 Permanent Redirect\r\n" + location + b"content-length: 0\r\n\r\n")

        async with pair(handler) as (_, proxy):
            for api in APIS:
                response = await proxy.ask(api)
                assert response.status_code == 502
                assert elsewhere.removeprefix("http://") not in f"{response.headers} {response.text}"
                assert "location" not in response.headers
    assert reached.connections == []


async def test_hop_by_hop_and_private_headers_of_upstream_do_not_come_through() -> None:
    secret = (
        b"set-cookie: a=b\r\nserver: uvicorn\r\nkeep-alive: timeout=5\r\nx-internal: yes\r\nproxy-authenticate: x\r\n"
    )

    async def handler(raw: Raw, connection: Connection, line: str, body: bytes) -> None:
        data, kind = (STREAM, b"text/event-stream") if json.loads(body).get("stream") else (ANSWER, b"application/json")
        head = b"HTTP/1.1 200 OK\r\ncontent-type: %b\r\ncontent-length: %d\r\nconnection: keep-alive, x-named\r\n"
        await connection.send(head % (kind, len(data)) + secret + b"x-named: yes\r\n\r\n" + data)

    async with pair(handler) as (_, proxy):
        for api in APIS:
            for stream in (False, True):
                response = await proxy.ask(api, stream=stream)
                assert response.status_code == 200
                names = set(response.headers)
                assert not names & {"set-cookie", "server", "keep-alive", "x-internal", "x-named", "proxy-authenticate"}
                assert "connection" not in names


async def test_nothing_of_the_clients_head_goes_upstream() -> None:
    heads: list[str] = []

    class Listening(Connection):
        async def request(self) -> tuple[str, bytes]:
            head = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            heads.append(head)
            length = next((int(one[15:]) for one in head.split("\r\n") if one.startswith("content-length:")), 0)
            return head.split("\r\n")[0], await self._reader.readexactly(length)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("tests.server.upstreams.Connection", Listening)
        async with pair(good, vllm_api_key="server-key", api_keys="ada:client-key") as (_, proxy):
            sent = {
                "authorization": "Bearer client-key", "x-api-key": "client-key", "cookie": "a=b", "te": "trailers",
                "connection": "keep-alive, x-named", "x-named": "yes", "x-forwarded-for": "1.2.3.4",
                "x-forwarded-host": "evil.test", "host": "evil.test", "proxy-authorization": "Basic x",
                "forwarded": "host=evil.test", "x-original-url": "/admin", "x-custom": "yes", "expect": "100-continue",
            }  # fmt: skip
            for api in APIS:
                for path in (api.path, f"{proxy.base}{api.path}?target=http://evil.test/"):
                    response = await proxy.client.post(path, json=api.request(), headers=sent)
                    assert response.status_code == 200, response.text
    asked = [head for head in heads if head.startswith("POST")]
    assert len(asked) == 2 * len(APIS)
    for head in asked:
        line, *rest = head.rstrip("\r\n").split("\r\n")
        assert line in ("POST /v1/chat/completions HTTP/1.1", "POST /v1/completions HTTP/1.1")
        headers = dict(one.split(": ", 1) for one in rest)
        assert headers.pop("host").startswith("127.0.0.1:")
        assert headers.pop("authorization") == "Bearer server-key"
        assert set(headers) == {
            "accept", "accept-encoding", "connection", "user-agent", "content-type", "content-length",
        }  # fmt: skip
        assert "client-key" not in head
    assert "evil" not in "".join(heads)


@pytest.mark.parametrize(
    "path",
    [
        "/v1/completions/../../metrics", "/v1/chat/completions/%2e%2e/%2e%2e/load_lora_adapter", "/load_lora_adapter",
        "/v1/load_lora_adapter", "/sleep", "/v1/chat/completions%00", "http://evil.test/v1/embeddings2",
        "/v1/completions%2f..%2f..%2fshutdown",
    ],
)  # fmt: skip
async def test_the_client_does_not_choose_a_path_of_upstream(path: str) -> None:
    async with pair(good) as (upstream, proxy):
        reader, writer = await asyncio.open_connection("127.0.0.1", int(proxy.base.rsplit(":", 1)[1]))
        data = json.dumps(CHAT.request()).encode()
        head = f"POST {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {len(data)}\r\n\r\n"
        writer.write(head.encode() + data)
        async with asyncio.timeout(10):
            answer = await reader.read()
        writer.close()
        assert answer.split(b" ")[1] in (b"404", b"400"), answer
        assert upstream.asked == []
