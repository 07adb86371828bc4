"""Requests with tools, choices and schemas: rows of vllm_cases.py."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from qa.vllm_requests import tool, without


def tool_requests() -> Iterator[tuple[str, dict[str, Any]]]:
    for name, one in {
        "plain": tool(), "name dot": tool("a.b"), "name slash": tool("a/b"), "name space": tool("a b"),
        "name colon": tool("mcp:a"), "name long": tool("x" * 65), "name 64": tool("x" * 64), "name empty": tool(""),
        "name null": tool(None), "name missing": {"type": "function", "function": {"parameters": {}}},
        "no description": {"type": "function", "function": {"name": "read", "parameters": {"type": "object"}}},
        "description null": tool(description=None), "no parameters": {"type": "function",
        "function": {"name": "read"}},
        "parameters null": {"type": "function", "function": {"name": "read", "parameters": None}},
        "parameters empty": tool(parameters={}), "parameters list": tool(parameters=[]),
        "strict true": tool(strict=True), "strict false": tool(strict=False), "strict null": tool(strict=None),
        "extra keys": {**tool(), "cache_control": {"type": "ephemeral"}}, "extra in function": tool(title="t"),
        "type missing": without(tool(), "type"), "type null": {**tool(), "type": None},
        "type web_search": {"type": "web_search"}, "type custom": {"type": "custom", "custom": {"name": "x"}},
        "flat": {"type": "function", "name": "read", "parameters": {}},
        "anthropic": {"name": "read", "input_schema": {"type": "object"}}, "function missing": {"type": "function"},
        "function null": {"type": "function", "function": None}, "null": None, "string": "read",
    }.items():  # fmt: skip
        yield f"tool definitions/{name}", {"tools": [one]}
    for name, schema in {
        "boolean exclusiveMinimum": {"minimum": 0, "exclusiveMinimum": True}, "number exclusiveMinimum": {
            "type": "integer", "exclusiveMinimum": 0}, "unknown type": {"type": "strange"},
        "upper-case type": {"type": "STRING"}, "type null text": {"type": "null"}, "type list": {"type": ["string",
        "null"]},
        "type empty list": {"type": []}, "type None": {"type": None}, "enum empty": {"enum": []},
        "enum": {"enum": ["a"]},
        "format": {"type": "string", "format": "uri"}, "pattern bad": {"type": "string", "pattern": "("},
        "default": {"type": "string", "default": "x"}, "nullable": {"type": "string", "nullable": True},
        "items list": {"type": "array", "items": [{"type": "string"}]}, "items missing": {"type": "array"},
        "minItems negative": {"type": "array", "minItems": -1}, "anyOf empty": {"anyOf": []},
        "anyOf": {"anyOf": [{"type": "string"}, {"type": "null"}]}, "ref without defs": {"$ref": "#/$defs/x"},
        "const": {"const": 1}, "boolean schema": True, "string schema": "string", "null schema": None,
        "description number": {"type": "string", "description": 3}, "multipleOf 0": {"type": "number",
        "multipleOf": 0},
    }.items():  # fmt: skip
        yield f"schema/{name}", {"tools": [tool(parameters={"type": "object", "properties": {"x": schema}})]}
    plain = {"type": "object", "properties": {"x": {"type": "string"}}}
    changes: dict[str, dict[str, Any]] = {
        "required true": {"required": True}, "required null": {"required": None}, "required empty": {"required": []},
        "required twice": {"required": ["x", "x"]}, "required unknown": {"required": ["y"]},
        "properties null": {"properties": None}, "properties list": {"properties": []},
        "additionalProperties false": {"additionalProperties": False}, "additionalProperties null": {
            "additionalProperties": None}, "$schema 2020": {"$schema": "https://json-schema.org/draft/2020-12/schema"},
        "$schema 04": {"$schema": "http://json-schema.org/draft-04/schema#"},
        "$defs": {"$defs": {"y": {"type": "string"}}},
        "object type array": {"type": "array"}, "object type null": {"type": None}, "title": {"title": "t"},
        "dependentRequired": {"dependentRequired": {"x": ["y"]}},
        "unevaluatedProperties": {"unevaluatedProperties": False},
        "if then": {"if": {"required": ["x"]}, "then": {"required": ["x"]}}, "$id": {"$id": "not a uri %%"},
    }  # fmt: skip
    for name, change in changes.items():
        yield f"schema/{name}", {"tools": [tool(parameters={**plain, **change})]}
    yield "tool definitions/empty list", {"tools": []}
    yield "tool definitions/no list", {"tools": None}
    yield "tool definitions/object", {"tools": {}}
    yield "tool definitions/same twice", {"tools": [tool(), tool()]}
    yield "tool definitions/legacy functions", {"functions": [tool()["function"]], "function_call": "auto"}
    named = {"type": "function", "function": {"name": "read"}}
    choices: dict[str, Any] = {
        "auto": "auto", "none": "none", "required": "required", "any": "any", "null": None, "named": named,
        "unknown name": {"type": "function", "function": {"name": "write"}}, "flat": {"type": "function",
        "name": "read"},
        "anthropic auto": {"type": "auto"}, "anthropic tool": {"type": "tool", "name": "read"}, "number": 3,
        "list": [],
        "allowed_tools": {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [named]}},
        "function null": {"type": "function", "function": None}, "name missing": {"type": "function", "function": {}},
        "name empty": {"type": "function", "function": {"name": ""}}, "type tool": {**named, "type": "tool"},
        "without type": {"function": {"name": "read"}}, "custom": {"type": "custom", "custom": {"name": "read"}},
    }  # fmt: skip
    for name, choice in choices.items():
        yield f"tool_choice/{name}", {"tools": [tool()], "tool_choice": choice}
        if name in ("auto", "none", "required", "null", "named"):
            yield f"tool_choice/{name} without tools", {"tool_choice": choice}
    yield "tool_choice/auto, empty tools", {"tools": [], "tool_choice": "auto"}
    yield "tool_choice/none, empty tools", {"tools": [], "tool_choice": "none"}
    yield "tool_choice/required, empty tools", {"tools": [], "tool_choice": "required"}
    yield "tool_choice/auto, null tools", {"tools": None, "tool_choice": "auto"}
    yield "tool_choice/named, broken tools", {"tools": [{"type": "function"}], "tool_choice": named}
    yield "tools/parallel false", {"tools": [tool()], "parallel_tool_calls": False}
    yield "tools/parallel null", {"tools": [tool()], "parallel_tool_calls": None}
    yield "tools/parallel without tools", {"parallel_tool_calls": True}


def grammar_requests() -> Iterator[tuple[str, dict[str, Any]]]:
    """Schemas of strict tools: vLLM 0.32.0 makes a grammar of them, 0.12.0 does not look at them."""
    string = {"type": "string"}

    def one(schema: Any, **more: Any) -> dict[str, Any]:
        return {"type": "object", "properties": {"q": schema}, "required": ["q"], **more}

    for name, schema in {
        "plain": one(string), "not": one({"not": string}), "propertyNames": one(string,
        propertyNames={"pattern": "a"}),
        "if": one(string, **{"if": {"required": ["q"]}}), "then alone": one(string, then={}),
        "dependentRequired": one(string, dependentRequired={"q": ["r"]}), "dependencies": one(string, dependencies={}),
        "uniqueItems": one({"type": "array", "items": string, "uniqueItems": True}),
        "uniqueItems false": one({"type": "array", "items": string, "uniqueItems": False}),
        "contains": one({"type": "array", "contains": string}), "minContains": one({"type": "array",
        "minContains": 1}),
        "unevaluatedProperties": one(string, unevaluatedProperties=False), "minProperties": one(string,
        minProperties=1),
        "patternProperties": one(string, patternProperties={"^a": string}), "unknown key": one({**string, "x-foo": 1}),
        "multipleOf": one({"type": "number", "multipleOf": 0.1}), "nullable": one({**string, "nullable": True}),
        "format unknown": one({**string, "format": "strange"}), "format uri": one({**string, "format": "uri"}),
        "format of integer": one({"type": "integer", "format": "int32"}), "format path": one({**string,
        "format": "path"}),
        "pattern": one({**string, "pattern": "^a+$"}), "pattern lookahead": one({**string, "pattern": "^(?!a).*$"}),
        "pattern word boundary": one({**string, "pattern": "\\bfoo\\b"}), "pattern lazy": one({
            **string, "pattern": "a{2,3}?"}), "pattern back reference": one({**string, "pattern": "(a)\\1"}),
        "anyOf": one({"anyOf": [string, {"type": "null"}]}), "anyOf empty": one({"anyOf": []}),
        "oneOf": one({"oneOf": [string, {"type": "null"}]}), "oneOf overlap": one({
            "oneOf": [string, {"type": "string", "minLength": 1}]}), "oneOf consts": one({
            "oneOf": [{"const": "a"}, {"const": "b"}]}), "oneOf numbers": one({
            "oneOf": [{"type": "integer"}, {"type": "number"}]}), "oneOf single": one({"oneOf": [string]}),
        "oneOf objects": one({"oneOf": [one(string), one({"type": "integer"})]}), "oneOf tagged": one({
            "oneOf": [one({"const": "a"}), one({"const": "b"})]}), "oneOf same objects": one({
            "oneOf": [one(string), one(string)]}), "oneOf required": one({
            "oneOf": [{"required": ["a"]}, {"required": ["b"]}]}), "oneOf reference": one({
            "oneOf": [{"$ref": "#/$defs/a"}, {"type": "null"}]}, **{"$defs": {"a": string}}),
        "ref": one({"$ref": "#/$defs/a"}, **{"$defs": {"a": string}}), "ref nowhere": one({"$ref": "#/$defs/a"}),
        "ref remote": one({"$ref": "https://example.com/a.json"}), "ref root": one({"$ref": "#"}),
        "ref definitions": one({"$ref": "#/definitions/a"}, definitions={"a": string}),
        "ref to trouble": one({"$ref": "#/$defs/a"}, **{"$defs": {"a": {"not": string}}}),
        "trouble nobody refers to": one(string, **{"$defs": {"a": {"not": string}}}),
        "ref to itself": one({"$ref": "#/$defs/a"}, **{"$defs": {"a": one({"$ref": "#/$defs/a"})}}),
        "$schema 2020": one(string, **{"$schema": "https://json-schema.org/draft/2020-12/schema"}),
        "$schema 07": one(string, **{"$schema": "http://json-schema.org/draft-07/schema#"}),
        "$schema of nobody": one(string, **{"$schema": "http://example.com/schema"}), "$comment": one(
            string, **{"$comment": "x"}), "enum empty": one({"enum": []}), "false": one(False), "true": one(True),
        "optional false": {"type": "object", "properties": {"q": False}}, "items false": one({
            "type": "array", "items": False}), "limits crossed": one({"type": "integer", "minimum": 5, "maximum": 1}),
        "lengths crossed": one({**string, "minLength": 3, "maxLength": 1}), "counts crossed": one({
            "type": "array", "items": string, "minItems": 3, "maxItems": 1}), "additional trouble": {
            "type": "object", "additionalProperties": {"not": string}}, "discriminator": one({
            "anyOf": [string], "discriminator": {"propertyName": "a"}}), "empty": {}, "type array": {
            "type": "array", "items": string}, "required of nothing": {"type": "object", "required": ["z"]},
        "prefixItems": one({"type": "array", "prefixItems": [string]}), "deep trouble": one(one(one({"not": string}))),
    }.items():  # fmt: skip
        yield f"strict tools/{name}", {"tools": [tool(parameters=schema, strict=True)]}
    broken = one({"not": string})
    yield "strict tools/trouble without strict", {"tools": [tool(parameters=broken)]}
    yield "strict tools/trouble, choice none", {"tools": [tool(parameters=broken, strict=True)], "tool_choice": "none"}
    yield "strict tools/trouble streamed", {"tools": [tool(parameters=broken, strict=True)], "stream": True}
