"""Requests with the answer that they have to get: every API, tools, histories, small and large."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from random import Random
from typing import Any, Final

from qa.soak.directive import MODEL, TOOLS, Order, calls_of, text_of

Json = dict[str, Any]
PATHS: Final = {
    "chat": "/v1/chat/completions",
    "messages": "/v1/messages",
    "responses": "/v1/responses",
    "completions": "/v1/completions",
}
LARGE: Final = 600_000
_FILLER: Final = "The quick brown fox jumps over the lazy dog; def f(x): return {x: [1, 2, 3]} # ünïcode. "
_SCHEMAS: Final[dict[str, Json]] = {
    TOOLS[0]: {"nonce": {"type": "string"}, "path": {"type": "string"}, "note": {"type": "string"}},
    TOOLS[1]: {"nonce": {"type": "string"}, "counts": {"type": "array", "items": {"type": "integer"}}},
}
_FINISH: Final = {
    "chat": ("stop", "tool_calls"),
    "messages": ("end_turn", "tool_use"),
    "responses": ("completed", "completed"),
    "completions": ("stop", "stop"),
}


@dataclass(frozen=True)
class Ask:
    """One request. `before`: the orders of the conversation that stand before its own."""

    api: str
    stream: bool
    order: Order
    key: str
    model: str = MODEL
    before: tuple[Order, ...] = ()
    body: Json = field(default_factory=dict, compare=False, repr=False)

    @property
    def path(self) -> str:
        """Where it is sent."""
        return PATHS[self.api]

    @property
    def kind(self) -> str:
        """For the tables."""
        return f"{self.api} {'stream' if self.stream else 'whole'}"

    @property
    def text(self) -> str:
        """The text that has to come."""
        return text_of([*self.before, self.order])

    @property
    def calls(self) -> list[tuple[str, Json]]:
        """The calls that have to come."""
        return calls_of([*self.before, self.order])

    @property
    def finish(self) -> str:
        """The finish reason, or what the API has in its place."""
        return _FINISH[self.api][bool(self.calls)]


def made(ask: Ask, random: Random, *, large: bool = False, previous: str | None = None) -> Ask:
    """The ask with its body. `large`: a history of 600 KB; `previous`: the stored response that it follows."""
    body = _MAKERS[ask.api](ask, random, _history(random) if large else [])
    if previous is not None:
        body["previous_response_id"] = previous
    return Ask(ask.api, ask.stream, ask.order, ask.key, ask.model, ask.before, body)


def _history(random: Random) -> list[tuple[str, str]]:
    """Roles and texts of earlier turns, 600 KB in all."""
    size = LARGE // 40
    turns = []
    for number in range(40):
        at = random.randrange(40)
        text = (_FILLER[at:] + _FILLER * (size // len(_FILLER) + 1))[:size]
        turns.append(("assistant" if number % 2 else "user", f"{number}: {text}"))
    return turns


def _chat(ask: Ask, random: Random, history: list[tuple[str, str]]) -> Json:
    messages: list[Json] = []
    if random.random() < 0.5:
        messages.append({"role": "system", "content": "Be brief."})
    messages += [{"role": role, "content": text} for role, text in history]
    if not history and random.random() < 0.3:
        messages += _tool_round(random)
    prompt: Any = f"Do this: {ask.order}"
    if random.random() < 0.3:
        prompt = [{"type": "text", "text": "Listen."}, {"type": "text", "text": prompt}]
    messages.append({"role": "user", "content": prompt})
    body: Json = {"model": ask.model, "messages": messages, "stream": ask.stream}
    if ask.stream and random.random() < 0.5:
        body["stream_options"] = {"include_usage": True}
    if ask.order.act != "text":
        body["tools"] = [
            {"type": "function", "function": {"name": name, "parameters": _schema(name)}} for name in TOOLS
        ]
    return body


def _tool_round(random: Random) -> list[Json]:
    """A call and its result, in ids and forms that Mistral's tokenizers do not take as they are."""
    id = f"call_{random.randrange(10**12):024d}"
    function = {"name": TOOLS[0], "arguments": json.dumps({"path": "README.md"})}
    return [
        {"role": "user", "content": "Look first."},
        {"role": "assistant", "content": "", "tool_calls": [{"id": id, "type": "function", "function": function}]},
        {"role": "tool", "tool_call_id": id, "content": "nothing there"},
    ]


def _schema(name: str) -> Json:
    return {"type": "object", "properties": _SCHEMAS[name], "required": list(_SCHEMAS[name])}


def _messages(ask: Ask, random: Random, history: list[tuple[str, str]]) -> Json:
    turns: list[Json] = [{"role": role, "content": text} for role, text in history]
    turns.append({"role": "user", "content": [{"type": "text", "text": f"Do this: {ask.order}"}]})
    body: Json = {"model": ask.model, "max_tokens": 16000, "messages": turns, "stream": ask.stream}
    if random.random() < 0.5:
        body["system"] = [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}]
    if ask.order.act != "text":
        body["tools"] = [{"name": name, "input_schema": _schema(name)} for name in TOOLS]
    return body


def _responses(ask: Ask, random: Random, history: list[tuple[str, str]]) -> Json:
    given: Any = f"Do this: {ask.order}"
    if history or random.random() < 0.5:
        given = [{"role": role, "content": text} for role, text in history] + [{"role": "user", "content": given}]
    body: Json = {"model": ask.model, "input": given, "stream": ask.stream, "store": random.random() < 0.5}
    if random.random() < 0.5:
        body["instructions"] = "Be brief."
    if ask.order.act != "text":
        body["tools"] = [{"type": "function", "name": name, "parameters": _schema(name)} for name in TOOLS]
    return body


def _completions(ask: Ask, random: Random, history: list[tuple[str, str]]) -> Json:
    xargs = {"say": ask.text}
    return {
        "model": ask.model,
        "prompt": f"Do this: {ask.order}",
        "stream": ask.stream,
        "max_tokens": 8000,
        "vllm_xargs": xargs,
    }


_MAKERS: Final = {"chat": _chat, "messages": _messages, "responses": _responses, "completions": _completions}
