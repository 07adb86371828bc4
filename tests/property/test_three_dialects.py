"""One conversation, told in each of the three dialects to a running proxy: vLLM gets the same prompt, to the token.

The conversation goes on turn by turn: the upstream answers with its next assistant message, so that
`previous_response_id` finds in the store what the other clients send back.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal
from hypothesis import given, settings
from hypothesis import strategies as st

from devstral_proxy.mistral.fold import unfold
from devstral_proxy.mistral.profiles import TokenizerVersion
from tests.conversations import PIXEL, Conversation, plain_conversations
from tests.oracle import prompt
from tests.server.upstreams import COMPLETION, Vllm, proxied, sse

VERSIONS: tuple[TokenizerVersion, ...] = ("v3", "v7", "v11", "v13", "v15")
SEEING = ("v11", "v13", "v15")
THINKING = ("v13", "v15")
PROFILES = {
    version: {"tokenizer": version, "images": version in SEEING, "reasoning": version in THINKING}
    for version in VERSIONS
}
MEDIA, DATA64 = PIXEL.removeprefix("data:").split(";base64,")
Message = dict[str, Any]


class Proxy:
    """The proxy, in front of an upstream that says what it is told and keeps what it is asked."""

    def __init__(self, portal: BlockingPortal, client: httpx.AsyncClient, upstream: Vllm) -> None:
        self._portal = portal
        self._client = client
        self._upstream = upstream

    def asked(self, path: str, body: dict[str, Any], says: Message) -> tuple[dict[str, Any], dict[str, Any]]:
        """What vLLM gets for this request, and what the client gets when vLLM answers with the message `says`: the
        JSON, or the last event of the stream."""
        self._upstream.requests.clear()
        self._upstream.chat = [httpx.Response(200, json=completion(says))]
        if body.get("stream"):
            events = unfold(completion(says), True)
            self._upstream.chat = [sse(b"".join(event.raw for event in events))]

        async def post() -> httpx.Response:
            return await self._client.post(path, json=body)

        response = self._portal.call(post)
        assert response.status_code == 200, response.text
        (sent,) = self._upstream.bodies
        if body.get("stream"):
            return sent, json.loads(response.text.rstrip().rpartition("data: ")[2])
        return sent, response.json()


@pytest.fixture(scope="module")
def proxy() -> Iterator[Proxy]:
    upstream = Vllm()
    running = proxied(upstream, model_profiles=json.dumps(PROFILES))
    with start_blocking_portal() as portal, portal.wrap_async_context_manager(running) as client:
        yield Proxy(portal, client, upstream)


def completion(says: Message) -> dict[str, Any]:
    """A message of a history as vLLM's answer."""
    said = {"role": "assistant", "content": says.get("content") or None}
    if says.get("reasoning_content"):
        said["reasoning"] = said["reasoning_content"] = says["reasoning_content"]
    if says.get("tool_calls"):
        said["tool_calls"] = says["tool_calls"]
    finish = "tool_calls" if says.get("tool_calls") else "stop"
    return {**COMPLETION, "choices": [{"index": 0, "message": said, "finish_reason": finish}]}


# ---------------------------------------------------------------- conversations

FAILED = "Error: "


@st.composite
def conversations(draw: st.DrawFn) -> Conversation:
    """Conversations with images, failed calls, thoughts, and system messages in the middle."""
    made: Conversation = draw(plain_conversations())
    messages: list[Message] = []
    for number, message in enumerate(made.messages):
        role = message["role"]
        some = draw(st.integers(0, 3)) == 0
        if role == "user" and some:
            parts = [{"type": "text", "text": message["content"]}, {"type": "image_url", "image_url": {"url": PIXEL}}]
            message = {**message, "content": parts[:: draw(st.sampled_from((1, -1)))]}
        elif role == "assistant" and some:
            message = {**message, "reasoning_content": f"thought {number}"}
        elif role == "tool" and some:
            message = {**message, "content": FAILED + message["content"]}
        elif role == "user" and messages and draw(st.integers(0, 4)) == 0:
            messages.append({"role": "system", "content": f"rule {number}"})
        messages.append(message)
    made.messages = messages
    return made


def test_what_is_drawn() -> None:
    """The conversations do hold what is to be shown of them."""
    seen: set[str] = set()

    @settings(max_examples=300, database=None, derandomize=True)
    @given(conversations())
    def look(made: Conversation) -> None:
        seen.update(names_of(made))

    look()
    assert seen == {"tools", "system", "system later", "image", "thought", "error", "several calls", "several turns"}


def names_of(made: Conversation) -> Iterator[str]:
    if made.tools:
        yield "tools"
    if len(made.turns()) > 1:
        yield "several turns"
    for place, message in enumerate(made.messages):
        if message["role"] == "system":
            yield "system later" if any(one["role"] != "system" for one in made.messages[:place]) else "system"
        if isinstance(message.get("content"), list):
            yield "image"
        if message.get("reasoning_content"):
            yield "thought"
        if len(message.get("tool_calls") or ()) > 1:
            yield "several calls"
        if message["role"] == "tool" and message["content"].startswith(FAILED):
            yield "error"


# ---------------------------------------------------------------- the same in the words of the other dialects


