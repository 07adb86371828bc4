"""The top-level fields: what OpenAI refuses is refused, what vLLM does not take is brought into what it takes."""

from __future__ import annotations

from typing import Any

import pytest

from devstral_proxy.errors import BadRequest
from devstral_proxy.mistral.profiles import ModelProfile
from devstral_proxy.mistral.translator import Translator

BASE: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
TOOL: dict[str, Any] = {
    "type": "function",
    "function": {"name": "read", "description": "d", "parameters": {"type": "object", "properties": {}}},
}


class _Missing:
    def __repr__(self) -> str:
        return "missing"  # the same in every process: test ids are made of it


MISSING = _Missing()

# (fields, the param that the refusal names)
REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"model": MISSING}, "model"),
    ({"model": ""}, "model"),
    ({"model": 5}, "model"),
    ({"messages": MISSING}, "messages"),
    ({"messages": None}, "messages"),
    ({"messages": "hi"}, "messages"),
    ({"messages": []}, "messages"),
    ({"messages": ["hi"]}, "messages[0]"),
    ({"messages": [{"content": "hi"}]}, "messages[0].role"),
    ({"messages": [{"role": "robot", "content": "hi"}]}, "messages[0].role"),
    ({"messages": [{"role": ["user"], "content": "hi"}]}, "messages[0].role"),
    ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
    ({"messages": [{"role": "user", "content": {"text": "x"}}]}, "messages[0].content"),
    (
        {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "tool_calls": "x"}]},
        "messages[1].tool_calls",
    ),
    (
        {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "tool_calls": ["x"]}]},
        "messages[1].tool_calls[0]",
    ),
    (
        {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "tool_calls": [{"id": "1"}]}]},
        "messages[1].tool_calls[0].function",
    ),
    ({"temperature": 2.1}, "temperature"),
    ({"temperature": -0.1}, "temperature"),
    ({"temperature": "hot"}, "temperature"),
    ({"temperature": True}, "temperature"),
    ({"top_p": 1.5}, "top_p"),
    ({"presence_penalty": 3}, "presence_penalty"),
    ({"frequency_penalty": -3}, "frequency_penalty"),
    ({"n": 0}, "n"),
    ({"n": 129}, "n"),
    ({"n": 1.5}, "n"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"max_tokens": -1}, "max_tokens"),
    ({"max_tokens": "many"}, "max_tokens"),
    ({"max_completion_tokens": 0}, "max_completion_tokens"),
    ({"seed": "x"}, "seed"),
    ({"seed": 2**63}, "seed"),
    ({"stop": 5}, "stop"),
    ({"stream": "yes"}, "stream"),
    ({"stream_options": {"include_usage": True}}, "stream_options"),
    ({"stream": True, "stream_options": True}, "stream_options"),
    ({"logprobs": 3}, "logprobs"),
    ({"top_logprobs": 3}, "top_logprobs"),
    ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
    ({"logit_bias": {"5": 101}}, "logit_bias.5"),
    ({"logit_bias": []}, "logit_bias"),
    ({"parallel_tool_calls": "no"}, "parallel_tool_calls"),
    ({"response_format": "json"}, "response_format.type"),
    ({"response_format": {"type": "xml"}}, "response_format.type"),
    ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
    ({"response_format": {"type": "json_schema", "json_schema": {"schema": {}}}}, "response_format.json_schema.name"),
    (
        {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": []}}},
        "response_format.json_schema.schema",
    ),
    ({"functions": [{"name": "a"}], "function_call": 5}, "function_call"),
    ({"functions": [{"name": "a"}], "function_call": {"name": "b"}}, "function_call.name"),
    ({"logit_bias": {"abc": 1}}, "logit_bias"),
    ({"reasoning_effort": 5}, "reasoning_effort"),
    ({"tools": "x"}, "tools"),
    ({"tools": ["x"]}, "tools[0]"),
    ({"tools": [{"type": "function"}]}, "tools[0].function"),
    ({"tools": [{"type": "function", "function": {}}]}, "tools[0].function.name"),
    ({"tools": [{"type": "function", "function": {"name": "a", "parameters": []}}]}, "tools[0].function.parameters"),
    ({"tools": [{"type": "function", "function": {"name": "a", "description": 5}}]}, "tools[0].function.description"),
    ({"functions": {}}, "functions"),
    ({"tools": [TOOL], "tool_choice": "sometimes"}, "tool_choice"),
    ({"tools": [TOOL], "tool_choice": 5}, "tool_choice"),
    (
        {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "other"}}},
        "tool_choice.function.name",
    ),
]

