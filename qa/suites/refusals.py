"""Requests that OpenAI's API refuses: so does the proxy, with a 400 that names the field, and nothing goes upstream."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

from qa.client import CHAT, error_of, expect
from qa.golden_requests import call, calls, result, tool, user
from qa.suites.check import Check, World

_LEFT_OUT: Final = object()


@dataclass(frozen=True)
class Bad:
    """One wrong request: `changes` over a good one, or `raw` as the body. `param` is the field that must be named."""

    name: str
    param: str | None
    changes: dict[str, Any] = field(default_factory=dict)
    raw: bytes | None = None

    def request(self, model: str, stream: bool) -> dict[str, Any]:
        good = {"model": model, "messages": [user()], **({"stream": True} if stream else {})}
        return {key: value for key, value in {**good, **self.changes}.items() if value is not _LEFT_OUT}


def _field(name: str, value: Any, param: str | None = None, **more: Any) -> Bad:
    shown = repr(value) if len(repr(value)) < 30 else "…"
    return Bad(f"{name} {shown}", param or name, {name: value, **more})


def _messages(name: str, param: str, *messages: Any) -> Bad:
    return Bad(name, param, {"messages": list(messages)})


def _tools(name: str, param: str, *tools: Any, **more: Any) -> Bad:
    return Bad(name, param, {"tools": list(tools), **more})


_ROWS: Final = (
    # messages
    Bad("no messages", "messages", {"messages": _LEFT_OUT}),
    Bad("messages null", "messages", {"messages": None}),
    Bad("messages empty", "messages", {"messages": []}),
    Bad("messages a string", "messages", {"messages": "hi"}),
    Bad("messages an object", "messages", {"messages": user()}),
    _messages("a message that is a string", "messages[1]", user(), "hi"),
    _messages("a role that nobody knows", "messages[1].role", user(), {"role": "robot", "content": "hi"}),
    _messages("no role", "messages[0].role", {"content": "hi"}),
    _messages("content a number", "messages[0].content", user(5)),
    _messages("content an object", "messages[0].content", user({"text": "hi"})),
    _messages("tool_calls a string", "messages[1].tool_calls", user(), {"role": "assistant", "tool_calls": "read"}),
    _messages(
        "a call that is a string", "messages[1].tool_calls[0]", user(), {"role": "assistant", "tool_calls": ["a"]}
    ),
    _messages(
        "a call without function",
        "messages[1].tool_calls[1].function",
        user(),
        calls(call("abcDEF001"), {"id": "abcDEF002", "type": "function"}),
        result("abcDEF001"),
    ),
    # model
    Bad("no model", "model", {"model": _LEFT_OUT}),
    _field("model", ""),
    _field("model", 5),
    # fields
    _field("temperature", 3),
    _field("temperature", -0.1),
    _field("temperature", "hot"),
    _field("temperature", True),
    _field("top_p", 2),
    _field("presence_penalty", 2.5),
    _field("frequency_penalty", -3),
    _field("n", 0),
    _field("n", 1.5),
    _field("max_tokens", 0),
    _field("max_tokens", "many"),
    _field("max_completion_tokens", 0),
    _field("seed", "x"),
    _field("stop", 5),
    _field("stream", "yes"),
    _field("stream_options", {"include_usage": True}),
    _field("stream_options", True, stream=True),
    _field("logprobs", 1),
    _field("top_logprobs", 2),
    _field("top_logprobs", 21, logprobs=True),
    _field("logit_bias", {"5": 101}, "logit_bias.5"),
    _field("parallel_tool_calls", "no"),
    _field("response_format", {"type": "yaml"}, "response_format.type"),
    _field("response_format", {"type": "json_schema"}, "response_format.json_schema"),
    _field("reasoning_effort", 5),
    # tools
    Bad("tools an object", "tools", {"tools": {"read": {}}}),
    _tools("a tool that is a string", "tools[0]", "read"),
    _tools("a tool without function", "tools[0].function", {"type": "function"}),
    _tools("a tool without name", "tools[1].function.name", tool(), {"type": "function", "function": {}}),
    _tools("a description that is a number", "tools[0].function.description", tool(description=5)),  # type: ignore[arg-type]
    _tools("parameters that are a list", "tools[0].function.parameters", tool(parameters=[1])),
    _tools(
        "tool_choice names an unknown function",
        "tool_choice.function.name",
        tool(),
        tool_choice={"type": "function", "function": {"name": "write"}},
    ),
    _tools("tool_choice a word that nobody knows", "tool_choice", tool(), tool_choice="always"),
    Bad("functions an object", "functions", {"functions": {"name": "read"}}),
    # bodies
    Bad("a body that is no JSON", None, raw=b'{"model": '),
    Bad("an empty body", None, raw=b""),
    Bad("a body that is an array", None, raw=b'[{"role": "user", "content": "hi"}]'),
    Bad("a body that is a string", None, raw=b'"hi"'),
    Bad("NaN", None, raw=b'{"model": "m", "messages": [{"role": "user", "content": "hi"}], "temperature": NaN}'),
)


def _run(bad: Bad, world: World) -> None:
    before = world.asked()
    streams = (False,) if bad.raw is not None or {"stream", "stream_options"} & bad.changes.keys() else (False, True)
    for stream in streams:
        if bad.raw is not None:
            headers = {"content-type": "application/json"}
            response = world.api.request("POST", CHAT, content=bad.raw, headers=headers)
        else:
            response = world.api.request("POST", CHAT, bad.request(world.model, stream))
        expect(response.status_code == 400, f"status {response.status_code}")
        error = error_of(response)
        expect(error["type"] == "invalid_request_error", f"the error's type is {error['type']!r}")
        expect(error["param"] == bad.param, f"param is {error['param']!r}, not {bad.param!r}")
        expect("via" not in error, "the refusal came from upstream")
    expect(world.asked() == before, "it went upstream")


def _says(bad: Bad) -> str:
    return "refused before anything goes upstream" + (f", {bad.param} named" if bad.param else "")


CHECKS: Final = [Check(f"refused/{bad.name}", _says(bad), partial(_run, bad)) for bad in _ROWS]
