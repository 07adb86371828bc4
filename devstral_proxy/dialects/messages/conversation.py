"""`system` and `messages` as the messages of a chat completion request.

A user message with tool results becomes a tool message for each, and a user message for what stands beside them; an
assistant message's `tool_use` blocks become its calls, and its thinking the reasoning that chat clients replay. The
same conversation told as chat messages comes out the same, message by message.
"""

from __future__ import annotations

from typing import Any, Final

from devstral_proxy.dialects.messages import checks
from devstral_proxy.dialects.messages.blocks import (
    Part,
    add_block,
    content_of,
    kind_of,
    note_markings,
    parts_of,
    text_part,
    without_billing,
    without_billing_line,
)
from devstral_proxy.mistral.json_text import dump
from devstral_proxy.mistral.rewrites import RewriteLog

Message = dict[str, Any]

ERROR_MARK: Final = "Error"
"""Begins the text of a result with `is_error` that does not call itself one: chat messages have no such flag."""
_SAID_WITHIN: Final = 80


class Conversation:
    """The messages of one request. `origins` has for each chat message the path of what it was made from."""

    def __init__(self, log: RewriteLog) -> None:
        self.messages: list[Message] = []
        self.origins: list[str] = []
        self._log = log

    def add_system(self, system: Any) -> None:
        """The request's `system`: a string or text blocks. Raises BadRequest for anything else."""
        if system is not None:
            self._system("system", system, "system", "system")

    def add_all(self, messages: Any) -> None:
        """The request's `messages`. Raises BadRequest, naming the field, for what is no conversation."""
        if not checks.array(messages, "messages"):
            checks.wrong("messages", "at least one message is required")
        for place, message in enumerate(messages):
            where = f"messages.{place}"
            role = checks.one_of(checks.mapping(message, where).get("role"), f"{where}.role", tuple(_ROLES))
            content = message.get("content")
            if content is None:
                checks.wrong(f"{where}.content", "Field required")
            if not isinstance(content, (str, list)):
                checks.wrong(f"{where}.content", "Input should be a valid list")
            if role in ("system", "developer"):
                self._system(role, content, f"{where}.content", where)
            elif isinstance(content, str):
                self._add({"role": role, "content": content}, where)
            elif role == "user":
                self._user(content, where)
            else:
                self._assistant(content, where)

    def _add(self, message: Message, origin: str) -> None:
        self.messages.append(message)
        self.origins.append(origin)

    def _system(self, role: str, content: Any, where: str, origin: str) -> None:
        if isinstance(content, str):
            said: str | list[Part] = without_billing_line(content, where, self._log)
        else:
            blocks = without_billing(checks.array(content, where), where, self._log)
            said = content_of(parts_of(blocks, where, self._log))
        if said:
            self._add({"role": role, "content": said}, origin)
        else:
            self._log.add("empty_dropped", where)

    def _user(self, content: list[Any], where: str) -> None:
        """Results become messages of their own, what stands between them user messages, all in their order."""
        parts: list[Part] = []
        results = False
        for place, block in enumerate(content):
            at = f"{where}.content.{place}"
            kind = kind_of(block, at)
            if kind == "tool_result":
                if parts:
                    self._add({"role": "user", "content": content_of(parts)}, where)
                    parts = []
                self._result(block, at)
                results = True
            elif kind in _OF_ASSISTANT:
                checks.wrong(where, f"`{kind}` blocks can only be in `assistant` messages")
            else:
                add_block(block, at, self._log, parts)
        if parts or not results:
            self._add({"role": "user", "content": content_of(parts)}, where)

    def _result(self, block: dict[str, Any], at: str) -> None:
        where = f"{at}.tool_result"
        note_markings(block, where, self._log)
        call = checks.text(block.get("tool_use_id"), f"{where}.tool_use_id")
        given = block.get("content")
        if given is None or isinstance(given, str):
            content: str | list[Part] = given or ""
        else:
            inner = f"{where}.content"
            content = content_of(parts_of(checks.array(given, inner), inner, self._log))
        if block.get("is_error") is True:
            content = self._marked(content, where)
        self._add({"role": "tool", "tool_call_id": call, "content": content}, at)

    def _marked(self, content: str | list[Part], where: str) -> str | list[Part]:
        """A failed call's result, said to be one where its own first words do not."""
        texts = [content] if isinstance(content, str) else [part["text"] for part in content if part["type"] == "text"]
        if texts and "error" in texts[0][:_SAID_WITHIN].lower():
            return content
        self._log.add("result_error", where)
        if isinstance(content, str):
            return f"{ERROR_MARK}: {content}" if content else ERROR_MARK
        return [text_part(f"{ERROR_MARK}:"), *content]

    def _assistant(self, content: list[Any], where: str) -> None:
        parts: list[Part] = []
        calls: list[dict[str, Any]] = []
        for place, block in enumerate(content):
            at = f"{where}.content.{place}"
            kind = kind_of(block, at)
            before = len(parts)
            if kind == "tool_use":
                calls.append(self._call(block, f"{at}.tool_use"))
            elif kind == "thinking":
                thought = checks.text(block.get("thinking"), f"{at}.thinking.thinking")
                if thought:
                    parts.append({"type": "thinking", "thinking": thought})
                else:  # shown to nobody (`display: omitted`), and not kept here either
                    self._log.add("reasoning_dropped", at)
            elif kind == "redacted_thinking":
                self._log.add("reasoning_opaque", at)
            elif kind == "tool_result":
                checks.wrong(where, "`tool_result` blocks can only be in `user` messages")
            else:
                add_block(block, at, self._log, parts)
            if calls and len(parts) > before:
                self._log.add("text_before_calls", at)
        message: Message = {"role": "assistant"}
        thoughts = sum(part["type"] == "thinking" for part in parts)
        if thoughts == 1 and parts[0]["type"] == "thinking":
            message["reasoning_content"] = parts.pop(0)["thinking"]
        message["content"] = content_of(parts) or (None if calls else "")
        if calls:
            message["tool_calls"] = calls
        self._add(message, where)

    def _call(self, block: dict[str, Any], where: str) -> dict[str, Any]:
        note_markings(block, where, self._log)
        function = {
            "name": checks.name(block.get("name"), f"{where}.name"),
            "arguments": dump(checks.mapping(block.get("input"), f"{where}.input")),
        }
        return {"id": checks.text(block.get("id"), f"{where}.id"), "type": "function", "function": function}


_ROLES: Final = ("user", "assistant", "system", "developer")
_OF_ASSISTANT: Final = frozenset(("tool_use", "thinking", "redacted_thinking"))
