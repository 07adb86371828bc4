"""The small pieces: ids, names, arguments of the history, JSON made whole, content parts, answers to legacy clients."""

from __future__ import annotations

import json
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from devstral_proxy.mistral import tool_ids
from devstral_proxy.mistral.content import Allowed, translate_parts
from devstral_proxy.mistral.history import history_arguments
from devstral_proxy.mistral.json_text import completed_object
from devstral_proxy.mistral.names import ToolNames, is_valid
from devstral_proxy.mistral.rewrites import REWRITES, RewriteLog


@given(st.text())
def test_any_id_becomes_nine_alphanumerics_and_stays_so(given_id: str) -> None:
    mapped = tool_ids.mapped(given_id)
    assert tool_ids.is_valid(mapped)
    assert tool_ids.mapped(mapped) == mapped
    assert tool_ids.mapped(given_id) == mapped


def test_ids_are_the_same_in_every_process() -> None:
    assert tool_ids.hashed("call_1") == "t8wLHgKZJ"
    assert tool_ids.mapped("abcDEF123") == "abcDEF123"
    assert tool_ids.mapped("call_123456789") != tool_ids.mapped("toolu_123456789")


@given(st.text(min_size=1, max_size=200))
def test_any_name_becomes_a_valid_one_and_is_mapped_back(name: str) -> None:
    names = ToolNames()
    mapped = names.mapped(name)
    assert is_valid(mapped)
    assert names.back.get(mapped, mapped) == name
    assert names.mapped(mapped) == mapped


def test_long_names_that_differ_at_the_end_stay_different() -> None:
    names = ToolNames()
    assert names.mapped("a" * 80 + "x") != names.mapped("a" * 80 + "y")


DEEP = '{"a":' * 300 + "1" + "}" * 300
# (arguments as the history has them, as they are sent, the rewrite)
ARGUMENTS: list[tuple[Any, str, str | None]] = [
    ('{"a": 1}', '{"a": 1}', None),
    ('{ "a" : 1 }', '{ "a" : 1 }', None),
    ("", "{}", "arguments_filled"),
    ("  ", "{}", "arguments_filled"),
    (None, "{}", "arguments_filled"),
    ({"a": 1}, '{"a":1}', "arguments_serialized"),
    ('"{\\"a\\": 1}"', '{"a": 1}', "arguments_repaired"),
    ('{"a": 1}{"a": 1}', '{"a": 1}', "arguments_repaired"),
    ('{"a": 1}}', '{"a": 1}', "arguments_repaired"),
    ('{"a": "b', '{"a": "b"}', "arguments_repaired"),
    ('{"a": "line\nend"}', '{"a": "line\\nend"}', "arguments_repaired"),
    ('{"a": "\\ud83d"}', '{"a": "?"}', "arguments_repaired"),
    ("[1]", '{"input":[1]}', "arguments_wrapped"),
    ("5", '{"input":5}', "arguments_wrapped"),
    ("null", '{"input":null}', "arguments_wrapped"),
    ("ls -la", '{"input":"ls -la"}', "arguments_wrapped"),
    (["a"], '{"input":["a"]}', "arguments_wrapped"),
    ('{"a": NaN, "b": 1e999}', '{"a": "NaN", "b": "1e999"}', "arguments_repaired"),
    ("\ud83d", '{"input": "?"}', "arguments_wrapped"),
    (
        '{"a":' * 300 + "1" + "}" * 300,
        orjson.dumps({"input": '{"a":' * 300 + "1" + "}" * 300}).decode(),
        "arguments_wrapped",
    ),
]


@pytest.mark.parametrize(("given_arguments", "sent", "rewrite"), ARGUMENTS)
def test_arguments_of_the_history(given_arguments: Any, sent: str, rewrite: str | None) -> None:
    assert history_arguments(given_arguments) == (sent, rewrite)
    assert isinstance(json.loads(sent), dict)
    assert history_arguments(sent) == (sent, None)


FULL = '{"path": "a\\n\\u00e9\\\\", "n": [1, 2.5, -3e2, true, null, {"k": false}], "s": "x"}'


@pytest.mark.parametrize("end", range(1, len(FULL) + 1))
def test_an_object_cut_anywhere_is_completed(end: int) -> None:
    completed = completed_object(FULL[:end])
    assert completed is not None
    value, full = json.loads(completed), json.loads(FULL)
    for key in list(value)[:-1]:  # the last member may be cut in its name or its value
        assert value[key] == full[key]


@pytest.mark.parametrize(
    "text", ["", "x", "[1", '{"a": nope', "{]", '{"a": 1} and more', "{" * 100_000, '{"a":' * 50_000]
)
def test_what_is_no_object_stays_none(text: str) -> None:
    assert completed_object(text) is None


