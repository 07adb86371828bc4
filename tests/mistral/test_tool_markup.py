"""Calls that stand in the text: one table, each text whole, in tokens and letter by letter, streamed or not."""

from __future__ import annotations

import json
from typing import Any

import pytest

from devstral_proxy.mistral.response import repair_response
from devstral_proxy.mistral.rewrites import RewriteLog
from tests.streams import END, TOOLS, answer, context, finish, only, raw, repair, role, said, text

PARIS = '{"city": "Paris"}'
SRC = '{"path": "src/a.py"}'
HARD = json.dumps(
    {"path": "a.rs", "content": 'fn f() { if x { y("{}"); } }\n// "é🎉" [TOOL_CALLS]read_file{"path": [x]'}
)
CALL = ("get_weather", PARIS)
READ = ("read_file", SRC)

# text -> content, calls
RECOVERED: dict[str, tuple[str, str, list[tuple[str, str]]]] = {
    "F58 name and ARGS": (f"[TOOL_CALLS]get_weather[ARGS]{PARIS}", "", [CALL]),
    "F57 ARGS lost": (f"[TOOL_CALLS]get_weather{PARIS}", "", [CALL]),
    "with an id": (f"[TOOL_CALLS]get_weather[CALL_ID]abcDEF123[ARGS]{PARIS}", "", [CALL]),
    "text before": (f"Let me look.[TOOL_CALLS]get_weather[ARGS]{PARIS}", "Let me look.", [CALL]),
    "text after": (f"[TOOL_CALLS]get_weather[ARGS]{PARIS}\n\nDone.", "\n\nDone.", [CALL]),
    "text between": (f"a[TOOL_CALLS]get_weather{PARIS} b [TOOL_CALLS]read_file{SRC} c", "a b  c", [CALL, READ]),
    "two": (f"[TOOL_CALLS]get_weather[ARGS]{PARIS}[TOOL_CALLS]read_file[ARGS]{SRC}", "", [CALL, READ]),
    "two, a new line between": (
        f"[TOOL_CALLS]get_weather[ARGS]{PARIS}\n[TOOL_CALLS]read_file[ARGS]{SRC}\n",
        "",
        [CALL, READ],
    ),
    "three": (f"[TOOL_CALLS]get_weather{PARIS}" * 3, "", [CALL] * 3),
    "a hard one": (f"[TOOL_CALLS]write_file[ARGS]{HARD}", "", [("write_file", HARD)]),
    "blanks before the brace": (f"[TOOL_CALLS]get_weather[ARGS] \n{PARIS}", "", [CALL]),
    "empty arguments": ("[TOOL_CALLS]list_files[ARGS]{}", "", [("list_files", "{}")]),
    "an unknown name behind a whole marker": ("[TOOL_CALLS]rm[ARGS]{}", "", [("rm", "{}")]),
    "an unknown name, ARGS lost": ('[TOOL_CALLS]rm{"path": 1}', "", [("rm", '{"path": 1}')]),
    "F59 brackets lost": (f"TOOL_CALLSget_weather{PARIS}", "", [CALL]),
    "F59 brackets of both lost": (f"Sure. TOOL_CALLSget_weatherARGS{PARIS}", "Sure. ", [CALL]),
    "one bracket lost": (f"TOOL_CALLS]get_weather[ARGS]{PARIS}", "", [CALL]),
    "a blank behind the marker": (f"[TOOL_CALLS] get_weather[ARGS]{PARIS}", "", [CALL]),
    "the other bracket lost": (f"[TOOL_CALLSget_weather[ARGS]{PARIS}", "", [CALL]),
    "the marker lost": (f"get_weather[ARGS]{PARIS}", "", [CALL]),
    "marker and ARGS lost": (f"Let me look.get_weather{PARIS}read_file{SRC}", "Let me look.", [CALL, READ]),
    "lost in the middle": (f"[TOOL_CALLS]get_weather{PARIS}read_file{SRC}", "", [CALL, READ]),
    "behind a block of code": (f"```\nls\n```\n[TOOL_CALLS]get_weather{PARIS}", "```\nls\n```\n", [CALL]),
    "the older array": (f'[TOOL_CALLS][{{"name": "get_weather", "arguments": {PARIS}}}]', "", [CALL]),
    "the older array, a blank": (f'[TOOL_CALLS] [{{"name": "get_weather", "arguments": {PARIS}}}]', "", [CALL]),
    "the older array, two": (
        f'Hm.[TOOL_CALLS][{{"name": "get_weather", "arguments": {PARIS}}},'
        f' {{"name": "read_file", "arguments": {SRC}}}] x',
        "Hm. x",
        [CALL, READ],
    ),
    "the older array, ids and more": (
        f'[TOOL_CALLS][{{"id": "abc", "extra": [{{"a": "}}]"}}, 1], "name": "get_weather", "arguments": {PARIS}}}]',
        "",
        [CALL],
    ),
    "the older array, arguments first": (f'[TOOL_CALLS][{{"arguments": {PARIS}, "name": "get_weather"}}]', "", [CALL]),
    "the older array, arguments a string": (
        f'[TOOL_CALLS][{{"name": "get_weather", "arguments": {json.dumps(PARIS)}}}]',
        "",
        [CALL],
    ),
    "the older array, in OpenAI's form": (
        f'[TOOL_CALLS][{{"type": "function", "function": {{"name": "get_weather", "arguments": {PARIS}}}}}]',
        "",
        [CALL],
    ),
    "the older array, no arguments": ('[TOOL_CALLS][{"name": "list_files"}]', "", [("list_files", "{}")]),
    "an object instead of an array": (f'[TOOL_CALLS]{{"name": "get_weather", "arguments": {PARIS}}}', "", [CALL]),
    "F60 a bare array": (f'[{{"name": "get_weather", "arguments": {PARIS}}}]', "", [CALL]),
    "F60 a bare array, two": (
        f' [\n {{"name": "get_weather", "arguments": {PARIS}}},\n {{"name": "read_file", "parameters": {SRC}}}\n]\n',
        "",
        [CALL, READ],
    ),
    "F78 an argument in a string": (
        '[TOOL_CALLS]list_files{"paths": "[\\"a\\", \\"b\\"]"}',
        "",
        [("list_files", '{"paths": ["a", "b"]}')],
    ),
    "a brace too many": (f"[TOOL_CALLS]get_weather{PARIS}}}", "", [CALL]),
    "the object twice": (f"[TOOL_CALLS]get_weather{PARIS}{PARIS}", "", [CALL]),
    "brackets forgotten before the next": (
        f'[TOOL_CALLS]get_weather{{"city": "Paris"[TOOL_CALLS]read_file{SRC}',
        "",
        [CALL, READ],
    ),
    "no JSON, then the next": (
        f'[TOOL_CALLS]get_weather{{"city" @@}}[TOOL_CALLS]read_file{SRC}',
        "",
        [("get_weather", '{"city" @@}'), READ],
    ),
}

