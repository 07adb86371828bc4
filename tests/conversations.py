"""Hypothesis strategies for whole agent conversations, with the oddities that real clients send.

Every text, argument, result and tool description holds a mark of its own (`M17x`), so that a test can tell whether it
arrived, how often, and in which order.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any

from hypothesis import strategies as st

MARK = re.compile(r"M\d+x")
PIXEL = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8BQ"
    "DwAEhQGAhKmMIQAAAABJRU5ErkJggg=="
)
TOOL_NAMES = ("read_file", "bash", "mcp.server/list:files", "a" * 70, "edit-file", "ünïcode")
IDS = (
    "abcDEF123",
    "call_1",
    "toolu_01ABCDEFGHIJK",
    "chatcmpl-tool-0123456789abcdef",
    "functions.Read:0",
    "1",
    "null",
    "",
)


@dataclass
class Conversation:
    """A request's messages and tools, and what a test has to know of them."""

    messages: list[dict[str, Any]] = field(default_factory=list)
    tools: list[dict[str, Any]] = field(default_factory=list)
    reasoning: set[str] = field(default_factory=set)
    """Marks that stand in replayed reasoning: a model that does not reason does not get them."""
    attachments: set[str] = field(default_factory=set)
    """Marks that stand in what no model here takes, such as the names of speakers."""

    def turns(self) -> list[int]:
        """Lengths of the message list at which the client sent a request: before each run of assistant messages.

        System messages alone are no request yet.
        """
        roles = [message["role"] for message in self.messages]
        asked = next((i for i, role in enumerate(roles) if role not in ("system", "developer")), len(roles))
        return [i for i in range(asked + 1, len(roles)) if roles[i] == "assistant" != roles[i - 1]]

    def body(self, length: int | None = None, **more: Any) -> dict[str, Any]:
        """The request as it was when the conversation had `length` messages."""
        body: dict[str, Any] = {"model": "m", "messages": self.messages[:length]}
        if self.tools:
            body["tools"] = self.tools
        return {**body, **more}


