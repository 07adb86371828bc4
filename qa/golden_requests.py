"""Golden cases of the request translation: one for each failure mode, named after it.

Each row is what a client sends and what has to arrive at vLLM, for one tokenizer version. `tests/mistral` checks the
rows to the letter; `qa/run_tests.py` sends them to a running proxy, where they have to be accepted. The failure modes
are listed in docs/failure-modes.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from devstral_proxy.mistral.profiles import TokenizerVersion
from devstral_proxy.mistral.tool_ids import hashed

Message = dict[str, Any]

PIXEL: Final = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8BQ"
    "DwAEhQGAhKmMIQAAAABJRU5ErkJggg=="
)


@dataclass(frozen=True)
class Case:
    """`sends` and `arrives` are request bodies without model; keys that `arrives` leaves out are as `sends` has them.

    A key of `arrives` whose value is None must not arrive at all. `rewrites` are the names that must be told.
    """

    name: str
    says: str
    sends: dict[str, Any]
    arrives: dict[str, Any]
    rewrites: tuple[str, ...]
    tokenizer: TokenizerVersion = "v13"
    images: bool = False
    reasoning: bool = False


def user(content: Any = "hi") -> Message:
    return {"role": "user", "content": content}


def system(content: Any) -> Message:
    return {"role": "system", "content": content}


def said(content: Any, **more: Any) -> Message:
    return {"role": "assistant", "content": content, **more}


def call(identifier: Any, name: str = "read", arguments: Any = '{"path": "a"}', **more: Any) -> Message:
    return {"id": identifier, "type": "function", "function": {"name": name, "arguments": arguments}, **more}


def calls(*given: Message, content: Any = "", **more: Any) -> Message:
    return {"role": "assistant", "content": content, "tool_calls": list(given), **more}


def result(identifier: Any, content: Any = "ok", **more: Any) -> Message:
    return {"role": "tool", "tool_call_id": identifier, "content": content, **more}


def tool(name: str = "read", parameters: Any = None, description: str | None = "d", **more: Any) -> dict[str, Any]:
    schema = {"type": "object", "properties": {"path": {"type": "string"}}} if parameters is None else parameters
    function = {"name": name, "description": description, "parameters": schema, **more}
    return {"type": "function", "function": function}


A, B, C = "abcDEF001", "abcDEF002", "abcDEF003"
BRIDGE = said("Done.")
NO_RESULT = "[no result: the call was interrupted]"


def _conversation(
    name: str, says: str, sends: list[Message], arrives: list[Message], *rewrites: str, **more: Any
) -> Case:
    return Case(name, says, {"messages": sends}, {"messages": arrives}, rewrites, **more)


def _id(name: str, says: str, given: Any) -> Case:
    mapped = hashed(given)
    return _conversation(
        name,
        says,
        [user(), calls(call(given)), result(given)],
        [user(), calls(call(mapped)), result(mapped)],
        "tool_call_id",
    )


def _bridged(name: str, says: str, follows: Message) -> Case:
    return _conversation(
        name,
        says,
        [user(), calls(call(A)), result(A), follows],
        [user(), calls(call(A)), result(A), BRIDGE, follows],
        "bridge_added",
    )


def _tools(name: str, says: str, sends: dict[str, Any], arrives: dict[str, Any], *rewrites: str) -> Case:
    return Case(name, says, {"messages": [user()], **sends}, arrives, rewrites)


def _history_arguments(name: str, says: str, given: Any, sent: str, rewrite: str) -> Case:
    return _conversation(
        name,
        says,
        [user(), calls(call(A, arguments=given)), result(A)],
        [user(), calls(call(A, arguments=sent)), result(A)],
        rewrite,
    )


LONG_NAME: Final = "mcp.server/" + "very_" * 12 + "long:tool"

CASES: Final[tuple[Case, ...]] = (
    _conversation(
        "F01",
        "the streamed `index` comes back inside tool_calls",
        [user(), calls(call(A, index=0)), result(A)],
        [user(), calls(call(A)), result(A)],
        "key_dropped",
    ),
    _bridged("F02", "a user message follows a result", user("and now?")),
    _bridged("F03", "the answer to the agent's question follows a result", user("yes")),
    _bridged("F04", "the same with content parts", user([{"type": "text", "text": "next"}])),
    _bridged("F05", "a reminder follows the result", user("<system-reminder>be brief</system-reminder>")),
    _conversation(
        "F06",
        "the bridge stays in the history, turn after turn",
        [user(), calls(call(A)), result(A), user("2"), said("yes"), user("3")],
        [user(), calls(call(A)), result(A), BRIDGE, user("2"), said("yes"), user("3")],
        "bridge_added",
    ),
    _id("F07", "an id of OpenAI's shape", "call_abc123DEF456ghi789JKL012"),
    _id("F08", "an id of Anthropic's shape", "toolu_01A09q90qw90lq917835lq9"),
    _id("F09", "an id that is too short, with other characters", "functions.Read:0"),
    _id("F10", "an id that a server gave", "call_49c89af0"),
    _conversation(
        "F11",
        'the id is the literal "null"',
        [user(), calls(call("null")), result("null")],
        [user(), calls(call(hashed("call 1"))), result(hashed("call 1"))],
        "tool_call_id",
        "result_paired",
    ),
    _conversation(
        "F12",
        "the result names its call by the id's last nine characters",
        [user(), calls(call("call_0123456789")), result("123456789")],
        [user(), calls(call(hashed("call_0123456789"))), result(hashed("call_0123456789"))],
        "result_paired",
    ),
    _conversation(
        "F13",
        "the result has an empty id",
        [user(), calls(call(A), call(B)), result(A, "1"), result("", "2")],
        [user(), calls(call(A), call(B)), result(A, "1"), result(B, "2")],
        "result_paired",
    ),
    _conversation(
        "F14",
        "two results for one call",
        [user(), calls(call(A)), result(A, "one"), result(A, "two")],
        [user(), calls(call(A)), result(A, "one\n\ntwo")],
        "results_merged",
    ),
    _conversation(
        "F15",
        "one id for all calls: paired by position",
        [user(), calls(call(A, "read"), call(A, "list")), result(A, "first"), result(A, "second")],
        [
            user(),
            calls(call(A, "read"), call(hashed(A + "+1"), "list")),
            result(A, "first"),
            result(hashed(A + "+1"), "second"),
        ],
        "tool_call_id_repeated",
    ),
    _conversation(
        "F16",
        "a call was interrupted: it has no result",
        [user(), calls(call(A), call(B)), result(A), user("stop")],
        [user(), calls(call(A), call(B)), result(A), result(B, NO_RESULT), BRIDGE, user("stop")],
        "result_filled",
    ),
    _conversation(
        "F17",
        "a result stands behind a user message",
        [user(), calls(call(A)), user("quick"), result(A, "late")],
        [user(), calls(call(A)), result(A, "late"), BRIDGE, user("quick")],
        "result_moved",
    ),
    _conversation(
        "F17-orphan",
        "a result whose call was compacted away",
        [user("summary"), result("gone", "the file", name="read"), user("go on")],
        [user("summary\n\n[result of read, whose call is not part of this turn]\nthe file\n\ngo on")],
        "result_as_text",
    ),
    _conversation(
        "F17-late",
        "a result that comes an exchange too late",
        [user(), calls(call(A)), user("no, b"), calls(call(B)), result(A, "of a")],
        [
            user(),
            calls(call(A)),
            result(A, NO_RESULT),
            BRIDGE,
            user("no, b"),
            calls(call(B)),
            result(B, NO_RESULT),
            BRIDGE,
            user("[result, whose call is not part of this turn]\nof a"),
        ],
        "result_as_text",
    ),
    Case(
        "F18",
        "the history ends with the assistant",
        {"messages": [user(), said("The answer is")]},
        {"messages": [user(), said("The answer is")], "continue_final_message": True, "add_generation_prompt": False},
        ("assistant_continued",),
    ),
    _conversation(
        "F19",
        "neighbours of one role",
        [user("a"), user("b"), said("c"), said("d"), user("e")],
        [user("a\n\nb"), said("c\n\nd"), user("e")],
        "messages_merged",
    ),
    _conversation(
        "F20",
        "an empty assistant message",
        [user("a"), said("b"), said(""), user("c")],
        [user("a"), said("b"), user("c")],
        "empty_dropped",
    ),
    _conversation(
        "F20-turn",
        "an empty answer between two questions: without it the prompt's beginning would change",
        [user("a"), said(""), user("b")],
        [user("a"), BRIDGE, user("b")],
        "empty_dropped",
        "bridge_added",
    ),
    _conversation(
        "F21",
        "content is missing beside calls",
        [user(), {"role": "assistant", "tool_calls": [call(A)]}, result(A)],
        [user(), calls(call(A)), result(A)],
        "content_filled",
    ),
    _conversation(
        "F22",
        "text and calls in one message, before tokenizer v7",
        [user(), calls(call(A), content="I look."), result(A)],
        [user(), said("I look."), user("Continue."), calls(call(A)), result(A)],
        "text_split",
        tokenizer="v3",
    ),
    _conversation(
        "F22-v7",
        "text and calls in one message, from tokenizer v7 on",
        [user(), calls(call(A), content="I look."), result(A)],
        [user(), calls(call(A), content="I look."), result(A)],
        tokenizer="v7",
    ),
    _conversation(
        "F23",
        "`reasoning_content` comes back, the model does not reason",
        [user(), said("yes", reasoning_content="hm"), user()],
        [user(), said("yes"), user()],
        "reasoning_dropped",
    ),
    _conversation(
        "F24",
        "`reasoning` comes back, the model does not reason",
        [user(), said("yes", reasoning="hm"), user()],
        [user(), said("yes"), user()],
        "reasoning_dropped",
    ),
    _conversation(
        "F25",
        "thinking comes back as a list of chunks",
        [
            user(),
            said([{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}, {"type": "text", "text": "yes"}]),
            user(),
        ],
        [user(), said([{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "yes"}]), user()],
        "reasoning_converted",
        reasoning=True,
    ),
    _conversation("F26", "a user's `name`", [{**user(), "name": "ann"}], [user()], "key_dropped"),
    _conversation("F27", "`metadata` in a message", [{**user(), "metadata": {"a": 1}}], [user()], "key_dropped"),
    _conversation(
        "F28",
        "`refusal: null`",
        [user(), said("yes", refusal=None), user()],
        [user(), said("yes"), user()],
        "key_dropped",
    ),
    _conversation(
        "F28-text",
        "a refusal in words is what the model said",
        [user(), said(None, refusal="I cannot."), user()],
        [user(), said("I cannot."), user()],
        "part_flattened",
    ),
    _conversation(
        "F29",
        "a tool's result as a list",
        [user(), calls(call(A)), result(A, [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}])],
        [user(), calls(call(A)), result(A, "a\n\nb")],
        "content_flattened",
    ),
    _conversation(
        "F30",
        "system as a list with `cache_control`",
        [system([{"type": "text", "text": "be good", "cache_control": {"type": "ephemeral"}}]), user()],
        [system([{"type": "text", "text": "be good"}]), user()],
        "part_flattened",
    ),
    _conversation(
        "F31",
        "an image inside a tool's result",
        [
            user(),
            calls(call(A)),
            result(A, [{"type": "text", "text": "see"}, {"type": "image_url", "image_url": {"url": PIXEL}}]),
        ],
        [user(), calls(call(A)), result(A, "see"), BRIDGE, user([{"type": "image_url", "image_url": {"url": PIXEL}}])],
        "image_moved",
        images=True,
    ),
    _conversation(
        "F31-text-only",
        "an image for a model that sees none",
        [user([{"type": "text", "text": "see"}, {"type": "image_url", "image_url": {"url": PIXEL}}])],
        [
            user(
                [
                    {"type": "text", "text": "see"},
                    {"type": "text", "text": "[image omitted: it cannot be shown to this model here]"},
                ]
            )
        ],
        "image_omitted",
    ),
    _conversation(
        "F32",
        "assistant `content: []` beside calls",
        [user(), calls(call(A), content=[]), result(A)],
        [user(), calls(call(A)), result(A)],
        "content_filled",
    ),
    _tools(
        "F33",
        "`max_completion_tokens`",
        {"max_completion_tokens": 100},
        {"max_tokens": 100, "max_completion_tokens": None},
        "max_tokens_renamed",
    ),
    _tools(
        "F34",
        "`stream_options` stays",
        {"stream": True, "stream_options": {"include_usage": True}},
        {"stream": True, "stream_options": {"include_usage": True}},
    ),
    _tools("F35", "`strict: true` in a tool", {"tools": [tool(strict=True)]}, {"tools": [tool()]}, "tool_key_dropped"),
    _tools("F36", "`strict: null` in a tool", {"tools": [tool(strict=None)]}, {"tools": [tool()]}, "tool_key_dropped"),
    _tools(
        "F37",
        "an empty list of tools",
        {"tools": [], "tool_choice": "auto"},
        {"tools": None, "tool_choice": None},
        "tools_omitted",
        "tool_choice_omitted",
    ),
    _tools("F38", "tool_choice without tools", {"tool_choice": "auto"}, {"tool_choice": None}, "tool_choice_omitted"),
    _tools(
        "F39", "`tool_choice: null`", {"tools": [tool()], "tool_choice": None}, {"tool_choice": None}, "null_dropped"
    ),
    _tools(
        "F40",
        "`any` is another API's word",
        {"tools": [tool()], "tool_choice": "any"},
        {"tool_choice": "required"},
        "tool_choice",
    ),
    _tools(
        "F42",
        "a tool's name is too long and has other characters",
        {"tools": [tool(LONG_NAME)]},
        {"tools": [tool("mcp_server_" + ("very_" * 12 + "long_tool")[:46] + "_" + hashed(LONG_NAME)[:6])]},
        "tool_name",
    ),
    _tools(
        "F43",
        "a draft-4 schema",
        {"tools": [tool(parameters={"type": "object", "properties": {"n": {"minimum": 0, "exclusiveMinimum": True}}})]},
        {"tools": [tool(parameters={"type": "object", "properties": {"n": {"exclusiveMinimum": 0}}})]},
        "schema",
    ),
    _tools(
        "F44",
        "`required: null`",
        {"tools": [tool(parameters={"type": "object", "properties": {}, "required": None})]},
        {"tools": [tool(parameters={"type": "object", "properties": {}})]},
        "schema",
    ),
    _tools(
        "F45",
        "a `$ref` that leads nowhere",
        {"tools": [tool(parameters={"type": "object", "properties": {"a": {"$ref": "#/$defs/A"}}})]},
        {"tools": [tool(parameters={"type": "object", "properties": {"a": {"x-ref": "#/$defs/A"}}})]},
        "schema_reference",
    ),
    _tools(
        "F46",
        "chat_template and chat_template_kwargs",
        {"chat_template": "x", "chat_template_kwargs": {"enable_thinking": False}},
        {"chat_template": None, "chat_template_kwargs": None},
        "field_dropped",
    ),
    _tools(
        "F47",
        "`reasoning_effort` before v15",
        {"reasoning_effort": "low"},
        {"reasoning_effort": None},
        "reasoning_effort",
    ),
    _tools(
        "F48",
        "`skip_special_tokens: false`",
        {"skip_special_tokens": False},
        {"skip_special_tokens": None},
        "field_dropped",
    ),
    _history_arguments(
        "F49", "a truncated call in the history", '{"path": "a/b', '{"path": "a/b"}', "arguments_repaired"
    ),
    _history_arguments("F50", "arguments are JSON, but no object", "[1, 2]", '{"input":[1,2]}', "arguments_wrapped"),
    _conversation(
        "F51",
        "the role `developer`",
        [{"role": "developer", "content": "be good"}, user()],
        [system("be good"), user()],
        "developer_role",
    ),
    _conversation(
        "F51-middle",
        "a system message in the middle keeps its place",
        [user("a"), said("b"), system("mode: plan"), user("c")],
        [user("a"), said("b"), user("[system message]\nmode: plan\n[end of system message]\n\nc")],
        "system_in_place",
    ),
    _tools(
        "F53",
        "tools that are no functions",
        {
            "tools": [
                {"type": "web_search"},
                {"type": "custom", "custom": {"name": "patch", "description": "p"}},
                {"type": "function", "name": "read", "description": "d", "parameters": {"type": "object"}},
            ]
        },
        {
            "tools": [
                tool(
                    "patch",
                    {"type": "object", "properties": {"input": {"type": "string"}}, "required": ["input"]},
                    "p",
                ),
                tool("read", {"type": "object"}),
            ]
        },
        "tool_dropped",
        "tool_flattened",
    ),
    _tools(
        "F53-anthropic",
        "an Anthropic tool with its explicit type",
        {"tools": [{"type": "custom", "name": "read", "description": "d", "input_schema": {"type": "object"}}]},
        {"tools": [tool("read", {"type": "object"})]},
        "tool_flattened",
    ),
    _tools(
        "F55", "max_tokens over the whole context", {"max_tokens": 10**6}, {"max_tokens": None}, "max_tokens_clamped"
    ),
    _conversation(
        "F84",
        "replayed `reasoning_content` where the model reasons",
        [user(), said("yes", reasoning_content="hm"), user()],
        [user(), said([{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "yes"}]), user()],
        "reasoning_converted",
        reasoning=True,
    ),
)

# Failure modes of requests that are no rewriting of one: where they are tested instead.
ELSEWHERE: Final[dict[str, str]] = {
    "F41": "refusals: the error names the flag; doctor finds it at start",
    "F52": "served by /v1/responses, which is not part of the chat completions",
    "F54": "as F52",
    "F56": "refusals: the code context_length_exceeded",
}

MAX_MODEL_LEN: Final = 131_072


def body(case: Case, model: str = "devstral-small-2") -> dict[str, Any]:
    """The request as the client sends it."""
    return {"model": model, **case.sends}
