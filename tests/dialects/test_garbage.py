"""Nothing that an exchange leaves needs the collector: whole and streamed answers, errors, and the other dialects.

Objects that refer to each other in a ring are freed only when the collector comes round, which costs all requests time.
An exception that is kept where its traceback leads to is such a ring too.
"""

from __future__ import annotations

import contextlib
import gc
import json
from collections.abc import Callable, Iterator
from functools import partial
from types import FrameType
from typing import Any

import pytest

from devstral_proxy.dialects.base import Dialect
from devstral_proxy.dialects.chat import ChatAnswer, ask_again
from devstral_proxy.dialects.messages import Messages
from devstral_proxy.dialects.responses import Responses
from devstral_proxy.errors import ProxyError, UpstreamTimeout
from devstral_proxy.mistral.profiles import Profiles
from devstral_proxy.mistral.tool_memo import ToolMemo
from devstral_proxy.mistral.translator import Translator
from devstral_proxy.upstream.capabilities import for_version
from tests.mistral import test_stream_matrix as matrix
from tests.mistral import test_stream_recordings as recordings
from tests.server.upstreams import COMPLETION, STREAM, request
from tests.streams import END, body, call, chunk, finish, piece, repair, role, text

VERSIONS = ("0.9.0", "0.11.0", "0.20.0", "0.21.0", "0.24.0")
LIMIT = 4096
MEMO, PROFILES = ToolMemo(), Profiles()


