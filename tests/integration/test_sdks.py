"""The official SDKs over real sockets: a proxy as it is served, and the simulated vLLM behind it.

The clients check each answer and each event against the SDK's own types, and fail where a member is missing or another.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import anthropic
import openai
import pytest
import uvicorn
from anthropic import beta_tool
from anthropic.types import RawMessageStreamEvent
from anyio.from_thread import start_blocking_portal
from openai.types.chat import ChatCompletionChunk
from openai.types.responses import ResponseStreamEvent
from pydantic import BaseModel, TypeAdapter

from devstral_proxy.commands.serve import bind
from devstral_proxy.simulator import SimulatorOptions, create_simulator
from devstral_proxy.simulator.engine import Simulator
from devstral_proxy.simulator.options import Turn
from devstral_proxy.simulator.script import turn
from tests.server.upstreams import live

SERVED = "devstral-small-2"
GPT, CLAUDE = "gpt-5-codex", "claude-whatever"
ALIASES = {"gpt-*": SERVED, "claude-*": SERVED}
THOUGHT = "A thought."
RESPONSE_EVENTS: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
MESSAGE_EVENTS: TypeAdapter[Any] = TypeAdapter(RawMessageStreamEvent)
CHUNKS: TypeAdapter[Any] = TypeAdapter(ChatCompletionChunk)
PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}


class Weather(BaseModel):
    """A format."""

    city: str
    degrees: int


def thinks(body: dict[str, Any]) -> Turn:
    """The simulator's own conversation, with a thought before each text."""
    said = turn(body)
    return Turn(text=said.text, calls=said.calls, reasoning=THOUGHT if said.text and not said.calls else "")


@dataclass
class World:
    """The running proxy's URL, and the vLLM behind it."""

    base: str
    vllm: Simulator

    @property
    def arrived(self) -> dict[str, Any]:
        """The last request that vLLM took."""
        return self.vllm.requests[-1].body


@asynccontextmanager
async def world_of(vllm: Any) -> AsyncIterator[str]:
    """The simulator and the proxy, each on a port of its own."""
    listener = bind("127.0.0.1", 0)
    server = uvicorn.Server(uvicorn.Config(vllm, log_config=None, lifespan="off"))
    task = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        base = f"http://127.0.0.1:{listener.getsockname()[1]}"
        async with live(base, model_aliases=json.dumps(ALIASES)) as proxy:
            yield proxy
    finally:
        server.should_exit = True
        await task
        listener.close()


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    vllm = create_simulator(SimulatorOptions(reasoning=True, script=thinks, max_model_len=2000))
    with start_blocking_portal() as portal, portal.wrap_async_context_manager(world_of(vllm)) as base:
        yield World(base, vllm.state.simulator)


@pytest.fixture
def gpt(world: World) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(
        api_key="x", base_url=world.base + "/v1", max_retries=0, _strict_response_validation=True
    ) as client:
        yield client


@pytest.fixture
def claude(world: World) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(
        api_key="x", base_url=world.base, max_retries=0, _strict_response_validation=True
    ) as client:
        yield client


# ---------------------------------------------------------------- responses

RESPONSE_TOOL: Any = {"type": "function", "name": "get.weather", "parameters": PARAMETERS, "strict": False}


def test_responses_create(gpt: openai.OpenAI, world: World) -> None:
    response = gpt.responses.create(model=GPT, input="hi", instructions="Be brief.", max_output_tokens=50)
    assert [item.type for item in response.output] == ["reasoning", "message"]
    assert response.output_text.startswith("Hello!")
    assert response.model == GPT
    assert response.usage is not None
    assert response.usage.input_tokens == len(world.vllm.requests[-1].prompt_tokens)
    assert world.arrived["model"] == SERVED


