"""StreamRepair: the calls that upstream tells apart, in every damaged form."""

from __future__ import annotations

import json
from pathlib import Path

import orjson
import pytest

import devstral_proxy.mistral
from devstral_proxy.mistral import tool_ids
from devstral_proxy.mistral.rewrites import RESPONSE, RewriteLog
from tests.streams import (
    END,
    PARIS,
    READ,
    WEATHER,
    body,
    call,
    chunk,
    context,
    finish,
    only,
    piece,
    role,
    said,
    text,
)

# What comes, upstream's finish reason, the calls of it, a rewrite that is named
CALLS: dict[str, tuple[list[bytes], str, list[tuple[str, str]], str]] = {
    "F72 a long id": (
        [call(PARIS, "get_weather", "chatcmpl-tool-0123456789abcdef")],
        "tool_calls",
        [WEATHER],
        "answer_id",
    ),
    "F11 the id null": ([call(PARIS, "get_weather", "null")], "tool_calls", [WEATHER], "answer_id"),
    "no id": ([call(PARIS, "get_weather")], "tool_calls", [WEATHER], "answer_id"),
    "F10 an id too short": ([call(PARIS, "get_weather", "call_49c8")], "tool_calls", [WEATHER], "answer_id"),
    "F15 one id for all": (
        [call(PARIS, "get_weather", "abcDEF123"), call('{"path": "a"}', "read_file", "abcDEF123", at=1)],
        "tool_calls",
        [WEATHER, READ],
        "answer_id_repeated",
    ),
    "F76 every index 0": (
        [
            call('{"city": ', "get_weather", "abcDEF123"),
            call('"Paris"}'),
            call('{"path"', "read_file", "123abcDEF"),
            call(': "a"}'),
        ],
        "tool_calls",
        [WEATHER, READ],
        "",
    ),
    "every index 0, no ids": (
        [call(PARIS, "get_weather"), call('{"path": "a"}', "read_file")],
        "tool_calls",
        [WEATHER, READ],
        "answer_id",
    ),
    "indices from 1": ([call(PARIS, "get_weather", "abcDEF123", at=1)], "tool_calls", [WEATHER], ""),
    "no index": (
        [call('{"city": ', "get_weather", "abcDEF123", at=None), call('"Paris"}', at=None)],
        "tool_calls",
        [WEATHER],
        "",
    ),
    "no index, ids": (
        [
            call('{"city": ', "get_weather", "abcDEF123", at=None),
            call('"Paris"}', id="abcDEF123", at=None),
            call('{"path": "a"}', "read_file", "123abcDEF", at=None),
        ],
        "tool_calls",
        [WEATHER, READ],
        "",
    ),
    "two at once": (
        [
            call('{"city": ', "get_weather", "abcDEF123"),
            call('{"path": ', "read_file", "123abcDEF", at=1),
            call('"Paris"}'),
            call('"a"}', at=1),
        ],
        "tool_calls",
        [WEATHER, READ],
        "",
    ),
    "id and name all along": (
        [call('{"city": ', "get_weather", "abcDEF123"), call('"Paris"}', "get_weather", "abcDEF123")],
        "tool_calls",
        [WEATHER],
        "",
    ),
    "nulls all along": (
        [
            chunk(
                piece(
                    {
                        "tool_calls": [
                            {
                                "id": "abcDEF123",
                                "type": "function",
                                "index": 0,
                                "function": {"name": "get_weather", "arguments": '{"city": '},
                            }
                        ]
                    }
                )
            ),
            chunk(
                piece(
                    {
                        "tool_calls": [
                            {"id": None, "type": None, "index": 0, "function": {"name": None, "arguments": '"Paris"}'}}
                        ]
                    }
                )
            ),
        ],
        "tool_calls",
        [WEATHER],
        "",
    ),
    "a name in pieces": (
        [call("", "get_", "abcDEF123"), call("", "weather"), call(PARIS)],
        "tool_calls",
        [WEATHER],
        "",
    ),
    "a name without arguments": (
        [call("", "list_files", "abcDEF123")],
        "tool_calls",
        [("list_files", "{}")],
        "arguments_mended",
    ),
    "null for arguments": (
        [
            chunk(
                piece(
                    {
                        "tool_calls": [
                            {
                                "id": "abcDEF123",
                                "type": "function",
                                "index": 0,
                                "function": {"name": "list_files", "arguments": None},
                            }
                        ]
                    }
                )
            )
        ],
        "tool_calls",
        [("list_files", "{}")],
        "arguments_mended",
    ),
    "F61 pieces in the wrong place": (
        [
            call("", "get", ""),
            call("", "_weather", ""),
            call("[ARGS]"),
            call('{"'),
            call("", "city", ""),
            call('":'),
            call(' "'),
            call("", "Paris", ""),
            call("", '"}', ""),
        ],
        "tool_calls",
        [WEATHER],
        "arguments_mended",
    ),
    "markup in the name": (
        [call("", "get_weather[ARGS]" + PARIS, "abcDEF123")],
        "tool_calls",
        [WEATHER],
        "calls_from_text",
    ),
    "the older array taken for a name": (
        [
            call(f'{{"name": "get_weather", "arguments": {PARIS}}}', "[", "abcDEF123"),
            call(', {"name": "read_file"'),
            call(', "arguments": {"path": "a"}}]'),
        ],
        "tool_calls",
        [WEATHER, READ],
        "calls_from_text",
    ),
    "F62 two calls in one": (
        [call(PARIS + "read_f", "get_weather", "abcDEF123"), call('ile{"path": "a"}')],
        "tool_calls",
        [WEATHER, READ],
        "text_after_arguments",
    ),
    "F62 a whole marker in the arguments": (
        [call(PARIS, "get_weather", "abcDEF123"), call('[TOOL_CALLS]read_file[ARGS]{"path": "a"}')],
        "tool_calls",
        [WEATHER, READ],
        "text_after_arguments",
    ),
    "F64 a doubled object": (
        [call(PARIS + PARIS, "get_weather", "abcDEF123")],
        "tool_calls",
        [WEATHER],
        "arguments_doubled",
    ),
    "F64 a doubled brace": (
        [call(PARIS, "get_weather", "abcDEF123"), call("}")],
        "tool_calls",
        [WEATHER],
        "arguments_doubled",
    ),
    "F66 the last brace lost": (
        [call(PARIS[:-1], "get_weather", "abcDEF123")],
        "tool_calls",
        [WEATHER],
        "arguments_closed",
    ),
    "F68 stop beside a call": ([call(PARIS, "get_weather", "abcDEF123")], "stop", [WEATHER], "finish_reason"),
    "F78 an array in a string": (
        [call('{"paths": "[', "list_files", "abcDEF123"), call('\\"a\\"]"'), call("}")],
        "tool_calls",
        [("list_files", '{"paths": ["a"]}')],
        "argument_decoded",
    ),
    "F79 an unknown tool": ([call("{}", "rm_rf", "abcDEF123")], "tool_calls", [("rm_rf", "{}")], "tool_name_unknown"),
    "marker left in the content": (
        [text("[TOOL_CALLS]"), call(PARIS, "get_weather", "abcDEF123")],
        "tool_calls",
        [WEATHER],
        "",
    ),
    "0.32: a spelled marker taken for the call": (
        [
            chunk(
                piece(
                    {
                        "content": '[TOOL_CALLS]write_file[ARGS]{"path": "a", "content": "The marker ',
                        "tool_calls": [
                            {
                                "id": "abcDEF123",
                                "type": "function",
                                "index": 0,
                                "function": {"name": " starts it, ", "arguments": ' ends it."'},
                            },
                            {"index": 0, "function": {"arguments": "}"}},
                        ],
                    }
                )
            )
        ],
        "tool_calls",
        [("write_file", '{"path": "a", "content": "The marker [TOOL_CALLS] starts it, [ARGS] ends it."}')],
        "calls_from_text",
    ),
}


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("split", [True, False])
def test_calls(name: str, split: bool) -> None:
    """`split`: the finish reason in a chunk of its own, or with the last piece (F71)."""
    parts, reason, calls, note = CALLS[name]
    if split:
        upstream = body(role(), *parts, finish(reason), END)
    else:
        last = json.loads(parts[-1][6:])
        last["choices"][0]["finish_reason"] = reason
        upstream = body(role(), *parts[:-1], b"data: " + orjson.dumps(last) + b"\n\n", END)
    log = RewriteLog()
    assert said(only(upstream, log=log)) == ("", calls, "tool_calls")
    assert note == "" or note in log.counts()
    assert ("finish_split" in log.counts()) is not split