@given(
    st.dictionaries(st.text(), st.recursive(st.none() | st.booleans() | st.text() | st.integers(), st.lists)), st.data()
)
def test_any_truncation_gives_an_object(value: dict[str, Any], data: st.DataObject) -> None:
    text = json.dumps(value, ensure_ascii=data.draw(st.booleans()))
    completed = completed_object(text[: data.draw(st.integers(1, len(text)))])
    assert completed is not None
    assert isinstance(json.loads(completed), dict)


URL = "data:image/png;base64,AAAA"
IMAGE = {"type": "image_url", "image_url": {"url": URL}}
TEXT = {"type": "text", "text": "t"}
# (part, as it goes to a model that sees)
PARTS: list[tuple[Any, list[dict[str, Any]]]] = [
    ("t", [TEXT]),
    ({"type": "input_text", "text": "t"}, [TEXT]),
    ({"type": "output_text", "text": "t", "annotations": []}, [TEXT]),
    ({"type": "text", "text": "t", "cache_control": {}}, [TEXT]),
    ({"type": "text", "text": {"value": "t"}}, [TEXT]),
    ({"type": "text", "text": None}, []),
    ({"type": "refusal", "refusal": "t"}, [TEXT]),
    ({"text": "t"}, [TEXT]),
    ({"type": "tool_result", "content": [{"type": "text", "text": "t"}, "t"]}, [TEXT, TEXT]),
    ({"type": "odd", "a": 1, "cache_control": {}}, [{"type": "text", "text": '{"type":"odd","a":1}'}]),
    (5, [{"type": "text", "text": "5"}]),
    (None, []),
    (IMAGE, [IMAGE]),
    ({"type": "image_url", "image_url": {"url": URL, "detail": "low"}},
     [{"type": "image_url", "image_url": {"url": URL, "detail": "low"}}]),
    ({"type": "image_url", "image_url": URL}, [IMAGE]),
    ({"type": "image_url", "image_url": {"url": URL, "detail": None}}, [IMAGE]),
    ({"type": "input_image", "image_url": URL}, [IMAGE]),
    ({"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}}, [IMAGE]),
    ({"type": "image", "source": {"type": "url", "url": "https://example.org/a.png"}},
     [{"type": "image_url", "image_url": {"url": "https://example.org/a.png"}}]),
    ({"type": "image", "data": "AAAA", "mimeType": "image/png"}, [IMAGE]),
    ({"type": "input_image", "file_id": "f"},
     [{"type": "text", "text": "[image omitted: no data or URL came with it]"}]),
    ({"type": "input_audio", "input_audio": {"data": "AAAA"}},
     [{"type": "text", "text": "[audio omitted: this model takes no audio]"}]),
    ({"type": "file", "file": {"filename": "a.pdf", "file_data": "AAAA"}},
     [{"type": "text", "text": "[file a.pdf omitted: this model takes no files]"}]),
    ({"type": "image", "base64": "AAAA", "mime_type": "image/png"}, [IMAGE]),
    ({"type": "image", "url": URL}, [IMAGE]),
    ({"type": "video_url", "video_url": {"url": "data:video/mp4;base64,AAAA"}},
     [{"type": "text", "text": "[video omitted: this model takes no video]"}]),
    ({"type": "search_result", "title": "T", "content": "c"},
     [{"type": "text", "text": '{"type":"search_result","title":"T","content":"c"}'}]),
    ({"type": "document", "title": "a.txt", "source": {"type": "text", "data": "t"}},
     [{"type": "text", "text": "[file a.txt]\nt"}]),
]  # fmt: skip


@pytest.mark.parametrize(("part", "sent"), PARTS, ids=[str(row[0])[:50] for row in PARTS])
def test_content_parts(part: Any, sent: list[dict[str, Any]]) -> None:
    log = RewriteLog()
    assert translate_parts([part], Allowed(images=True), "c", log).parts == sent
    assert bool(log) == (sent != [part])


def test_a_rewrite_without_a_name_is_a_defect() -> None:
    with pytest.raises(KeyError):
        RewriteLog().add("quietly_changed")


def test_the_log_counts_and_tells() -> None:
    log = RewriteLog()
    assert not log
    for name in ("tool_call_id", "key_dropped", "tool_call_id"):
        log.add(name, "messages[0]")
    assert log.header() == "tool_call_id=2,key_dropped=1"


def test_every_rewrite_says_something() -> None:
    for name, rewrite in REWRITES.items():
        assert rewrite.says, name
        assert all(mode[0] == "F" and mode[1:].isdecimal() for mode in rewrite.modes.split()), name
