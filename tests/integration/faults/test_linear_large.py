"""The same at 10 MB: each reader of text, with text of which so much is read within a second or two. `test_linear`
holds the readers to all the other kinds, and to what is many instead of long."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import httpx
import pytest

from devstral_proxy.dialects.chat import ChatAnswer
from devstral_proxy.dialects.messages import Messages, estimate
from devstral_proxy.dialects.responses import Responses
from devstral_proxy.errors import ProxyError, UpstreamError
from devstral_proxy.log.secrets import Redact
from devstral_proxy.log.writer import printable
from devstral_proxy.mistral import refusals
from devstral_proxy.mistral.fold import fold
from devstral_proxy.server.body import parse_object
from devstral_proxy.server.content_log import digest
from devstral_proxy.server.http import HttpLimits
from devstral_proxy.server.shape import refuse_image_url
from devstral_proxy.upstream import sse
from devstral_proxy.upstream.affinity import affinity_of
from devstral_proxy.upstream.transport import FastTransport
from tests.integration.faults.hostile import (
    HOSTILE,
    PREFIXES,
    TOOLS,
    answered,
    hostile,
    linear_to_10_mb,
    no_collector,
    stream,
    translator,
)
from tests.integration.faults.rig import CHAT, MESSAGES, RESPONSES
from tests.server.http.serving import CLOSE, serving
from tests.server.upstreams import DONE, chunk
from tests.upstream.raw_server import Peer, Server

pytestmark = pytest.mark.usefixtures("no_collector")
__all__ = ["no_collector"]  # a fixture

STEP = 4000
"""Characters of a chunk: ten megabytes in one would be over the limit of an event, once quotes are escaped."""


def each(*cases: str) -> Any:
    """A test for each kind of text: `kind`, or `where: kind` with the prefix that it stands behind."""
    return pytest.mark.parametrize("case", cases)


def text_of(case: str, size: int) -> str:
    where, _, kind = case.rpartition(": ")
    return {**PREFIXES, "in a string": '{"path": "'}[where] + hostile(HOSTILE[kind], size)


@each(
    "calls that are whole", "half marks", "thoughts that end", "brackets", "quotes", "line ends", "a word",
    "in a call: half marks", "in a call: braces", "in a call: quotes", "in a call: blanks", "in a call: keys",
    "in an array: half marks", "in an array: thoughts", "in an array: escapes",
)  # fmt: skip
def test_the_text_of_a_streamed_answer(case: str) -> None:
    body = {**CHAT.request(stream=True), "tools": TOOLS}

    def make(size: int) -> Callable[[], object]:
        pieces = stream(text_of(case, size), STEP)
        return lambda: answered(body, pieces)

    linear_to_10_mb(make)


@each("half marks", "brackets", "escaped quotes", "in a call: closing", "in an array: NaN")
def test_the_text_of_a_whole_answer(case: str) -> None:
    def make(size: int) -> Callable[[], object]:
        message = {"role": "assistant", "content": text_of(case, size)}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        data = json.dumps({"id": "c", "object": "chat.completion", "choices": [choice]}).encode()

        def work() -> object:
            made = translator()
            made.request({**CHAT.request(), "tools": TOOLS})
            return ChatAnswer(made).whole(data, "application/json")

        return work

    linear_to_10_mb(make)


# vLLM 0.12 is asked for the model's own text and its token ids: 9 is the marker.
TOKENS = {
    "calls": ('[TOOL_CALLS]look{"path": "a"}', [9, 6, 32, 8]),
    "calls that are spelled": ('[TOOL_CALLS]look{"path": "a"}', [5, 6, 7, 8]),
    "markers": ("[TOOL_CALLS]", [9]),
    "half marks": ("[TOOL_CALL", [5]),
    "a name without end": ("x", [5]),
}


@pytest.mark.parametrize("case", TOKENS)
def test_text_with_token_ids(case: str) -> None:
    unit, ids = TOKENS[case]
    body = {**CHAT.request(stream=True), "tools": TOOLS}

    def make(size: int) -> Callable[[], object]:
        times = STEP // len(unit)
        one = {"index": 0, "delta": {"content": unit * times}, "finish_reason": None, "token_ids": ids * times}
        first = {**one, "delta": {"content": "[TOOL_CALLS]"}, "token_ids": [9]}
        pieces = [chunk({"role": "assistant", "content": ""}), chunk({}, choices=[first])]
        pieces += [chunk({}, choices=[one])] * (size // STEP) + [chunk({}, "stop"), DONE]
        return lambda: answered(body, pieces, "0.12.0")

    linear_to_10_mb(make)


@each("calls with names", "half marks", "code fences", "brackets", "braces that close", "quotes", "keys", "a word")
def test_the_arguments_of_an_answer(case: str) -> None:
    body = {**CHAT.request(stream=True), "tools": TOOLS}

    def make(size: int) -> Callable[[], object]:
        text = '{"path": ' + text_of(case, size)
        call = {"index": 0, "id": "a", "function": {"name": "look", "arguments": ""}}
        deltas = [
            {"tool_calls": [{"index": 0, "function": {"arguments": text[at : at + STEP]}}]}
            for at in range(0, size, STEP)
        ]
        pieces = [chunk({"role": "assistant"}), chunk({"tool_calls": [call]}), *map(chunk, deltas)]
        return lambda: answered(body, [*pieces, chunk({}, "tool_calls"), DONE])

    linear_to_10_mb(make)


@each("keys", "braces that close", "closing", "half numbers", "in a string: escapes", "in a string: escaped quotes")
def test_a_history(case: str) -> None:
    """Its arguments are completed; the other texts are only looked at."""

    def make(size: int) -> Callable[[], object]:
        text = text_of(case, size)
        call = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": text}}
        history = [
            {"role": "user", "content": text},
            {"role": "assistant", "content": text, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "c1", "content": text},
        ]
        body = {**CHAT.request(), "tools": TOOLS, "messages": history}

        def work() -> None:
            affinity_of(body, "")
            digest(history, b"k")
            translator().request(body)

        return work

    linear_to_10_mb(make)


@each("calls", "quotes", "a word")
def test_what_the_dialects_read(case: str) -> None:
    def make(size: int) -> Callable[[], object]:
        text = text_of(case, size)
        items: list[dict[str, Any]] = [
            {"type": "function_call", "call_id": "c", "name": "f", "arguments": text},
            {"type": "function_call_output", "call_id": "c", "output": text},
            {"type": "reasoning", "summary": [{"type": "summary_text", "text": text}], "encrypted_content": text},
        ]
        use = {"type": "tool_use", "id": "c", "name": "f", "input": {"a": text}}
        result = {"type": "tool_result", "tool_use_id": "c", "content": text, "is_error": True}
        said = [{"role": "user", "content": text}, {"role": "assistant", "content": [use]}]

        def work() -> None:
            Responses(1, "seed").request({**RESPONSES.request(text), "input": items, "instructions": text})
            chat = Messages("seed").request(
                {**MESSAGES.request(), "messages": [*said, {"role": "user", "content": [result]}], "system": text}
            )
            estimate(chat)

        return work

    linear_to_10_mb(make)


@pytest.mark.parametrize("make_dialect", [lambda: Responses(1, "s"), lambda: Messages("s"), None],
                         ids=["responses", "messages", "folded"])  # fmt: skip
@each("keys", "a word")
def test_what_the_dialects_make_of_a_stream(case: str, make_dialect: Callable[[], Any] | None) -> None:
    def make(size: int) -> Callable[[], object]:
        text = text_of(case, size)
        cut = [text[at : at + STEP] for at in range(0, size, STEP)]
        first = {"index": 0, "id": "c", "type": "function", "function": {"name": "f", "arguments": ""}}
        said = [chunk({"role": "assistant"}), *(chunk({"content": one}) for one in cut), chunk({"tool_calls": [first]})]
        said += [chunk({"tool_calls": [{"index": 0, "function": {"arguments": one}}]}) for one in cut]
        parser = sse.Parser()
        events = [event for piece in [*said, chunk({}, "tool_calls"), DONE] for event in parser.feed(piece)]

        def work() -> None:
            if make_dialect is None:
                fold(events)
                return
            dialect = make_dialect()
            dialect.request((MESSAGES if isinstance(dialect, Messages) else RESPONSES).request(stream=True))
            for event in events:
                dialect.events([event])

        return work

    linear_to_10_mb(make)


@pytest.mark.parametrize(
    ("unit", "step"),
    [("data: a few words\n", 1000), ("data: a few words\r\n\r\n", 1 << 30), ("x", 1000), ("x", 1 << 30)],
)
def test_the_stream_parser(unit: str, step: int) -> None:
    def make(size: int) -> Callable[[], object]:
        data = hostile(unit, size).encode()

        def work() -> None:
            parser = sse.Parser()
            for start in range(0, len(data), step):
                parser.feed(data[start : start + step])
            parser.eof()

        return work

    linear_to_10_mb(make)


@each("quotes", "a word", "unicode escapes")
def test_small_readers(case: str) -> None:
    redact = Redact(["secret", "\\\\\\\\x", '""""x', "xxxxy"])

    def make(size: int) -> Callable[[], object]:
        text = text_of(case, size)
        quoted = json.dumps({"error": {"message": f"({text} resulted in {text} (1"}}).encode()
        body = b'{"a": "' + text.encode("utf-8", "replace").replace(b'"', b"") + b'"}'
        told: list[UpstreamError] = []

        def work() -> None:
            with suppress(ProxyError):
                parse_object(body)
            refuse_image_url(f"http://{text}")
            refuse_image_url(f"data:{text}")
            redact.clean(printable(text))
            told.append(refusals.translated(400, quoted, None))
            Messages("s").error(told[-1])
            refusals.room_for_answer(told[-1])  # type: ignore[arg-type]

        return work

    linear_to_10_mb(make)


