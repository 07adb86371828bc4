"""The other fields of a request, row by row."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from devstral_proxy.dialects.base import Dialect
from devstral_proxy.dialects.messages import Messages
from tests.dialects.messages.material import BODY, CACHE, FUNCTION, TOOL

FIELDS: list[tuple[dict[str, Any], dict[str, Any], list[tuple[str, str]]]] = [
    ({"max_tokens": 5.0}, {"max_tokens": 5}, []),
    ({"stream": True}, {"stream": True, "stream_options": {"include_usage": True}}, []),
    ({"stream": False}, {}, []),
    ({"temperature": 0.5, "top_p": 0.9, "top_k": 40}, {"temperature": 0.5, "top_p": 0.9, "top_k": 40}, []),
    ({"temperature": None, "top_p": None, "top_k": 0}, {}, [("field_dropped", "top_k")]),
    ({"stop_sequences": ["a", "b"]}, {"stop": ["a", "b"]}, []),
    ({"stop_sequences": []}, {}, []),
    ({"metadata": {"user_id": "u"}}, {}, [("field_dropped", "metadata")]),
    ({"service_tier": "auto", "betas": ["x"]}, {}, [("field_dropped", "service_tier"), ("field_dropped", "betas")]),
    ({"context_management": {"edits": []}, "container": None}, {}, [
        ("field_dropped", "context_management"), ("null_dropped", "container"),
    ]),
    ({"mcp_servers": [{"type": "url"}]}, {}, [("field_dropped", "mcp_servers")]),
    ({"cache_control": {"type": "ephemeral"}}, {}, [("field_dropped", "cache_control")]),
    ({"a_field_of_tomorrow": 1}, {}, [("field_dropped", "a_field_of_tomorrow")]),
    ({"thinking": {"type": "disabled"}}, {"reasoning_effort": "none"}, []),
    ({"thinking": {"type": "enabled", "budget_tokens": 2048}}, {"reasoning_effort": "high"}, [
        ("field_dropped", "thinking.budget_tokens"),
    ]),
    ({"thinking": {"type": "adaptive"}}, {"reasoning_effort": "high"}, []),
    ({"thinking": {"type": "adaptive"}, "output_config": {"effort": "low"}}, {"reasoning_effort": "low"}, []),
    ({"output_config": {"effort": "max"}}, {}, [("field_dropped", "output_config.effort")]),
    ({"thinking": {"type": "disabled"}, "output_config": {"effort": "low", "task_budget": 1}},
     {"reasoning_effort": "none"},
     [("field_dropped", "output_config.effort"), ("field_dropped", "output_config.task_budget")]),
    *(({name: value}, {"response_format": {
        "type": "json_schema", "json_schema": {"name": "output", "schema": {"type": "object"}, "strict": True},
    }}, []) for name, value in (
        ("output_config", {"format": {"type": "json_schema", "schema": {"type": "object"}}}),
        ("output_format", {"type": "json_schema", "schema": {"type": "object"}}),
    )),
    ({"tools": []}, {}, [("tools_omitted", "tools")]),
    ({"tools": None, "tool_choice": None}, {}, []),
    ({"tools": [TOOL]}, {"tools": [FUNCTION]}, []),
    ({"tools": [{**TOOL, "type": "custom"}]}, {"tools": [FUNCTION]}, []),
    ({"tools": [{**TOOL, "type": None, "cache_control": None}]}, {"tools": [FUNCTION]}, []),
    ({"tools": [{**TOOL, **CACHE, "strict": True}]}, {"tools": [FUNCTION]}, [("tool_key_dropped", "tools.0")]),
    ({"tools": [{"name": "f", "input_schema": {}}]},
     {"tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}]}, []),
    ({"tools": [{"type": "web_search_20250305", "name": "web_search"}, TOOL]}, {"tools": [FUNCTION]}, [
        ("tool_dropped", "tools.0"),
    ]),
    *(({"tools": [{"type": kind, "name": "n"}]}, {}, [("tool_dropped", "tools.0")]) for kind in (
        "bash_20250124", "text_editor_20250728", "computer_20250124", "code_execution_20250825", "memory_20250818",
        "web_fetch_20250910", "tool_search_tool_bm25_20251119", "mcp_toolset", "browser_toolset_20260801",
    )),
    ({"tools": [TOOL], "tool_choice": {"type": "auto"}}, {"tools": [FUNCTION], "tool_choice": "auto"}, []),
    ({"tools": [TOOL], "tool_choice": {"type": "any", "disable_parallel_tool_use": True}},
     {"tools": [FUNCTION], "tool_choice": "required", "parallel_tool_calls": False}, []),
    ({"tools": [TOOL], "tool_choice": {"type": "none", "disable_parallel_tool_use": False}},
     {"tools": [FUNCTION], "tool_choice": "none"}, []),
    ({"tools": [TOOL], "tool_choice": {"type": "tool", "name": "read"}},
     {"tools": [FUNCTION], "tool_choice": {"type": "function", "function": {"name": "read"}}}, []),
    ({"tools": [TOOL, {"type": "web_search_20250305", "name": "web_search"}],
      "tool_choice": {"type": "tool", "name": "web_search"}}, {"tools": [FUNCTION]},
     [("tool_dropped", "tools.1"), ("tool_choice_omitted", "tool_choice")]),
    ({"tool_choice": {"type": "any"}}, {}, [("tool_choice_omitted", "tool_choice")]),
]  # fmt: skip


@pytest.mark.parametrize(("sent", "arrives", "rewrites"), FIELDS, ids=[str(row[0])[:60] for row in FIELDS])
def test_fields(sent: dict[str, Any], arrives: dict[str, Any], rewrites: list[tuple[str, str]]) -> None:
    body = {**BODY, **sent}
    before = copy.deepcopy(body)
    dialect = Messages("x")
    chat = dialect.request(body)
    assert body == before
    assert chat == {**BODY, **arrives}
    assert dialect.rewrites.entries == rewrites
    assert dialect.stream is (sent.get("stream") is True)


def test_it_is_a_dialect() -> None:
    dialect: Dialect = Messages("x")
    assert dialect.name == "messages"


def test_counting_needs_no_max_tokens() -> None:
    dialect = Messages("x")
    body = {key: value for key, value in BODY.items() if key != "max_tokens"}
    assert dialect.count_request({**body, "stream": True}) == body
    assert dialect.stream is False
