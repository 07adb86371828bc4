"""An agent's conversation of three turns with every tokenizer version, old vLLM and new, streamed and not.

The agent has tools whose names no Mistral tokenizer takes. It sends back what it got, or ids of its own making.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

from qa.client import Answer, Skipped, expect
from qa.golden_requests import system, tool, user
from qa.models import TOKENIZERS, Served
from qa.suites.check import Check, Where, World

READ: Final = "workspace.read_file"
SEARCH: Final = "mcp__server_with_a_rather_long_name__search_through_all_files_of_the_workspace"
_PATH: Final = {"type": "object", "properties": {"path": {"type": "string"}}, "required": ["path"]}
_QUERY: Final = {"type": "object", "properties": {"query": {"type": "string"}}, "required": ["query"]}
TOOLS: Final = [
    tool(READ, {**_PATH, "$schema": "http://json-schema.org/draft-07/schema#"}, "tool-one", strict=True),
    tool(SEARCH, _QUERY, "tool-two"),
]


@dataclass
class _Agent:
    """One conversation. `own_ids`: calls and results get ids as another provider makes them."""

    world: World
    model: str
    stream: bool
    own_ids: bool
    messages: list[dict[str, Any]] = field(default_factory=lambda: [system("mark-system"), user("mark-user")])
    arrived: list[dict[str, Any]] = field(default_factory=list)

    def turn(self, **more: Any) -> Answer:
        request = {"model": self.model, "messages": self.messages, "tools": TOOLS, "stream": self.stream, **more}
        if self.stream:
            request["stream_options"] = {"include_usage": True}
        answer = self.world.api.chat(request).accepted()
        expect(answer.usage is not None, "no usage, though it was asked for")
        self.arrived.append(self.world.told()["last"])
        return answer

    def keep(self, answer: Answer) -> None:
        """The answer, and a result for each of its calls, become part of the history."""
        message = answer.message
        self.messages.append(message)
        for number, made in enumerate(answer.calls):
            if self.own_ids:
                made["id"] = f"call_{len(self.messages)}:{number}"
            self.messages.append(
                {"role": "tool", "tool_call_id": made["id"], "content": f"mark-result-{len(self.messages)}"}
            )


def _converse(world: World, tokenizer: Any, stream: bool, own_ids: bool) -> None:
    model = Served(tokenizer).name
    if model not in world.models():
        raise Skipped(f"the installed mistral-common has no tokenizer {tokenizer}")
    agent = _Agent(world, model, stream, own_ids)
    first = agent.turn()
    expect(first.message["content"] == "I will look first.", f"the text is {first.message['content']!r}")
    expect([made["function"]["name"] for made in first.calls] == [READ], f"the calls are {first.calls}")
    expect(json.loads(first.calls[0]["function"]["arguments"]) == {"path": "README.md"}, "other arguments")
    agent.keep(first)
    second = agent.turn()
    names = [made["function"]["name"] for made in second.calls]
    expect(names == [READ, SEARCH], f"the names are {names}")
    agent.keep(second)
    third = agent.turn()
    expect(third.finish == "stop" and not third.calls, "the last turn is no plain answer")
    expect(third.message["content"] == "Done: I have seen 3 tool results.", f"it says {third.message['content']!r}")
    _compare(agent)


def _compare(agent: _Agent) -> None:
    """What arrived over the turns: the same ids, each prompt the beginning of the next, every text once."""
    ids = [
        [made["id"] for message in told["body"]["messages"] for made in message.get("tool_calls") or ()]
        for told in agent.arrived
    ]
    expect([len(turn) for turn in ids] == [0, 1, 3], f"calls arrived: {ids}")
    expect(ids[2][:1] == ids[1], "an id changed from turn to turn")
    if not agent.own_ids:
        given = [made["id"] for message in agent.messages for made in message.get("tool_calls") or ()]
        expect(ids[2] == given, "an id that was handed out came back as another one")
    for before, after in zip(agent.arrived, agent.arrived[1:], strict=False):
        told = before["body"]["messages"]
        expect(after["body"]["messages"][: len(told)] == told, "the translation of the first turns changed")
        length = len(before["prompt_tokens"])
        # v3 takes no text beside calls: a user message stands between (F22), and the tools go before the last of them.
        stable = after["prompt_tokens"][:length] == before["prompt_tokens"] or agent.model == Served("v3").name
        expect(stable, "the prompt's beginning changed")
    prompt = agent.arrived[-1]["prompt"]
    marks = ["mark-system", "mark-user", "tool-one", "tool-two"]
    marks += [message["content"] for message in agent.messages if message["role"] == "tool"]
    for mark in marks:
        expect(prompt.count(mark) == 1, f"{mark} stands {prompt.count(mark)} times in the prompt")


def _conversations(suite: str, where: Where, tokenizers: tuple[Any, ...]) -> Iterator[Check]:
    for tokenizer in tokenizers:
        for way, stream in (("streamed", True), ("whole", False)):
            for whose, own in (("the server's ids", False), ("ids of its own", True)):
                run = partial(_converse, tokenizer=tokenizer, stream=stream, own_ids=own)
                says = f"question, calls, results, answer, with {whose}"
                yield Check(f"{suite}/{tokenizer} {way}{', own ids' if own else ''}", says, run, where)


def _ask(world: World, stream: bool, **more: Any) -> Answer:
    request = {"model": Served("v13").name, "messages": [user()], "tools": TOOLS, "stream": stream, **more}
    return world.api.chat(request).accepted()


def _usage(world: World) -> None:
    expect(_ask(world, True).usage is None, "usage in a stream that did not ask for it")
    expect(_ask(world, True, stream_options={"include_usage": False}).usage is None, "usage, though it was declined")
    expect(_ask(world, True, stream_options={"include_usage": True}).usage, "no usage, though it was asked for")
    expect(_ask(world, False).usage, "no usage in a whole answer")


def _no_tools(world: World) -> None:
    for stream in (True, False):
        expect(not _ask(world, stream, tool_choice="none").calls, "a call, though the choice was none")


def _forced(world: World, choice: Any, names: list[str]) -> None:
    for stream in (True, False):
        answer = _ask(world, stream, tool_choice=choice)
        found = [made["function"]["name"] for made in answer.calls]
        expect(found == names, f"the calls are {found}")


def _one_call(world: World) -> None:
    seen = {"role": "assistant", "content": "", "tool_calls": []}
    made = {"id": "abcDEF001", "type": "function", "function": {"name": READ, "arguments": '{"path": "a"}'}}
    history = [user(), {**seen, "tool_calls": [made]}, {"role": "tool", "tool_call_id": "abcDEF001", "content": "ok"}]
    for stream in (True, False):
        several = _ask(world, stream, messages=history)
        expect(len(several.calls) == 2, f"{len(several.calls)} calls without the limit")
        one = _ask(world, stream, messages=history, parallel_tool_calls=False)
        expect(len(one.calls) == 1, f"{len(one.calls)} calls, though parallel ones were declined")


def _custom(world: World) -> None:
    free = {"type": "custom", "custom": {"name": "apply.patch", "description": "d"}}
    choice = {"type": "custom", "custom": {"name": "apply.patch"}}
    for stream in (True, False):
        answer = _ask(world, stream, tools=[free], tool_choice=choice)
        expect([made["type"] for made in answer.calls] == ["custom"], f"the calls are {answer.calls}")
        custom = answer.calls[0]["custom"]
        expect(custom["name"] == "apply.patch" and isinstance(custom["input"], str), f"the call is {custom}")


def _json_mode(world: World) -> None:
    schema = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    wanted = {"type": "json_schema", "json_schema": {"name": "place", "strict": True, "schema": schema}}
    for stream in (True, False):
        request = {"model": Served("v13").name, "messages": [user()], "response_format": wanted, "stream": stream}
        said = json.loads(world.api.chat(request).accepted().message["content"])
        expect(said == {"city": "Paris"}, f"it says {said}")


_NAMED: Final = {"type": "function", "function": {"name": SEARCH}}
CHECKS: Final = [
    *_conversations("agent", "new", TOKENIZERS),
    *_conversations("agent of vLLM 0.12", "old", ("v11", "v13")),
    Check("agent/usage", "usage in a stream only when asked for, in a whole answer always", _usage, "new"),
    Check("agent/tool_choice none", "the tools stay, no call comes", _no_tools, "new"),
    Check(
        "agent/tool_choice required", "a call comes, and finish reason tool_calls",
        partial(_forced, choice="required", names=[READ]), "new",
    ),
    Check(
        "agent/tool_choice named", "that tool is called, by its own name",
        partial(_forced, choice=_NAMED, names=[SEARCH]), "new",
    ),
    Check("agent/parallel_tool_calls false", "one call at most", _one_call, "new"),
    Check("agent/custom tool", "free text goes in and out, the name mapped back", _custom, "new"),
    Check("agent/response_format", "JSON by a schema", _json_mode, "new"),
]  # fmt: skip