PROSE = [
    "",
    "Hello.",
    "The model writes [TOOL_CALLS] before a call and [ARGS] before its arguments.",
    "[TOOL_CALLS]",
    "[TOOL_CALLS] [ARGS]",
    "[TOOL_CALLS]get_weather",
    "[TOOL_CALLS]get_weather is the name.",
    "[TOOL_CALLS]name.",
    "[TOOL_CALLS] name{}",
    "It is [TOOL_CALLS]name[ARGS]{…} or [TOOL_CALLS]get_weather{...}, [TOOL_CALLS]get_weather[ARGS]{<json>}.",
    'In code: `[TOOL_CALLS]get_weather[ARGS]{"city": "Paris"}`.',
    'Quoted: "[TOOL_CALLS]get_weather[ARGS]{"city": "Paris"}".',
    '```\n[TOOL_CALLS]get_weather[ARGS]{"city": "Paris"}\n```\n',
    '```text\nget_weather[ARGS]{"city": "Paris"}\nget_weather{"city": "Paris"}\n```\nThat is all.',
    "[TOOL_CALLS][]",
    "[TOOL_CALLS][1, 2]",
    "[TOOL_CALLS]{1}",
    "TOOL_CALLS",
    "TOOL_CALLSrm{}",
    "MY_TOOL_CALLSget_weather{}",
    "get_weather",
    "get_weather()",
    "get_weather {",
    "get_weather{",
    'get_weather{"',
    'get_weather{"town": "Paris"}',
    "get_weather{}",
    'Use `get_weather{"city": "Paris"}` for that.',
    'my_get_weather{"city": "Paris"}',
    'unknown{"city": "Paris"}',
    "[ARGS]",
    "[ARGS]{}",
    "[",
    "[1, 2, 3]",
    '[{"name": "Paris", "arguments": {}}]',
    '[{"name": "get_weather", "arguments": {}}, {"name": "rm", "arguments": {}}]',
    '[{"name": "get_weather", "arguments": {}}] is what I would call.',
    'I would call [{"name": "get_weather", "arguments": {}}]',
    '[{"name": "get_weather"',
    '{"name": "get_weather", "arguments": {}}',
    '{"source": "nobody"} [',
    '```json\n[\n  {"name": 1}\n]\n```',
    "function f() { return [TOOL_CALLS]; }",
    "   \n ",
]