def test_text_behind_arguments_is_content() -> None:
    upstream = body(
        role(), call(PARIS + "\n\nI ask", "get_weather", "abcDEF123"), call(" for it."), finish("tool_calls"), END
    )
    assert said(only(upstream)) == ("\n\nI ask for it.", [WEATHER], "tool_calls")


@pytest.mark.parametrize("broken", ["hello", '{"city": @', "[1]"])
def test_what_is_no_object_goes_on_as_it_is(broken: str) -> None:
    log = RewriteLog()
    upstream = body(role(), call(broken, "get_weather", "abcDEF123"), call(" more"), finish("tool_calls"), END)
    assert said(only(upstream, log=log, objects=False)) == ("", [("get_weather", broken + " more")], "tool_calls")
    assert "arguments_invalid" in log.counts()


def test_ids() -> None:
    """Valid ones stay, the others depend on themselves alone, or on the place."""
    upstream = body(
        role(),
        call(PARIS, "get_weather", "abcDEF123"),
        call(PARIS, "get_weather", "toolu_01", at=1),
        call(PARIS, "get_weather", at=2),
        call(PARIS, "get_weather", "toolu_01", at=3),
        finish("tool_calls"),
        END,
    )
    ids = [call.id for call in only(upstream).calls]
    assert ids[:2] == ["abcDEF123", tool_ids.hashed("toolu_01")]
    assert len(set(ids)) == 4
    assert ids == [call.id for call in only(upstream).calls]