def as_items(messages: list[Message]) -> Iterator[dict[str, Any]]:
    """Messages as items of /v1/responses."""
    for message in messages:
        role, content = message["role"], message.get("content")
        if role == "tool":
            yield {"type": "function_call_output", "call_id": message["tool_call_id"], "output": content}
        elif role != "assistant":
            parts = content if isinstance(content, list) else [{"type": "text", "text": content}]
            yield {"role": role, "content": [_input_part(part) for part in parts]}
        else:
            thought = message.get("reasoning_content")
            if thought:
                yield {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": thought}]}
            if content:
                part = {"type": "output_text", "text": content, "annotations": []}
                yield {"type": "message", "id": "msg_1", "role": "assistant", "content": [part]}
            for call in message.get("tool_calls") or ():
                yield {"type": "function_call", "call_id": call["id"], **call["function"]}


def _input_part(part: dict[str, Any]) -> dict[str, Any]:
    if part["type"] == "text":
        return {"type": "input_text", "text": part["text"]}
    return {"type": "input_image", "image_url": part["image_url"]["url"]}


def as_messages(messages: list[Message]) -> list[Message]:
    """Messages as those of /v1/messages: what a user says and the results before it are one message."""
    out: list[Message] = []
    for message in messages:
        role: str = message["role"]
        content: Any = message.get("content")
        if role == "system":
            out.append(message)
            continue
        blocks: list[dict[str, Any]] = []
        if message.get("reasoning_content"):
            blocks.append({"type": "thinking", "thinking": message["reasoning_content"], "signature": "s"})
        if role == "tool":
            failed = content.startswith(FAILED)
            result = {"type": "tool_result", "tool_use_id": message["tool_call_id"]}
            blocks.append({**result, "content": content.removeprefix(FAILED), "is_error": failed})
        elif content:
            parts = content if isinstance(content, list) else [{"type": "text", "text": content}]
            blocks += map(_block, parts)
        for call in message.get("tool_calls") or ():
            function = call["function"]
            use = {"type": "tool_use", "id": call["id"], "name": function["name"]}
            blocks.append({**use, "input": json.loads(function["arguments"])})
        role = "assistant" if role == "assistant" else "user"
        if out and out[-1]["role"] == role == "user":
            out[-1]["content"] += blocks
        else:
            out.append({"role": role, "content": blocks})
    return out


def _block(part: dict[str, Any]) -> dict[str, Any]:
    if part["type"] == "text":
        return part
    return {"type": "image", "source": {"type": "base64", "media_type": MEDIA, "data": DATA64}}


def responses_body(made: Conversation, messages: list[Message], system: str | None, **more: Any) -> dict[str, Any]:
    body: dict[str, Any] = {"input": list(as_items(messages)), "instructions": system, **more}
    if made.tools:
        body["tools"] = [{"type": "function", **tool["function"]} for tool in made.tools]
    return body


def messages_body(made: Conversation, messages: list[Message], system: str | None) -> dict[str, Any]:
    body: dict[str, Any] = {"max_tokens": 50, "messages": as_messages(messages)}
    if system is not None:
        body["system"] = [{"type": "text", "text": system}]
    if made.tools:
        functions = [tool["function"] for tool in made.tools]
        body["tools"] = [
            {"name": function["name"], "description": function["description"], "input_schema": function["parameters"]}
            for function in functions
        ]
    return body


# ---------------------------------------------------------------- the promise


def ends_of(spoken: list[Message], made: Conversation) -> list[tuple[int, int]]:
    """Begin and end of what is new in each request; but for the first, it begins with what the model said."""
    ahead = len(made.messages) - len(spoken)
    ends = [turn - ahead for turn in made.turns()]
    if spoken[-1]["role"] != "assistant":
        ends.append(len(spoken))
    return list(itertools.pairwise([0, *ends]))


@pytest.mark.parametrize("version", VERSIONS)
@settings(max_examples=25)
@given(made=conversations(), stream=st.booleans())
def test_the_same_prompt_in_three_dialects(
    proxy: Proxy, version: TokenizerVersion, made: Conversation, stream: bool
) -> None:
    images = version in SEEING
    system = made.messages[0]["content"] if made.messages[0]["role"] == "system" else None
    spoken = made.messages[1 if system is not None else 0 :]
    previous: dict[str, Any] = {}
    for begin, end in ends_of(spoken, made):
        answer = spoken[end] if end < len(spoken) else {"content": "The end."}
        chat = {"model": version, "messages": made.messages[: end + len(made.messages) - len(spoken)], "max_tokens": 50}
        if made.tools:
            chat["tools"] = made.tools
        sent, _ = proxy.asked("/v1/chat/completions", chat, answer)
        expected = prompt(sent, version, images)

        def reaches(path: str, body: dict[str, Any], ids: list[int] = expected.ids) -> dict[str, Any]:
            sent, told = proxy.asked(path, {"model": version, **body}, answer)  # noqa: B023  # called at once
            found = prompt(sent, version, images)
            assert found.text == expected.text  # noqa: B023
            assert found.ids == ids
            assert sent["max_tokens"] == 50
            return told

        reaches("/v1/messages", messages_body(made, spoken[:end], system))
        reaches("/v1/responses", responses_body(made, spoken[:end], system, max_output_tokens=50, store=False))
        # Only what the model has not said itself; instructions are not inherited, so they are said again.
        new = spoken[begin:end] if begin == 0 else spoken[begin + 1 : end]
        chained = responses_body(made, new, system, max_output_tokens=50, previous_response_id=previous.get("id"))
        told = reaches("/v1/responses", {**chained, "stream": stream})
        previous = told["response"] if stream else told