def pieces(content: str, size: int) -> list[str]:
    """In tokens of so many characters; 0: whole."""
    return [content[start : start + size] for start in range(0, len(content), size)] if size else [content]


def streamed(content: str, size: int, reason: str = "stop", **given: Any) -> tuple[Any, RewriteLog]:
    log = RewriteLog()
    body = role() + text(*pieces(content, size)) + finish(reason) + END
    choice = only(body, context(**given), log=log, objects="@@" not in content)
    return choice, log


def whole(content: str, reason: str = "stop", **given: Any) -> tuple[str, list[tuple[str, str]], str]:
    message = {"role": "assistant", "content": content, "tool_calls": []}
    body = {"id": "chatcmpl-1", "choices": [{"index": 0, "message": message, "finish_reason": reason}]}
    choice = repair_response(body, context(**given), RewriteLog())["choices"][0]
    calls = [
        (call["function"]["name"], call["function"]["arguments"]) for call in choice["message"].get("tool_calls", ())
    ]
    return choice["message"]["content"] or "", calls, choice["finish_reason"]


@pytest.mark.parametrize("size", [0, 1, 4, 7])
@pytest.mark.parametrize("name", RECOVERED)
def test_a_call_in_the_text_becomes_a_call(name: str, size: int) -> None:
    content, expected, calls = RECOVERED[name]
    choice, log = streamed(content, size)
    assert said(choice) == (expected, calls, "tool_calls")
    assert log.counts()["calls_from_text"] == 1
    assert whole(content) == (expected, calls, "tool_calls")


@pytest.mark.parametrize("name", RECOVERED)
def test_only_when_the_request_has_tools(name: str) -> None:
    content = RECOVERED[name][0]
    without: tuple[dict[str, Any], ...] = ({"tools": {}}, {"tool_choice": "none"})
    for given in without:
        assert said(streamed(content, 5, **given)[0]) == (content, [], "stop")
        assert whole(content, **given) == (content, [], "stop")


@pytest.mark.parametrize("size", [0, 1, 3, 8])
@pytest.mark.parametrize("content", PROSE)
def test_prose_stays_prose(content: str, size: int) -> None:
    choice, log = streamed(content, size)
    assert said(choice) == (content, [], "stop")
    assert not log
    assert whole(content) == (content, [], "stop")


@pytest.mark.parametrize("content", PROSE)
@pytest.mark.parametrize("size", [0, 1, 5])
def test_prose_goes_on_as_upstreams_own_bytes(content: str, size: int) -> None:
    body = role() + text(*pieces(content, size)) + finish("stop") + END
    assert raw(repair(body)) == body


def test_the_given_id_is_kept() -> None:
    choice, _ = streamed(RECOVERED["with an id"][0], 3)
    assert choice.calls[0].id == "abcDEF123"


def test_ids_are_made_of_the_place() -> None:
    first, _ = streamed(RECOVERED["three"][0], 3)
    second, _ = streamed(RECOVERED["three"][0], 0)
    ids = [call.id for call in first.calls]
    assert ids == [call.id for call in second.calls]
    assert len(set(ids)) == 3


def test_arguments_are_not_held_to_the_end() -> None:
    body = role() + text("[TOOL_CALLS]write_file[ARGS]", '{"path": "a.py", "content": "', "some ", "thing", " long")
    events = repair(body, error=None)
    pieces = [event for event in events if b'"arguments"' in event.data]
    assert len(pieces) == 4


