"""`tools` and `tool_choice` as a chat completion request has them."""

from __future__ import annotations

from typing import Any, Final

from devstral_proxy.dialects.messages import checks
from devstral_proxy.mistral.rewrites import RewriteLog

_OWN: Final = (None, "custom")
"""Types of tools that the client defines itself. All others are Anthropic's: run by its service, or known by heart to
its models, so that no schema comes with them."""
_KEYS: Final = frozenset(("name", "description", "input_schema", "type"))
_CHOICES: Final = ("auto", "any", "tool", "none")
_WORDS: Final = {"auto": "auto", "any": "required", "none": "none"}


class Tools:
    """The tools of one request: `tools` in chat form, `origins` their paths, `dropped` the names of the others."""

    def __init__(self, given: Any, log: RewriteLog) -> None:
        """Raises BadRequest for what is no list of tools."""
        self.tools: list[dict[str, Any]] = []
        self.origins: list[str] = []
        self.dropped: set[str] = set()
        self._log = log
        self._names: set[str] = set()
        for place, tool in enumerate(checks.array(given, "tools")):
            self._add(checks.mapping(tool, f"tools.{place}"), f"tools.{place}")

    def _add(self, tool: dict[str, Any], where: str) -> None:
        kind = tool.get("type")
        if kind not in _OWN:
            checks.text(kind, f"{where}.type")
            self._log.add("tool_dropped", where)
            if isinstance(tool.get("name"), str):
                self.dropped.add(tool["name"])
            return
        own = f"{where}.custom"
        function: dict[str, Any] = {"name": checks.name(tool.get("name"), f"{own}.name")}
        if tool.get("description") is not None:
            function["description"] = checks.text(tool["description"], f"{own}.description")
        function["parameters"] = checks.mapping(tool.get("input_schema"), f"{own}.input_schema")
        if any(tool[key] is not None for key in tool.keys() - _KEYS):
            self._log.add("tool_key_dropped", where)
        self.tools.append({"type": "function", "function": function})
        self.origins.append(own)
        self._names.add(function["name"])

    def choice(self, given: Any) -> tuple[Any, bool | None]:
        """`tool_choice` in chat form, None for none, and `parallel_tool_calls`, None where nothing is said of it.

        Raises BadRequest for what is no choice, or names a tool that is not there.
        """
        choice = checks.mapping(given, "tool_choice")
        kind = checks.one_of(choice.get("type"), "tool_choice.type", _CHOICES)
        parallel = None
        if choice.get("disable_parallel_tool_use") is not None:
            where = f"tool_choice.{kind}.disable_parallel_tool_use"
            parallel = False if checks.boolean(choice["disable_parallel_tool_use"], where) else None
        if kind != "tool":
            return _WORDS[kind], parallel
        name = checks.name(choice.get("name"), "tool_choice.tool.name")
        if name in self._names:
            return {"type": "function", "function": {"name": name}}, parallel
        if name not in self.dropped:
            checks.wrong("tool_choice", f"Tool '{name}' not found in provided tools")
        self._log.add("tool_choice_omitted", "tool_choice")
        return None, parallel
