"""The quick paths give what the slow ones give: the same result, and the same names of changes in the same order."""

from __future__ import annotations

import copy
import itertools
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import orjson
from hypothesis import given, settings
from hypothesis import strategies as st

from devstral_proxy.mistral import messages, response, stream
from devstral_proxy.mistral.choice import Choice
from devstral_proxy.mistral.context import AnswerContext
from devstral_proxy.mistral.names import ToolNames
from devstral_proxy.mistral.profiles import ModelProfile
from devstral_proxy.mistral.quick_exchange import is_plain, plain_end, quickly
from devstral_proxy.mistral.rewrites import RewriteLog
from devstral_proxy.mistral.stream import StreamRepair
from devstral_proxy.mistral.tool_memo import MAX_BYTES, MAX_FIELDS, MAX_FRAMES, MAX_TOTAL, ToolMemo
from devstral_proxy.mistral.tools import ToolSet
from devstral_proxy.mistral.translator import Translator
from devstral_proxy.upstream.capabilities import for_version
from devstral_proxy.upstream.sse import Event, Parser
from tests.conversations import Conversation, odd_conversations, plain_conversations
from tests.streams import END, TOOLS, call, chunk, context, finish, piece, role, text

Entries = list[tuple[str, str]]

PROFILES = st.builds(
    ModelProfile,
    st.just("drawn"),
    st.sampled_from(("v3", "v7", "v11", "v13", "v15")),
    images=st.booleans(),
    reasoning=st.booleans(),
    user_after_tool=st.booleans(),
)


def slow(where: object, *names: str) -> Any:
    """A patch that turns quick paths off: what is asked says no."""
    said_no: dict[str, Any] = {name: lambda *_: None for name in names}
    return patch.multiple(where, **said_no)


# The answer


CONTENT = st.sampled_from(("Hello.", None, "", "see [1]", '[TOOL_CALLS]get_weather{"city": "x"}', "TOOL_CALLS", ["x"]))
IDS = st.sampled_from(("abcDEF123", "123abcDEF", "chatcmpl-tool-0123456789abcdef", "call_1"))
DAMAGES: dict[str, tuple[Any, ...]] = {
    "name": ("rm", "", None, 3),
    "arguments": ("", '{"city": "Par', '{"paths": "[\\"a\\"]"}', "null", "[]", '{"a": "[TOOL_CALLS]rm{}"}', {}, None),
    "id": ("", "null", None, 7),
    "type": ("custom", None),
    "function": (None, "x"),
    "index": (0, None),
    "strict": (True,),
    "role": (None, "user"),
    "reasoning": ("thought",),
    "reasoning_content": ("thought", ""),
    "token_ids": ([1, 2], [9, 5, 2]),
    "other": (1,),
}
OF_FUNCTION = ("name", "arguments", "strict")
OF_CALL = ("id", "type", "function", "index")
OF_CHOICE = ("token_ids", "index")


@st.composite
def choices(draw: st.DrawFn) -> dict[str, Any]:
    """A right choice, or one with something wrong in one place."""
    names = draw(st.lists(st.sampled_from(tuple(TOOLS)), max_size=2))
    calls: list[dict[str, Any]] = [
        {"id": draw(IDS), "type": "function", "function": {"name": name, "arguments": '{"city": "Paris"}'}}
        for name in names
    ]
    plain, listed = draw(st.booleans()), draw(st.booleans())
    message: dict[str, Any] = {"role": "assistant", "content": "Hi" if plain else draw(CONTENT)}
    if calls or listed:
        message["tool_calls"] = calls
    reason = draw(st.sampled_from(("tool_calls" if calls else "stop", "stop", "length", "content_filter", "odd")))
    choice = {"index": 0, "message": message, "finish_reason": reason, "stop_reason": None, "token_ids": None}
    key = draw(st.sampled_from((*DAMAGES, "", "", "")))
    if key:
        damaged = draw(st.sampled_from(DAMAGES[key]))
        if key in OF_CHOICE and not (calls and key == "index"):
            choice[key] = damaged
        elif key not in OF_FUNCTION + OF_CALL:
            message[key] = damaged
        elif calls:
            call = draw(st.sampled_from(calls))
            (call["function"] if key in OF_FUNCTION else call)[key] = damaged
    return choice