@pytest.mark.parametrize(
    ("content", "expected", "calls"),
    [
        ("The marker [TOOL_CALLS]", "The marker [TOOL_CALLS]", []),
        ("I write [TOOL_CALLS] and", "I write [TOOL_CALLS] and", []),
        ("I write [TOOL_CALLS]any", "I write [TOOL_CALLS]any", []),
        ("[TOOL_CALLS][{", "", []),
        ("Hi.[TOOL_CALLS]get_wea", "Hi.", []),
        ("[TOOL_CALLS]get_weather", "", []),
        ("[TOOL_CALLS]get_weather[ARGS]", "", []),
        ("[TOOL_CALLS]get_weather[ARGS]{", "", []),
        ('[TOOL_CALLS]get_weather[ARGS]{"', "", [("get_weather", "{}")]),
        ('[TOOL_CALLS]get_weather{"city": "Par', "", [("get_weather", '{"city": "Par"}')]),
        (f'[TOOL_CALLS]get_weather{PARIS}[TOOL_CALLS]write_file{{"pa', "", [CALL, ("write_file", "{}")]),
        (f"[TOOL_CALLS]get_weather{PARIS}[TOOL_CALLS]wri", "", [CALL]),
        (f'[TOOL_CALLS][{{"name": "get_weather", "arguments": {PARIS}}}, {{"name": "re', "", [CALL]),
        ('[TOOL_CALLS][{"name": "get_weather", "arguments": {"city": "P', "", [("get_weather", '{"city": "P"}')]),
        ('[{"name": "get_weather", "arguments": {"city": "P', "", [("get_weather", '{"city": "P"}')]),
        ("some text [", "some text [", []),
        ("some text", "some text", []),
    ],
)
@pytest.mark.parametrize("size", [0, 1, 6])
def test_cut_by_length(content: str, expected: str, calls: list[tuple[str, str]], size: int) -> None:
    """F67: the finish reason says so, and what is there of the arguments is an object."""
    assert said(streamed(content, size, "length")[0]) == (expected, calls, "length")
    assert whole(content, "length") == (expected, calls, "length")


def test_a_cut_that_upstream_does_not_tell() -> None:
    assert said(streamed('[TOOL_CALLS]get_weather{"city": "Par', 4, "stop")[0])[2] == "length"


def test_only_so_many_calls() -> None:
    content = RECOVERED["three"][0]
    choice, log = streamed(content, 5, max_calls=1)
    assert said(choice) == ("", [CALL], "tool_calls")
    assert log.counts()["calls_over_limit"] == 1
    assert whole(content, max_calls=2) == ("", [CALL, CALL], "tool_calls")


def test_names_go_back_to_the_clients_own() -> None:
    """F42."""
    choice, _ = streamed(f"[TOOL_CALLS]get_weather{PARIS}", 3, names={"get_weather": "mcp.weather/get"})
    assert choice.calls[0].name == "mcp.weather/get"


def test_a_long_bare_array_is_not_held_for_ever() -> None:
    long = json.dumps({"path": "a", "content": "x" * 100_000})
    content = f'[{{"name": "write_file", "arguments": {long}}}] and more'
    choice, _ = streamed(content, 1000)
    assert said(choice) == (" and more", [("write_file", long)], "tool_calls")


def test_blanks_behind_a_call_are_not_held_for_ever() -> None:
    content = f"[TOOL_CALLS]get_weather{PARIS}" + " " * 5000
    choice, _ = streamed(content, 50)
    assert choice.content.strip() == ""
    assert len(choice.content) == 5000


@pytest.mark.parametrize("name", sorted(TOOLS))
def test_each_tools_name(name: str) -> None:
    assert said(streamed(f"[TOOL_CALLS]{name}[ARGS]{{}}", 2)[0]) == ("", [(name, "{}")], "tool_calls")


def test_every_choice_has_its_own_reader() -> None:
    first, second = f"A.[TOOL_CALLS]get_weather{PARIS}", f"[TOOL_CALLS]read_file{SRC}B"
    body = role(0) + role(1)
    for place in range(max(len(first), len(second))):
        body += text(first[place : place + 1], index=0) + text(second[place : place + 1], index=1)
    body += finish("stop", 1) + finish("stop", 0) + END
    read = answer(body)
    assert said(read.choices[0]) == ("A.", [CALL], "tool_calls")
    assert said(read.choices[1]) == ("B", [READ], "tool_calls")
    assert read.choices[0].calls[0].id != read.choices[1].calls[0].id
