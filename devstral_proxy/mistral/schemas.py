"""JSON Schemas of tool parameters, brought to draft 7.

mistral-common checks every tool's `parameters` against the draft-7 metaschema, formats included (so a JavaScript-only
regular expression is refused too), and one tool that fails refuses the whole request (F43 to F45). Clients send
schemas of drafts 3 to 2020-12, of OpenAPI and of Gemini, and some that no draft knows.

One row of `_KEYWORDS` says for each keyword of draft 7 what its value has to be. A value that can be converted is;
`null` is dropped; what cannot be converted stays in the prompt under `x-KEYWORD`, which draft 7 ignores, so that the
model still reads it.
"""

from __future__ import annotations

import functools
import re
import warnings
from collections.abc import Callable
from typing import Any, Final
from urllib.parse import unquote

from devstral_proxy.errors import BadRequest

MAX_DEPTH: Final = 48
"""Levels of nesting that mistral-common's own check survives (it recurses through some ten frames a level)."""

MAX_PATTERN: Final = 1000
"""Longer regular expressions are not compiled, which takes time that grows with them, but kept under another key."""

_INDEX = re.compile(r"[0-9]{1,9}").fullmatch
_BAD: Final = object()
_DROP: Final = object()

_TYPES: Final = frozenset(("array", "boolean", "integer", "null", "number", "object", "string"))
_TYPE_NAMES: Final[dict[str, str]] = {
    "str": "string", "text": "string", "char": "string", "date": "string", "datetime": "string", "uuid": "string",
    "int": "integer", "long": "integer", "int32": "integer", "int64": "integer",
    "float": "number", "double": "number", "decimal": "number",
    "bool": "boolean",
    "dict": "object", "map": "object", "record": "object", "struct": "object",
    "list": "array", "tuple": "array", "set": "array",
    "none": "null", "nil": "null", "nonetype": "null",
}  # fmt: skip


