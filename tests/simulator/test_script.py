"""The conversation that the simulator holds by itself."""

from __future__ import annotations

import json
from typing import Any

import mistral_common
import pytest
from jsonschema import Draft7Validator

from devstral_proxy.simulator.script import example, turn
from tests.simulator.asking import BASH, NEW, OLD, QUESTION, READ, application, chat

_KNOWS_V15 = tuple(map(int, mistral_common.__version__.split(".")[:2])) >= (1, 10)
TOKENIZERS = ["v3", "v7", "v11", "v13", *(["v15"] if _KNOWS_V15 else [])]


@pytest.mark.parametrize("version", [NEW, OLD])
@pytest.mark.parametrize("tokenizer", TOKENIZERS)
@pytest.mark.anyio
async def test_question_calls_results_answer(tokenizer: str, version: str) -> None:
    app = application(version, tokenizer=tokenizer)
    messages: list[dict[str, Any]] = [{"role": "system", "content": "You are an agent."}, *QUESTION["messages"]]
    counts = []
    for _ in range(3):
        response = await chat(app, {"messages": messages, "tools": [READ, BASH]})
        assert response.status_code == 200, response.text
        message = response.json()["choices"][0]["message"]
        calls = [{**call, "id": call["id"][-9:]} for call in message.get("tool_calls") or ()]
        counts.append(len(calls))
        # Before v7 a message has text or calls (F22).
        content = "" if calls and tokenizer == "v3" else message["content"] or ""
        messages.append({"role": "assistant", "content": content, **({"tool_calls": calls} if calls else {})})
        for call in calls:
            names = {"read_file": {"path"}, "bash": {"command"}}
            assert json.loads(call["function"]["arguments"]).keys() == names[call["function"]["name"]]
            messages.append({"role": "tool", "tool_call_id": call["id"], "content": "some text"})
    assert counts == [1, 2, 0]
    assert "3 tool results" in messages[-1]["content"]
    record = app.state.simulator.requests[-1]
    assert record.prompt.count("some text") == 3
    assert record.prompt.startswith("<s>")


@pytest.mark.parametrize(
    ("change", "calls"),
    [
        ({"tools": []}, 0),
        ({"tool_choice": "none"}, 0),
        ({"tools": [BASH]}, 1),
        ({"tool_choice": "required"}, 1),
        ({"tool_choice": {"type": "function", "function": {"name": "bash"}}}, 1),
    ],
)
def test_tools_decide_the_first_turn(change: dict[str, Any], calls: int) -> None:
    assert len(turn({**QUESTION, "tools": [READ, BASH], **change}).calls) == calls


def _called(times: int) -> list[dict[str, Any]]:
    call = {"id": "abcdefgh1", "type": "function", "function": {"name": "read_file", "arguments": "{}"}}
    round_: list[dict[str, Any]] = [
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "abcdefgh1", "content": "x"},
    ]
    return [*QUESTION["messages"], *(round_ * times)]


@pytest.mark.parametrize(
    ("times", "change", "calls"),
    [
        (1, {}, 2),
        (1, {"parallel_tool_calls": False}, 1),
        (1, {"tools": [READ]}, 1),
        (2, {}, 0),
        (2, {"tool_choice": "required"}, 1),
        (5, {}, 0),
    ],
)
def test_rounds_decide_the_later_turns(times: int, change: dict[str, Any], calls: int) -> None:
    made = turn({"messages": _called(times), "tools": [READ, BASH], **change})
    assert len(made.calls) == calls
    assert bool(made.text) == (not calls)


def test_a_new_question_begins_anew() -> None:
    messages = [*_called(2), {"role": "assistant", "content": "Done."}, *QUESTION["messages"]]
    assert len(turn({"messages": messages, "tools": [READ, BASH]}).calls) == 1


def _with(schema: Any) -> dict[str, Any]:
    return {"type": "object", "properties": {"q": schema}, "required": ["q"]}


SCHEMAS: dict[str, Any] = {
    "empty": {},
    "optional": {"type": "object", "properties": {"path": {"type": "string"}, "limit": {"type": "integer"}}},
    "minimum": _with({"type": "integer", "minimum": 5}),
    "boolean": _with({"type": "boolean"}),
    "enum": _with({"enum": ["fast", "slow"]}),
    "const": _with({"const": "x"}),
    "array": _with({"type": "array", "items": {"type": "string"}, "minItems": 2}),
    "nested": _with(_with({"type": "string"})),
    "ref": {**_with({"$ref": "#/$defs/p"}), "$defs": {"p": {"type": "integer"}}},
    "anyOf": _with({"anyOf": [{"type": "null"}, {"type": "integer"}]}),
    "type list": _with({"type": ["null", "string"]}),
    "lengths": _with({"type": "string", "minLength": 9, "maxLength": 12}),
    "default": _with({"type": "string", "default": "d"}),
}


@pytest.mark.parametrize("name", SCHEMAS)
def test_examples_are_valid(name: str) -> None:
    assert list(Draft7Validator(SCHEMAS[name]).iter_errors(example(SCHEMAS[name]))) == []


def test_examples_of_endless_schemas_end() -> None:
    schema = {
        "$defs": {"n": {"type": "object", "properties": {"n": {"$ref": "#/$defs/n"}}, "required": ["n"]}},
        "$ref": "#/$defs/n",
    }
    assert isinstance(example(schema), dict)


@pytest.mark.parametrize(
    "broken", [True, None, "string", {"type": "strange"}, {"$ref": "#/nowhere"}, {"properties": {"a": 3}}]
)
def test_examples_of_broken_schemas(broken: Any) -> None:
    json.dumps(example(broken))


@pytest.mark.anyio
async def test_json_formats() -> None:
    app = application()
    response = await chat(app, {**QUESTION, "response_format": {"type": "json_object"}})
    assert isinstance(json.loads(response.json()["choices"][0]["message"]["content"]), dict)
    wanted = {"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMAS["nested"]}}
    response = await chat(app, {**QUESTION, "response_format": wanted})
    made = json.loads(response.json()["choices"][0]["message"]["content"])
    assert list(Draft7Validator(SCHEMAS["nested"]).iter_errors(made)) == []