CONTEXTS = st.builds(
    context,
    tools=st.sampled_from((TOOLS, TOOLS, TOOLS, {})),
    max_calls=st.sampled_from((128, 1)),
    raw_text=st.booleans(),
    token_ids=st.booleans(),
    names=st.sampled_from(({}, {"get_weather": "get.weather"})),
    custom=st.sampled_from((frozenset[str](), frozenset(("read_file", "get_weather")))),
)


def answered(choice: dict[str, Any], given_context: AnswerContext) -> tuple[Any, Entries]:
    log = RewriteLog()
    body = {"id": "chatcmpl-1", "choices": [choice]}
    try:
        return response.repair_response(body, given_context, log), log.entries
    except Exception as error:
        return repr(error), log.entries


@settings(max_examples=1500)
@given(choices(), CONTEXTS)
def test_a_whole_answer(choice: dict[str, Any], given_context: AnswerContext) -> None:
    before = copy.deepcopy(choice)
    quick = answered(choice, given_context)
    with slow(response, "quickly"):
        assert quick == answered(choice, given_context)
    assert choice == before, "upstream's own dict was changed"


# The conversation


def translated(given_messages: list[Any], profile: ModelProfile) -> tuple[Any, Entries, dict[str, str]]:
    log = RewriteLog()
    conversation = messages.Conversation(profile, {}, (), log)
    try:
        result: Any = conversation.translate(given_messages)
    except Exception as error:
        result = repr(error)
    return result, log.entries, conversation.names


@settings(max_examples=400)
@given(odd_conversations() | plain_conversations(), PROFILES, st.data())
def test_a_conversation(conversation: Conversation, profile: ModelProfile, data: st.DataObject) -> None:
    said = conversation.messages
    if data.draw(st.booleans()):  # as a client that lost or doubled a part of it would send it
        said = list(said)
        at = data.draw(st.integers(0, len(said) - 1))
        said[at : at + 1] = data.draw(st.sampled_from(([], [said[at], said[at]], [{**said[at], "content": ""}])))
    quick = translated(said, profile)
    with (
        slow(messages, "is_plain"),
        patch.object(messages, "quickly", lambda _, start, *__: start),
        patch.object(messages, "plain_end", lambda _, start: start),
    ):
        assert quick == translated(said, profile)


def test_the_quick_path_is_taken() -> None:
    """Else the test above would show nothing."""
    calls = [{"id": "call_1", "type": "function", "function": {"name": "bash", "arguments": "{}"}}]
    said: list[dict[str, Any]] = [
        {"role": "user", "content": "go"},
        {"role": "assistant", "content": None, "tool_calls": calls},
        {"role": "tool", "tool_call_id": "call_1", "content": "done"},
        {"role": "assistant", "content": "finished"},
        {"role": "user", "content": "more"},
    ]
    assert is_plain(said[0])
    assert plain_end(said, 0) == 1
    assert plain_end(said, 3) == 5
    log, out, ids = RewriteLog(), list[dict[str, Any]](), list[str]()
    assert quickly(said, 1, True, (), log, out, ids) == 3
    assert [message["role"] for message in out] == ["assistant", "tool"]
    assert (len(log.entries), ids) == (2, ["call_1"])


# The tools


def tool_set(defined: Any, memo: ToolMemo | None) -> tuple[Any, ...]:
    log, names = RewriteLog(), ToolNames()
    tools = ToolSet(names, log)
    try:
        if memo is None:
            tools.add_all(defined, "tools")
        else:
            memo.add_all(tools, defined)
    except Exception as error:
        return (repr(error), log.entries)
    return tools.tools, tools.schemas, tools.own, tools.custom, names.back, log.entries


@settings(max_examples=200)
@given(st.lists(odd_conversations(), min_size=1, max_size=3), st.lists(st.integers(0, 2), min_size=1, max_size=6))
def test_tools_from_memory(conversations: list[Conversation], order: list[int]) -> None:
    memo = ToolMemo()
    for number in order:
        defined = conversations[number % len(conversations)].tools
        expected = tool_set(copy.deepcopy(defined), None)
        assert tool_set(defined, memo) == expected
        assert tool_set(copy.deepcopy(defined), memo) == expected


# The frame of a request