class _Walk:
    """One pass over one schema: the root for `$ref`, and whether anything was changed."""

    __slots__ = ("changed", "root", "unresolved")

    def __init__(self, root: dict[str, Any]) -> None:
        self.root = root
        self.changed = False
        self.unresolved = False

    # -- values: each takes the value and the depth, and gives the value to keep, _BAD or _DROP

    def string(self, value: Any, depth: int) -> Any:
        return value if isinstance(value, str) else _BAD

    def pattern(self, value: Any, depth: int) -> Any:
        return value if isinstance(value, str) and _compiles(value) else _BAD

    def number(self, value: Any, depth: int) -> Any:
        if isinstance(value, bool):
            return _BAD
        if isinstance(value, (int, float)):
            return value
        return _parsed_number(value)

    def positive(self, value: Any, depth: int) -> Any:
        number = self.number(value, depth)
        return number if number is not _BAD and number > 0 else _BAD

    def count(self, value: Any, depth: int) -> Any:
        number = self.number(value, depth)
        if number is _BAD or not 0 <= number < 2**63 or number != int(number):
            return _BAD
        return number if number is value else int(number)

    def boolean(self, value: Any, depth: int) -> Any:
        if isinstance(value, str) and value.lower() in ("true", "false"):
            return value.lower() == "true"
        return value if isinstance(value, bool) else _BAD

    def array(self, value: Any, depth: int) -> Any:
        if value is None:
            return _BAD
        return value if isinstance(value, list) else [value]

    def type(self, value: Any, depth: int) -> Any:
        if isinstance(value, str):
            return _type_name(value)
        if not isinstance(value, list) or not value:
            return _BAD
        if all(isinstance(name, str) and name in _TYPES for name in value) and len(set(value)) == len(value):
            return value
        names = [_type_name(name) if isinstance(name, str) else _BAD for name in value]
        if any(name is _BAD or name is _DROP for name in names):
            return _BAD
        return list(dict.fromkeys(names))

    def names(self, value: Any, depth: int) -> Any:
        """`required`: an array of unique strings. Draft 3's boolean is lifted by `schema_map`."""
        if isinstance(value, bool):
            return _DROP
        if isinstance(value, str):
            return [value]
        if not isinstance(value, list):
            return _BAD
        if all(isinstance(name, str) for name in value) and len(set(value)) == len(value):
            return value
        return list(dict.fromkeys(name for name in value if isinstance(name, str)))

    def schema_value(self, value: Any, depth: int) -> Any:
        return self.schema(value, depth + 1) if isinstance(value, (dict, bool)) else _BAD

    def items(self, value: Any, depth: int) -> Any:
        return self.schemas(value, depth) if isinstance(value, list) else self.schema_value(value, depth)

    def schemas(self, value: Any, depth: int) -> Any:
        if isinstance(value, dict):
            value = [value]
        if not isinstance(value, list) or not value:
            return _BAD
        return _kept(value, [self.property(entry, depth) for entry in value])

    def schema_map(self, value: Any, depth: int) -> Any:
        if not isinstance(value, dict):
            return _BAD
        new = {name: self.property(entry, depth) for name, entry in value.items()}
        return value if all(new[name] is value[name] for name in value) else new

    def pattern_map(self, value: Any, depth: int) -> Any:
        return self.schema_map(value, depth) if isinstance(value, dict) and all(map(_compiles, value)) else _BAD

    def dependencies(self, value: Any, depth: int) -> Any:
        if not isinstance(value, dict):
            return _BAD
        new = {
            name: self.names(entry, depth) if isinstance(entry, list) else self.property(entry, depth)
            for name, entry in value.items()
        }
        return value if all(new[name] is value[name] for name in value) else new

    def reference(self, value: Any, depth: int) -> Any:
        """`$ref` within the schema; one that leads nowhere would fail where a grammar is made of the schema (F45)."""
        if not isinstance(value, str):
            return _BAD
        if self._leads(value):
            return value
        head, _, name = value.rpartition("/")
        for home in ("#/$defs", "#/definitions", "#/components/schemas"):
            if head != home and name and self._leads(f"{home}/{name}"):
                return f"{home}/{name}"
        self.unresolved = True
        return _BAD

    def _leads(self, reference: str) -> bool:
        if reference == "#":
            return True
        if not reference.startswith("#/"):
            return False
        here: Any = self.root
        for part in unquote(reference[2:]).split("/"):
            key = part.replace("~1", "/").replace("~0", "~")
            if isinstance(here, dict) and key in here:
                here = here[key]
            elif isinstance(here, list) and _INDEX(key) and int(key) < len(here):
                here = here[int(key)]
            else:
                return False
        return isinstance(here, (dict, bool))

    # -- schemas

    def property(self, value: Any, depth: int) -> Any:
        """A schema in a place where clients also put shorthands: `null`, or the name of a type."""
        if isinstance(value, (dict, bool)):
            return self.schema(value, depth + 1)
        if isinstance(value, str):
            name = _type_name(value)
            return {"type": name} if isinstance(name, str) else {"description": value}
        return {}

    def schema(self, schema: Any, depth: int) -> Any:
        """The schema itself where draft 7 takes it as it is, else a new dict."""
        if isinstance(schema, bool):
            return schema
        if depth > MAX_DEPTH:
            raise RecursionError
        new: dict[str, Any] | None = None
        for key, value in schema.items():
            check = _KEYWORDS.get(key)
            if check is None:
                continue
            kept = check(self, value, depth)
            if kept is value:
                continue
            if new is None:
                new = dict(schema)
            _put(new, key, value, kept)
        exclusive = self._draft4(schema, new)
        lifted = self._lifted(schema)
        if exclusive is None and not lifted:
            if new is None:
                return schema
        else:
            new = exclusive if exclusive is not None else (new if new is not None else dict(schema))
            if lifted:
                given = new.get("required") or []
                new["required"] = [*given, *(name for name in lifted if name not in given)]
        self.changed = True
        return new

    @staticmethod
    def _draft4(schema: dict[str, Any], new: dict[str, Any] | None) -> dict[str, Any] | None:
        """Draft 4's boolean `exclusiveMinimum` turns the `minimum` beside it into draft 7's form (F43)."""
        out: dict[str, Any] | None = None
        for exclusive, limit in (("exclusiveMinimum", "minimum"), ("exclusiveMaximum", "maximum")):
            if not isinstance(schema.get(exclusive), bool):
                continue
            if out is None:
                out = dict(schema) if new is None else new
            out.pop("x-" + exclusive, None)
            out.pop(exclusive, None)
            if schema[exclusive] and limit in out:
                out[exclusive] = out.pop(limit)
        return out

    @staticmethod
    def _lifted(schema: dict[str, Any]) -> list[str]:
        """Draft 3's `required: true` inside a property belongs into the object's own `required`."""
        properties = schema.get("properties")
        if not isinstance(properties, dict):
            return []
        return [name for name, entry in properties.items() if isinstance(entry, dict) and entry.get("required") is True]