def test_responses_events(gpt: openai.OpenAI) -> None:
    tools: Any = [RESPONSE_TOOL]
    events = list(gpt.responses.create(model=GPT, input="hi", tools=tools, stream=True))
    for number, event in enumerate(events):
        RESPONSE_EVENTS.validate_json(event.model_dump_json(exclude_unset=True), strict=True)
        assert event.sequence_number == number
    kinds = [event.type for event in events]
    assert kinds[:3] == ["response.created", "response.in_progress", "response.output_item.added"]
    assert kinds[-1] == "response.completed"
    assert "response.function_call_arguments.done" in kinds


def test_responses_stream(gpt: openai.OpenAI) -> None:
    with gpt.responses.stream(model=GPT, input="hi") as stream:
        text = "".join(event.delta for event in stream if event.type == "response.output_text.delta")
        response = stream.get_final_response()
    assert response.output_text == text != ""
    assert response.status == "completed"


@pytest.mark.parametrize("streamed", [True, False])
def test_responses_parse(gpt: openai.OpenAI, streamed: bool) -> None:
    if streamed:
        with gpt.responses.stream(model=GPT, input="hi", text_format=Weather) as stream:
            parsed = stream.get_final_response().output_parsed
    else:
        parsed = gpt.responses.parse(model=GPT, input="hi", text_format=Weather).output_parsed
    assert parsed == Weather(city="Paris", degrees=1)


def test_a_stored_conversation(gpt: openai.OpenAI, world: World) -> None:
    tools: Any = [RESPONSE_TOOL]
    response = gpt.responses.create(model=GPT, input="What is the weather?", tools=tools)
    first, calls = response, 0
    for _ in range(2):
        results: Any = [
            {"type": "function_call_output", "call_id": item.call_id, "output": f"result {item.name}"}
            for item in response.output
            if item.type == "function_call"
        ]
        calls += len(results)
        response = gpt.responses.create(model=GPT, input=results, tools=tools, previous_response_id=response.id)
    assert response.output_text == f"Done: I have seen {calls} tool results."
    roles = [message["role"] for message in world.arrived["messages"]]
    assert roles == ["user", "assistant", "tool", "assistant", "tool"]
    assert gpt.responses.retrieve(first.id).output == first.output
    (item,) = gpt.responses.input_items.list(first.id)
    assert item.type == "message"
    with pytest.raises(openai.BadRequestError, match="background"):
        gpt.responses.cancel(first.id)
    gpt.responses.delete(first.id)
    with pytest.raises(openai.NotFoundError):
        gpt.responses.retrieve(first.id)
    with pytest.raises(openai.BadRequestError) as raised:
        gpt.responses.create(model=GPT, input="on", previous_response_id=response.id)
    assert raised.value.code == "previous_response_not_found"


def test_responses_errors(gpt: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError):
        gpt.responses.create(model="nobody", input="hi")
    with pytest.raises(openai.BadRequestError) as raised:
        gpt.responses.create(model=GPT, input=" word" * 3000, stream=True)
    assert raised.value.code == "context_length_exceeded"
    assert raised.value.request_id


# ---------------------------------------------------------------- chat completions

CHAT: Any = {"model": GPT, "messages": [{"role": "user", "content": "hi"}]}
CHAT_TOOLS: Any = [{"type": "function", "function": {"name": "get.weather", "parameters": PARAMETERS}}]


def test_chat_create(gpt: openai.OpenAI) -> None:
    completion = gpt.chat.completions.create(**CHAT)
    assert str(completion.choices[0].message.content).startswith("Hello!")
    assert completion.model == SERVED  # the model that did answer, as OpenAI names the snapshot behind an alias


def test_chat_stream(gpt: openai.OpenAI) -> None:
    for chunk in gpt.chat.completions.create(**CHAT, tools=CHAT_TOOLS, stream=True):
        CHUNKS.validate_json(chunk.model_dump_json(exclude_unset=True), strict=True)
    with gpt.chat.completions.stream(**CHAT, tools=CHAT_TOOLS) as stream:
        kinds = {event.type for event in stream}
        completion = stream.get_final_completion()
    assert {"chunk", "content.delta", "tool_calls.function.arguments.done"} <= kinds
    calls = completion.choices[0].message.tool_calls
    assert calls is not None
    (call,) = calls
    assert (call.function.name, json.loads(call.function.arguments)) == ("get.weather", {"city": "Paris"})


