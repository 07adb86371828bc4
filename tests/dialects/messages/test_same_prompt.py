"""One conversation, told as chat messages and as Anthropic's: the same messages reach the model."""

from __future__ import annotations

import functools
import gzip
import itertools
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devstral_proxy.dialects.messages import Messages
from devstral_proxy.mistral.profiles import ModelProfile, TokenizerVersion
from devstral_proxy.mistral.translator import Translator
from tests.conversations import PIXEL
from tests.oracle import prompt
from tests.recorded import DATA, Recorded

VERSIONS: tuple[TokenizerVersion, ...] = ("v3", "v7", "v11", "v13", "v15")
PROFILES = [
    ModelProfile("plain", "v3"),
    ModelProfile("seeing", "v13", images=True),
    ModelProfile("thinking", "v13", images=True, reasoning=True),
    ModelProfile("newest", "v15", images=True, reasoning=True),
]
MEDIA, DATA64 = PIXEL.removeprefix("data:").split(";base64,")
WORDS = st.text("abc é\n", min_size=1, max_size=8).map(lambda text: f"<{text}>")
VALUES = st.dictionaries(WORDS, WORDS | st.integers(0, 9) | st.none() | st.lists(WORDS, max_size=2), max_size=2)


class Told:
    """One conversation in both forms."""

    def __init__(self) -> None:
        self.chat: list[dict[str, Any]] = []
        self.messages: list[dict[str, Any]] = []
        self.system: Any = None


def parts(draw: st.DrawFn) -> tuple[Any, Any]:
    """Content in both forms: a string, or texts and images."""
    if draw(st.booleans()):
        text = draw(WORDS)
        return text, ([{"type": "text", "text": text}] if draw(st.booleans()) else text)
    chat: list[Any] = []
    blocks: list[Any] = []
    for text in draw(st.lists(WORDS, min_size=2, max_size=3)):
        if draw(st.integers(0, 3)) == 0:
            chat.append({"type": "image_url", "image_url": {"url": PIXEL}})
            blocks.append({"type": "image", "source": {"type": "base64", "media_type": MEDIA, "data": DATA64}})
        else:
            chat.append({"type": "text", "text": text})
            blocks.append({"type": "text", "text": text, **({"cache_control": None} if draw(st.booleans()) else {})})
    return chat, blocks


@st.composite
def conversations(draw: st.DrawFn) -> Told:
    told = Told()
    if draw(st.booleans()):
        told.system = draw(WORDS)
        told.chat.append({"role": "system", "content": told.system})
    for turn in range(draw(st.integers(1, 3))):
        chat, blocks = parts(draw)
        told.chat.append({"role": "user", "content": chat})
        told.messages.append({"role": "user", "content": blocks})
        if draw(st.integers(0, 3)) == 0:
            told.chat.append({"role": "system", "content": f"<rule {turn}>"})
            told.messages.append({"role": "system", "content": f"<rule {turn}>"})
        _answer(draw, told, turn)
    chat, blocks = parts(draw)
    told.chat.append({"role": "user", "content": chat})
    told.messages.append({"role": "user", "content": blocks})
    return told


def _answer(draw: st.DrawFn, told: Told, turn: int) -> None:
    message: dict[str, Any] = {"role": "assistant", "content": None}
    blocks: list[Any] = []
    calls = []
    if draw(st.booleans()):
        message["reasoning_content"] = draw(WORDS)
        thought = message["reasoning_content"]
        blocks.append({"type": "thinking", "thinking": thought, "signature": "s"})
    count = draw(st.integers(0, 2))
    if draw(st.booleans()) or not count:
        message["content"] = draw(WORDS)
        blocks.append({"type": "text", "text": message["content"]})
    for place in range(count):
        value = draw(VALUES)
        id_ = draw(st.sampled_from((f"toolu_{turn}{place}", f"abcdefg{turn}{place}", "toolu_same")))
        function = {"name": draw(st.sampled_from(("read", "mcp__a.b:c"))), "arguments": ""}
        function["arguments"] = json.dumps(value, ensure_ascii=False)
        calls.append({"id": id_, "type": "function", "function": function})
        blocks.append({"type": "tool_use", "id": id_, "name": function["name"], "input": value})
    if calls:
        message["tool_calls"] = calls
    told.chat.append(message)
    told.messages.append({"role": "assistant", "content": blocks})
    results: list[dict[str, Any]] = []
    for call in calls:
        chat, given_ = parts(draw)
        told.chat.append({"role": "tool", "tool_call_id": call["id"], "content": chat})
        results.append({"type": "tool_result", "tool_use_id": call["id"], "content": given_})
    reminded = draw(st.booleans())
    if results and reminded:
        reminder = draw(WORDS)
        told.chat.append({"role": "user", "content": reminder})
        results.append({"type": "text", "text": reminder})
    if results:
        told.messages.append({"role": "user", "content": results})


