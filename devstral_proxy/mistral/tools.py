"""Tool definitions and tool_choice, in the one form that every mistral-common takes.

That form is `{"type": "function", "function": {"name", "description", "parameters"}}` and nothing else: `strict` is
refused before mistral-common 1.10.0, null descriptions and missing parameters before 1.13.1 (F35, F36), other types
of tool always (F53).
"""

from __future__ import annotations

from typing import Any, Final

import orjson

from devstral_proxy.errors import BadRequest
from devstral_proxy.mistral.names import ToolNames, is_valid
from devstral_proxy.mistral.rewrites import RewriteLog
from devstral_proxy.mistral.schemas import draft7

_TOOL_KEYS: Final = frozenset(("type", "function"))
_FUNCTION_KEYS: Final = frozenset(("name", "description", "parameters"))
_NO_PARAMETERS: Final[dict[str, Any]] = {"type": "object", "properties": {}}
CUSTOM_PARAMETERS: Final[dict[str, Any]] = {
    "type": "object",
    "properties": {"input": {"type": "string"}},
    "required": ["input"],
}


class ToolSet:
    """The tools of one request, translated.

    `tools` goes upstream; `schemas` has each name's parameters; `custom` names the flattened custom tools; `own` maps
    the client's name to Mistral's.
    """

    __slots__ = ("custom", "log", "names", "own", "schemas", "tools")

    def __init__(self, names: ToolNames, log: RewriteLog) -> None:
        self.names = names
        self.log = log
        self.tools: list[dict[str, Any]] = []
        self.schemas: dict[str, dict[str, Any]] = {}
        self.own: dict[str, str] = {}
        self.custom: set[str] = set()

    def add_all(self, tools: Any, where: str = "tools") -> None:
        """Translate the request's `tools`. Raises BadRequest for what OpenAI's API refuses too."""
        if not isinstance(tools, list):
            raise BadRequest("'tools' must be an array.", param=where)
        for index, tool in enumerate(tools):
            self._add(tool, f"{where}[{index}]", prefix="")

    def add_functions(self, functions: Any) -> None:
        """Translate the legacy `functions`: tools without the wrapper."""
        if not isinstance(functions, list):
            raise BadRequest("'functions' must be an array.", param="functions")
        for index, function in enumerate(functions):
            if not isinstance(function, dict):
                raise BadRequest("A function must be an object.", param=f"functions[{index}]")
            self._function({"type": "function"}, function, f"functions[{index}]", "")

    def _add(self, tool: Any, where: str, prefix: str) -> None:
        if not isinstance(tool, dict):
            raise BadRequest("A tool must be an object.", param=where)
        kind = tool.get("type", "function")
        if kind == "function":
            function = tool.get("function")
            if isinstance(function, dict):
                self._function(tool, function, where + ".function", prefix)
            elif isinstance(tool.get("name"), str):
                self.log.add("tool_flattened", where)  # the Responses API's form: no wrapper
                self._function({}, tool, where, prefix)
            else:
                raise BadRequest("A tool of type 'function' needs 'function'.", param=where + ".function")
        elif isinstance(tool.get("name"), str) and isinstance(tool.get("input_schema"), dict):
            self.log.add("tool_flattened", where)  # Anthropic's form; its own tools have the type `custom`, or none
            self._function({}, {**tool, "parameters": tool["input_schema"]}, where, prefix)
        elif kind == "custom" and isinstance(tool.get("custom", tool), dict) and tool.get("custom", tool).get("name"):
            self._custom(tool.get("custom", tool), where, prefix)
        elif kind == "namespace" and isinstance(tool.get("tools"), list) and isinstance(tool.get("name"), str):
            self.log.add("tool_flattened", where)
            for index, inner in enumerate(tool["tools"]):
                self._add(inner, f"{where}.tools[{index}]", f"{prefix}{tool['name']}__")
        elif isinstance(kind, str):
            self.log.add("tool_dropped", where)
        else:
            raise BadRequest("A tool's 'type' must be a string.", param=where + ".type")

    def _custom(self, custom: dict[str, Any], where: str, prefix: str) -> None:
        """A custom tool takes free text: one string argument says the same (F53)."""
        self.log.add("tool_flattened", where)
        function = {"name": custom["name"], "description": custom.get("description"), "parameters": CUSTOM_PARAMETERS}
        form = custom.get("format")
        if isinstance(form, dict) and form.get("type") == "grammar":
            grammar = form.get("grammar") if isinstance(form.get("grammar"), dict) else form
            definition = grammar.get("definition") if isinstance(grammar, dict) else None
            if isinstance(definition, str):
                said = f"{custom.get('description') or ''}\n\nThe input follows this grammar:\n{definition}"
                function["description"] = said.strip()
        self.custom.add(self._function({}, function, where, prefix))

    def _function(self, tool: dict[str, Any], function: dict[str, Any], where: str, prefix: str) -> str:
        name = function.get("name")
        if not isinstance(name, str) or not name:
            raise BadRequest("A function needs a name.", param=where + ".name")
        own = prefix + name
        valid = self.names.mapped(own)
        if valid != own:
            self.log.add("tool_name", where + ".name")
        description = function.get("description")
        if description is not None and not isinstance(description, str):
            raise BadRequest("A function's description must be a string.", param=where + ".description")
        given = function.get("parameters")
        parameters = self._parameters(given, where + ".parameters")
        self.own[own] = valid
        self.schemas[valid] = parameters
        translated = {"type": "function", "function": {"name": valid, "parameters": parameters}}
        if description is not None:
            translated["function"] = {"name": valid, "description": description, "parameters": parameters}
        if translated == tool:
            translated = tool
        elif (
            not (function.keys() <= _FUNCTION_KEYS and tool.keys() == _TOOL_KEYS)
            or function.get("description", "") is None
        ):
            self.log.add("tool_key_dropped", where)
        self.tools.append(translated)
        return valid

    def _parameters(self, given: Any, where: str) -> dict[str, Any]:
        if given is None:
            self.log.add("parameters_filled", where)
            return dict(_NO_PARAMETERS)
        if isinstance(given, str):  # some clients send the schema as text
            try:
                given = orjson.loads(given)
                self.log.add("schema", where)
            except orjson.JSONDecodeError:
                given = None
        if not isinstance(given, dict):
            raise BadRequest("A function's parameters must be a JSON Schema object.", param=where)
        schema, unresolved = draft7(given, where)
        if schema is not given:
            self.log.add("schema", where)
        if unresolved:
            self.log.add("schema_reference", where)
        return schema


