"""Hostile text through every reader: eight times as much of it takes no more than some eight times as long."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import orjson
import pytest

from devstral_proxy.dialects.chat import ChatAnswer
from devstral_proxy.dialects.messages import Messages, estimate
from devstral_proxy.dialects.responses import Responses
from devstral_proxy.errors import ProxyError, UpstreamError
from devstral_proxy.log.writer import printable
from devstral_proxy.mistral import refusals
from devstral_proxy.server.body import parse_object
from devstral_proxy.server.content_log import digest
from devstral_proxy.server.shape import check_images, refuse_image_url
from devstral_proxy.upstream import sse
from devstral_proxy.upstream.affinity import affinity_of
from tests.integration.faults.hostile import (
    HOSTILE,
    PREFIXES,
    TOOLS,
    answered,
    hostile,
    linear,
    no_collector,
    stream,
    translator,
)
from tests.integration.faults.rig import CHAT, MESSAGES, RESPONSES
from tests.server.upstreams import DONE, chunk

pytestmark = pytest.mark.usefixtures("no_collector")
__all__ = ["no_collector"]  # a fixture


@pytest.mark.parametrize("prefix", PREFIXES)
def test_the_text_of_a_streamed_answer(prefix: str) -> None:
    body = {**CHAT.request(stream=True), "tools": TOOLS}
    for unit in HOSTILE.values():
        for step in (7, 1 << 30):

            def make(size: int, unit: str = unit, step: int = step) -> Callable[[], object]:
                pieces = stream(PREFIXES[prefix] + hostile(unit, size if step > 7 else size // 8), step)
                return lambda: answered(body, pieces)

            linear(make)


@pytest.mark.parametrize("prefix", PREFIXES)
def test_the_text_of_a_whole_answer(prefix: str) -> None:
    for unit in HOSTILE.values():

        def make(size: int, unit: str = unit) -> Callable[[], object]:
            message = {"role": "assistant", "content": PREFIXES[prefix] + hostile(unit, size)}
            choice = {"index": 0, "message": message, "finish_reason": "stop"}
            data = json.dumps({"id": "c", "object": "chat.completion", "choices": [choice]}).encode()

            def work() -> object:
                made = translator()
                made.request({**CHAT.request(), "tools": TOOLS})
                return ChatAnswer(made).whole(data, "application/json")

            return work

        linear(make)


def test_the_arguments_of_an_answer_and_of_the_history() -> None:
    for unit in HOSTILE.values():

        def make(size: int, unit: str = unit) -> Callable[[], object]:
            text = hostile(unit, size)
            delta = {
                "tool_calls": [{"index": 0, "id": "a", "function": {"name": "look", "arguments": '{"path": ' + text}}]
            }
            pieces = [chunk({"role": "assistant"}), chunk(delta), chunk({}, "tool_calls"), DONE]
            call = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": text}}
            history = [
                {"role": "user", "content": "Hi."},
                {"role": "assistant", "content": text, "tool_calls": [call]},
                {"role": "tool", "tool_call_id": "c1", "content": text},
            ]

            def work() -> None:
                answered({**CHAT.request(stream=True), "tools": TOOLS}, pieces)
                translator().request({**CHAT.request(), "tools": TOOLS, "messages": history})

            return work

        linear(make)


def user(count: int) -> list[dict[str, Any]]:
    return [{"role": "user", "content": "a"}] * count


REQUESTS: dict[str, Callable[[int], dict[str, Any]]] = {
    "messages of one role": lambda n: {"messages": user(n)},
    "messages without a role": lambda n: {"messages": [{}] * n},
    "system after system": lambda n: {"messages": [{"role": "system", "content": "a"}] * n + user(1)},
    "turns": lambda n: {"messages": [*user(1), {"role": "assistant", "content": "b"}] * n},
    "parts": lambda n: {"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}] * n}]},
    "images": lambda n: {
        "messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,a"}}] * n}]
    },
    "calls of one id": lambda n: {
        "messages": [
            *user(1),
            {"role": "assistant", "tool_calls": [{"id": "a", "function": {"name": "f", "arguments": "{}"}}] * n},
            *[{"role": "tool", "tool_call_id": "a", "content": "x"}] * n,
        ]
    },
    "calls without results": lambda n: {
        "messages": [
            *user(1),
            *({"role": "assistant", "tool_calls": [{"id": f"c{i}", "function": {"name": "f"}}]} for i in range(n)),
        ]
    },
    "results without calls": lambda n: {
        "messages": [*user(1), *({"role": "tool", "tool_call_id": f"c{i}", "content": "x"} for i in range(n))]
    },
    "tools of one name": lambda n: {"tools": TOOLS * n},
    "tools whose names collide": lambda n: {
        "tools": [{"type": "function", "function": {"name": f"a.b{'.' * (i % 50)}{i}"}} for i in range(n)]
    },
    "a wide schema": lambda n: {
        "tools": [tool({"properties": {f"p{i}": {"type": ["string", "null"]} for i in range(n)}})]
    },
    "a schema of references": lambda n: {
        "tools": [
            tool({
                "$defs": {f"d{i}": {"anyOf": [{"$ref": f"#/$defs/d{i + 1}"}] * 2} for i in range(n)},
                "properties": {"p": {"$ref": "#/$defs/d0"}},
            })
        ]
    },
    "a schema that holds itself": lambda n: {
        "tools": [tool({"$defs": {"d": {"anyOf": [{"$ref": "#/$defs/d"}] * n}}, "$ref": "#/$defs/d"})]
    },
    "many unknown fields": lambda n: {f"f{i}": i for i in range(n)},
    "stops": lambda n: {"stop": ["a"] * n},
}  # fmt: skip


def tool(parameters: dict[str, Any]) -> dict[str, Any]:
    return {"type": "function", "function": {"name": "f", "parameters": {"type": "object", **parameters}}}


@pytest.mark.parametrize("case", REQUESTS)
def test_requests_with_many_of_something(case: str) -> None:
    def make(size: int) -> Callable[[], object]:
        data = orjson.dumps({**CHAT.request(), **REQUESTS[case](size // 64)})

        def work() -> None:
            body = parse_object(data)
            with suppress(ProxyError):
                check_images(body.get("messages"), refuse_image_url)
            affinity_of(body, "")
            digest(body.get("messages"), b"k")
            translator().request(body)

        return work

    linear(make)


def items(kind: str, n: int) -> list[dict[str, Any]]:
    made: dict[str, Callable[[int], dict[str, Any]]] = {
        "said": lambda i: {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "a"}]},
        "calls": lambda i: {"type": "function_call", "call_id": f"c{i}", "name": "f", "arguments": "{}"},
        "outputs": lambda i: {"type": "function_call_output", "call_id": f"c{i // 2}", "output": "x"},
        "references": lambda i: {"type": "item_reference", "id": f"i{i}"},
        "thoughts": lambda i: {"type": "reasoning", "summary": [], "encrypted_content": "x"},
    }
    return [made[kind](i) for i in range(n)]


@pytest.mark.parametrize("kind", ["said", "calls", "outputs", "references", "thoughts"])
def test_the_responses_dialect(kind: str) -> None:
    def make(size: int) -> Callable[[], object]:
        body = {**RESPONSES.request(), "input": items(kind, size // 64), "tools": [{"type": "function", "name": "f"}]}
        return lambda: translator().request(Responses(1, "seed").request(body))

    linear(make)


@pytest.mark.parametrize("kind", ["text", "tool_use", "tool_result", "thinking"])
def test_the_messages_dialect(kind: str) -> None:
    blocks: dict[str, dict[str, Any]] = {
        "text": {"type": "text", "text": "a"},
        "tool_use": {"type": "tool_use", "id": "a", "name": "f", "input": {}},
        "tool_result": {"type": "tool_result", "tool_use_id": "a", "content": "x"},
        "thinking": {"type": "thinking", "thinking": "a", "signature": "x"},
    }
    role = "assistant" if kind in ("tool_use", "thinking") else "user"

    def make(size: int) -> Callable[[], object]:
        said = {"role": role, "content": [blocks[kind]] * (size // 64)}
        messages = [{"role": "user", "content": "Hi."}, said, {"role": "user", "content": "a"}]

        def work() -> None:
            chat = Messages("seed").request({**MESSAGES.request(), "messages": messages})
            estimate(chat)
            translator().request(chat)

        return work

    linear(make)


@pytest.mark.parametrize(
    "make_dialect", [lambda: Responses(1, "s"), lambda: Messages("s")], ids=["responses", "messages"]
)
def test_what_the_dialects_make_of_a_stream(make_dialect: Callable[[], Any]) -> None:
    api = MESSAGES if isinstance(make_dialect(), Messages) else RESPONSES
    for unit in HOSTILE.values():

        def make(size: int, unit: str = unit) -> Callable[[], object]:
            text = hostile(unit, size // 4)
            calls = [
                chunk({"tool_calls": [{"index": i % 3, "function": {"arguments": text[i * 50 : i * 50 + 50]}}]})
                for i in range(len(text) // 50)
            ]
            first = [{"index": i, "id": f"c{i}", "function": {"name": "f", "arguments": ""}} for i in range(3)]
            said = [chunk({"content": text}), chunk({"tool_calls": first}), *calls, chunk({}, "tool_calls"), DONE]
            parser = sse.Parser()
            events = [event for piece in said for event in parser.feed(piece)]

            def work() -> None:
                dialect = make_dialect()
                dialect.request(api.request(stream=True))
                for event in events:
                    dialect.events([event])

            return work

        linear(make)


@pytest.mark.parametrize("unit", ["data: x\n", "data:\n\n", "\r", "\n", ":\n", "x", "data: x\r\n\r\n", "event: e\n"])
@pytest.mark.parametrize("step", [1, 1000, 1 << 30])
def test_the_stream_parser(unit: str, step: int) -> None:
    def make(size: int) -> Callable[[], object]:
        data = hostile(unit, size).encode()

        def work() -> None:
            parser = sse.Parser()
            for start in range(0, len(data), step):
                parser.feed(data[start : start + step])
            parser.eof()

        return work

    linear(make)


@pytest.mark.parametrize("name", HOSTILE)
def test_small_readers(name: str) -> None:
    unit = HOSTILE[name]

    def make(size: int) -> Callable[[], object]:
        text = hostile(unit, size)
        quoted = json.dumps({"error": {"message": f"({text} resulted in {text} (1"}}).encode()
        body = b'{"a": "' + text.encode("utf-8", "replace").replace(b'"', b"") + b'"}'
        told: list[UpstreamError] = []

        def work() -> None:
            with suppress(ProxyError):
                parse_object(body)
            refuse_image_url(f"http://{text}")
            refuse_image_url(f"data:{text}")
            printable(text)
            told.append(refusals.translated(400, quoted, None))
            Messages("s").error(told[-1])
            refusals.room_for_answer(told[-1])  # type: ignore[arg-type]

        return work

    linear(make)
