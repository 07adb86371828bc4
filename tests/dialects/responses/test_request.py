"""Requests of the Responses API as chat completion requests: items, parts, tools, fields, and what is refused."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from devstral_proxy.dialects.responses import references, response_of
from devstral_proxy.dialects.responses.ids import Ids
from devstral_proxy.dialects.responses.reasoning import sealed
from devstral_proxy.errors import NotFound
from tests.dialects.responses.help import PATCH, READ_FILE, SPACE, TOOLS, asked, chat_of, dialect, messages_of, whole

USER = {"role": "user", "content": "hi"}
PNG = "data:image/png;base64,AAAA"


def output_text(text: str, **more: Any) -> dict[str, Any]:
    return {
        "type": "message",
        "role": "assistant",
        "id": "msg_1",
        "status": "completed",
        "content": [{"type": "output_text", "text": text, "annotations": [], "logprobs": []}],
        **more,
    }


def call(id: str, name: str = "read_file", arguments: str = "{}", **more: Any) -> dict[str, Any]:
    return {"type": "function_call", "call_id": id, "name": name, "arguments": arguments, **more}


def chat_call(id: str, name: str = "read_file", arguments: str = "{}") -> dict[str, Any]:
    return {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}


def result(id: str, output: Any = "ok", **more: Any) -> dict[str, Any]:
    return {"type": "function_call_output", "call_id": id, "output": output, **more}


ASSISTANT = {"role": "assistant", "content": None}

ITEMS: dict[str, tuple[list[Any], list[dict[str, Any]]]] = {
    "without a type": ([{"role": "user", "content": "a"}], [{"role": "user", "content": "a"}]),
    "with a type": ([{"type": "message", "role": "user", "content": "a"}], [{"role": "user", "content": "a"}]),
    "one part is its text": (
        [{"role": "user", "content": [{"type": "input_text", "text": "a"}]}],
        [{"role": "user", "content": "a"}],
    ),
    "parts": (
        [
            {
                "role": "user",
                "content": [
                    {"type": "input_text", "text": "a"},
                    {"type": "input_image", "image_url": PNG, "detail": "high"},
                    {"type": "input_image", "image_url": PNG},
                    {"type": "input_image", "file_id": "file-1", "detail": "auto"},
                    {"type": "input_file", "filename": "x.pdf", "file_data": "data:;base64,AA"},
                ],
            }
        ],
        [
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "a"},
                    {"type": "image_url", "image_url": {"url": PNG, "detail": "high"}},
                    {"type": "image_url", "image_url": {"url": PNG}},
                    {"type": "image_url"},
                    {"type": "file", "file": {"filename": "x.pdf", "file_data": "data:;base64,AA"}},
                ],
            }
        ],
    ),
    "developer and system": (
        [{"role": "developer", "content": "d"}, {"role": "system", "content": "s"}, USER],
        [{"role": "developer", "content": "d"}, {"role": "system", "content": "s"}, USER],
    ),
    "assistant": ([USER, output_text("b")], [USER, {"role": "assistant", "content": "b"}]),
    "assistant as text": (
        [{"role": "assistant", "content": "b", "phase": "commentary"}],
        [{"role": "assistant", "content": "b"}],
    ),
    "refusal": (
        [{"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]}],
        [{"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]}],
    ),
    "calls of one turn": (
        [call("a"), call("b"), result("a"), result("b")],
        [
            {**ASSISTANT, "tool_calls": [chat_call("a"), chat_call("b")]},
            {"role": "tool", "tool_call_id": "a", "content": "ok"},
            {"role": "tool", "tool_call_id": "b", "content": "ok"},
        ],
    ),
    "reasoning, text and calls are one message": (
        [
            {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "hm"}]},
            output_text("b"),
            call("a"),
            call("b"),
        ],
        [
            {
                "role": "assistant",
                "reasoning_content": "hm",
                "content": "b",
                "tool_calls": [chat_call("a"), chat_call("b")],
            }
        ],
    ),
    "text after a call begins a new message": (
        [call("a"), output_text("b")],
        [{**ASSISTANT, "tool_calls": [chat_call("a")]}, {"role": "assistant", "content": "b"}],
    ),
    "a dropped item does not part a turn": (
        [output_text("b"), {"type": "web_search_call", "id": "ws_1", "status": "completed"}, call("a")],
        [{"role": "assistant", "content": "b", "tool_calls": [chat_call("a")]}],
    ),
    "results as parts": (
        [call("a"), result("a", [{"type": "input_text", "text": "t"}, {"type": "input_image", "image_url": PNG}])],
        [
            {**ASSISTANT, "tool_calls": [chat_call("a")]},
            {
                "role": "tool",
                "tool_call_id": "a",
                "content": [{"type": "text", "text": "t"}, {"type": "image_url", "image_url": {"url": PNG}}],
            },
        ],
    ),
    "a result that names its tool": (
        [call("a"), {"type": "function_call_output", "name": "read_file", "output": "ok"}],
        [
            {**ASSISTANT, "tool_calls": [chat_call("a")]},
            {"role": "tool", "name": "read_file", "content": "ok"},
        ],
    ),
    "custom": (
        [
            {"type": "custom_tool_call", "call_id": "a", "name": "apply_patch", "input": "*** Begin"},
            {"type": "custom_tool_call_output", "call_id": "a", "output": "ok"},
        ],
        [
            {
                **ASSISTANT,
                "tool_calls": [{"id": "a", "type": "custom", "custom": {"name": "apply_patch", "input": "*** Begin"}}],
            },
            {"role": "tool", "tool_call_id": "a", "content": "ok"},
        ],
    ),
    "a call in a namespace": (
        [call("a", "close", namespace="agents"), call("b", "x", namespace="mcp__y__"), call("c", namespace=None)],
        [
            {
                **ASSISTANT,
                "tool_calls": [chat_call("a", "agents__close"), chat_call("b", "mcp__y__x"), chat_call("c")],
            }
        ],
    ),
    "what Codex's agents say": (
        [{"type": "agent_message", "author": "a1", "content": [{"type": "input_text", "text": "t"}]}],
        [
            {
                "role": "user",
                "content": [{"type": "text", "text": "[message from a1]"}, {"type": "text", "text": "t"}],
            }
        ],
    ),
}


@pytest.mark.parametrize("case", ITEMS)
def test_items(case: str) -> None:
    items, messages = ITEMS[case]
    before = copy.deepcopy(items)
    assert messages_of(*items, tools=TOOLS) == messages
    assert items == before


def test_input_as_text_and_instructions() -> None:
    chat = chat_of(input="hello", instructions="Be brief.")
    assert chat == {
        "model": "m",
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hello"}],
    }


REASONING: list[tuple[dict[str, Any], str | None, list[str]]] = [
    ({"summary": [{"type": "summary_text", "text": "s"}]}, "s", []),
    ({"summary": [{"type": "summary_text", "text": "s"}, {"type": "summary_text", "text": "t"}]}, "s\nt", []),
    (
        {"summary": [{"type": "summary_text", "text": "s"}], "content": [{"type": "reasoning_text", "text": "c"}]},
        "c",
        ["reasoning_dropped"],
    ),
    ({"summary": [{"text": "s"}], "content": [{"text": "s"}], "encrypted_content": sealed("s")}, "s", []),
    ({"summary": [{"text": "s"}], "encrypted_content": sealed("own")}, "own", ["reasoning_dropped"]),
    ({"summary": [{"text": "s"}], "content": None, "encrypted_content": None}, "s", []),
    ({"summary": [], "encrypted_content": sealed("own\nthought")}, "own\nthought", []),
    ({"summary": [{"text": "s"}], "encrypted_content": "gAAAAABo"}, "s", ["reasoning_opaque"]),
    ({"summary": [], "encrypted_content": "gAAAAABo"}, None, ["reasoning_opaque", "empty_dropped"]),
    ({"summary": [], "encrypted_content": sealed("x") + "!"}, None, ["reasoning_opaque", "empty_dropped"]),
    ({"summary": []}, None, ["empty_dropped"]),
]


@pytest.mark.parametrize(("item", "text", "rewrites"), REASONING)
def test_reasoning(item: dict[str, Any], text: str | None, rewrites: list[str]) -> None:
    made = dialect()
    items = [USER, {"type": "reasoning", "id": "rs_1", **item}, output_text("b")]
    messages = made.request({"model": "m", "input": items})["messages"]
    assert messages[1].get("reasoning_content") == text
    assert [name for name, _ in made.rewrites.entries] == rewrites


DROPPED = (
    "web_search_call",
    "file_search_call",
    "computer_call",
    "computer_call_output",
    "local_shell_call",
    "local_shell_call_output",
    "shell_call",
    "shell_call_output",
    "apply_patch_call",
    "tool_search_call",
    "image_generation_call",
    "code_interpreter_call",
    "mcp_list_tools",
    "mcp_call",
    "compaction",
    "compaction_trigger",
    "of_tomorrow",
)


@pytest.mark.parametrize("kind", DROPPED)
def test_items_of_other_services_are_dropped_by_name(kind: str) -> None:
    made = dialect()
    assert made.request({"model": "m", "input": [USER, {"type": kind, "id": "x"}]})["messages"] == [USER]
    assert made.rewrites.entries == [("item_dropped", "input[1]")]


def test_tools_that_come_as_items() -> None:
    items = [
        USER,
        {"type": "additional_tools", "role": "developer", "tools": [READ_FILE]},
        {"type": "tool_search_output", "tools": [SPACE]},
    ]
    chat = chat_of(input=items)
    assert [tool["function"]["name"] for tool in chat["tools"]] == ["read_file", "agents__close"]
    assert chat["messages"] == [USER]


# ---------------------------------------------------------------- tools


def test_tools() -> None:
    made = dialect()
    chat = made.request({"model": "m", "input": "x", "tools": [*TOOLS, {"type": "web_search"}, {"type": "mcp"}]})
    assert chat["tools"] == [
        {"type": "function", "function": {key: READ_FILE[key] for key in READ_FILE if key != "type"}},
        {"type": "custom", "custom": {key: PATCH[key] for key in PATCH if key != "type"}},
        {"type": "function", "function": {"name": "agents__close", "parameters": {"type": "object", "properties": {}}}},
    ]
    assert made.rewrites.entries == [
        ("tool_flattened", "tools[2]"),
        ("tool_key_dropped", "tools[2].description"),
        ("tool_dropped", "tools[3]"),
        ("tool_dropped", "tools[4]"),
    ]


def test_keys_of_tools_that_go_no_further_are_named() -> None:
    tools = [
        {**READ_FILE, "defer_loading": True, "output_schema": None},
        {**PATCH, "defer_loading": False, "x": {}},
        {"type": "function", "function": {"name": "f", "y": 1}, "z": 1},
    ]
    made = dialect()
    made.request({"model": "m", "input": "x", "tools": tools})
    assert made.rewrites.entries == [
        ("tool_key_dropped", "tools[0].defer_loading"),
        ("tool_key_dropped", "tools[1].x"),
        ("tool_key_dropped", "tools[2].z"),
        ("tool_key_dropped", "tools[2].function.y"),
    ]


def test_what_stands_beside_a_replayed_text_is_named() -> None:
    said: dict[str, Any] = {"type": "output_text", "text": "a", "annotations": [], "logprobs": [], "x": None}
    cited = {**said, "annotations": [{"type": "url_citation", "url": "https://x", "title": "t"}]}
    made = dialect()
    made.request({"model": "m", "input": [USER, {"role": "assistant", "content": [said, cited]}]})
    assert made.rewrites.entries == [("key_dropped", "input[1].content[1].annotations")]


def test_names_in_namespaces_do_not_collide() -> None:
    inner = {"type": "function", "name": "close"}
    tools = [{"type": "function", "name": "agents__close"}, {"type": "namespace", "name": "agents", "tools": [inner]}]
    chat = chat_of(tools=tools, input=[call("a", "close", namespace="agents"), call("b", "agents__close")])
    assert [tool["function"]["name"] for tool in chat["tools"]] == ["agents__close", "agents__close_"]
    assert [entry["function"]["name"] for entry in chat["messages"][0]["tool_calls"]] == [
        "agents__close_",
        "agents__close",
    ]


def test_only_tools_of_other_services() -> None:
    made = dialect()
    body = {"model": "m", "input": "x", "tools": [{"type": "web_search"}], "tool_choice": "required"}
    chat = made.request({**body, "parallel_tool_calls": True})
    assert chat.keys() == {"model", "messages"}
    assert made.rewrites.entries == [("tool_dropped", "tools[0]"), ("tool_choice_omitted", "tool_choice")]


CHOICES: list[tuple[Any, Any]] = [
    ("auto", "auto"),
    ("none", "none"),
    ("required", "required"),
    ({"type": "function", "name": "read_file"}, {"type": "function", "function": {"name": "read_file"}}),
    ({"type": "function", "function": {"name": "read_file"}}, {"type": "function", "function": {"name": "read_file"}}),
    ({"type": "function", "name": "close"}, {"type": "function", "function": {"name": "agents__close"}}),
    (
        {"type": "function", "name": "close", "namespace": "agents"},
        {"type": "function", "function": {"name": "agents__close"}},
    ),
    ({"type": "function", "name": "agents__close"}, {"type": "function", "function": {"name": "agents__close"}}),
    ({"type": "custom", "name": "apply_patch"}, {"type": "custom", "custom": {"name": "apply_patch"}}),
    (
        {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "read_file"}]},
        {"type": "allowed_tools", "allowed_tools": {"mode": "required"}},
    ),
    ({"type": "web_search_preview"}, None),
    ({"type": "mcp", "server_label": "x"}, None),
    (None, None),
]


@pytest.mark.parametrize(("given", "chat"), CHOICES)
def test_tool_choice(given: Any, chat: Any) -> None:
    assert chat_of(tools=TOOLS, tool_choice=given).get("tool_choice") == chat


# ---------------------------------------------------------------- fields

SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}

FIELDS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"stream": True}, {"stream": True, "stream_options": {"include_usage": True}}),
    (
        {"stream": True, "stream_options": {"include_obfuscation": False}},
        {"stream": True, "stream_options": {"include_usage": True}},
    ),
    ({"stream": False}, {"stream": False}),
    ({"temperature": 0.5, "top_p": 0.9}, {"temperature": 0.5, "top_p": 0.9}),
    ({"max_output_tokens": 99}, {"max_tokens": 99}),
    ({"top_logprobs": 3}, {"logprobs": True, "top_logprobs": 3}),
    ({"include": ["message.output_text.logprobs"]}, {"logprobs": True, "top_logprobs": 0}),
    ({"include": ["reasoning.encrypted_content"]}, {}),
    ({"reasoning": {"effort": "high", "summary": "auto"}}, {"reasoning_effort": "high"}),
    ({"reasoning": None, "text": None, "metadata": None, "tools": None, "include": None}, {}),
    ({"text": {"format": {"type": "text"}, "verbosity": "low"}}, {}),
    ({"text": {"format": {"type": "json_object"}}}, {"response_format": {"type": "json_object"}}),
    (
        {"text": {"format": {"type": "json_schema", "name": "n", "schema": SCHEMA, "strict": True}}},
        {
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "n", "schema": SCHEMA, "strict": True},
            }
        },
    ),
    ({"seed": 1, "top_k": 5, "min_p": 0.1}, {"seed": 1, "top_k": 5, "min_p": 0.1}),
    ({"store": False, "truncation": "auto", "max_tool_calls": 3, "metadata": {"a": "b"}}, {}),
    ({"user": "u", "safety_identifier": "s", "prompt_cache_key": "k", "service_tier": "auto"}, {}),
    ({"client_metadata": {"a": 1}, "background": False, "of_tomorrow": [1]}, {}),
]


@pytest.mark.parametrize(("given", "chat"), FIELDS)
def test_fields(given: dict[str, Any], chat: dict[str, Any]) -> None:
    made = chat_of(**given)
    assert {key: made[key] for key in made if key not in ("model", "messages")} == chat


def test_the_response_repeats_the_request() -> None:
    body: dict[str, Any] = {
        "instructions": "i",
        "max_output_tokens": 9,
        "max_tool_calls": 2,
        "metadata": {"a": "b"},
        "parallel_tool_calls": False,
        "prompt_cache_key": "k",
        "reasoning": {"effort": "low", "summary": "auto"},
        "safety_identifier": "s",
        "store": False,
        "temperature": 0.5,
        "text": {"format": {"type": "json_schema", "name": "n", "schema": SCHEMA}, "verbosity": "low"},
        "tool_choice": {"type": "function", "name": "read_file"},
        "tools": TOOLS,
        "top_p": 0.5,
        "truncation": "auto",
        "user": "u",
    }
    made = asked(**body)
    response = made.body({"choices": [{"message": {"content": "x"}, "finish_reason": "stop"}]})
    assert {key: response[key] for key in body if key != "tools"} == {key: body[key] for key in body if key != "tools"}
    assert response["tools"][1:] == TOOLS[1:]
    assert response["tools"][0] == READ_FILE
    assert made.store is False
    whole(response)
    plain = asked().body({"choices": [{"message": {"content": "x"}, "finish_reason": "stop"}]})
    whole(plain)
    assert (plain["store"], plain["tool_choice"], plain["parallel_tool_calls"]) == (True, "auto", True)
    assert plain["text"] == {"format": {"type": "text"}}


def test_fields_without_effect_are_named() -> None:
    made = dialect()
    made.request({"model": "m", "input": "x", "client_metadata": {}, "user": "u", "text": {"verbosity": "low"}})
    assert made.rewrites.entries == [
        ("field_dropped", "client_metadata"),
        ("field_dropped", "user"),
        ("field_dropped", "text.verbosity"),
    ]
    made = dialect()
    form = {"type": "json_schema", "name": "n", "schema": SCHEMA, "z": 1}
    given: dict[str, Any] = {
        "include": ["reasoning.encrypted_content", "web_search_call.action.sources", "file_search_call.results"],
        "reasoning": {"effort": "low", "summary": "auto", "generate_summary": None, "x": 1},
        "text": {"format": form, "verbosity": None, "y": 1},
    }
    made.request({"model": "m", "input": "x", **given})
    assert made.rewrites.entries == [
        ("field_dropped", "include"),
        ("field_dropped", "reasoning.x"),
        ("field_dropped", "text.y"),
        ("field_dropped", "text.format.z"),
    ]


# ---------------------------------------------------------------- stored conversations


def test_previous_items_go_first_and_instructions_are_the_requests_own() -> None:
    previous = [USER, call("a"), result("a"), output_text("b")]
    chat = chat_of(previous, input="next", instructions="new", previous_response_id="resp_1")
    assert chat["messages"] == [
        {"role": "system", "content": "new"},
        USER,
        {**ASSISTANT, "tool_calls": [chat_call("a")]},
        {"role": "tool", "tool_call_id": "a", "content": "ok"},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": "next"},
    ]


def test_a_conversation_may_go_on_without_input() -> None:
    assert chat_of([USER], input=None, previous_response_id="resp_1")["messages"] == [USER]


def test_references() -> None:
    own = Ids("then")
    known = [output_text("b", id=own.output("message", 1))]
    body = {
        "model": "m",
        "input": [
            USER,
            {"type": "item_reference", "id": own.output("reasoning", 0)},
            {"id": own.output("message", 1)},
            USER,
        ],
    }
    assert references(body) == [own.response]
    made = dialect(referenced=known)
    assert made.request(body)["messages"] == [USER, {"role": "assistant", "content": "b"}, USER]
    assert made.rewrites.entries == [("item_dropped", "input[1]")]
    assert [item["type"] for item in made.input_items] == ["message", "message", "message"]
    with pytest.raises(NotFound) as raised:
        dialect().request(body)
    assert raised.value.param == "input[2].id"


@pytest.mark.parametrize("body", [{}, {"input": "x"}, {"input": [1, USER, {"id": 1}, {"id": "msg_123"}]}])
def test_no_references(body: dict[str, Any]) -> None:
    assert references(body) == []


def test_ids_tell_their_response() -> None:
    own = Ids("seed")
    assert response_of(own.output("function_call", 300)) == response_of(own.input("x", 3)) == own.response
    assert response_of("msg_98acc149-399c-58d2-863d-d232b01af1a9") is None
    assert Ids("a").response != Ids("b").response
    assert Ids("a").response == Ids("a").response
