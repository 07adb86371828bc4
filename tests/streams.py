"""What the tests of streams share: upstream's chunks made up, and a repair run over bytes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from devstral_proxy.errors import ProxyError
from devstral_proxy.mistral.context import AnswerContext
from devstral_proxy.mistral.rewrites import RewriteLog
from devstral_proxy.mistral.stream import StreamRepair
from devstral_proxy.upstream.sse import Event, Parser
from tests.strict_reader import StrictAnswer, StrictChoice, read_events

DATA = Path(__file__).parent / "data"
STRING = {"type": "string"}


def schema(properties: dict[str, Any], required: list[str]) -> dict[str, Any]:
    """A tool's parameters."""
    return {"type": "object", "properties": properties, "required": required}


TOOLS: dict[str, dict[str, Any]] = {
    "get_weather": schema({"city": STRING}, ["city"]),
    "read_file": schema({"path": STRING}, ["path"]),
    "write_file": schema({"path": STRING, "content": STRING}, ["path", "content"]),
    "list_files": schema({"paths": {"type": "array", "items": STRING}, "options": {"type": "object"}}, []),
}
PARIS = '{"city": "Paris"}'
WEATHER = ("get_weather", PARIS)
READ = ("read_file", '{"path": "a"}')
USAGE = {"prompt_tokens": 5, "total_tokens": 9, "completion_tokens": 4}


def context(**changes: Any) -> AnswerContext:
    """A context with the tools above; the client streams and asks for usage."""
    given: dict[str, Any] = {"tools": TOOLS, "stream": True, "include_usage": True}
    return AnswerContext(**{**given, **changes})


def chunk(*choices: dict[str, Any], **more: Any) -> bytes:
    """One chunk as vLLM writes it."""
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1795256452, "model": "devstral-small-2"}
    return b"data: " + json.dumps({**head, "choices": list(choices), **more}, separators=(",", ":")).encode() + b"\n\n"


def piece(delta: dict[str, Any], finish: str | None = None, index: int = 0, **more: Any) -> dict[str, Any]:
    """One choice of a chunk."""
    return {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish, **more}


def role(index: int = 0) -> bytes:
    """vLLM's first chunk of a choice."""
    return chunk(piece({"role": "assistant", "content": ""}, index=index))


def text(*texts: str, index: int = 0) -> bytes:
    """A chunk for each text."""
    return b"".join(chunk(piece({"content": text}, index=index)) for text in texts)


def call(arguments: str, name: str | None = None, id: str | None = None, at: int | None = 0, **more: Any) -> bytes:
    """A chunk with one piece of a call."""
    function: dict[str, Any] = {"arguments": arguments}
    entry: dict[str, Any] = {"function": function, **more}
    if name is not None:
        function["name"] = name
        entry["type"] = "function"
    if id is not None:
        entry["id"] = id
    if at is not None:
        entry["index"] = at
    return chunk(piece({"tool_calls": [entry]}))


def finish(reason: str | None, index: int = 0) -> bytes:
    """The last chunk of a choice."""
    return chunk(piece({}, reason, index=index, stop_reason=None))


def body(*parts: bytes) -> bytes:
    """A whole body."""
    return b"".join(parts)


DONE = b"data: [DONE]\n\n"
END = chunk(usage=USAGE) + DONE


def repair(
    body: bytes, given: AnswerContext | None = None, *, cut: int = 0, error: ProxyError | None = None, log: Any = None
) -> list[Event]:
    """The client's events for a body, in pieces of `cut` bytes (0: whole)."""
    parser = Parser()
    stream = StreamRepair(given or context(), log if log is not None else RewriteLog())
    events: list[Event] = []
    step = cut or max(1, len(body))
    for start in range(0, len(body), step):
        for event in parser.feed(body[start : start + step]):
            events += stream.feed(event)
    if error is None:
        for event in parser.eof():
            events += stream.feed(event)
    return events + stream.finish(error)


def raw(events: list[Event]) -> bytes:
    """The bytes on the wire."""
    return b"".join(event.raw for event in events)


def answer(body: bytes, given: AnswerContext | None = None, **more: Any) -> StrictAnswer:
    """What a strict client reads: the same whole, split at every byte, and with CR LF."""
    usage = (given or context()).include_usage
    objects = more.pop("objects", True)
    events = repair(body, given, **more)
    more.pop("log", None)
    assert raw(repair(body, given, cut=1, **more)) == raw(events)
    assert raw(repair(body.replace(b"\n", b"\r\n"), given, cut=7, **more)) == raw(events)
    return read_events(events, usage=usage, objects=objects)


def only(body: bytes, given: AnswerContext | None = None, **more: Any) -> StrictChoice:
    """The one choice of an answer without error."""
    read = answer(body, given, **more)
    assert read.error is None
    assert list(read.choices) == [0]
    return read.choices[0]


def said(choice: StrictChoice) -> tuple[str, list[tuple[str, str]], str | None]:
    """Content, calls and finish reason."""
    return choice.content, [(call.name, call.arguments) for call in choice.calls], choice.finish
