"""Input items as chat messages.

What the model said in one turn comes as several items: reasoning, a message, a call each. In chat it is one message; so
neighbours are put together here, in that order, and the same conversation has the same messages in both dialects.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from devstral_proxy.dialects.responses.parts import content
from devstral_proxy.dialects.responses.reasoning import thought
from devstral_proxy.dialects.responses.tools import Tools
from devstral_proxy.errors import BadRequest
from devstral_proxy.mistral.rewrites import RewriteLog

Item = dict[str, Any]
_ROLES: Final = ("user", "assistant", "system", "developer")


class Messages:
    """Makes one request's messages. `chat`: in chat's form; `origins`: the client's path of each."""

    __slots__ = ("_log", "_tools", "_turn", "chat", "origins")

    def __init__(self, tools: Tools, log: RewriteLog) -> None:
        self._tools = tools
        self._log = log
        self._turn: dict[str, Any] | None = None  # the assistant's message that may go on
        self.chat: list[dict[str, Any]] = []
        self.origins: list[str] = []

    def add(self, items: list[Any], where: str) -> None:
        """Translate items in their order. Raises BadRequest, naming the field, for what is no item."""
        for index, item in enumerate(items):
            at = f"{where}[{index}]"
            kind = kind_of(item, at)
            make = ITEMS.get(kind)
            if make is not None:
                make(self, item, at)
            elif kind not in TOOL_ITEMS:
                self._log.add("item_dropped", at)

    def say(self, role: str, said: Any, where: str) -> None:
        """A message that is not the assistant's."""
        self._turn = None
        self._put({"role": role, "content": said}, where)

    def _put(self, message: dict[str, Any], where: str) -> None:
        self.chat.append(message)
        self.origins.append(where)

    def _assistant(self, where: str, *after: str) -> dict[str, Any]:
        """The turn's message, a new one where it has one of `after` already: in chat they stand in a fixed order."""
        turn = self._turn
        if turn is None or any(turn.get(key) is not None for key in after):
            turn = self._turn = {"role": "assistant", "content": None}
            self._put(turn, where)
        return turn

    def _message(self, item: Item, where: str) -> None:
        role = item.get("role")
        if role not in _ROLES:
            known = ", ".join(f"'{name}'" for name in _ROLES)
            raise BadRequest(f"A message's role must be one of {known}.", param=where + ".role")
        given = item.get("content")
        if role != "assistant":
            self.say(role, content(given, where + ".content", self._log), where)
        elif given is None:
            self._assistant(where, "content", "tool_calls")["content"] = ""
        else:
            said = content(given, where + ".content", self._log)
            self._assistant(where, "content", "tool_calls")["content"] = said

    def _reasoning(self, item: Item, where: str) -> None:
        text = thought(item, where, self._log)
        if not text:
            self._log.add("empty_dropped", where)
            return
        turn = self._assistant(where, "content", "tool_calls")
        before = turn.get("reasoning_content")
        turn["reasoning_content"] = f"{before}\n{text}" if before else text

    def _function_call(self, item: Item, where: str) -> None:
        arguments = item.get("arguments")
        if not isinstance(arguments, (str, dict, type(None))):
            raise BadRequest("'arguments' must be a string.", param=where + ".arguments")
        function = {"name": self._called(item, where), "arguments": arguments}
        self._call({"id": _string(item, "call_id", where), "type": "function", "function": function}, where)

    def _custom_call(self, item: Item, where: str) -> None:
        if not isinstance(item.get("input"), str):
            raise BadRequest("'input' must be a string.", param=where + ".input")
        custom = {"name": self._called(item, where), "input": item["input"]}
        self._call({"id": _string(item, "call_id", where), "type": "custom", "custom": custom}, where)

    def _called(self, item: Item, where: str) -> str:
        return self._tools.flat(_string(item, "name", where), item.get("namespace"))

    def _call(self, call: dict[str, Any], where: str) -> None:
        self._assistant(where).setdefault("tool_calls", []).append(call)

    def _output(self, item: Item, where: str) -> None:
        self._turn = None
        message = {"role": "tool", "content": content(item.get("output"), where + ".output", self._log)}
        if item.get("call_id") is not None or not isinstance(item.get("name"), str):
            message["tool_call_id"] = _string(item, "call_id", where)
        else:  # OpenAI's own clients may name the tool instead
            message["name"] = self._called(item, where)
        self._put(message, where)

    def _agent_message(self, item: Item, where: str) -> None:
        """What one agent of Codex says to another: text for the model, of nobody's role."""
        said = content(item.get("content"), where + ".content", self._log)
        if said:
            author = item.get("author")
            note = f"[message from {author}]" if isinstance(author, str) else "[message from another agent]"
            parts = [{"type": "text", "text": said}] if isinstance(said, str) else said
            self.say("user", [{"type": "text", "text": note}, *parts], where)


ITEMS: Final[dict[str, Callable[[Messages, Item, str], None]]] = {
    "message": Messages._message,
    "reasoning": Messages._reasoning,
    "function_call": Messages._function_call,
    "function_call_output": Messages._output,
    "custom_tool_call": Messages._custom_call,
    "custom_tool_call_output": Messages._output,
    "agent_message": Messages._agent_message,
}
# Items that bring tools: those are tools of the request, the item says nothing else.
TOOL_ITEMS: Final = ("additional_tools", "tool_search_output")


# What an item without a type is, by its members (F54): the first row that fits.
_UNTYPED: Final = (
    (frozenset(("role",)), "message"),
    (frozenset(("call_id", "name", "arguments")), "function_call"),
    (frozenset(("call_id", "output")), "function_call_output"),
    (frozenset(("summary",)), "reasoning"),
)


def type_of(item: Item) -> Any:
    """The type that an item names, or what its members say it is; None where they say nothing."""
    kind = item.get("type")
    if kind is None:
        return next((told for members, told in _UNTYPED if members <= item.keys()), None)
    return kind


def kind_of(item: Any, where: str) -> str:
    """An item's type. Raises BadRequest for what is no item."""
    if not isinstance(item, dict):
        raise BadRequest("An input item must be an object.", param=where)
    kind = type_of(item)
    if not isinstance(kind, str) or not kind:
        raise BadRequest("An input item's 'type' must be a string that is not empty.", param=where + ".type")
    return kind


def tools_of(items: list[Any], where: str, tools: Tools) -> None:
    """Add the tools that came as items. Raises BadRequest for those that are none."""
    for index, item in enumerate(items):
        if isinstance(item, dict) and item.get("type") in TOOL_ITEMS:
            tools.add(item.get("tools", []), f"{where}[{index}].tools")


def _string(item: Item, key: str, where: str) -> str:
    value = item.get(key)
    if not isinstance(value, str) or not value:
        raise BadRequest(f"'{key}' must be a string that is not empty.", param=f"{where}.{key}")
    return value
