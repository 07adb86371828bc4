"""Stored responses: what is kept, and what the endpoints about them answer."""

from __future__ import annotations

import json
from typing import Any

import pytest
from openai.types.responses import ResponseItem
from openai.types.responses.response_item_list import ResponseItemList
from pydantic import TypeAdapter

from devstral_proxy.dialects.responses import response_of
from devstral_proxy.dialects.responses.stored import (
    Record,
    cancelled,
    chain_items,
    deleted,
    input_list,
    missing,
    retrieved,
)
from devstral_proxy.errors import BadRequest
from devstral_proxy.mistral.fold import fold
from tests.dialects.responses.help import asked, dialect, stream

ITEM: TypeAdapter[Any] = TypeAdapter(ResponseItem)
PNG = "data:image/png;base64,AAAA"
GIVEN: list[dict[str, Any]] = [
    {"role": "developer", "content": "d"},
    {"role": "user", "content": [{"type": "input_text", "text": "a"}, {"type": "input_image", "image_url": PNG}]},
    {"role": "user", "content": [{"type": "text", "text": "a"}]},
    {"role": "assistant", "content": "b"},
    {"role": "assistant", "content": [{"type": "output_text", "text": "b"}], "id": "msg_theirs", "type": "message"},
    {"type": "reasoning", "encrypted_content": "x"},
    {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
    {"type": "function_call_output", "call_id": "c", "output": "ok"},
    {"type": "custom_tool_call", "call_id": "c2", "name": "g", "input": "x"},
    {"type": "custom_tool_call_output", "call_id": "c2", "output": [{"type": "input_image", "image_url": PNG}]},
    {"type": "web_search_call", "id": "ws_1", "status": "completed", "action": {"type": "search", "query": "q"}},
]


def test_input_items_are_whole() -> None:
    made = asked(input=GIVEN)
    items = made.input_items
    for item in items:
        ITEM.validate_json(json.dumps(item), strict=True)
    assert len({item["id"] for item in items}) == len(items)
    assert [response_of(item["id"]) for item in items if item["id"] not in ("msg_theirs", "ws_1")] == [made.id] * 9
    assert items[4]["id"] == "msg_theirs"
    assert items == asked(input=GIVEN).input_items


def test_input_items_say_the_same() -> None:
    messages = dialect().request({"model": "m", "input": GIVEN})["messages"]
    again = dialect().request({"model": "m", "input": asked(input=GIVEN).input_items})["messages"]
    for message in [*messages, *again]:
        for part in message["content"] if isinstance(message["content"], list) else []:
            part.get("image_url", {}).pop("detail", None)  # told as `auto`, which is what no word of it means
    assert again == messages


def test_text_input_is_an_item() -> None:
    (item,) = asked(input="hello").input_items
    assert item["content"] == [{"type": "input_text", "text": "hello"}]


def test_record_and_chain() -> None:
    first = asked("one", input="a")
    first.body(fold(stream({"content": "b"})))
    record = first.record
    assert (record["id"], record["previous"], record["created"]) == (first.id, None, 1_700_000_000)
    assert record["response"] == first.result
    assert json.loads(json.dumps(record)) == record
    second = asked("two", previous=chain_items([record]), input="c", previous_response_id=first.id)
    second.body(fold(stream({"content": "d"})))
    assert second.record["previous"] == first.id
    third = dialect("three", previous=chain_items([record, second.record]))
    messages = third.request({"model": "m", "input": "e", "previous_response_id": second.id})["messages"]
    assert [message["content"] for message in messages] == ["a", "b", "c", "d", "e"]


def items(count: int) -> list[dict[str, Any]]:
    content = [{"type": "input_text", "text": "x"}]
    return [{"type": "message", "role": "user", "id": f"msg_{n}", "content": content} for n in range(count)]


PAGES: list[tuple[dict[str, str], list[int], bool]] = [
    ({}, list(range(24, 4, -1)), True),
    ({"order": "asc"}, list(range(20)), True),
    ({"order": "asc", "limit": "3"}, [0, 1, 2], True),
    ({"order": "asc", "limit": "100"}, list(range(25)), False),
    ({"order": "asc", "after": "msg_22"}, [23, 24], False),
    ({"order": "asc", "after": "msg_21", "limit": "3"}, [22, 23, 24], False),
    ({"order": "desc", "after": "msg_2"}, [1, 0], False),
    ({"after": "msg_0"}, [], False),
    ({"limit": "1", "include": "message.input_image.image_url"}, [24], True),
]


@pytest.mark.parametrize(("query", "numbers", "more"), PAGES)
def test_pages(query: dict[str, str], numbers: list[int], more: bool) -> None:
    page = input_list(items(25), query)
    assert [item["id"] for item in page["data"]] == [f"msg_{number}" for number in numbers]
    assert page["has_more"] is more
    if numbers:
        assert (page["first_id"], page["last_id"]) == (f"msg_{numbers[0]}", f"msg_{numbers[-1]}")
        TypeAdapter(ResponseItemList).validate_json(json.dumps(page), strict=True)


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ({"limit": "0"}, "limit"),
        ({"limit": "101"}, "limit"),
        ({"limit": "x"}, "limit"),
        ({"limit": ""}, "limit"),
        ({"limit": "²"}, "limit"),
        ({"order": "up"}, "order"),
        ({"after": "msg_99"}, "after"),
    ],
)
def test_wrong_queries(query: dict[str, str], param: str) -> None:
    with pytest.raises(BadRequest) as raised:
        input_list(items(3), query)
    assert raised.value.param == param


def test_the_other_endpoints() -> None:
    record: Record = {"id": "resp_1", "response": {"id": "resp_1"}, "input_items": [], "previous": None, "created": 1}
    assert retrieved(record, {"include": "x", "stream": "false"}) is record["response"]
    assert deleted("resp_1") == {"id": "resp_1", "object": "response", "deleted": True}
    with pytest.raises(BadRequest):
        retrieved(record, {"stream": "true"})
    with pytest.raises(BadRequest):
        cancelled(record)
    assert missing("resp_1").status == 404
