"""Schemas that vLLM 0.32.0 cannot turn into a grammar (tokenizers v11 and later): those of strict tools and of answers.

vLLM hands them to llguidance when it starts to generate, so that a streamed request is refused by an event. What
llguidance takes is told here by tables, found by trying a real server; a tool without `strict` is not looked at.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from itertools import combinations
from typing import Any

from devstral_proxy.simulator.errors import Refused
from devstral_proxy.simulator.protocol import ChatRequest, ResponseFormat

# fmt: off
_UNKNOWN_KEYS = frozenset([
    "not", "if", "then", "else", "propertyNames", "dependentRequired", "dependentSchemas", "dependencies",
    "uniqueItems", "contains", "minContains", "maxContains", "unevaluatedProperties", "unevaluatedItems",
    "$dynamicRef", "$recursiveRef",
])
_FORMATS = frozenset([
    "date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri", "unknown",
])
_TYPES = frozenset(["null", "boolean", "object", "array", "number", "string", "integer"])
# fmt: on
_DRAFTS = re.compile(r"https?://json-schema\.org/(draft-0[4-7]|draft/20(19-09|20-12))/schema#?")
_BEYOND_REGULAR = re.compile(r"\(\?<?[=!]|\\[bB1-9]")
_ONE = ("properties", "patternProperties")
_MANY = ("anyOf", "oneOf", "allOf", "prefixItems")
_LIMITS = (("string", "Length"), ("array", "Items"), ("number", "imum"), ("integer", "imum"))


def check_grammar(request: ChatRequest) -> None:
    """Raises Refused for the first schema that makes no grammar."""
    schemas: list[Any] = []
    if request.tool_choice != "none":
        schemas += [tool.function.parameters for tool in request.tools or () if tool.function.strict]
    wanted = request.response_format
    if isinstance(wanted, ResponseFormat) and wanted.type == "json_schema" and wanted.json_schema:
        schemas.append(wanted.json_schema.json_schema)
    if request.structured_outputs is not None:
        schemas.append(request.structured_outputs.json_)
        pattern = request.structured_outputs.regex
        if pattern is not None and _pattern(pattern):
            raise Refused(f'Grammar error: at 1(8): invalid regex "{pattern}" (in regex): {_pattern(pattern)}')
    for schema in schemas:
        for trouble in _troubles(schema, schema) if isinstance(schema, Mapping) else ():
            raise Refused(f"Grammar error: at 2(15): failed to compile JSON schema: {trouble}")


def _troubles(schema: Any, root: Mapping[str, Any]) -> Iterator[str]:
    if not isinstance(schema, Mapping):
        return
    unknown = sorted(_UNKNOWN_KEYS & schema.keys())
    if unknown:
        yield f"Unimplemented keys: {unknown}"
    draft = schema.get("$schema")
    if isinstance(draft, str) and not _DRAFTS.fullmatch(draft):
        yield f"Resource '{draft}' is not present in a registry and retrieving it failed"
    reference = schema.get("$ref")
    if isinstance(reference, str):
        yield from _reference(reference, root)
    kinds = schema.get("type", [])
    for kind in [kinds] if isinstance(kinds, str) else kinds:
        if kind not in _TYPES:
            yield f"Invalid type: {kind}"
    if schema.get("type", "string") == "string":
        if isinstance(schema.get("format"), str) and schema["format"] not in _FORMATS:
            yield f"Unknown format: {schema['format']}"
        if isinstance(schema.get("pattern"), str) and _pattern(schema["pattern"]):
            yield f"{_pattern(schema['pattern'])}"
    if any(not _disjoint(*pair) for pair in combinations(schema.get("oneOf") or (), 2)):
        yield "oneOf constraints are not supported. Enable 'coerce_one_of' option to approximate oneOf with anyOf"
    properties = schema.get("properties") or {}
    for name in schema.get("required") or ():
        if _never(properties.get(name, {})):
            yield f"Unsatisfiable schema: required property '{name}' is unsatisfiable"
    for part in _parts(schema):
        yield from _troubles(part, root)


def _parts(schema: Mapping[str, Any]) -> Iterator[Any]:
    for key in _ONE:
        yield from (schema.get(key) or {}).values()
    for key in _MANY:
        yield from schema.get(key) or ()
    items = schema.get("items")
    yield from items if isinstance(items, list) else [items]
    yield schema.get("additionalProperties")
    yield schema.get("additionalItems")


def _reference(reference: str, root: Mapping[str, Any]) -> Iterator[str]:
    if not reference.startswith("#"):
        yield f"Resource '{reference}' is not present in a registry and retrieving it failed"
        return
    found: Any = root
    for part in filter(None, reference[1:].split("/")):
        name = part.replace("~1", "/").replace("~0", "~")
        if not isinstance(found, Mapping) or name not in found:
            yield f"Pointer '{reference[1:]}' does not exist"
            return
        found = found[name]
    if found is not root and reference.startswith(("#/$defs/", "#/definitions/")) and not _refers_to(found, reference):
        yield from _troubles(found, root)


def _refers_to(schema: Any, reference: str) -> bool:
    """Whether a definition names itself: it is looked at where it stands, once."""
    if isinstance(schema, Mapping):
        return schema.get("$ref") == reference or any(_refers_to(part, reference) for part in schema.values())
    return isinstance(schema, list) and any(_refers_to(part, reference) for part in schema)


def _pattern(pattern: str) -> str | None:
    """What is wrong with a regular expression, None where nothing is."""
    if _BEYOND_REGULAR.search(pattern):
        return f"regex parse error: {pattern}: look-around, including look-ahead and look-behind, is not supported"
    try:
        re.compile(pattern)
    except re.error as error:
        return f"regex parse error: {pattern}: {error}"
    return None


def _never(schema: Any) -> bool:
    """Whether no value is valid, as far as one schema's own keywords say."""
    if not isinstance(schema, Mapping):
        return schema is False
    if schema.get("enum") == [] or schema.get("anyOf") == []:
        return True
    for kind, name in _LIMITS:
        low, high = schema.get(f"min{name}"), schema.get(f"max{name}")
        if (
            schema.get("type") == kind
            and isinstance(low, (int, float))
            and isinstance(high, (int, float))
            and low > high
        ):
            return True
    return False


def _disjoint(one: Any, other: Any) -> bool:
    """Whether llguidance can tell that no value is valid for both."""
    if not isinstance(one, Mapping) or not isinstance(other, Mapping):
        return one is False or other is False
    first, second = _values(one), _values(other)
    if first is not None and second is not None:
        return not any(value in second for value in first)
    shared = _kinds(one) & _kinds(other)
    if shared == {"object"}:
        names = set(one.get("required") or ()) & set(other.get("required") or ())
        mine, theirs = one.get("properties") or {}, other.get("properties") or {}
        return any(_disjoint(mine.get(name, {}), theirs.get(name, {})) for name in names)
    return not shared


def _values(schema: Mapping[str, Any]) -> list[Any] | None:
    return [schema["const"]] if "const" in schema else schema.get("enum")


def _kinds(schema: Mapping[str, Any]) -> set[str]:
    kinds = schema.get("type") if "$ref" not in schema else None
    found = {kinds} if isinstance(kinds, str) else set(kinds or _TYPES)
    return found | {"integer"} if "number" in found else found
