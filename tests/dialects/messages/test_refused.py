"""Wrong input is refused in Anthropic's words."""

from __future__ import annotations

from typing import Any

import pytest

from devstral_proxy.dialects.messages import Messages
from devstral_proxy.errors import BadRequest
from tests.dialects.messages.material import BODY, TOOL, USE, assistant, result, said, text


def _in(*blocks: Any, role: str = "user") -> dict[str, Any]:
    return {"messages": [said("user", "a"), said(role, list(blocks))]}


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"model": None}, "model: Field required"),
    ({"model": 1}, "model: Input should be a valid string"),
    ({"model": ""}, "model: String should have at least 1 character"),
    ({"max_tokens": None}, "max_tokens: Field required"),
    ({"max_tokens": "5"}, "max_tokens: Input should be a valid integer"),
    ({"max_tokens": True}, "max_tokens: Input should be a valid integer"),
    ({"max_tokens": 0}, "max_tokens: Input should be greater than or equal to 1"),
    ({"messages": None}, "messages: Field required"),
    ({"messages": "a"}, "messages: Input should be a valid list"),
    ({"messages": []}, "messages: at least one message is required"),
    ({"messages": ["a"]}, "messages.0: Input should be a valid dictionary"),
    ({"messages": [{"content": "a"}]}, "messages.0.role: Field required"),
    ({"messages": [said("tool", "a")]},
     "messages.0.role: Input should be 'user', 'assistant', 'system' or 'developer'"),
    ({"messages": [{"role": "user"}]}, "messages.0.content: Field required"),
    ({"messages": [said("user", 1)]}, "messages.0.content: Input should be a valid list"),
    (_in("a"), "messages.1.content.0: Input should be a valid dictionary"),
    (_in({}), "messages.1.content.0.type: Field required"),
    (_in({"type": 1}), "messages.1.content.0.type: Input should be a valid string"),
    (_in(text("a"), {"type": "text"}), "messages.1.content.1.text.text: Field required"),
    (_in({"type": "image"}), "messages.1.content.0.image.source: Field required"),
    (_in({"type": "image", "source": {"type": "base64", "data": "x"}}),
     "messages.1.content.0.image.source.base64.media_type: Field required"),
    (_in({"type": "document", "source": {"type": "text"}}),
     "messages.1.content.0.document.source.text.data: Field required"),
    (_in({"type": "search_result", "title": "t"}), "messages.1.content.0.search_result.source: Field required"),
    (_in(result(content=1)), "messages.1.content.0.tool_result.content: Input should be a valid list"),
    (_in({"type": "tool_result"}), "messages.1.content.0.tool_result.tool_use_id: Field required"),
    (_in(result([{"type": "text"}])), "messages.1.content.0.tool_result.content.0.text.text: Field required"),
    (_in(USE), "messages.1: `tool_use` blocks can only be in `assistant` messages"),
    (_in(result("r"), role="assistant"), "messages.1: `tool_result` blocks can only be in `user` messages"),
    (_in({**USE, "id": None}, role="assistant"), "messages.1.content.0.tool_use.id: Field required"),
    (_in({**USE, "name": ""}, role="assistant"),
     "messages.1.content.0.tool_use.name: String should have at least 1 character"),
    (_in({**USE, "input": "{}"}, role="assistant"),
     "messages.1.content.0.tool_use.input: Input should be a valid dictionary"),
    (_in({"type": "thinking"}, role="assistant"), "messages.1.content.0.thinking.thinking: Field required"),
    ({"system": 1}, "system: Input should be a valid list"),
    ({"system": [{"type": "text"}]}, "system.0.text.text: Field required"),
    ({"stream": "yes"}, "stream: Input should be a valid boolean"),
    ({"temperature": 1.5}, "temperature: Input should be less than or equal to 1"),
    ({"temperature": -1}, "temperature: Input should be greater than or equal to 0"),
    ({"temperature": "x"}, "temperature: Input should be a valid number"),
    ({"top_p": 2}, "top_p: Input should be less than or equal to 1"),
    ({"top_k": -1}, "top_k: Input should be greater than or equal to 0"),
    ({"stop_sequences": "a"}, "stop_sequences: Input should be a valid list"),
    ({"stop_sequences": [1]}, "stop_sequences.0: Input should be a valid string"),
    ({"thinking": "on"}, "thinking: Input should be a valid dictionary"),
    ({"thinking": {"type": "on"}},
     "thinking.type: Input should be 'enabled', 'disabled', 'adaptive' or 'between_tools'"),
    ({"output_config": {"effort": "huge"}},
     "output_config.effort: Input should be 'low', 'medium', 'high', 'xhigh' or 'max'"),
    ({"output_config": {"format": {"type": "xml"}}}, "output_config.format.type: Input should be 'json_schema'"),
    ({"output_format": {"type": "json_schema"}}, "output_format.schema: Field required"),
    ({"tools": {}}, "tools: Input should be a valid list"),
    ({"tools": [1]}, "tools.0: Input should be a valid dictionary"),
    ({"tools": [{"input_schema": {}}]}, "tools.0.custom.name: Field required"),
    ({"tools": [{"name": "a"}]}, "tools.0.custom.input_schema: Field required"),
    ({"tools": [{**TOOL, "description": 1}]}, "tools.0.custom.description: Input should be a valid string"),
    ({"tools": [{"type": 1}]}, "tools.0.type: Input should be a valid string"),
    ({"tools": [TOOL], "tool_choice": "auto"}, "tool_choice: Input should be a valid dictionary"),
    ({"tools": [TOOL], "tool_choice": {"type": "some"}},
     "tool_choice.type: Input should be 'auto', 'any', 'tool' or 'none'"),
    ({"tools": [TOOL], "tool_choice": {"type": "tool"}}, "tool_choice.tool.name: Field required"),
    ({"tools": [TOOL], "tool_choice": {"type": "tool", "name": "x"}},
     "tool_choice: Tool 'x' not found in provided tools"),
    ({"tools": [TOOL], "tool_choice": {"type": "any", "disable_parallel_tool_use": 1}},
     "tool_choice.any.disable_parallel_tool_use: Input should be a valid boolean"),
]  # fmt: skip


@pytest.mark.parametrize(("sent", "message"), WRONG, ids=[row[1] for row in WRONG])
def test_wrong_input_names_the_field(sent: dict[str, Any], message: str) -> None:
    dialect = Messages("x")
    with pytest.raises(BadRequest) as caught:
        dialect.request({**BODY, **sent})
    told = dialect.error(caught.value)
    assert told == {"type": "error", "error": {"type": "invalid_request_error", "message": message}}


@pytest.mark.parametrize("thread", [{"type": "create"}, {"type": "continue", "previous_message_id": "msg_1"}])
def test_threads_are_refused_as_sdks_understand_it(thread: dict[str, Any]) -> None:
    dialect = Messages("x")
    with pytest.raises(BadRequest) as caught:
        dialect.request({**BODY, "thread": thread})
    error = dialect.error(caught.value)["error"]
    assert error["details"]["error_code"] == "thread_unsupported_request"
    assert error["message"].startswith("thread: ")


def test_deep_nesting_is_refused() -> None:
    deep: Any = {}
    for _ in range(100_000):
        deep = {"a": deep}
    dialect = Messages("x")
    with pytest.raises(BadRequest, match="levels deep"):
        dialect.request({**BODY, "messages": [said("user", "a"), assistant({**USE, "input": deep})]})
    while deep:  # or taking it apart would be too deep as well
        deep = deep.pop("a")