def test_names_go_back_to_the_clients_own() -> None:
    """F42."""
    upstream = body(role(), call(PARIS, "get_weather", "abcDEF123"), finish("tool_calls"), END)
    assert only(upstream, context(names={"get_weather": "a.b/c:d"})).calls[0].name == "a.b/c:d"


def test_custom_tools_get_their_text_back() -> None:
    upstream = body(
        role(),
        call('{"input": "*** Be', "apply_patch", "abcDEF123"),
        call('gin\\n\\"Patch\\" é"'),
        call("}"),
        call('"plain"', "apply_patch", "123abcDEF", at=1),
        finish("tool_calls"),
        END,
    )
    given = context(
        tools={"apply_patch": {"properties": {"input": {"type": "string"}}}}, custom=frozenset(("apply_patch",))
    )
    calls = only(upstream, given).calls
    assert [(call.type, call.name, call.arguments) for call in calls] == [
        ("custom", "apply_patch", '*** Begin\n"Patch" é'),
        ("custom", "apply_patch", '"plain"'),
    ]


def test_only_so_many_calls() -> None:
    upstream = body(
        role(),
        call('{"city": "', "get_weather", "abcDEF123"),
        call('Paris"}'),
        call('{"path": "', "read_file", "123abcDEF", at=1),
        call('a"}', at=1),
        finish("tool_calls"),
        END,
    )
    log = RewriteLog()
    assert said(only(upstream, context(max_calls=1), log=log)) == ("", [WEATHER], "tool_calls")
    assert log.counts()["calls_over_limit"] == 1


def test_every_rewrite_is_made_somewhere() -> None:
    folder = Path(devstral_proxy.mistral.__file__).parent
    source = "".join(path.read_text() for path in folder.glob("*.py") if path.name != "rewrites.py")
    assert [name for name in RESPONSE if f'"{name}"' not in source] == []


# Cut answers (F67)


@pytest.mark.parametrize("reason", ["length", "tool_calls", "stop"])
@pytest.mark.parametrize(
    ("parts", "calls"),
    [
        ([call('{"ci', "get_weather", "abcDEF123")], [("get_weather", "{}")]),
        ([call('{"city": "', "get_weather", "abcDEF123"), call("Par")], [("get_weather", '{"city": "Par"}')]),
        ([call('{"city": "Par\\', "get_weather", "abcDEF123")], [("get_weather", '{"city": "Par"}')]),
        ([call("", "get", "abcDEF123")], []),
        ([call("", "get_weather", "abcDEF123")], []),
        ([call(PARIS, "get_weather", "abcDEF123"), call("", "wri", "123abcDEF", at=1)], [WEATHER]),
        ([call('{"path": "a"', "write_file", "abcDEF123")], [("write_file", '{"path": "a"}')]),
    ],
)
def test_a_cut_call_ends_in_length(parts: list[bytes], calls: list[tuple[str, str]], reason: str) -> None:
    log = RewriteLog()
    assert said(only(body(role(), *parts, finish(reason), END), log=log)) == ("", calls, "length")
    assert log.counts()


def test_length_behind_a_whole_call_stays() -> None:
    upstream = body(role(), call(PARIS, "get_weather", "abcDEF123"), finish("length"), END)
    assert said(only(upstream)) == ("", [WEATHER], "length")


def test_calls_that_vanished_are_no_clean_end() -> None:
    assert said(only(body(role(), finish("tool_calls"), END))) == ("", [], "length")