def test_chat_parse(gpt: openai.OpenAI) -> None:
    completion = gpt.chat.completions.parse(**CHAT, response_format=Weather)
    assert completion.choices[0].message.parsed == Weather(city="Paris", degrees=1)


# ---------------------------------------------------------------- messages

ASK: Any = {"model": CLAUDE, "max_tokens": 100, "messages": [{"role": "user", "content": "Hi"}]}
TOOLS: Any = [{"name": "get.weather", "input_schema": PARAMETERS}]


def test_messages_create(claude: anthropic.Anthropic, world: World) -> None:
    message = claude.messages.create(**ASK, system="Be brief.")
    assert [block.type for block in message.content] == ["thinking", "text"]
    assert message.model == CLAUDE
    assert message.stop_reason == "end_turn"
    assert message.usage.input_tokens == len(world.vllm.requests[-1].prompt_tokens)
    assert message._request_id
    assert world.arrived["model"] == SERVED


def test_messages_events(claude: anthropic.Anthropic) -> None:
    with claude.messages.create(**ASK, tools=TOOLS, stream=True) as events:
        kinds = []
        for event in events:
            MESSAGE_EVENTS.validate_json(event.model_dump_json(exclude_unset=True), strict=True)
            kinds.append(event.type)
    assert kinds[0] == "message_start"
    assert kinds[-2:] == ["message_delta", "message_stop"]


def test_messages_stream(claude: anthropic.Anthropic) -> None:
    with claude.messages.stream(**ASK, tools=TOOLS) as stream:
        text = "".join(stream.text_stream)
        message = stream.get_final_message()
    assert text == "I will look first."
    (use,) = [block for block in message.content if block.type == "tool_use"]
    assert (use.name, use.input) == ("get.weather", {"city": "Paris"})
    assert message.stop_reason == "tool_use"


@pytest.mark.parametrize("stream", [False, True])
def test_tool_runner(claude: anthropic.Anthropic, world: World, stream: bool) -> None:
    cities: list[str] = []

    @beta_tool
    def weather(city: str) -> str:
        """The weather in a city."""
        cities.append(city)
        if len(cities) == 2:
            raise ValueError("no such city")
        return f"sun in {city}"

    last = claude.beta.messages.tool_runner(**ASK, tools=[weather], stream=stream).until_done()
    assert cities == ["Paris", "Paris"]
    assert last.content[-1].text == "Done: I have seen 2 tool results."  # type: ignore[union-attr]
    results = [message["content"] for message in world.arrived["messages"] if message["role"] == "tool"]
    assert results[0] == "sun in Paris"
    assert "error" in results[1].lower()


def test_count_tokens(claude: anthropic.Anthropic) -> None:
    used: Any = [
        *ASK["messages"],
        {"role": "assistant", "content": [{"type": "tool_use", "id": "toolu_1", "name": "get.weather", "input": {}}]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "toolu_1", "content": "sun"}]},
    ]
    for messages in (ASK["messages"], used):
        body = {**ASK, "messages": messages, "tools": TOOLS}
        message = claude.messages.create(**body)
        del body["max_tokens"]
        assert claude.messages.count_tokens(**body).input_tokens == message.usage.input_tokens


def test_messages_errors(claude: anthropic.Anthropic) -> None:
    with pytest.raises(anthropic.NotFoundError) as missing:
        claude.messages.create(**{**ASK, "model": "nobody"})
    assert missing.value.type == "not_found_error"
    assert missing.value.request_id
    long: Any = [{"role": "user", "content": " word" * 3000}]
    for stream in (False, True):
        with pytest.raises(anthropic.BadRequestError, match=r"prompt is too long: \d+ tokens > 2000 maximum"):
            claude.messages.create(**{**ASK, "messages": long}, stream=stream)


def test_models(gpt: openai.OpenAI) -> None:
    assert SERVED in [model.id for model in gpt.models.list()]
