"""The repair of arguments: one table, each text whole and in pieces of every size."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devstral_proxy.mistral.arguments import Arguments
from devstral_proxy.mistral.schema_types import wants_container

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "s": {"type": "string"},
        "list": {"type": "array", "items": {"type": "object"}},
        "object": {"anyOf": [{"type": "object"}, {"type": "null"}]},
        "either": {"type": ["string", "array"]},
        "deep": {"type": "object", "properties": {"list": {"$ref": "#/$defs/list"}}},
    },
    "required": ["s"],
    "$defs": {"list": {"type": "array"}},
}

UNTOUCHED = [
    "{}",
    '{"s": "Paris"}',
    ' {"s" : "x" , "n" : [ 1 , 2.5e-3 , -0 ] , "o" : { } } ',
    '{\n  "s": "x"\n}',
    '{"s": "é🥳 \\u00e9 \\ud83e\\udd73 \\" \\\\ \\n {[}]"}',
    '{"s": true, "t": false, "u": null, "v": 0, "w": 10}',
    '{"list": [{"a": []}], "object": null, "either": "[1]"}',
    '{"s": "[1, 2]", "x": "{\\"a\\": 1}"}',
    '{"list": "no array"}',
    '{"": "", "s": ""}',
    '{"s": "[TOOL_CALLS]read_file[ARGS]{}"}',
]

# text, what goes out, whether it was whole, what it is called
MENDED: list[tuple[str, str, bool, str]] = [
    # cut short: back to what can be kept
    ("{", "{}", False, "arguments_closed"),
    ('{"', "{}", False, "arguments_closed"),
    ('{"s', "{}", False, "arguments_closed"),
    ('{"s"', "{}", False, "arguments_closed"),
    ('{"s":', "{}", False, "arguments_closed"),
    ('{"s": ', "{}", False, "arguments_closed"),
    ('{"s": "', '{"s": ""}', False, "arguments_closed"),
    ('{"s": "Par', '{"s": "Par"}', False, "arguments_closed"),
    ('{"s": "a\\', '{"s": "a"}', False, "arguments_closed"),
    ('{"s": "a\\u00', '{"s": "a"}', False, "arguments_closed"),
    ('{"s": "a\\ud83e', '{"s": "a"}', False, "arguments_closed"),
    ('{"s": "a\\ud83e\\udd', '{"s": "a"}', False, "arguments_closed"),
    ('{"s": "a", ', '{"s": "a"}', False, "arguments_closed"),
    ('{"s": "a", "b', '{"s": "a"}', False, "arguments_closed"),
    ('{"s": "a", "b": t', '{"s": "a", "b": true}', False, "arguments_closed"),
    ('{"s": "a", "b": -', '{"s": "a"}', False, "arguments_closed"),
    ('{"s": "a", "b": 12.', '{"s": "a", "b": 12}', False, "arguments_closed"),
    ('{"s": "a", "b": 1e', '{"s": "a", "b": 1}', False, "arguments_closed"),
    ('{"s": "a", "b": [', '{"s": "a", "b": []}', False, "arguments_closed"),
    ('{"s": "a", "b": [1, {"c": 2', '{"s": "a", "b": [1, {"c": 2}]}', False, "arguments_closed"),
    ('{"s": "a", "b": [1,', '{"s": "a", "b": [1]}', False, "arguments_closed"),
    ('{"list": "[{', '{"list": "[{"}', False, "arguments_closed"),
    # only the last brace is lost, all that is required is there (F66)
    ('{"s": "Paris"', '{"s": "Paris"}', True, "arguments_closed"),
    ('{"s": "Paris" ', '{"s": "Paris" }', True, "arguments_closed"),
    ('{"x": 1.5 ', '{"x": 1.5 }', False, "arguments_closed"),
    # nothing at all
    ("", "{}", True, "arguments_mended"),
    ("null", "{}", True, "arguments_mended"),
    ("None", "{}", True, "arguments_mended"),
    ("nul", "{}", True, "arguments_mended"),
    # strings of JSON (F78)
    ('{"list": "[{\\"a\\": \\"b\\"}]"}', '{"list": [{"a": "b"}]}', True, "argument_decoded"),
    ('{"list": ["{\\"a\\": 1}", {"b": 2}]}', '{"list": [{"a": 1}, {"b": 2}]}', True, "argument_decoded"),
    ('{"object": " {\\"a\\": 1} ", "s": "x"}', '{"object": {"a": 1}, "s": "x"}', True, "argument_decoded"),
    ('{"deep": {"list": "[1]"}}', '{"deep": {"list": [1]}}', True, "argument_decoded"),
    # the whole object encoded
    ('"{\\"s\\": \\"x\\"}"', '{"s": "x"}', True, "arguments_unwrapped"),
    ('""', "{}", True, "arguments_unwrapped"),
    # models' own JSON
    ('"s": "x"}', '{"s": "x"}', True, "arguments_mended"),
    ("{'s': 'it\"s'}", '{"s": "it\\"s"}', True, "arguments_mended"),
    ("{s: 'x', t: True, u: None}", '{"s": "x", "t": true, "u": null}', True, "arguments_mended"),
    ('{"s": Paris}', '{"s": "Paris"}', True, "arguments_mended"),
    ('{"s": "a\nb\tc\x01"}', '{"s": "a\\nb\\tc\\u0001"}', True, "arguments_mended"),
    ('{"s": "\\d+ \\\' \\x"}', '{"s": "\\\\d+ \' \\\\x"}', True, "arguments_mended"),
    ('{"s": "\\ud83e x \\udd73"}', '{"s": "\\ufffd x \\ufffd"}', True, "arguments_mended"),
    ('{"s": "x",}', '{"s": "x"}', True, "arguments_mended"),
    ('{"s": [1, 2,], }', '{"s": [1, 2] }', True, "arguments_mended"),
    ('{,"s": "x",, "t": [,1]}', '{"s": "x", "t": [1]}', True, "arguments_mended"),
    ('{"s": "x" "t": 1}', '{"s": "x" ,"t": 1}', True, "arguments_mended"),
    ('{"s": }', '{"s": null}', True, "arguments_mended"),
    ('{"s": , "t": 1}', '{"s": null, "t": 1}', True, "arguments_mended"),
    ('{"s"}', '{"s": null}', True, "arguments_mended"),
    ('{"s": [1, {"t": 2]}', '{"s": [1, {"t": 2}]}', True, "arguments_mended"),
    ('{"s": 1]}', '{"s": 1}', True, "arguments_mended"),
    ('{{"s": 1}', '{"s": 1}', True, "arguments_mended"),
    ('[ARGS]{"s": 1}', '{"s": 1}', True, "arguments_mended"),
]

BROKEN = ["hello", "[1, 2]", "12", '{"s": @}', '{"s": 1.2.3}', '{"s" 1}', '"text" more', '{"s": ' + "[" * 300]

RESTS = [
    ('{"s": "x"}read_file{"path": "y"}', '{"s": "x"}', 'read_file{"path": "y"}'),
    ('{"s": "x"}{"s": "x"}', '{"s": "x"}', '{"s": "x"}'),
    ('{"s": "x"}}', '{"s": "x"}', "}"),
    ('{"s": "x"} and text', '{"s": "x"}', " and text"),
    ('{"s": "x"[TOOL_CALLS]a{}', '{"s": "x"}', "[TOOL_CALLS]a{}"),
    ('"{\\"s\\": 1}" more', '{"s": 1}', "more"),
]


def run(text: str, step: int, schema: dict[str, Any] | None = SCHEMA) -> tuple[str, bool, Arguments]:
    arguments = Arguments(schema)
    out = ""
    for start in range(0, len(text), step):
        out += arguments.feed(text[start : start + step])
        if arguments.broken:
            out, arguments.rest = out + arguments.rest, ""
    last, whole = arguments.close()
    return out + last, whole, arguments


STEPS = (1, 2, 3, 5, 1000)


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("text", UNTOUCHED)
def test_what_is_right_stays(text: str, step: int) -> None:
    out, whole, arguments = run(text, step)
    assert out == text.rstrip() or out + arguments.rest == text
    assert whole
    assert not arguments.notes
    assert not arguments.changed


@pytest.mark.parametrize("text", UNTOUCHED)
def test_it_goes_on_as_it_comes(text: str) -> None:
    """Inside a string's value nothing is held but an escape."""
    arguments = Arguments(SCHEMA)
    assert arguments.feed('{"s": "a') == '{"s": "a'
    assert arguments.feed("b c") == "b c"
    waiting = [arguments.waiting]
    assert arguments.feed("d\\") == "d"
    waiting.append(arguments.waiting)
    assert waiting == [False, True]
    assert arguments.feed('n"') == '\\n"'
    assert arguments.feed(', "k') == ""
    assert arguments.feed('": "x') == ', "k": "x'


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize(("text", "expected", "whole", "note"), MENDED)
def test_what_is_wrong_is_mended(text: str, expected: str, whole: bool, note: str, step: int) -> None:
    out, was_whole, arguments = run(text, step)
    assert out == expected
    assert isinstance(json.loads(out), dict)
    assert was_whole is whole
    assert arguments.notes == [note]
    assert arguments.changed


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("text", BROKEN)
def test_what_cannot_be_mended_goes_out_as_it_is(text: str, step: int) -> None:
    out, whole, arguments = run(text, step)
    assert out.startswith(text)
    assert arguments.broken
    assert arguments.notes == ["arguments_invalid"]
    assert whole, "nobody can say that it was cut"


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize(("text", "expected", "rest"), RESTS)
def test_what_comes_after_is_no_part_of_it(text: str, expected: str, rest: str, step: int) -> None:
    out, whole, arguments = run(text, step)
    assert (out, arguments.rest) == (expected, rest)
    assert whole