_KEYWORDS: Final[dict[str, Callable[[_Walk, Any, int], Any]]] = {
    **dict.fromkeys(("$schema", "$id", "$comment", "title", "description", "format"), _Walk.string),
    **dict.fromkeys(("contentMediaType", "contentEncoding"), _Walk.string),
    "$ref": _Walk.reference,
    "pattern": _Walk.pattern,
    **dict.fromkeys(("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"), _Walk.number),
    "multipleOf": _Walk.positive,
    **dict.fromkeys(("maxLength", "minLength", "maxItems", "minItems", "maxProperties", "minProperties"), _Walk.count),
    **dict.fromkeys(("uniqueItems", "readOnly", "writeOnly"), _Walk.boolean),
    **dict.fromkeys(("enum", "examples"), _Walk.array),
    "type": _Walk.type,
    "required": _Walk.names,
    **dict.fromkeys(("additionalItems", "additionalProperties", "contains", "propertyNames"), _Walk.schema_value),
    **dict.fromkeys(("if", "then", "else", "not"), _Walk.schema_value),
    "items": _Walk.items,
    **dict.fromkeys(("allOf", "anyOf", "oneOf"), _Walk.schemas),
    **dict.fromkeys(("properties", "definitions", "$defs"), _Walk.schema_map),
    "patternProperties": _Walk.pattern_map,
    "dependencies": _Walk.dependencies,
}


def draft7(schema: dict[str, Any], where: str) -> tuple[dict[str, Any], bool]:
    """The schema as draft 7 takes it (the same object where it is so already), and whether a `$ref` led nowhere.

    Raises BadRequest, naming `where`, for a schema nested over MAX_DEPTH levels.
    """
    walk = _Walk(schema)
    try:
        return walk.schema(schema, 0), walk.unresolved
    except RecursionError:
        raise BadRequest(f"The schema is nested over {MAX_DEPTH} levels deep.", param=where) from None


def _put(new: dict[str, Any], key: str, value: Any, kept: Any) -> None:
    if kept is _DROP or (kept is _BAD and value is None):
        del new[key]
    elif kept is _BAD:
        del new[key]
        new.setdefault("x-" + key.lstrip("$"), value)
    else:
        new[key] = kept


def _kept(old: list[Any], new: list[Any]) -> list[Any]:
    return old if all(a is b for a, b in zip(old, new, strict=True)) else new


@functools.lru_cache(maxsize=512)
def _compiles(pattern: str) -> bool:
    if len(pattern) > MAX_PATTERN:
        return False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a client's pattern: nobody here could mend it
            re.compile(pattern)
    except (re.error, RecursionError, OverflowError):
        return False
    return True


def _parsed_number(value: Any) -> Any:
    if not isinstance(value, str):
        return _BAD
    for parse in (int, float):
        try:
            number = parse(value)
        except ValueError:
            continue
        return number if -(2**63) <= number < 2**63 else _BAD  # what JSON can carry on; nan compares false
    return _BAD


def _type_name(name: str) -> Any:
    if name in _TYPES:
        return name
    lower = name.lower()
    if lower == "any":
        return _DROP
    return lower if lower in _TYPES else _TYPE_NAMES.get(lower, _BAD)
