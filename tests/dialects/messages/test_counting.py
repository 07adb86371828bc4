"""Counting tokens: questions that vLLM can answer, and estimates that are not far off."""

from __future__ import annotations

import json
from typing import Any

import pytest
from anthropic.types import MessageTokensCount

from devstral_proxy.dialects.messages import Messages, attempts, counted, estimate, tokens_told
from devstral_proxy.dialects.messages.counting import without_calls
from devstral_proxy.mistral.profiles import ModelProfile, TokenizerVersion
from devstral_proxy.mistral.translator import Translator
from tests.dialects.messages.material import PNG, TOOL, USE, assistant, result, said, text, user
from tests.oracle import prompt

PROSE = "The proxy stands between the agent and the server, and translates what either of them says. " * 20
CODE = "def sum_of(values: list[int]) -> int:\n    total = 0\n    for value in values:\n        total += value\n" * 20
PLAIN: dict[str, Any] = {"model": "m", "system": PROSE, "messages": [user(text(CODE), text(PROSE))], "tools": [TOOL]}
CALLED: dict[str, Any] = {
    **PLAIN,
    "messages": [
        said("user", PROSE),
        assistant(text("Let me see."), USE, {**USE, "id": "toolu_2"}),
        user(result(CODE), {**result(PROSE), "tool_use_id": "toolu_2"}, text("Go on.")),
        assistant({**USE, "id": "toolu_3"}),
        user({**result(CODE), "tool_use_id": "toolu_3"}),
    ],
}


def translated(body: dict[str, Any], version: TokenizerVersion = "v13", images: bool = False) -> dict[str, Any]:
    return Translator(ModelProfile("m", version, images=images)).request(Messages("x").count_request(body))


def test_a_history_without_calls_is_tokenized() -> None:
    chat = translated(PLAIN)
    (attempt,) = attempts(chat)
    assert attempt.path == "/tokenize"
    assert attempt.exact
    assert attempt.body == {
        "model": "m",
        "messages": chat["messages"],
        "tools": chat["tools"],
        "add_generation_prompt": True,
    }


def test_a_history_with_calls_is_tokenized_rendered_or_told_as_text() -> None:
    chat = translated(CALLED)
    tokenize, render, plain = attempts(chat)
    assert tokenize.path == "/tokenize"
    assert tokenize.exact
    silent = [message for message in tokenize.body["messages"] if "content" not in message]
    assert [message["tool_calls"][0]["function"]["name"] for message in silent] == [USE["name"]]
    expected = [{"content": None, **message} for message in tokenize.body["messages"]]
    assert expected == chat["messages"]
    assert render.path == "/v1/chat/completions/render"
    assert render.exact
    assert render.body == {key: chat[key] for key in ("model", "messages", "tools")}
    assert plain.path == "/tokenize"
    assert not plain.exact
    assert not any("tool_calls" in message or message["role"] == "tool" for message in plain.body["messages"])


def test_an_answer_to_be_continued() -> None:
    (attempt,) = attempts(translated({**PLAIN, "messages": [said("user", "a"), said("assistant", "b")]}))
    assert attempt.body["continue_final_message"] is True
    assert attempt.body["add_generation_prompt"] is False


@pytest.mark.parametrize("version", ["v3", "v7", "v11", "v13", "v15"])
def test_told_as_text_it_counts_nearly_the_same(version: TokenizerVersion) -> None:
    chat = translated(CALLED, version)
    exact = len(prompt(chat, version).ids)
    plain = attempts(chat)[2]
    near = len(prompt(plain.body, version).ids) + plain.extra
    assert abs(near - exact) <= exact * 0.1


@pytest.mark.parametrize("body", [PLAIN, CALLED], ids=["plain", "calls"])
def test_the_estimate_is_near(body: dict[str, Any]) -> None:
    exact = len(prompt(translated(body), "v13").ids)
    assert 0.8 * exact <= estimate(Messages("x").count_request(body)) <= 1.6 * exact


def test_an_estimate_counts_images_and_thoughts() -> None:
    def of(*blocks: Any) -> int:
        return estimate(Messages("x").count_request({"model": "m", "messages": [assistant(*blocks)]}))

    thought = {"type": "thinking", "thinking": "a" * 350, "signature": "s"}
    assert of(thought) == of(text("a" * 350))
    assert of(thought, text("b"), thought) > of(thought, text("b"))
    one = estimate(Messages("x").count_request({"model": "m", "messages": [user(PNG)]}))
    assert 500 < one < 5000


def test_images_stay_where_results_become_text() -> None:
    messages = [said("user", "a"), assistant(USE), user(result([text("r"), PNG]), text("b"))]
    chat = translated({"model": "m", "messages": messages}, images=True)
    plain = without_calls(chat["messages"])
    assert json.dumps(plain).count("data:image/png") == 1
    assert len(prompt({"messages": without_calls(translated(CALLED)["messages"])}, "v13").ids) > 100


@pytest.mark.parametrize(
    ("answer", "count"),
    [
        ({"count": 7, "max_model_len": 9, "tokens": [1] * 7}, 7),
        ({"request_id": "x", "token_ids": [1, 2, 3]}, 3),
        ([[{"role": "user"}], [{"prompt_token_ids": [1, 2]}]], 2),
        ([[], []], None),
        ([[], [{}]], None),
        ({}, None),
        ("x", None),
        (None, None),
    ],
)
def test_answers(answer: Any, count: int | None) -> None:
    assert tokens_told(answer) == count


def test_the_answer() -> None:
    MessageTokensCount.model_validate(counted(7), strict=True)