def test_a_long_string_is_not_held() -> None:
    """A string that may be an array in disguise is held; the other half of a megabyte is not."""
    arguments = Arguments(SCHEMA)
    assert arguments.feed('{"list": "[') == "{"
    out = "".join(arguments.feed("x" * 1000) for _ in range(2000))
    assert len(out) > 900_000
    last, _ = arguments.close()
    assert json.loads("{" + out + last)["list"] == "[" + "x" * 2_000_000


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        ({"type": "array"}, True),
        ({"type": "string"}, False),
        ({"type": ["array", "null"]}, True),
        ({"type": ["array", "string"]}, False),
        ({"anyOf": [{"type": "array"}, {"type": "null"}]}, True),
        ({"oneOf": [{"type": "array"}, {"type": "string"}]}, False),
        ({"$ref": "#/$defs/list"}, True),
        ({"$ref": "#/$defs/loop"}, False),
        ({"$ref": "http://else.where"}, False),
        ({"$ref": "#/nowhere"}, False),
        ({}, False),
        (True, False),
        (None, False),
        ({"type": 5}, False),
        ({"anyOf": 5}, False),
    ],
)
def test_which_schema_wants_a_container(schema: Any, expected: bool) -> None:
    root = {"$defs": {"list": {"type": "array"}, "loop": {"$ref": "#/$defs/loop"}}}
    assert wants_container(schema, root) is expected


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda children: st.lists(children, max_size=4) | st.dictionaries(st.text(), children, max_size=4),
    max_leaves=12,
)
OBJECTS = st.dictionaries(st.text() | st.sampled_from(sorted(SCHEMA["properties"])), JSON, max_size=5)


