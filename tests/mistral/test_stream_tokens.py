"""StreamRepair: token ids that the proxy asked for, beside the model's own text and beside vLLM's calls."""

from __future__ import annotations

from typing import Any

import pytest

from devstral_proxy.mistral.token_watch import AnswerLost
from tests.streams import (
    END,
    PARIS,
    READ,
    WEATHER,
    answer,
    body,
    chunk,
    context,
    finish,
    only,
    piece,
    raw,
    repair,
    role,
    said,
    text,
)


def tokens(delta: dict[str, Any], ids: list[int] | None, reason: str | None = None) -> bytes:
    return chunk(piece(delta, reason, token_ids=ids))


FIRST = chunk(piece({"role": "assistant", "content": ""}), prompt_token_ids=[1, 2, 3])


def test_ids_are_taken_out() -> None:
    upstream = body(FIRST, tokens({"content": "a"}, [5]), tokens({"content": ""}, [2], "stop"), END)
    for given in (context(raw_text=True), context(token_ids=True)):
        out = raw(repair(upstream, given))
        assert b"token_ids" not in out.replace(b'"token_ids":null', b"")
        assert said(only(upstream, given)) == ("a", [], "stop")
    assert raw(repair(upstream)) == upstream, "the client itself asked for them"


RAW: dict[str, tuple[list[tuple[str, list[int]]], str, list[tuple[str, str]]]] = {
    "a token a delta": (
        [("Hm.", [5]), ("[TOOL_CALLS]", [9]), ("get", [6]), ("_weather", [7]), ("", [32]), (PARIS, [8]), ("", [2])],
        "Hm.",
        [WEATHER],
    ),
    "all at once": ([(f"Hm.[TOOL_CALLS]get_weather{PARIS}", [5, 9, 6, 32, 8, 2])], "Hm.", [WEATHER]),
    "two": (
        [(f"[TOOL_CALLS]get_weather{PARIS}[TOOL_CALLS]", [9, 6, 32, 8, 9]), ('read_file{"path": "a"}', [6, 32, 8])],
        "",
        [WEATHER, READ],
    ),
    "a spelled marker in prose": (
        [("Use [TOOL", [5]), ("_CALLS]get_weather{}.", [6, 7])],
        "Use [TOOL_CALLS]get_weather{}.",
        [],
    ),
    "a spelled marker before a real one": (
        [(f"Use [TOOL_CALLS] so:[TOOL_CALLS]get_weather{PARIS}", [5, 6, 9, 6, 32, 8])],
        "Use [TOOL_CALLS] so:",
        [WEATHER],
    ),
    "a spelled call in a string": (
        [('[TOOL_CALLS]read_file{"path": "[TOOL_CALLS]rm{1}"}', [9, 6, 32, 8, 5, 5, 5])],
        "",
        [("read_file", '{"path": "[TOOL_CALLS]rm{1}"}')],
    ),
    "a spelled call in a string, then a real one": (
        [
            (
                '[TOOL_CALLS]read_file{"path": "[TOOL_CALLS]rm{1}"}[TOOL_CALLS]get_weather' + PARIS,
                [9, 6, 32, 8, 5, 9, 6, 32, 8],
            ),
        ],
        "",
        [("read_file", '{"path": "[TOOL_CALLS]rm{1}"}'), WEATHER],
    ),
    "text comes later than its ids": (
        [("", [5, 9]), ("H", [6]), ("m.[TOOL_", [7]), ("CALLS]get_we", [32]), ("ather" + PARIS, [8])],
        "Hm.",
        [WEATHER],
    ),
    "an unknown name": ([("[TOOL_CALLS]fs.rm -r{}", [9, 5, 32, 6])], "", [("fs.rm -r", "{}")]),
    "with an id": ([(f"[TOOL_CALLS]get_weather[CALL_ID]abcDEF123[ARGS]{PARIS}", [9, 5, 33, 6, 32, 7])], "", [WEATHER]),
    "the older array": (
        [("[TOOL_CALLS]", [9]), (f' [{{"name": "get_weather", "arguments": {PARIS}}}]', [5])],
        "",
        [WEATHER],
    ),
    "text behind": (
        [("[TOOL_CALLS]", [9]), (f"get_weather{PARIS}", [5]), (" \n", [6]), ("Done", [7])],
        " \nDone",
        [WEATHER],
    ),
    "blanks behind": ([("[TOOL_CALLS]", [9]), (f"get_weather{PARIS}", [5]), (" \n", [6])], "", [WEATHER]),
    "no arguments, none needed": ([("[TOOL_CALLS]", [9]), ("list_files", [5]), ("", [32])], "", [("list_files", "{}")]),
    "a marker, then another": (
        [("[TOOL_CALLS]", [9]), ("[TOOL_CALLS]", [9]), (f"get_weather{PARIS}", [5])],
        "",
        [WEATHER],
    ),
    "a real marker ends a broken call": (
        [
            ("[TOOL_CALLS]", [9]),
            ('get_weather{"city": "Paris"', [5]),
            ("[TOOL_CALLS]", [9]),
            ('read_file{"path": "a"}', [5]),
        ],
        "",
        [WEATHER, READ],
    ),
    "another tokenizer's marker": ([("[TOOL_CALLS]", [5]), (f"get_weather{PARIS}", [6])], "", [WEATHER]),
    "lost markers are not made up": ([(f"get_weather{PARIS}", [5, 6])], f"get_weather{PARIS}", []),
}


