"""What real agents sent: accepted, nothing lost, and each turn a token prefix of the next."""

from __future__ import annotations

import copy
import itertools
import json
from typing import Any

import pytest

from devstral_proxy.mistral.profiles import ModelProfile, TokenizerVersion
from devstral_proxy.mistral.translator import Translator
from tests.conversations import MARK
from tests.oracle import prompt
from tests.recorded import Recorded, chat_requests, conversations

VERSIONS: tuple[TokenizerVersion, ...] = ("v3", "v7", "v11", "v13", "v15")


def translated(body: dict[str, Any], version: TokenizerVersion, images: bool = False) -> dict[str, Any]:
    return Translator(ModelProfile("recorded", version, images=images)).request(body)


class _Marker:
    """Puts a mark of its own into every text, argument and tool description of a request."""

    def __init__(self) -> None:
        self.count = 0

    def mark(self, text: str) -> str:
        self.count += 1
        return f"{text} M{self.count}x"

    def body(self, given: dict[str, Any]) -> dict[str, Any]:
        body = copy.deepcopy(given)
        for tool in body.get("tools") or []:
            tool["function"]["description"] = self.mark(tool["function"].get("description") or "")
            for schema in (tool["function"].get("parameters") or {}).get("properties", {}).values():
                if isinstance(schema, dict) and "description" in schema:
                    schema["description"] = self.mark(schema["description"])
        for message in body["messages"]:
            self.message(message)
        return body

    def message(self, message: dict[str, Any]) -> None:
        content = message.get("content")
        if isinstance(content, str) and content:
            message["content"] = self.mark(content)
        for part in content if isinstance(content, list) else []:
            if part.get("type") == "text":
                part["text"] = self.mark(part["text"])
        for call in message.get("tool_calls") or []:
            arguments = json.loads(call["function"]["arguments"])
            call["function"]["arguments"] = json.dumps({k: self.mark(str(v)) for k, v in arguments.items()})


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("request_", chat_requests(), ids=lambda recorded: recorded.name)
def test_accepted_with_nothing_lost(request_: Recorded, version: TokenizerVersion) -> None:
    marker = _Marker()
    body = translated(marker.body(request_.body), version, images=version not in ("v3", "v7"))
    text = prompt(body, version, images=version not in ("v3", "v7")).text
    marks = MARK.findall(text)
    expected = [f"M{number}x" for number in range(1, marker.count + 1)]
    assert sorted(marks) == sorted(expected)
    if version not in ("v3", "v7"):
        # Tools go where the tokenizer puts them; all else stands in the client's order.
        in_messages = MARK.findall(json.dumps(body["messages"]))
        in_tools = MARK.findall(json.dumps(body.get("tools", [])))
        assert in_messages == [mark for mark in expected if mark in in_messages]
        assert [mark for mark in marks if mark in in_messages] == in_messages
        assert [mark for mark in marks if mark in in_tools] == in_tools


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("turns", conversations(), ids=lambda turns: f"{turns[0].client}-{turns[0].variant}")
def test_each_turn_is_a_token_prefix_of_the_next(turns: list[Recorded], version: TokenizerVersion) -> None:
    for turn, later in itertools.pairwise(turns):
        if turn.body["messages"] != later.body["messages"][: len(turn.body["messages"])]:
            continue  # the client itself began another conversation, or rewrote its own history
        if turn.body.get("tools") != later.body.get("tools"):
            continue
        sees = version not in ("v3", "v7")
        now = translated(turn.body, version, sees)
        then = translated(later.body, version, sees)
        assert then["messages"][: len(now["messages"])] == now["messages"]
        asked_again = any(message["role"] == "user" for message in then["messages"][len(now["messages"]) :])
        if version in ("v13", "v15") or not asked_again:  # v3 to v11 write the tools before the last user message
            ids = prompt(now, version, sees).ids
            assert prompt(then, version, sees).ids[: len(ids)] == ids


def test_turns_are_compared_at_all() -> None:
    pairs = sum(
        turn.body["messages"] == later.body["messages"][: len(turn.body["messages"])]
        for turns in conversations()
        for turn, later in itertools.pairwise(turns)
    )
    assert pairs > 15
