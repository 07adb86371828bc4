"""Schemas brought to draft 7: jsonschema's own check of the metaschema, as mistral-common runs it, is the judge."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft7Validator

from devstral_proxy.errors import BadRequest
from devstral_proxy.mistral.schemas import MAX_DEPTH, draft7

# (schema as clients send it, as it goes upstream)
CASES: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"minimum": 1, "exclusiveMinimum": True}, {"exclusiveMinimum": 1}),
    ({"maximum": 1, "exclusiveMaximum": False}, {"maximum": 1}),
    ({"exclusiveMinimum": True}, {}),
    ({"exclusiveMinimum": "3"}, {"exclusiveMinimum": 3}),
    ({"required": None}, {}),
    ({"required": "a"}, {"required": ["a"]}),
    ({"required": ["a", "a"]}, {"required": ["a"]}),
    ({"properties": {"a": {"required": True}}}, {"properties": {"a": {}}, "required": ["a"]}),
    ({"type": "STRING"}, {"type": "string"}),
    ({"type": "int"}, {"type": "integer"}),
    ({"type": ["string", "None"]}, {"type": ["string", "null"]}),
    ({"type": "any"}, {}),
    ({"type": "file"}, {"x-type": "file"}),
    ({"description": None, "title": None}, {}),
    ({"pattern": r"^\p{L}+$"}, {"x-pattern": r"^\p{L}+$"}),
    ({"patternProperties": {"(": {}}}, {"x-patternProperties": {"(": {}}}),
    ({"$ref": "#/$defs/A"}, {"x-ref": "#/$defs/A"}),
    ({"$ref": "https://example.org/a.json"}, {"x-ref": "https://example.org/a.json"}),
    ({"$ref": "#/$defs/A", "definitions": {"A": {}}}, {"$ref": "#/definitions/A", "definitions": {"A": {}}}),
    ({"properties": {"a": None, "b": "integer"}}, {"properties": {"a": {}, "b": {"type": "integer"}}}),
    ({"items": [{"type": "Str"}, None]}, {"items": [{"type": "string"}, {}]}),
    ({"anyOf": []}, {"x-anyOf": []}),
    ({"enum": "x"}, {"enum": ["x"]}),
    ({"enum": None, "examples": None}, {}),
    (
        {"maximum": "18446744073709551616", "maxLength": "1e300"},
        {"x-maximum": "18446744073709551616", "x-maxLength": "1e300"},
    ),
    ({"$ref": "#/anyOf/" + "9" * 5000, "anyOf": [{}]}, {"x-ref": "#/anyOf/" + "9" * 5000, "anyOf": [{}]}),
    ({"pattern": "a" * 2000}, {"x-pattern": "a" * 2000}),
    ({"maxLength": "5", "minItems": -1}, {"maxLength": 5, "x-minItems": -1}),
    ({"multipleOf": 0}, {"x-multipleOf": 0}),
    ({"uniqueItems": "true"}, {"uniqueItems": True}),
    ({"additionalProperties": None}, {}),
    ({"dependencies": {"a": ["b", "b"], "c": 5}}, {"dependencies": {"a": ["b"], "c": {}}}),
]
# Newer drafts' keywords and everything that draft 7 has itself: nothing to do.
KEPT: list[dict[str, Any]] = [
    {},
    {"$schema": "http://json-schema.org/draft-07/schema#", "type": "object", "additionalProperties": False},
    {"$defs": {"A": {"type": "string"}}, "properties": {"a": {"$ref": "#/$defs/A"}}},
    {"properties": {"a": {"const": None, "default": None, "enum": []}}, "propertyNames": {"pattern": "^[a-z]+$"}},
    {"anyOf": [{"type": "string"}, {"type": "null"}], "format": "uri", "nullable": True},
    {"prefixItems": [{"type": "string"}], "unevaluatedProperties": False, "dependentRequired": {"a": ["b"]}},
    {"$ref": "#"},
    {"$ref": "#/definitions/Record%3Cstring%3E", "definitions": {"Record<string>": {}}},
    {"properties": {"type": {"type": "string"}, "required": {"type": "boolean"}, "items": {"items": True}}},
]


@pytest.mark.parametrize(("given_schema", "sent"), CASES, ids=[str(case[0])[:60] for case in CASES])
def test_brought_to_draft_7(given_schema: dict[str, Any], sent: dict[str, Any]) -> None:
    schema, _ = draft7(given_schema, "parameters")
    assert schema == sent
    Draft7Validator.check_schema(schema)


@pytest.mark.parametrize("schema", KEPT, ids=[str(schema)[:60] for schema in KEPT])
def test_what_draft_7_takes_is_the_same_object(schema: dict[str, Any]) -> None:
    assert draft7(schema, "parameters")[0] is schema


def test_a_reference_that_leads_nowhere_is_told() -> None:
    assert draft7({"properties": {"a": {"$ref": "#/nowhere"}}}, "parameters")[1]
    assert not draft7({"properties": {"a": {"$ref": "#/properties/b"}, "b": {}}}, "parameters")[1]


def test_nesting_is_bounded() -> None:
    def nested(depth: int) -> dict[str, Any]:
        schema: dict[str, Any] = {}
        for _ in range(depth):
            schema = {"properties": {"a": schema}}
        return schema

    Draft7Validator.check_schema(draft7(nested(MAX_DEPTH), "parameters")[0])
    with pytest.raises(BadRequest) as refusal:
        draft7(nested(MAX_DEPTH + 1), "tools[0].function.parameters")
    assert refusal.value.param == "tools[0].function.parameters"


KEYWORDS = [
    "type", "properties", "required", "items", "enum", "pattern", "minimum", "maximum", "exclusiveMinimum",
    "exclusiveMaximum", "multipleOf", "minLength", "maxItems", "uniqueItems", "anyOf", "allOf", "not", "if", "$ref",
    "$defs", "definitions", "dependencies", "patternProperties", "additionalProperties", "propertyNames", "format",
    "description", "title", "default", "const", "examples", "contains", "$schema", "$id", "readOnly", "whatever",
]  # fmt: skip
scalars = st.none() | st.booleans() | st.integers(-3, 9) | st.floats(-9, 9) | st.sampled_from(
    ["", "a", "string", "INTEGER", "any", "(", "^a$", "#", "#/$defs/a", "true", "3", "1e9", "nan"]
)  # fmt: skip
keys = st.sampled_from(["a", "b", "(", "^x"]) | st.sampled_from(KEYWORDS)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=4), max_leaves=20
)


@settings(max_examples=1500)
@given(st.dictionaries(st.sampled_from(KEYWORDS), values, max_size=5))
def test_whatever_comes_draft_7_takes_what_goes(schema: dict[str, Any]) -> None:
    sent, _ = draft7(schema, "parameters")
    Draft7Validator.check_schema(sent)
    assert draft7(sent, "parameters")[0] is sent
