"""Where the network cuts a connection's bytes makes no difference to the answers."""

from __future__ import annotations

import asyncio
import itertools
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from uvicorn.server import ServerState

from devstral_proxy.server.http import HttpLimits, protocol_factory
from devstral_proxy.server.http import protocol as protocol_module
from devstral_proxy.server.http.protocol import LARGE
from tests.server.http.serving import CLOSE, echo, heads

GET = b"GET /a HTTP/1.1\r\nHost: x\r\n"
POST = b"POST /b HTTP/1.1\r\nHost: x\r\n"
CHUNKED = POST + b'Transfer-Encoding: chunked\r\n\r\n3;a="b"\r\nabc\r\n0\r\nX: y\r\n\r\n'
HELLO = POST + b"Content-Length: 5\r\n\r\nhello"
OFFER = POST + b"Connection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: 5\r\n\r\nhello"
LIMITS = HttpLimits(head_bytes=400)

STREAMS: dict[str, tuple[bytes, list[int]]] = {
    "one": (GET + b"\r\n", [200]),
    "a body": (HELLO + HELLO, [200, 200]),
    "many": (b"\r\n" + GET + b"\r\n" + HELLO + CHUNKED + OFFER + HELLO + CLOSE, [200] * 6),
    "behind the last": (HELLO + CLOSE + HELLO, [200, 200]),
    "an offer, chunked": (OFFER.replace(b"Content-Length: 5\r\n\r\nhello", CHUNKED[len(POST) :]) + CLOSE, [200, 200]),
    "refused at the end": (HELLO + CHUNKED + GET + b"X\r\n\r\n", [200, 200, 400]),
    "refused before the end": (HELLO + GET + b"Host: y\r\n\r\n" + HELLO, [200, 400]),
    "a bad body": (HELLO + POST + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\n0\r\n\r\n" + HELLO, [200, 400]),
    "too long a head": (HELLO + GET + b"X: " + b"y" * 400 + b"\r\n\r\n" + HELLO, [200, 431]),
    "not complete": (HELLO + GET, [200]),
    "1.0": (
        b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\nGET /2 HTTP/1.0\r\n\r\nGET /3 HTTP/1.0\r\n\r\n",
        [200, 200],
    ),
}


class Sink(asyncio.Transport):
    """A transport that keeps what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.data = b""
        self.ended = False

    def write(self, data: bytes | bytearray | memoryview[Any]) -> None:
        assert not self.ended
        self.data += data

    def write_eof(self) -> None:
        self.ended = True

    def can_write_eof(self) -> bool:
        return True

    def is_closing(self) -> bool:
        return self.ended

    def close(self) -> None:
        self.ended = True

    def abort(self) -> None:
        self.ended = True

    def get_write_buffer_size(self) -> int:
        return 0

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass


async def answers(pieces: list[bytes], turns: int) -> tuple[bytes, bool]:
    """What is written for these pieces, with so many turns of the loop after each, and whether the connection ends."""
    config, state, sink = SimpleNamespace(loaded=True, loaded_app=echo), ServerState(), Sink()
    protocol = protocol_factory(LIMITS)(config=config, server_state=state, app_state={})
    protocol.connection_made(sink)
    for piece in pieces:
        if not sink.ended:
            protocol.data_received(piece)
        for _ in range(turns):
            await asyncio.sleep(0)
    for _ in range(20):
        await asyncio.sleep(0)
    told = sink.data, sink.ended
    protocol.connection_lost(None)
    for _ in range(5):
        await asyncio.sleep(0)
    assert not state.tasks
    return told


@pytest.mark.parametrize("large", [LARGE, 1])
@pytest.mark.parametrize("case", STREAMS)
def test_any_cut_gives_the_same_answers(case: str, large: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol_module, "LARGE", large)  # 1: what is left of any body goes past the parser
    stream, statuses = STREAMS[case]
    with asyncio.Runner() as runner:
        whole = runner.run(answers([stream], 0))
        assert [int(head.split()[1]) for head in heads(whole[0])] == statuses

        @settings(max_examples=60)
        @given(st.lists(st.integers(0, len(stream)), max_size=12), st.integers(0, 3))
        def cut(at: list[int], turns: int) -> None:
            ends = sorted({0, *at, len(stream)})
            pieces = [stream[start:end] for start, end in itertools.pairwise(ends)]
            assert runner.run(answers(pieces, turns)) == whole

        cut()
        for turns in (0, 3):
            assert runner.run(answers([stream[at : at + 1] for at in range(len(stream))], turns)) == whole


@given(
    st.lists(st.sampled_from([piece for stream, _ in STREAMS.values() for piece in stream.split(b"\r\n")]), max_size=8)
)
def test_no_sequence_of_lines_makes_it_fail(lines: list[bytes]) -> None:
    stream = b"\r\n".join(lines)
    whole = asyncio.run(answers([stream], 3))
    assert asyncio.run(answers([stream[: len(stream) // 2], stream[len(stream) // 2 :]], 3)) == whole


@given(st.binary(max_size=200))
def test_no_bytes_make_it_fail(data: bytes) -> None:
    for stream in (data, HELLO[:-5] + data, CHUNKED[:60] + data):
        asyncio.run(answers([stream], 3))
