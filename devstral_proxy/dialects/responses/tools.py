"""Tools and tool_choice of the Responses API as those of chat completions, and names back.

A function stands flat here, a namespace holds functions and custom tools. Chat knows no namespaces: the tool `name` of
the namespace `space` is called `space__name` there, and a call of it comes back as `name` with `namespace: space`,
which is what Codex and the SDKs look up. Types that OpenAI's own service runs (web search, MCP …) are dropped.
"""

from __future__ import annotations

from typing import Any, Final

from devstral_proxy.errors import BadRequest
from devstral_proxy.mistral.rewrites import RewriteLog

_SEPARATOR: Final = "__"
_FUNCTION_KEYS: Final = ("name", "description", "parameters", "strict")
_CUSTOM_KEYS: Final = ("name", "description", "format")
_MODES: Final = ("none", "auto", "required")


class Tools:
    """The tools of one request. `chat`: in chat's form; `origins`: the client's path of each."""

    __slots__ = ("_back", "_flat", "_log", "chat", "origins")

    def __init__(self, log: RewriteLog) -> None:
        self._log = log
        self._flat: dict[tuple[str, str], str] = {}
        self._back: dict[str, tuple[str, str]] = {}
        self.chat: list[dict[str, Any]] = []
        self.origins: list[str] = []

    def add(self, tools: Any, where: str, namespace: str = "") -> None:
        """Translate a list of tools. Raises BadRequest for what is none; types nobody serves here are dropped."""
        if not isinstance(tools, list):
            raise BadRequest(f"'{where}' must be an array.", param=where)
        for index, tool in enumerate(tools):
            at = f"{where}[{index}]"
            if not isinstance(tool, dict):
                raise BadRequest("A tool must be an object.", param=at)
            kind = tool.get("type")
            if kind == "function":
                self._function(tool, at, namespace)
            elif kind == "custom":
                name = self._name(tool, at, namespace)
                self._put({"type": "custom", "custom": self._taken(tool, _CUSTOM_KEYS, name, at)}, at)
            elif kind == "namespace" and not namespace:
                self._log.add("tool_flattened", at)
                self._note_others(tool, ("name", "tools"), at)
                self.add(tool.get("tools"), at + ".tools", _string(tool, "name", at))
            elif isinstance(kind, str):
                self._log.add("tool_dropped", at)
            else:
                raise BadRequest("A tool's 'type' must be a string.", param=at + ".type")

    def _function(self, tool: dict[str, Any], where: str, namespace: str) -> None:
        inner = tool.get("function")
        if isinstance(inner, dict) and "name" not in tool:  # chat's form
            self._note_others(tool, ("function",), where)
            tool, where = inner, where + ".function"
        name = self._name(tool, where, namespace)
        if not isinstance(tool.get("parameters"), (dict, str, type(None))):
            raise BadRequest("A function's parameters must be a JSON Schema object.", param=where + ".parameters")
        self._put({"type": "function", "function": self._taken(tool, _FUNCTION_KEYS, name, where)}, where)

    def _taken(self, tool: dict[str, Any], keys: tuple[str, ...], name: str, where: str) -> dict[str, Any]:
        self._note_others(tool, keys, where)
        taken = {key: tool[key] for key in keys if tool.get(key) is not None}
        taken["name"] = name
        return taken

    def _note_others(self, tool: dict[str, Any], keys: tuple[str, ...], where: str) -> None:
        """Name the keys that go no further; one that is null or false (`defer_loading`) asks for nothing."""
        for key, value in tool.items():
            if key != "type" and key not in keys and value is not None and value is not False:
                self._log.add("tool_key_dropped", f"{where}.{key}")

    def _put(self, tool: dict[str, Any], where: str) -> None:
        self.chat.append(tool)
        self.origins.append(where)

    def _name(self, tool: dict[str, Any], where: str, namespace: str) -> str:
        """The tool's name in chat: its own, and within a namespace one that no other tool has."""
        name = _string(tool, "name", where)
        if not isinstance(tool.get("description"), (str, type(None))):
            raise BadRequest("A tool's description must be a string.", param=where + ".description")
        flat = _joined(namespace, name)
        while self._back.get(flat, (namespace, name)) != (namespace, name):
            flat += "_"
        self._flat[namespace, name] = flat
        self._back[flat] = (namespace, name)
        return flat

    def flat(self, name: str, namespace: Any = None) -> str:
        """The chat name of a tool that a call in the history names."""
        space = namespace if isinstance(namespace, str) else ""
        return self._flat.get((space, name)) or _joined(space, name)

    def own(self, flat: str) -> tuple[str, str]:
        """Namespace ("" for none) and name of the tool that chat calls `flat`."""
        return self._back.get(flat, ("", flat))

    def choice(self, given: Any) -> Any:
        """`tool_choice` in chat's form; None where it is to be left out. Raises BadRequest for one that is none."""
        if given is None:
            return None
        if isinstance(given, str):
            if given not in _MODES:
                raise BadRequest("'tool_choice' must be 'none', 'auto', 'required' or an object.", param="tool_choice")
            return given if self.chat else self._omitted()
        if not isinstance(given, dict):
            raise BadRequest("'tool_choice' must be a string or an object.", param="tool_choice")
        kind = given.get("type")
        if kind in ("function", "custom"):
            return self._named(given, kind)
        if kind == "allowed_tools":
            mode = given.get("mode", "auto")
            if mode not in ("auto", "required"):
                raise BadRequest("'tool_choice.mode' must be 'auto' or 'required'.", param="tool_choice.mode")
            if not isinstance(given.get("tools", []), list):
                raise BadRequest("'tool_choice.tools' must be an array.", param="tool_choice.tools")
            return {"type": "allowed_tools", "allowed_tools": {"mode": mode}} if self.chat else self._omitted()
        if not isinstance(kind, str):
            raise BadRequest("'tool_choice.type' must be a string.", param="tool_choice.type")
        return self._omitted()  # a tool that nobody serves here: it was dropped

    def _omitted(self) -> None:
        self._log.add("tool_choice_omitted", "tool_choice")

    def _named(self, given: dict[str, Any], kind: str) -> dict[str, Any]:
        inner = given.get(kind)
        where = "tool_choice"
        if isinstance(inner, dict) and "name" not in given:  # chat's form
            given, where = inner, f"tool_choice.{kind}"
        name = _string(given, "name", where)
        space = given.get("namespace")
        flat = self._flat.get((space if isinstance(space, str) else "", name))
        if flat is None:  # named by its inner name alone, where that is clear, or by the name it has in chat
            found = [known for (_, inner_name), known in self._flat.items() if inner_name == name]
            flat = found[0] if len(found) == 1 else name
        if flat not in self._back:
            raise BadRequest("'tool_choice' names a tool that is not among 'tools'.", param=where + ".name")
        return {"type": kind, kind: {"name": flat}}


def echoed(tools: Any) -> list[Any]:
    """The request's tools as the response tells them: functions flat, with what the API fills in."""
    if not isinstance(tools, list):
        return []
    told = []
    for tool in tools:
        if tool["type"] == "function":
            inner = tool.get("function")
            base = {"type": "function", **inner} if isinstance(inner, dict) and "name" not in tool else tool
            tool = {"description": None, "parameters": None, "strict": None, **base}
        told.append(tool)
    return told


def _joined(namespace: str, name: str) -> str:
    if not namespace:
        return name
    return namespace + name if namespace.endswith(_SEPARATOR) else namespace + _SEPARATOR + name


def _string(value: dict[str, Any], key: str, where: str) -> str:
    found = value.get(key)
    if not isinstance(found, str) or not found:
        raise BadRequest(f"'{where}.{key}' must be a string that is not empty.", param=f"{where}.{key}")
    return found