def tool_choice(choice: Any, tools: ToolSet, required: str, log: RewriteLog, where: str = "tool_choice") -> Any:
    """`tool_choice` as vLLM takes it: "auto", "none", `required`, or the OpenAI object naming a function.

    `required` is the word that the upstream has for it (F40). Raises BadRequest for a choice that is no choice, or that
    names a function which is not among the tools.
    """
    if isinstance(choice, str):
        if choice in ("auto", "none"):
            return choice
        if choice in ("required", "any"):
            if choice != required:
                log.add("tool_choice", where)
            return required
        raise BadRequest(f"'{where}' must be 'none', 'auto', 'required' or name a function.", param=where)
    if not isinstance(choice, dict):
        raise BadRequest(f"'{where}' must be a string or an object.", param=where)
    kind = choice.get("type")
    if kind in ("auto", "none", "any", "required"):  # Anthropic's form
        log.add("tool_choice", where)
        return required if kind in ("any", "required") else kind
    if kind == "allowed_tools":
        # All tools stay in the prompt, so that it does not change from turn to turn; the mode is kept.
        log.add("tool_choice", where)
        allowed = choice.get("allowed_tools", choice)
        mode = allowed.get("mode") if isinstance(allowed, dict) else None
        return required if mode == "required" else "auto"
    name_where = where + (".function.name" if where == "tool_choice" else ".name")
    inner = choice.get(kind) if kind in ("function", "custom") else None
    name = inner.get("name") if isinstance(inner, dict) else choice.get("name")
    if not isinstance(name, str):
        raise BadRequest(f"'{where}' names no function.", param=name_where)
    valid = tools.own.get(name, name)
    if valid not in tools.schemas:
        raise BadRequest(f"'{where}' names a function that is not there.", param=name_where)
    named = {"type": "function", "function": {"name": valid}}
    if named == choice:
        return choice
    log.add("tool_name" if not is_valid(name) else "tool_choice", where)
    return named