FIELDS: dict[str, tuple[Any, ...]] = {
    "temperature": (0, 0.5, 1, 1.0, None, 3),
    "max_tokens": (100, 5000, None),
    "stream": (True, False, None),
    "stream_options": ({"include_usage": True}, {}, None),
    "tool_choice": ("auto", "none", "required", {"type": "function", "function": {"name": "bash"}}, None, 5),
    "parallel_tool_calls": (True, False),
    "user": ("alice", "bob", None),
    "seed": (1, True),
    "stop": ("x", ["x", ""], ""),
    "odd": ("x", 1, 1.0, True, {"a": [1]}, "y" * 2000),
    "return_token_ids": (True, False),
    "continue_final_message": (True, False),
    "functions": ([{"name": "bash"}], []),
    "tools": ([], None, 0),
}
ENDS = ({"role": "user", "content": "go on"}, {"role": "assistant", "content": "well"}, {"role": "tool", "content": 5})


@st.composite
def requests(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Requests of which each repeats much of one before it."""
    drawn: list[dict[str, Any]] = []
    for _ in range(draw(st.integers(2, 6))):
        made = dict(draw(st.sampled_from(drawn))) if drawn else draw(odd_conversations()).body()
        for key in draw(st.lists(st.sampled_from(tuple(FIELDS)), max_size=2)):
            made[key] = draw(st.sampled_from(FIELDS[key]))
        if draw(st.integers(0, 3)) == 0:
            made["messages"] = [*made.get("messages", ()), draw(st.sampled_from(ENDS))]
        if draw(st.integers(0, 4)) == 0:
            made = dict(reversed(made.items()))
        if draw(st.integers(0, 9)) == 0:
            made.pop("messages", None)
        drawn.append(made)
    return drawn


def asked(body: dict[str, Any], profile: ModelProfile, version: str, memo: ToolMemo | None) -> tuple[Any, ...]:
    translator = Translator(profile, capabilities=for_version(version), max_model_len=4096, memo=memo)
    try:
        sent: Any = translator.request(body)
        sent = list(sent.items())  # in this order
    except Exception as error:
        sent = repr(error)
    told = replace(translator.context, markup=None)
    return sent, translator.rewrites.entries, told, translator.legacy, translator.streamed


@settings(max_examples=300)
@given(requests(), PROFILES, st.lists(st.sampled_from(("0.9.0", "0.11.0", "0.20.0", "0.24.0")), min_size=6, max_size=6))
def test_frames_from_memory(bodies: list[dict[str, Any]], profile: ModelProfile, versions: list[str]) -> None:
    memo = ToolMemo()
    for body, version in [*zip(bodies, versions, strict=False)] * 3:
        before = copy.deepcopy(body)
        expected = asked(copy.deepcopy(body), profile, version, None)
        assert repr(asked(body, profile, version, memo)) == repr(expected)  # 1, 1.0 and True are not the same
        assert body == before, "the client's own dict was changed"


def test_the_memory_of_frames_is_bounded() -> None:
    memo, profile = ToolMemo(), ModelProfile("drawn")
    tools = [[function(f"tool{number}")] for number in range(3)] + [[]]
    for number in range(3 * MAX_FRAMES):
        body = {"model": "m", "messages": [{"role": "user", "content": "x"}], "seed": number}
        for defined in tools:
            asked({**body, "tools": defined}, profile, "0.11.0", memo)
        kept = len(memo._toolless) + sum(len(entry.frames) for entry in memo._entries.values())
        assert kept == memo._frames <= MAX_FRAMES
    memo = ToolMemo()
    asked({**body, "odd": "x" * MAX_FIELDS}, profile, "0.11.0", memo)
    assert memo._frames == 0
    asked({**body, "user": "x" * MAX_FIELDS}, profile, "0.11.0", memo)
    asked({**body, "user": "another", "messages": [{"role": "user", "content": "y"}]}, profile, "0.11.0", memo)
    assert memo._frames == 1
    for number in range(2 * MAX_TOTAL // 10_000):  # tools that are forgotten take their frames along
        asked({**body, "tools": [function(f"tool{number}", "x" * 10_000)]}, profile, "0.11.0", memo)
    assert memo._frames == len(memo._toolless) + sum(len(entry.frames) for entry in memo._entries.values())


def function(name: str, description: str = "") -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "description": description, "parameters": {}}}


def test_the_memory_of_tools_is_bounded() -> None:
    memo = ToolMemo()
    for number in range(3 * MAX_TOTAL // 10_000):
        tool_set([function(f"tool{number}", "x" * 10_000)], memo)
        tool_set([function("used", "again and again")], memo)
        assert sum(map(len, memo._entries)) == memo._total <= MAX_TOTAL
    assert memo._total > MAX_TOTAL - 11_000
    assert orjson.dumps([function("used", "again and again")]) in memo._entries
    tool_set([function("big", "x" * MAX_BYTES)], memo)
    assert max(map(len, memo._entries)) <= MAX_BYTES


# The stream

CALL = '[TOOL_CALLS]get_weather{"city": "x"}'
WORDS = st.sampled_from(
    ("Hello", " world", "é\n\u00a0", "\"'", "`", "```", "{", "[", "}", " ", "", "TOOL", "_CALLS", "get_", "weather",
     CALL, CALL)
)  # fmt: skip


def with_ids(said: str, *ids: int) -> bytes:
    return chunk(piece({"content": said}, token_ids=list(ids)))


# The model's own text, token by token: prose, and a call.
SPELLED = st.one_of(
    WORDS.map(lambda word: [with_ids(word, 5)]),
    st.builds(lambda word, ids: [with_ids(word, *ids)], WORDS, st.sampled_from(([5, 6], [9], [5, 9], [2]))),
    st.lists(st.sampled_from(("Pa", "ris", "\n", "\\n", "\\", "é", " [x]", "[TOOL_CALLS]", '"', "")), max_size=6).map(
        lambda words: [
            *(with_ids("[TOOL_CALLS]", 9), with_ids("get_weather", 5), with_ids('{"city": "', 6, 7)),
            *(with_ids(word, 8) for word in words),
            *(with_ids("", 9), with_ids('"', 6), with_ids("}", 6)),
        ]
    ),
)
PARTS = st.one_of(
    WORDS.map(text),
    WORDS.map(text),
    WORDS.map(text),
    WORDS.map(text),
    st.sampled_from((call('{"city": ', "get_weather", "abcDEF123"), call('"x"'), call("}"), call("", "rm", "1"))),
    st.sampled_from((call('{"city": "', "get_weather", "abcDEF123"), call("Pa"), call("ris"), call('", "b": "'))),
    st.sampled_from(("Par", "is", "", "\\n", "\\", "n", "\t", "\\u00e9", "é\u00a0", "'", '"}', "x", "y")).map(call),
    WORDS.map(lambda word: with_ids(word, 5)),
    st.sampled_from(
        (b": ping\n\n", b'data: {"choices":[{"index":0,"delta":{"content":"a"}}]}\n\n', text("b", index=1))
    ),
)


def streamed(parts: list[bytes], given_context: AnswerContext) -> tuple[list[tuple[bytes, bytes]], Entries]:
    log = RewriteLog()
    repair, parser = StreamRepair(given_context, log), Parser()
    out: list[Event] = []
    for part in parts:
        if not (parser.idle and repair.feed_raw(part, out)):
            for event in parser.feed(part):
                repair.feed_into(event, out)
    out += repair.finish()
    return [(event.data, event.raw) for event in out], log.entries


def check_stream(parts: list[bytes], given_context: AnswerContext, reason: str) -> None:
    quick = streamed(parts, given_context)
    with slow(Choice, "passes", "place"):
        assert quick == streamed(parts, given_context)
    with slow(Parser, "_is_one"), slow(stream, "learn", "learn_with_ids"):
        assert quick == streamed(parts, given_context)


REASONS = st.sampled_from(("stop", "tool_calls", "length"))


@settings(max_examples=1000)
@given(st.lists(PARTS, max_size=12), CONTEXTS, REASONS)
def test_a_stream(parts: list[bytes], given_context: AnswerContext, reason: str) -> None:
    check_stream([role(), text("Well", ", "), *parts, finish(reason), END], given_context, reason)


@settings(max_examples=1000)
@given(st.lists(SPELLED, max_size=8), CONTEXTS, REASONS)
def test_a_stream_with_token_ids(parts: list[list[bytes]], given_context: AnswerContext, reason: str) -> None:
    check_stream([role(), with_ids("Well", 5), *itertools.chain(*parts), finish(reason), END], given_context, reason)