SCHEMA = {"type": "object", "properties": {"path": {"type": "string"}}, "required": ["path"]}
CHAT_TOOLS = [
    {"type": "function", "function": {"name": name, "description": "It.", "parameters": SCHEMA}}
    for name in ("read", "mcp__a.b:c")
]
TOOLS = [{"name": name, "description": "It.", "input_schema": SCHEMA} for name in ("read", "mcp__a.b:c")]


@given(conversations(), st.sampled_from(PROFILES))
def test_both_forms_reach_the_model_as_the_same_request(told: Told, profile: ModelProfile) -> None:
    chat = {"model": "m", "messages": told.chat, "tools": CHAT_TOOLS, "max_tokens": 9, "tool_choice": "required"}
    body = {"model": "m", "messages": told.messages, "tools": TOOLS, "max_tokens": 9, "tool_choice": {"type": "any"}}
    if told.system is not None:
        body["system"] = told.system
    as_chat = Translator(profile).request(chat)
    as_messages = Translator(profile).request(Messages("x").request(body))
    assert as_messages == as_chat


@functools.cache
def recorded() -> tuple[Recorded, ...]:
    """Requests of Claude Code, with a billing header as it sends them: another one with each request."""
    with gzip.open(DATA, "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    requests = []
    for row in rows:
        if row["api"] == "anthropic":
            header = f"x-anthropic-billing-header: cc_version=2.1.0.a{row['n']}; cc_entrypoint=cli; cch={row['n']:05};"
            row["body"]["system"][0]["text"] = header
            requests.append(Recorded(row["name"], row["client"], row["variant"], row["n"], row["body"]))
    return tuple(requests)


def translated(body: dict[str, Any], version: TokenizerVersion) -> dict[str, Any]:
    return Translator(ModelProfile("recorded", version)).request(Messages("x").request(body))


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("request_", recorded(), ids=lambda recorded: recorded.name)
def test_recorded_requests_are_accepted_with_nothing_lost(request_: Recorded, version: TokenizerVersion) -> None:
    body = json.loads(json.dumps(request_.body))
    marks = _mark(body)
    text = prompt(translated(body, version), version).text
    assert "x-anthropic-billing-header" not in text
    at = [text.count(mark) for mark in marks]
    assert at == [1] * len(marks)


def _mark(body: dict[str, Any]) -> list[str]:
    """Puts a mark of its own behind every text, input and tool description."""
    count = itertools.count()
    marks: list[str] = []

    def mark(text: str) -> str:
        marks.append(f"M{next(count)}x")
        return f"{text} {marks[-1]}"

    for tool in body["tools"]:
        tool["description"] = mark(tool["description"])
    for block in body["system"][1:]:
        block["text"] = mark(block["text"])
    for message in body["messages"]:
        if isinstance(message["content"], str):
            message["content"] = mark(message["content"])
            continue
        for block in message["content"]:
            if block["type"] == "text":
                block["text"] = mark(block["text"])
            elif block["type"] == "tool_use":
                block["input"] = {key: mark(str(value)) for key, value in block["input"].items()}
            elif block["type"] == "tool_result" and isinstance(block["content"], str):
                block["content"] = mark(block["content"])
    return marks


@pytest.mark.parametrize("version", ["v13", "v15"])
def test_a_recorded_turn_is_the_beginning_of_the_next(version: TokenizerVersion) -> None:
    turns = [request for request in recorded() if request.variant == "base"]
    assert [turn.turn for turn in turns] == [1, 2, 3]
    ids = [prompt(translated(turn.body, version), version).ids for turn in turns]
    for first, second in itertools.pairwise(ids):
        assert second[: len(first)] == first