@pytest.fixture(autouse=True)
def collector() -> Iterator[None]:
    """With nothing to look at but what comes now: it is asked often here."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


def garbage(work: Callable[[], object]) -> list[str]:
    """What the collector finds of ours after this work, which may fail."""
    for _ in range(2):  # what is made once, and kept, is made in the first round
        with contextlib.suppress(ProxyError):
            work()
    gc.collect()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        with contextlib.suppress(ProxyError):
            work()
        gc.collect()
        return sorted({name for found in gc.garbage if (name := _ours(found))})
    finally:
        gc.set_debug(0)
        gc.enable()
        gc.garbage.clear()


def _ours(found: object) -> str:
    if isinstance(found, FrameType):
        return found.f_code.co_qualname if "devstral_proxy" in found.f_code.co_filename else ""
    kind = type(found)
    return kind.__qualname__ if kind.__module__.startswith("devstral_proxy") else ""


def test_a_ring_is_found() -> None:
    def ring() -> None:
        one, two = Messages("seed"), Messages("seed")
        one.other, two.other = two, one  # type: ignore[attr-defined]

    assert "Messages" in garbage(ring)


def translator(version: str) -> Translator:
    profile = PROFILES.find("devstral-small-2")
    return Translator(profile, capabilities=for_version(version), max_model_len=LIMIT, memo=MEMO)


TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
DEEP: dict[str, Any] = {}
inner = DEEP
for _ in range(3000):
    inner["a"] = inner = {}

REFUSED: list[dict[str, Any]] = [
    {"messages": []},
    {"messages": [5]},
    {"messages": [{"role": "user", "content": 5}]},
    {"messages": [{"role": "assistant", "tool_calls": [5]}]},
    {"messages": [{"role": "user", "content": [{"type": "text", "a": DEEP}]}]},
    {"tools": 5},
    {"tools": [{"type": "function", "function": {"name": "a", "parameters": DEEP}}]},
    {"tool_choice": {"type": "x"}},
    {"temperature": 9},
    {"response_format": {}},
]


@pytest.mark.parametrize("wrong", REFUSED, ids=[",".join(wrong) for wrong in REFUSED])
def test_a_refused_request(wrong: dict[str, Any]) -> None:
    assert garbage(lambda: translator("0.11.0").request(request(**wrong))) == []


def message(reason: str = "tool_calls", **said: Any) -> bytes:
    choice = {"index": 0, "message": {"role": "assistant", "content": None, **said}, "finish_reason": reason}
    return json.dumps({**COMPLETION, "choices": [choice]}).encode()


def told(arguments: str) -> list[dict[str, Any]]:
    return [{"id": "call_1", "type": "function", "function": {"name": "get_weather", "arguments": arguments}}]


WHOLE = {
    "text": json.dumps(COMPLETION).encode(),
    "a call": message(tool_calls=told('{"city": "Paris"}')),
    "a call to be mended": message(tool_calls=told('{"city": "Par')),
    "a call in the text": message("stop", content='[TOOL_CALLS]get_weather{"city": "Paris"}'),
    "an array in the text": message(
        "stop", content='[TOOL_CALLS][{"name": "get_weather", "arguments": {"city": "x"}}]'
    ),
    "a bare array": message("stop", content='[{"name": "get_weather", "arguments": {"city": "x"}}]'),
    "reasoning": message("stop", content="x", reasoning="y"),
    "broken off": message("abort", content="x"),
    "an error": b'{"error": {"message": "no room", "code": 400}}',
    "no completion": b"<html>",
    "no message": b'{"choices": [{}]}',
}


@pytest.mark.parametrize("name", WHOLE)
def test_a_whole_answer(name: str) -> None:
    for version in VERSIONS:
        for stream in (True, False):

            def work(version: str = version, stream: bool = stream) -> None:
                one = translator(version)
                sent = one.request(request(tools=[TOOL], stream=stream))
                answer = ChatAnswer(one)
                try:
                    said = answer.body_for_client(answer.whole(WHOLE[name], "application/json"))
                    assert answer.unfolded(said)
                except ProxyError as error:
                    ask_again(one, sent, error)

            assert garbage(work) == []


STREAMS = {
    "text": STREAM,
    "a call": body(role(), call('{"city": "', "get_weather", "abcDEF123"), call('x"}'), finish("tool_calls"), END),
    "a call in the text": body(
        role(), text("a", "[TOOL_CALLS]", "get_weather", '{"city": ', '"x"}', " b"), finish("stop"), END
    ),
    "an array in the text": body(role(), text('[TOOL_CALLS][{"name": "get_weather", "argum'), finish("length"), END),
    "token ids": body(role(), chunk(piece({"content": "a"}, token_ids=[9, 2])), finish("stop"), END),
    "an error": b'data: {"error": {"message": "x", "code": 400}}\n\n',
    "an error behind text": body(role(), text("a"), b'data: {"error": {"message": "x", "code": 400}}\n\n'),
    "no end": body(role(), text("a", "b")),
    "nothing": b"",
    "comments": b": x\n\n",
    "no JSON": b"data: x\n\n",
    "too large": body(role(), text("x" * 5000)),
    "too large behind text": body(role(), text("a"), b"data: " + b"x" * 5000),
}


def read(answer: ChatAnswer, said: bytes, cut: int, error: ProxyError | None) -> Any:
    events = []
    for start in range(0, len(said), cut):
        events += answer.feed([said[start : start + cut]])
    if not answer.done:
        events += answer.eof()
    return answer.events_for_client(events + answer.finish(error))


@pytest.mark.parametrize("name", STREAMS)
def test_a_stream(name: str) -> None:
    for version in VERSIONS:
        for stream, cut, timeout in ((True, 5000, False), (True, 7, False), (True, 5000, True), (False, 5000, False)):

            def work(version: str = version, stream: bool = stream, cut: int = cut, timeout: bool = timeout) -> None:
                one = translator(version)
                sent = one.request(request(tools=[TOOL], stream=stream))
                answer = ChatAnswer(one, LIMIT)
                answer.committed = stream
                try:
                    events = read(answer, STREAMS[name], cut, UpstreamTimeout("late") if timeout else None)
                    if not stream:
                        answer.folded(events)
                except ProxyError as error:
                    ask_again(one, sent, error)
                    with contextlib.suppress(ProxyError):  # as a server that has not understood
                        answer.feed([b"x"])
                    with contextlib.suppress(ProxyError):
                        answer.eof()

            assert garbage(work) == []


@pytest.mark.parametrize("version", ["0.9.2", "0.11.0", "0.20.2", "0.21.0", "0.32.0"])
def test_answers_of_releases(version: str) -> None:
    for case in matrix.cases():
        for stream in (True, False):
            assert garbage(partial(matrix.exchange, version, case, "token", stream)) == []


def test_answers_of_servers() -> None:
    for name in recordings.NAMES:
        asked, said = recordings.load(f"{name}.stream")
        context = recordings.context_of(asked, stream=True)
        for part in (said, said[: len(said) // 2]):
            assert garbage(partial(repair, part, context)) == []


def dialects() -> Iterator[tuple[Callable[[], Dialect], dict[str, Any]]]:
    user = {"role": "user", "content": "x"}
    tool = {"name": "get_weather", "input_schema": {"type": "object"}}
    odd = {"role": "user", "content": [{"type": "x", "a": DEEP}]}
    for messages in ([user], [odd], 5):
        yield lambda: Messages("seed"), {"model": "m", "max_tokens": 5, "messages": messages, "tools": [tool]}
    function = {"type": "function", "name": "get_weather", "parameters": {}}
    for given in ("x", [{"type": "item_reference", "id": "x"}], [{"type": "message", "content": [DEEP]}]):
        yield lambda: Responses(1, "seed"), {"model": "m", "input": given, "tools": [function]}


@pytest.mark.parametrize("stream", [True, False])
def test_the_other_dialects(stream: bool) -> None:
    for made, asked in dialects():
        for said in STREAMS.values() if stream else WHOLE.values():

            def work(made: Callable[[], Dialect] = made, asked: dict[str, Any] = asked, said: bytes = said) -> None:
                dialect, one = made(), translator("0.24.0")
                try:
                    one.request(dialect.request({**asked, "stream": stream}))
                    answer = ChatAnswer(one, LIMIT)
                    answer.committed = True
                    if stream:
                        dialect.opening()
                        dialect.events(read(answer, said, 5000, None))
                    else:
                        dialect.body(answer.whole(said, "application/json"))
                except ProxyError as error:
                    dialect.error(error)
                    dialect.broken(error)

            assert garbage(work) == []