# ---------------------------------------------------------------- HTTP, on sockets

HEAD = 1024 * 1024
POST = b"POST /a HTTP/1.1\r\nHost: x\r\n"
CODED = b"Transfer-Encoding: chunked\r\n\r\n"
SENT: dict[str, tuple[bytes, Callable[[int], bytes]]] = {
    "a body": (b"200", lambda size: POST + b"Content-Length: %d\r\n\r\n" % size + b"x" * size),
    "small chunks": (b"200", lambda size: POST + CODED + b"5\r\nabcde\r\n" * (size // 10) + b"0\r\n\r\n"),
    "extensions": (b"200", lambda size: POST + CODED + b'1;a="b"\r\nx\r\n' * (size // 12) + b"0\r\n\r\n"),
    "a target without end": (b"431", lambda size: b"GET /" + b"a" * size),
    "a header without end": (b"431", lambda size: POST + b"X: " + b"a" * size),
    "headers without end": (b"431", lambda size: POST + b"X: y\r\n" * (size // 6)),
    "blank lines": (b"431", lambda size: b"\r\n" * (size // 2)),
    "trailers without end": (b"400", lambda size: POST + CODED + b"0\r\n" + b"X: y\r\n" * (size // 6)),
    "zeros before a size": (b"400", lambda size: POST + CODED + b"0" * size),
}


def on_a_loop(work: Callable[[], Awaitable[object]]) -> Callable[[], object]:
    async def run() -> None:
        await work()

    return lambda: asyncio.run(run())


@pytest.mark.parametrize("case", SENT)
def test_requests_on_the_wire(case: str) -> None:
    """`HEADER_LIMIT` is here the most that it can be; what is over it is not read to its end."""
    status, request = SENT[case]

    def make(size: int) -> Callable[[], object]:
        size = max(size, 2 * HEAD)
        data = request(size) + CLOSE

        async def work() -> None:
            async with serving(limits=HttpLimits(head_bytes=HEAD)) as served:
                client = await served.connect()
                writing = asyncio.create_task(client.write(data))
                assert (await client.rest()).split(maxsplit=2)[1] == status
                await writing

        return on_a_loop(work)

    linear_to_10_mb(make)


ANSWERED: dict[str, Callable[[int], bytes]] = {
    "a body": lambda size: b"content-length: %d\r\n\r\n" % size + b"x" * size,
    "a body in small chunks": lambda size: CODED + b"5\r\nabcde\r\n" * (size // 10) + b"0\r\n\r\n",
    "a header without end": lambda size: b"X: " + b"a" * size,
    "headers without end": lambda size: b"X: y\r\n" * (size // 6),
    "trailers without end": lambda size: CODED + b"0\r\n" + b"X: y\r\n" * (size // 6),
    "zeros before a size": lambda size: CODED + b"0" * size,
}


@pytest.mark.parametrize("case", ANSWERED)
def test_answers_on_the_wire(case: str) -> None:
    def make(size: int) -> Callable[[], object]:
        data = b"HTTP/1.1 200 OK\r\n" + ANSWERED[case](size)

        async def script(peer: Peer, head: bytes, body: bytes) -> None:
            await peer.send(data)

        async def work() -> None:
            server, transport = Server(script), FastTransport()
            async with server.serve() as base:
                asked = httpx.Request("GET", base + "/a", extensions={"timeout": dict.fromkeys(("connect", "read"), 9)})
                with suppress(httpx.RemoteProtocolError):
                    response = await transport.handle_async_request(asked)
                    assert isinstance(response.stream, httpx.AsyncByteStream)
                    assert sum([len(part) async for part in response.stream]) >= size // 10
                    await response.aclose()
                await transport.aclose()

        return on_a_loop(work)

    linear_to_10_mb(make)