# (fields, what arrives of them; MISSING: must not arrive)
BROUGHT: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"max_completion_tokens": 9, "max_tokens": 5}, {"max_tokens": 9, "max_completion_tokens": MISSING}),
    ({"max_tokens": 7.0}, {"max_tokens": 7}),
    ({"max_tokens": 4096}, {"max_tokens": MISSING}),
    ({"max_tokens": 4095}, {"max_tokens": 4095}),
    ({"top_p": 0}, {"top_p": 1e-6}),
    ({"n": 2, "temperature": 0}, {"n": 2, "temperature": 0.01}),
    ({"n": 1, "temperature": 0}, {"temperature": 0}),
    ({"temperature": None, "stop": None, "n": None}, {"temperature": MISSING, "stop": MISSING, "n": MISSING}),
    ({"stop": ["", "a"]}, {"stop": ["a"]}),
    ({"stop": ""}, {"stop": MISSING}),
    ({"stop": []}, {"stop": MISSING}),
    ({"stop": "x"}, {"stop": "x"}),
    ({"stop": ["a", "b", "c", "d", "e"]}, {"stop": ["a", "b", "c", "d", "e"]}),
    ({"store": True, "metadata": {"a": "b"}, "user": "ann"}, {"store": MISSING, "metadata": MISSING, "user": MISSING}),
    ({"reasoning": {"effort": "high"}}, {"reasoning": MISSING, "reasoning_effort": MISSING}),
    ({"parallel_tool_calls": True}, {"parallel_tool_calls": MISSING}),
    ({"continue_final_message": True}, {"continue_final_message": MISSING}),
    ({"min_p": 0.1, "vllm_xargs": {"a": 1}}, {"min_p": 0.1, "vllm_xargs": {"a": 1}}),
    ({"functions": [{"name": "read"}], "function_call": {"name": "read"}},
     {"functions": MISSING, "tool_choice": {"type": "function", "function": {"name": "read"}}}),
    ({"tools": [TOOL], "tool_choice": {"type": "tool", "name": "read"}},
     {"tool_choice": {"type": "function", "function": {"name": "read"}}}),
    ({"tools": [TOOL], "tool_choice": {"type": "any"}}, {"tool_choice": "required"}),
    ({"tools": [TOOL], "tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": []}}},
     {"tool_choice": "required", "tools": [TOOL]}),
]  # fmt: skip


def body(fields: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in {**BASE, **fields}.items() if value is not MISSING}


@pytest.mark.parametrize(("fields", "param"), REFUSED, ids=[str(row[0])[:70] for row in REFUSED])
def test_refused_with_the_name_of_the_field(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(BadRequest) as refusal:
        Translator(ModelProfile("m", "v13")).request(body(fields))
    assert refusal.value.param == param
    assert refusal.value.message


@pytest.mark.parametrize(("fields", "arrives"), BROUGHT, ids=[str(row[0])[:70] for row in BROUGHT])
def test_brought_into_what_vllm_takes(fields: dict[str, Any], arrives: dict[str, Any]) -> None:
    translator = Translator(ModelProfile("m", "v13"), max_model_len=4096)
    sent = translator.request(body(fields))
    for key, value in arrives.items():
        assert sent.get(key, MISSING) == value, key
    assert bool(translator.rewrites) == any(fields.get(key, MISSING) != value for key, value in arrives.items())


@pytest.mark.parametrize(
    ("effort", "tokenizer", "sent"),
    [("low", "v15", "high"), ("minimal", "v15", "none"), ("high", "v15", "high"), ("high", "v13", MISSING)],
)
def test_reasoning_effort(effort: str, tokenizer: Any, sent: Any) -> None:
    profile = ModelProfile("m", tokenizer, reasoning=True)
    assert Translator(profile).request(body({"reasoning_effort": effort})).get("reasoning_effort", MISSING) == sent


def test_the_profile_fills_in_what_the_client_left_open() -> None:
    profile = ModelProfile("m", "v13", sampling={"temperature": 0.15}, max_tokens=500)
    assert Translator(profile).request(body({}))["temperature"] == 0.15
    assert Translator(profile).request(body({}))["max_tokens"] == 500
    assert Translator(profile).request(body({"temperature": 1}))["temperature"] == 1


def test_parallel_calls_are_limited_by_client_and_profile() -> None:
    for profile, fields, most in (
        (ModelProfile("m"), {}, 128),
        (ModelProfile("m"), {"parallel_tool_calls": False}, 1),
        (ModelProfile("m", parallel_tool_calls=False), {}, 1),
        (ModelProfile("m", max_tool_calls=3), {"parallel_tool_calls": True}, 3),
    ):
        translator = Translator(profile)
        translator.request(body({"tools": [TOOL], **fields}))
        assert translator.context.max_calls == most


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = {"a": value}
    return value


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"messages": [{"role": "user", "content": [{"type": "odd", "data": nested(300)}]}]}, "messages[0].content[0]"),
        (
            {
                "messages": [
                    {
                        "role": "assistant",
                        "tool_calls": [{"id": "1", "function": {"name": "a", "arguments": nested(5000)}}],
                    }
                ]
            },
            "messages[0].tool_calls[0]",
        ),
        ({"messages": [{"role": "tool", "tool_call_id": "1", "content": nested(300)}]}, "messages[0].content.a"),
    ],
)
def test_what_is_nested_too_deeply_is_refused_by_name(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(BadRequest) as refusal:
        Translator(ModelProfile("m")).request(body(fields))
    assert refusal.value.param == param