@given(OBJECTS, st.integers(1, 9), st.booleans(), st.sampled_from([None, 2]))
def test_any_object_stays(value: dict[str, Any], step: int, ascii: bool, indent: int | None) -> None:
    text = json.dumps(value, ensure_ascii=ascii, indent=indent)
    if any(0xD800 <= ord(char) <= 0xDFFF for char in text):
        return
    out, whole, arguments = run(text, step, {})
    assert (out, whole, arguments.notes) == (text, True, [])


@given(OBJECTS, st.integers(0, 200), st.integers(1, 9))
def test_any_cut_is_closed_and_keeps_what_came(value: dict[str, Any], length: int, step: int) -> None:
    text = json.dumps(value)
    cut = text[:length]
    out, whole, _ = run(cut, step, {})
    assert isinstance(json.loads(out), dict)
    assert whole or len(cut) < len(text)
    common = next((at for at, (a, b) in enumerate(zip(out, text, strict=False)) if a != b), min(len(out), len(text)))
    assert out[common:].strip('"]}truefalsn') == "", "nothing is made up"


@given(st.text(alphabet="{}[]\",:\\ utrue1-.'aé\n", max_size=60), st.integers(1, 5))
def test_any_text_ends_in_an_object_or_says_that_it_does_not(text: str, step: int) -> None:
    out, whole, arguments = run(text, step)
    again = run(text, 1000)
    assert (out, whole, arguments.rest, arguments.notes) == (again[0], again[1], again[2].rest, again[2].notes)
    if not arguments.broken:
        assert isinstance(json.loads(out), dict)
