"""What the model says when nobody tells it: an agent's conversation, worked out of the request alone.

A question is answered with a call of a reading tool, its result with two more calls (one where only one is allowed),
and those results with a text that counts them. Arguments are made from the tool's schema.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from devstral_proxy.simulator.options import Call, Turn

_READING = ("read", "view", "cat", "open", "get", "fetch", "list", "ls", "glob", "search", "grep", "find")
_RESULT_ROLES = ("tool", "tool_results")
# By the name of a string property.
_WORDS = (
    (("path", "file", "directory", "dir"), "README.md"),
    (("command", "cmd", "script"), "ls -la"),
    (("pattern", "query", "regex", "search"), "TODO"),
    (("url", "uri", "link"), "https://example.com/"),
    (("city", "location", "place"), "Paris"),
    (("content", "text", "body", "message", "diff", "patch"), "Hello.\n"),
)
_DEPTH = 6


def turn(body: dict[str, Any]) -> Turn:
    """The next turn of the conversation in `body` (a chat completion request, as it came)."""
    tools = _tools(body)
    choice = body.get("tool_choice")
    if choice == "none" or not tools:
        return _text(body)
    if isinstance(choice, dict):
        name = choice.get("function", {}).get("name")
        named = [tool for tool in tools if tool["name"] == name] or tools
        return Turn(calls=(_call(named[0], 0),))
    rounds = _rounds(body.get("messages") or [])
    tools.sort(key=_reading)
    if rounds == 0:
        return Turn(text="I will look first.", calls=(_call(tools[0], 0),))
    if rounds == 1:
        second = tools[1] if len(tools) > 1 else tools[0]
        calls = (_call(tools[0], 1), _call(second, 2))
        return Turn(calls=calls[:1] if body.get("parallel_tool_calls") is False or len(tools) == 1 else calls)
    if choice == "required":
        return Turn(calls=(_call(tools[0], rounds),))
    return _text(body)


def unguided_turn(body: dict[str, Any]) -> Turn:
    """The same from a server without grammars: a model that sees tools calls them, whatever the `tool_choice`."""
    return turn({**body, "tool_choice": "auto"} if body.get("tool_choice") == "none" else body)


def _tools(body: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [tool["function"] for tool in body.get("tools") or () if isinstance(tool.get("function"), dict)]


def _reading(tool: Mapping[str, Any]) -> int:
    name = tool["name"].lower()
    return next((rank for rank, word in enumerate(_READING) if word in name), len(_READING))


def _rounds(messages: list[Any]) -> int:
    """How often the model has called since its last answer without a call."""
    count = 0
    for message in reversed(messages):
        if message.get("role") == "assistant":
            if not message.get("tool_calls"):
                break
            count += 1
    return count


def _text(body: Mapping[str, Any]) -> Turn:
    wanted = body.get("response_format")
    kind = wanted.get("type") if isinstance(wanted, dict) else None
    if kind == "json_object":
        return Turn(text='{"answer": "done"}')
    if kind == "json_schema":
        schema = (wanted or {}).get("json_schema", {}).get("schema") or {}
        return Turn(text=json.dumps(example(schema), ensure_ascii=False))
    results = sum(message.get("role") in _RESULT_ROLES for message in body.get("messages") or ())
    if results:
        return Turn(text=f"Done: I have seen {results} tool result{'s' if results > 1 else ''}.")
    return Turn(text="Hello! I am a simulated model. Ask me something that needs a tool.")


def _call(tool: Mapping[str, Any], number: int) -> Call:
    schema = tool.get("parameters")
    made = example(schema) if isinstance(schema, Mapping) else {}
    arguments = made if isinstance(made, dict) else {}
    # Agents stop a model that repeats itself: one argument differs from call to call where a string may.
    for key, value in arguments.items():
        if number and value == "README.md":
            arguments[key] = f"src/file{number}.py"
            break
    return Call(tool["name"], arguments)


def example(schema: Any, name: str = "", root: Any = None, depth: int = 0) -> Any:
    """A value that the JSON schema takes, as far as its usual keywords say."""
    root = schema if root is None else root
    if not isinstance(schema, Mapping) or depth > _DEPTH:
        return "example"
    for key in ("const", "default"):
        if schema.get(key) is not None:
            return schema[key]
    if schema.get("enum"):
        return schema["enum"][0]
    if isinstance(schema.get("$ref"), str):
        return example(_resolve(schema["$ref"], root), name, root, depth + 1)
    for key in ("anyOf", "oneOf", "allOf"):
        options = [option for option in schema.get(key) or () if option != {"type": "null"}]
        if options:
            return example(options[0], name, root, depth + 1)
    kind = schema.get("type")
    if isinstance(kind, list):
        kind = next((one for one in kind if one != "null"), "null")
    if kind == "object" or (kind is None and "properties" in schema) or (kind is None and not name):
        properties = schema.get("properties") or {}
        wanted = schema.get("required") or list(properties)[:1]
        return {key: example(properties.get(key, {}), key, root, depth + 1) for key in wanted}
    if kind == "array":
        return [example(schema.get("items", {}), name, root, depth + 1)] * max(1, schema.get("minItems") or 1)
    if kind in ("integer", "number"):
        return schema.get("minimum", 1)
    return (
        {"boolean": False, "null": None}.get(kind, _word(name, schema))
        if isinstance(kind, str)
        else _word(name, schema)
    )


def _resolve(reference: str, root: Any) -> Any:
    found = root
    for part in reference.removeprefix("#").strip("/").split("/"):
        found = found.get(part, {}) if isinstance(found, Mapping) else {}
    return found


def _word(name: str, schema: Mapping[str, Any]) -> str:
    lower = name.lower()
    word = next((word for keys, word in _WORDS if any(key in lower for key in keys)), "example")
    return word.ljust(schema.get("minLength") or 0, "x")[: schema.get("maxLength") or None]