class _Maker:
    """Draws one conversation; counts the marks."""

    def __init__(self, draw: Any, odd: bool) -> None:
        self.draw = draw
        self.odd = odd
        self.count = 0
        self.made = Conversation()

    def chance(self, of: int = 4) -> bool:
        """Once in `of` draws, and never for a regular conversation."""
        return self.odd and self.draw(st.integers(1, of)) == of

    def pick(self, *values: Any) -> Any:
        return self.draw(st.sampled_from(values))

    def mark(self) -> str:
        self.count += 1
        return f"M{self.count}x"

    def text(self) -> str:
        tail: str = self.pick(
            " some words", "", " [TOOL_CALLS] prose", ' {"json": 1}', " line\nline", " </s>[INST]", " ✓ é 中"
        )
        return self.mark() + tail

    # -- content

    def parts(self, role: str) -> list[Any]:
        return [self.part(role) for _ in range(self.draw(st.integers(1, 3)))]

    def part(self, role: str) -> Any:
        kind = self.draw(st.integers(0, 9 if self.odd else 0))
        if kind == 1:
            return {"type": "text", "text": self.text(), "cache_control": {"type": "ephemeral"}}
        if kind == 2:
            return {"type": self.pick("input_text", "output_text"), "text": self.text(), "annotations": []}
        if kind == 3:
            return self.text()
        if kind == 4 and role in ("user", "tool"):
            url: Any = self.pick(
                PIXEL, {"url": PIXEL}, {"url": PIXEL, "detail": "auto"}, {"url": PIXEL, "detail": None}
            )
            return {"type": "image_url", "image_url": url}
        if kind == 5:
            return {"type": "refusal", "refusal": self.text()}
        if kind == 6:
            return {"type": "tool_result", "content": [{"type": "text", "text": self.text()}, self.text()]}
        if kind == 7:
            return {"type": "resource_nobody_knows", "uri": self.mark(), "n": 1}
        if kind == 8:
            return {"type": "text", "text": ""}
        if kind == 9 and role == "assistant":
            thought = self.mark()
            self.made.reasoning.add(thought)
            inner: Any = self.pick(thought, [{"type": "text", "text": thought}])
            return {"type": "thinking", "thinking": inner}
        return {"type": "text", "text": self.text()}

    def content(self, role: str) -> Any:
        if self.chance(3):
            return self.parts(role)
        return self.text()

    # -- messages

    def user(self) -> dict[str, Any]:
        if self.chance(8):
            return {"role": "user", "content": self.pick("", [], None)}
        message = {"role": "user", "content": self.content("user")}
        if self.chance(6):
            name = self.mark()
            self.made.attachments.add(name)
            message.update(self.pick({"name": name}, {"metadata": {"a": name}}, {"cache_control": {"x": name}}))
        return message

    def system(self) -> dict[str, Any]:
        return {"role": self.pick("system", "developer") if self.odd else "system", "content": self.content("system")}

    def arguments(self) -> Any:
        mark = self.mark()
        whole = json.dumps({"path": mark, "n": [1, {"k": 'quote " brace }'}]})
        if not self.chance(3):
            return whole
        return self.pick(
            whole[:-1],
            whole[: whole.index(mark) + len(mark)],
            json.dumps([mark]),
            json.dumps(mark),
            json.dumps(whole),
            mark,
            {"path": mark},
            whole + whole[:0] + "}",
            '{"path": "' + mark + '\\ud83d"}',
            '{"path": "' + mark + '\n"}',
        )

    def call(self, identifier: Any) -> dict[str, Any]:
        name = self.pick(*(TOOL_NAMES if self.odd else ("read_file", "bash")))
        call: dict[str, Any] = {
            "id": identifier,
            "type": "function",
            "function": {"name": name, "arguments": self.arguments()},
        }
        if self.chance(5):
            call["index"] = 0
        if self.chance(9):
            call["function"]["parsed_arguments"] = None
        if self.chance(12):
            del call["type"]
        if self.chance(14):
            del call["id"]
        return call

    def identifier(self, number: int) -> str:
        if not self.odd:
            return f"abcdef{self.count:03d}"[-9:]
        own = (f"call_{number}_{self.count}", f"toolu_{self.count:020d}")
        drawn: str = self.pick(*IDS) if self.chance(3) else self.pick(*own)
        return drawn

    def assistant(self) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """One assistant message, and the results that belong to its calls."""
        message: dict[str, Any] = {"role": "assistant"}
        kind = self.draw(st.integers(0, 3))
        if self.chance(10):
            return {"role": "assistant", "content": self.pick("", None, [])}, []
        if kind != 1:
            message["content"] = self.content("assistant")
        elif not self.odd or self.chance(2):
            message["content"] = self.pick("", None) if self.odd else ""
        results: list[dict[str, Any]] = []
        if kind >= 1:
            message["tool_calls"] = []
            for number in range(self.draw(st.integers(1, 3))):
                call = self.call(self.identifier(number))
                message["tool_calls"].append(call)
                results.append(self.result(call))
        elif self.chance(6):
            message["tool_calls"] = self.pick([], None)
        if self.chance(4):
            thought = self.mark()
            self.made.reasoning.add(thought)
            message[self.pick("reasoning", "reasoning_content")] = self.pick(
                thought, [{"type": "text", "text": thought}]
            )
        if self.chance(5):
            message.update(self.pick({"refusal": None}, {"audio": None, "annotations": [], "function_call": None}))
        return message, results

    def result(self, call: dict[str, Any]) -> dict[str, Any]:
        result: dict[str, Any] = {"role": "tool", "tool_call_id": call.get("id"), "content": self.content("tool")}
        if self.chance(5):
            result["name"] = self.pick(call["function"]["name"], "", "valid_name", "not valid")
        if self.chance(12):
            result["tool_call_id"] = self.pick(None, "", str(call.get("id"))[-9:], "something_else_01")
        return result

    def results(self, given: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The results as they arrive: in another order, some missing, some twice, with messages in between."""
        out = list(given)
        if self.chance(5) and len(out) > 1:
            out.reverse()
        if self.chance(6) and out:
            out.pop()
        if self.chance(8) and out:
            out.append({**out[-1], "content": self.text()})
        if self.chance(8):
            orphan = {
                "role": "tool",
                "tool_call_id": self.pick("orphan123", "nobody_knows_this"),
                "content": self.text(),
            }
            out.insert(self.draw(st.integers(0, len(out))), orphan)
        if self.chance(7) and out:
            out.insert(self.draw(st.integers(0, len(out))), self.pick(self.user(), self.system()))
        return out

    def conversation(self) -> Conversation:
        made = self.made
        if self.draw(st.booleans()):
            made.tools = [self.tool(name) for name in (TOOL_NAMES if self.odd else ("read_file", "bash"))]
        for _ in range(self.draw(st.integers(0, 2))):
            made.messages.append(self.system())
        if not self.chance(12):
            made.messages.append(self.user())
        late: list[dict[str, Any]] = []
        for _ in range(self.draw(st.integers(0, 4))):
            results: list[dict[str, Any]] = []
            for _ in range(2 if self.chance(5) else 1):
                message, own = self.assistant()
                made.messages.append(message)
                results += own
            arrived = self.results(results)
            if self.chance(10) and arrived:
                late.append(arrived.pop())
            made.messages += arrived
            if late and self.chance(3):
                made.messages.append(late.pop())
            if not results or self.draw(st.booleans()):
                if self.chance(6):
                    made.messages.append(self.system())
                if not self.chance(8):
                    made.messages.append(self.user())
                if self.chance(6):
                    made.messages.append(self.user())
        if not made.messages:
            made.messages.append(self.user())
        return made

    def tool(self, name: str) -> dict[str, Any]:
        schema = self.pick(
            {"type": "object", "properties": {"path": {"type": "string", "description": "d"}}, "required": ["path"]},
            *(
                (
                    {
                        "type": "object",
                        "properties": {"n": {"type": "integer", "minimum": 0, "exclusiveMinimum": True}},
                    },
                    {"type": "OBJECT", "required": None, "properties": {"p": {"type": ["string", "null"]}}},
                    {
                        "properties": {"p": {"$ref": "#/$defs/nowhere"}},
                        "$schema": "http://json-schema.org/draft-07/schema#",
                    },
                    None,
                    {},
                )
                if self.odd
                else ()
            ),
        )
        function: dict[str, Any] = {"name": name, "description": self.mark(), "parameters": schema}
        if self.chance(3):
            function["strict"] = self.pick(True, None)
        return {"type": "function", "function": function}


@st.composite
def odd_conversations(draw: Any) -> Conversation:
    """Anything that clients were seen to send, mixed."""
    return _Maker(draw, odd=True).conversation()


@st.composite
def plain_conversations(draw: Any) -> Conversation:
    """Conversations in Mistral's own form already."""
    made = _Maker(draw, odd=False).conversation()
    messages: list[dict[str, Any]] = []
    for message in made.messages:
        if messages and message["role"] == "user" and messages[-1]["role"] == "tool":
            messages.append({"role": "assistant", "content": "Done."})
        messages.append(message)
    if messages[-1]["role"] in ("assistant", "system"):
        messages.append({"role": "user", "content": "go on"})
    made.messages = messages
    return made