@pytest.mark.parametrize("name", RAW)
def test_the_models_own_text(name: str) -> None:
    parts, content, calls = RAW[name]
    upstream = body(
        FIRST, *(tokens({"content": part}, ids) for part, ids in parts), tokens({"content": ""}, [2], "stop"), END
    )
    given = context(raw_text=True)
    assert said(only(upstream, given)) == (content, calls, "tool_calls" if calls else "stop")
    *parts, (last, ids) = parts
    upstream = body(
        FIRST, *(tokens({"content": part}, ids) for part, ids in parts), tokens({"content": last}, ids, "stop"), END
    )
    assert said(only(upstream, given)) == (content, calls, "tool_calls" if calls else "stop")


@pytest.mark.parametrize(
    ("parts", "content", "calls"),
    [
        ([("Hm.", [5]), ("[TOOL_CALLS]", [9])], "Hm.", []),
        ([("[TOOL_CALLS]", [9]), ("get", [5])], "", []),
        ([("[TOOL_CALLS]", [9]), ("get_weather", [5]), ("", [32])], "", []),
        ([("[TOOL_CALLS]", [9]), ('get_weather{"city": "P', [5])], "", [("get_weather", '{"city": "P"}')]),
        ([("[TOOL_CALLS]", [9]), (f"get_weather{PARIS}", [5]), ("[TOOL_CALLS]", [9]), ("wri", [5])], "", [WEATHER]),
    ],
)
def test_the_models_own_text_cut(
    parts: list[tuple[str, list[int]]], content: str, calls: list[tuple[str, str]]
) -> None:
    upstream = body(
        FIRST, *(tokens({"content": part}, ids) for part, ids in parts), tokens({"content": ""}, [7], "length"), END
    )
    assert said(only(upstream, context(raw_text=True))) == (content, calls, "length")


def test_a_server_better_than_its_row() -> None:
    """Asked for the raw text, it answers with calls, with or without ids."""
    for ids in ([9, 5, 32, 6], None):
        upstream = body(
            role(),
            tokens({"content": "Hm."}, ids and [5]),
            chunk(
                piece(
                    {
                        "tool_calls": [
                            {
                                "index": 0,
                                "id": "abcDEF123",
                                "type": "function",
                                "function": {"name": "get_weather", "arguments": PARIS},
                            }
                        ]
                    },
                    token_ids=ids,
                )
            ),
            tokens({}, ids and [2], "tool_calls"),
            END,
        )
        assert said(only(upstream, context(raw_text=True))) == ("Hm.", [WEATHER], "tool_calls")


def test_raw_text_of_a_server_without_ids() -> None:
    upstream = body(role(), text("Hm.", "[TOOL_CALLS]", "get_weather", PARIS), finish("stop"), END)
    assert said(only(upstream, context(raw_text=True))) == ("Hm.", [WEATHER], "tool_calls")


def structured(
    calls: list[tuple[int | None, str]], ids: list[int], content: str | None = None, reason: str = "tool_calls"
) -> bytes:
    entries = [
        {"index": at, "id": f"abcDEF12{number}", "type": "function", "function": {"name": name, "arguments": PARIS}}
        for number, (at, name) in enumerate(calls)
    ]
    delta: dict[str, Any] = {"tool_calls": entries} if entries else {}
    return tokens(delta if content is None else {"content": content, **delta}, ids, reason)


@pytest.mark.parametrize(
    "last",
    [
        structured([(1, "get_weather")], [9, 5, 32, 6, 9, 5, 32, 6, 2]),
        structured([(0, "get_weather")], [9, 5, 32, 6, 9, 5, 32, 6, 2]),
        structured([(0, "get_weather")], [5, 9, 5, 32, 6, 2]),
        structured([], [9, 5, 32, 6, 2]),
        structured([(0, "get_weather")], [9, 5, 32, 9197, 8568, 74483, 1083, 2]),
        structured([], [1, 9197, 8568, 74483, 1083, 2], "The marker ", "stop"),
    ],
)
def test_an_answer_that_upstream_lost(last: bytes) -> None:
    """vLLM 0.20 to 0.23 lose what comes together with the end; the ids tell, and it can be asked again."""
    given = context(token_ids=True, lossy=True)
    with pytest.raises(AnswerLost):
        repair(body(FIRST, last, END), given)
    begun = answer(body(FIRST, tokens({"content": "a"}, [5]), last, END), given)
    assert begun.error is not None
    assert begun.error["code"] == "upstream_answer_lost"
    again = context(token_ids=True)
    assert answer(body(FIRST, last, END), again, objects=False).error is None


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ([structured([(0, "get_weather")], [9, 5, 32, 6, 2])], ("", [WEATHER], "tool_calls")),
        ([structured([(0, "get_weather")], [5, 9, 5, 32, 6, 2], "Hm.")], ("Hm.", [WEATHER], "tool_calls")),
        ([structured([(0, "get_weather")], [9, 5, 32, 6, 9, 5])], ("", [WEATHER], "length")),
        ([tokens({"content": "a"}, [5]), tokens({}, [2], "stop")], ("a", [], "stop")),
        ([tokens({}, [2], "stop")], ("", [], "stop")),
    ],
)
def test_an_answer_that_upstream_did_not_lose(parts: list[bytes], expected: tuple[Any, ...]) -> None:
    assert said(only(body(FIRST, *parts, END), context(token_ids=True, lossy=True))) == expected
