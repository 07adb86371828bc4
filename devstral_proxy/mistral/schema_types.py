"""What a tool's schema says of a value's type: enough to tell a string from an array or object (F78)."""

from __future__ import annotations

from typing import Any, Final

_DEPTH: Final = 8  # of references and alternatives: schemas may be recursive


def resolved(schema: Any, root: dict[str, Any], depth: int = _DEPTH) -> dict[str, Any]:
    """The schema itself, a local `$ref` followed. What is no schema, or leads nowhere, is {}: everything goes."""
    while isinstance(schema, dict) and isinstance(reference := schema.get("$ref"), str) and depth:
        depth -= 1
        target: Any = root
        if not reference.startswith("#"):
            return {}
        for step in reference[1:].strip("/").split("/"):
            target = (
                target.get(step.replace("~1", "/").replace("~0", "~")) if step and isinstance(target, dict) else target
            )
        schema = target
    return schema if isinstance(schema, dict) else {}


def wants_container(schema: Any, root: dict[str, Any], depth: int = _DEPTH) -> bool:
    """Whether only an array or an object (or null) will do: a string there is one that was encoded twice."""
    schema = resolved(schema, root)
    kinds = schema.get("type")
    if isinstance(kinds, str):
        return kinds in ("array", "object")
    if isinstance(kinds, list):
        return any(kind in ("array", "object") for kind in kinds) and "string" not in kinds
    for key in ("anyOf", "oneOf"):
        options = schema.get(key)
        if isinstance(options, list) and options and depth:
            wanted = [option for option in options if resolved(option, root).get("type") != "null"]
            return bool(wanted) and all(wants_container(option, root, depth - 1) for option in wanted)
    return False


def member(schema: Any, key: str | None, root: dict[str, Any], depth: int = _DEPTH) -> Any:
    """The schema of an object's member `key`, or of an array's items (`key` None); None where it says nothing."""
    schema = resolved(schema, root)
    if key is None:
        found = schema.get("items")
    else:
        properties = schema.get("properties")
        found = properties.get(key) if isinstance(properties, dict) else None
        if found is None:
            found = schema.get("additionalProperties")
    if isinstance(found, dict):
        return found
    for option in (*_list(schema.get("anyOf")), *_list(schema.get("oneOf")), *_list(schema.get("allOf"))):
        if depth and (found := member(option, key, root, depth - 1)) is not None:
            return found
    return None


def required(schema: dict[str, Any]) -> set[str]:
    """The members that an object must have."""
    return {key for key in _list(schema.get("required")) if isinstance(key, str)}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
