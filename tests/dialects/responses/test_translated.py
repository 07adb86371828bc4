"""Through the translator: the prompt of the same conversation in chat, and what Codex and the AI SDK really sent."""

from __future__ import annotations

import gzip
import itertools
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from devstral_proxy.dialects.responses import Responses
from devstral_proxy.mistral.fold import fold
from devstral_proxy.mistral.profiles import ModelProfile, TokenizerVersion
from devstral_proxy.mistral.translator import Translator
from tests.conversations import PIXEL
from tests.dialects.responses.help import READ_FILE, asked, begun, dialect, stream
from tests.oracle import prompt
from tests.recorded import DATA

VERSIONS: tuple[TokenizerVersion, ...] = ("v3", "v7", "v11", "v13", "v15")


def recorded() -> list[tuple[str, dict[str, Any]]]:
    """Name and body of the recorded requests of this API."""
    with gzip.open(DATA, "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    return [(row["name"], row["body"]) for row in rows if row["api"] == "responses"]


RECORDED = recorded()


def to_vllm(chat: dict[str, Any], version: TokenizerVersion = "v13") -> dict[str, Any]:
    images = version not in ("v3", "v7")
    return Translator(ModelProfile("m", version, images=images, reasoning=version in ("v13", "v15"))).request(chat)


# ---------------------------------------------------------------- what clients sent


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(("name", "body"), RECORDED, ids=[name for name, _ in RECORDED])
def test_accepted(name: str, body: dict[str, Any], version: TokenizerVersion) -> None:
    chat = dialect().request(body)
    sent = to_vllm(chat, version)
    assert prompt(sent, version, images=version not in ("v3", "v7")).ids
    texts = [part["text"] for item in body["input"] for part in _parts(item) if part.get("text")]
    said = json.dumps(sent["messages"], ensure_ascii=False)
    for text in texts:
        assert json.dumps(text, ensure_ascii=False)[1:-1] in said


def _parts(item: dict[str, Any]) -> list[dict[str, Any]]:
    content = item.get("content")
    return [{"text": content}] if isinstance(content, str) else content or []


@pytest.mark.parametrize("run", ["codex", "vercel_responses"])
def test_each_turn_is_a_token_prefix_of_the_next(run: str) -> None:
    turns = [body for name, body in RECORDED if name in {f"{run}-{number}" for number in (1, 2, 3)}]
    assert len(turns) == 3
    ids = [prompt(to_vllm(dialect().request(body)), "v13", images=True).ids for body in turns]
    for turn, later in itertools.pairwise(ids):
        assert later[: len(turn)] == turn


def test_what_codex_sends_becomes_its_conversation() -> None:
    body = dict(RECORDED)["codex-rich-3"]
    made = dialect()
    chat = made.request(body)
    roles = [message["role"] for message in chat["messages"]]
    assert roles == ["developer", "developer", "user", "user", "assistant", "tool", "assistant", "tool", "tool"]
    first, second = chat["messages"][4], chat["messages"][6]
    assert (len(first["tool_calls"]), len(second["tool_calls"])) == (1, 2)
    assert first["reasoning_content"]
    assert first["content"]
    assert [name for name, _ in made.rewrites.entries] == [
        "field_dropped",
        "field_dropped",
        "tool_flattened",
        "tool_key_dropped",
        "tool_dropped",
    ]


# ---------------------------------------------------------------- the same conversation, told in two ways

TEXT = st.text(st.characters(codec="utf-8"), min_size=1, max_size=8)


@st.composite
def conversations(draw: st.DrawFn) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Chat messages and input items that say the same."""
    messages: list[dict[str, Any]] = []
    items: list[dict[str, Any]] = []
    for role in draw(st.lists(st.sampled_from(["system", "developer"]), max_size=2)):
        text = draw(TEXT)
        messages.append({"role": role, "content": text})
        items.append({"role": role, "content": [{"type": "input_text", "text": text}]})
    number = 0
    for _ in range(draw(st.integers(1, 3))):
        text = draw(TEXT)
        if draw(st.booleans()):
            messages.append({"role": "user", "content": text})
            items.append({"type": "message", "role": "user", "content": text})
        else:
            image = {"type": "image_url", "image_url": {"url": PIXEL, "detail": "high"}}
            messages.append({"role": "user", "content": [{"type": "text", "text": text}, image]})
            given_image = {"type": "input_image", "image_url": PIXEL, "detail": "high"}
            items.append({"role": "user", "content": [{"type": "input_text", "text": text}, given_image]})
        for _ in range(draw(st.integers(0, 2))):
            message: dict[str, Any] = {"role": "assistant", "content": None}
            if draw(st.booleans()):
                thought = draw(TEXT)
                message["reasoning_content"] = thought
                items.append({"type": "reasoning", "id": "rs", "summary": [{"type": "summary_text", "text": thought}]})
            said = draw(st.booleans())
            if said:
                message["content"] = draw(TEXT)
                part = {"type": "output_text", "text": message["content"], "annotations": []}
                items.append({"type": "message", "role": "assistant", "id": "msg", "content": [part]})
            calls, results = [], []
            for _ in range(draw(st.integers(0 if said else 1, 3))):
                number += 1
                arguments = json.dumps({"path": draw(TEXT)})
                function = {"name": "read_file", "arguments": arguments}
                calls.append({"id": f"call_{number}", "type": "function", "function": function})
                items.append({"type": "function_call", "call_id": f"call_{number}", **function})
                results.append((f"call_{number}", draw(TEXT)))
            if calls:
                message["tool_calls"] = calls
            messages.append(message)
            for id, output in results:
                messages.append({"role": "tool", "tool_call_id": id, "content": output})
                items.append({"type": "function_call_output", "call_id": id, "output": output})
            if not calls:
                break
    return messages, items


@settings(max_examples=100)
@given(conversations(), st.sampled_from(VERSIONS))
def test_the_same_prompt_as_chat(
    told: tuple[list[dict[str, Any]], list[dict[str, Any]]], version: TokenizerVersion
) -> None:
    messages, items = told
    function = {key: value for key, value in READ_FILE.items() if key != "type"}
    chat = {"model": "m", "messages": messages, "tools": [{"type": "function", "function": function}]}
    mine = dialect().request({"model": "m", "input": items, "tools": [READ_FILE]})
    assert to_vllm(mine, version) == to_vllm(chat, version)


@settings(max_examples=50)
@given(st.data())
def test_our_own_answer_replayed_is_the_chat_message(data: st.DataObject) -> None:
    """What the client sends back of our answer, as items or by previous_response_id, is what chat clients send back."""
    deltas: list[dict[str, Any]] = []
    if data.draw(st.booleans()):
        deltas.append({"reasoning_content": data.draw(TEXT)})
    if data.draw(st.booleans()):
        deltas.append({"content": data.draw(TEXT)})
    paths = data.draw(st.lists(TEXT, min_size=0 if deltas else 1, max_size=2))
    deltas += [begun(index, "read_file", json.dumps({"path": path})) for index, path in enumerate(paths)]
    include = ["reasoning.encrypted_content"] if data.draw(st.booleans()) else []
    completion = fold(stream(*deltas))
    first = asked(tools=[READ_FILE], include=include)
    output = first.body(completion)["output"]
    message = completion["choices"][0]["message"]
    results = [{"role": "tool", "tool_call_id": call["id"], "content": "r"} for call in message.get("tool_calls", [])]
    outputs = [{"type": "function_call_output", "call_id": m["tool_call_id"], "output": "r"} for m in results]
    body = {"model": "m", "tools": [READ_FILE]}
    expected = to_vllm({"model": "m", "messages": [{"role": "user", "content": "hi"}, message, *results]})["messages"]
    replayed = [{"role": "user", "content": "hi"}, *output, *outputs]
    assert to_vllm(dialect().request({**body, "input": replayed}))["messages"] == expected
    stored = Responses(1, "next", previous=[*first.input_items, *output])
    chained = {**body, "input": outputs, "previous_response_id": first.id}
    assert to_vllm(stored.request(chained))["messages"] == expected
