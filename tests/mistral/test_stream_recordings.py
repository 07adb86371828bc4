"""The recordings of two real servers, read through the repair: see tests/data/recordings/README.md."""

from __future__ import annotations

import json
import re
from typing import Any

import orjson
import pytest

from devstral_proxy.mistral.context import AnswerContext
from devstral_proxy.mistral.fold import fold
from devstral_proxy.mistral.response import repair_response
from devstral_proxy.mistral.rewrites import RewriteLog
from tests.streams import DATA, answer, raw, repair
from tests.strict_reader import StrictAnswer

FOLDER = DATA / "recordings"
NAMES = sorted(
    path.relative_to(FOLDER).as_posix().removesuffix(".stream.txt")
    for path in FOLDER.glob("*/*.stream.txt")
    if "HTTP/1.1 200" in path.read_text().partition("\n\n")[0]
)
# The server lost the call when it streamed: the proxy does not ask it like this (see capabilities).
LOSES = re.compile(r"old/calls?(_|$)")
# This server's own two answers differ: the whole one does not tell that it was cut, or says something else altogether.
DIFFER = {
    "new/call_cut_by_length",
    "new/error_engine_killed",
    "old/error_400",
    "old/real_required_call",
    "old/real_named_call",
}


def load(name: str) -> tuple[dict[str, Any], bytes]:
    """The request, and the body."""
    request, _, rest = (FOLDER / f"{name}.txt").read_bytes().partition(b"\n")
    given = json.JSONDecoder().raw_decode(request[2:].decode())[0] if request.startswith(b"# {") else {}
    return given, rest.partition(b"\n\n")[2]


def context_of(request: dict[str, Any], stream: bool) -> AnswerContext:
    tools = {tool["function"]["name"]: tool["function"]["parameters"] for tool in request.get("tools", ())}
    choice = request.get("tool_choice", "auto")
    return AnswerContext(
        tools=tools,
        tool_choice="named" if isinstance(choice, dict) else "auto" if choice == "none" else choice,
        stream=stream,
        include_usage=bool((request.get("stream_options") or {}).get("include_usage")),
        raw_text=choice == "none",
    )


def streamed(name: str) -> tuple[dict[str, Any], StrictAnswer, bytes]:
    request, body = load(f"{name}.stream")
    return request, answer(body, context_of(request, stream=True)), body


@pytest.mark.parametrize("name", NAMES)
def test_a_strict_reader_takes_every_stream(name: str) -> None:
    request, read, _ = streamed(name)
    if "midstream" in name or "killed" in name:
        assert read.error is not None
        return
    assert read.error is None
    assert len(read.choices) == request.get("n", 1)
    for choice in read.choices.values():
        if LOSES.match(name) or name == "old/think" or "emits" not in request:
            continue
        text, *calls = re.split(r"\[TOOL_CALLS\]", request["emits"])
        if choice.finish == "length":
            assert text.startswith(choice.content)
            assert len(choice.calls) <= len(calls)
            continue
        assert choice.content == (text if "stop" not in request else text[: text.index(request["stop"][0])])
        assert [f"{call.name}[ARGS]{call.arguments}" for call in choice.calls] == calls
        assert choice.finish == ("tool_calls" if calls else "stop")


@pytest.mark.parametrize("name", [name for name in NAMES if "/text" in name or "/think" in name])
def test_text_goes_on_as_it_came(name: str) -> None:
    """All of it, unless text and finish reason come in one chunk, which is split in two (F71)."""
    request, body = load(f"{name}.stream")
    out = raw(repair(body, context_of(request, stream=True)))
    if re.search(rb'"content":"[^"]+"[^{}]*}[^{}]*"finish_reason":"', body):
        assert out != body
    else:
        assert out == body


PAIRS = [
    name for name in NAMES if (FOLDER / f"{name}.json.txt").exists() and not LOSES.match(name) and name not in DIFFER
]


@pytest.mark.parametrize("name", PAIRS)
def test_two_ways_one_answer(name: str) -> None:
    request, body = load(f"{name}.json")
    whole = repair_response(orjson.loads(body), context_of(request, stream=False), RewriteLog())
    request, body = load(f"{name}.stream")
    folded = fold(repair(body, context_of(request, stream=False)))
    assert [told(choice) for choice in folded["choices"]] == [told(choice) for choice in whole["choices"]]


def told(choice: dict[str, Any]) -> dict[str, Any]:
    message = choice["message"]
    return {
        "content": message["content"] or "",
        "reasoning": message.get("reasoning_content") or "",
        "calls": [call["function"] for call in message.get("tool_calls", ())],
        "finish_reason": choice["finish_reason"],
        "logprobs": choice["logprobs"] and [entry["token"] for entry in choice["logprobs"]["content"]],
    }
