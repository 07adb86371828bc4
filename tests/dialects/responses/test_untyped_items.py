"""F54: items without a type are what their members say they are."""

from __future__ import annotations

from typing import Any

import pytest

from devstral_proxy.dialects.responses import Responses
from devstral_proxy.errors import BadRequest

CALL = {"name": "look", "arguments": "{}", "call_id": "c1"}
RESULT = {"call_id": "c1", "output": "seen"}
USER = {"role": "user", "content": "Look."}


def request(*items: dict[str, Any]) -> tuple[Responses, dict[str, Any]]:
    dialect = Responses(1, "seed")
    chat: dict[str, Any] = dialect.request({"model": "m", "input": list(items)})
    return dialect, chat


def test_a_conversation_without_a_single_type_is_the_same_conversation() -> None:
    typed: list[dict[str, Any]] = [
        {"type": "message", **USER},
        {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "hm"}]},
        {"type": "function_call", **CALL},
        {"type": "function_call_output", **RESULT},
    ]
    bare = [{key: value for key, value in item.items() if key != "type"} for item in typed]
    dialect, chat = request(*bare)
    assert chat["messages"] == request(*typed)[1]["messages"]
    assert [item["type"] for item in dialect.input_items] == [item["type"] for item in typed]


@pytest.mark.parametrize("item", [{}, {"output": "seen"}, {"name": "look"}, {"type": None}, {"type": 1, **USER}])
def test_what_says_nothing_is_refused(item: dict[str, Any]) -> None:
    with pytest.raises(BadRequest) as refused:
        request(USER, item)
    assert refused.value.param == "input[1].type"
