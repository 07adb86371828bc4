"""What shapes an answer: usage, several choices, cuts, stop strings, reasoning, scripts."""

from __future__ import annotations

from typing import Any

import pytest

from devstral_proxy.simulator import Call, SimulatorOptions, Turn, create_simulator
from tests.simulator.asking import BASH, NEW, OLD, QUESTION, READ, application, chat, deltas, events

SAY = {"say": 'Let me look.[TOOL_CALLS]read_file[ARGS]{"path": "a.py"}'}
MARKED = ["It is ", "[", "TOOL_CALLS] that begins a call.", "[TOOL_CALLS]", "bash", "[ARGS]", '{"command": "[ARGS]"}']


def _text(parts: list[dict[str, Any]]) -> str:
    return "".join(part.get("content") or "" for part in parts)


def _calls(parts: list[dict[str, Any]]) -> dict[int, dict[str, str]]:
    """The calls that a client puts together out of deltas."""
    found: dict[int, dict[str, str]] = {}
    for part in parts:
        for call in part.get("tool_calls", ()):
            kept = found.setdefault(call["index"], {"id": "", "name": "", "arguments": ""})
            kept["id"] += call.get("id") or ""
            for key in ("name", "arguments"):
                kept[key] += call["function"].get(key) or ""
    return found


@pytest.mark.anyio
async def test_a_dictated_call_streams() -> None:
    response = await chat(application(), {**QUESTION, "tools": [READ], "stream": True, "vllm_xargs": SAY})
    parts = deltas(response)
    assert _text(parts) == "Let me look."
    (call,) = _calls(parts).values()
    assert (call["name"], call["arguments"]) == ("read_file", '{"path": "a.py"}')
    assert len(call["id"]) == 9
    assert call["id"].isalnum()


@pytest.mark.anyio
async def test_0_12_loses_streamed_calls_and_answers_them_whole() -> None:
    body = {**QUESTION, "tools": [READ], "vllm_xargs": SAY}
    parts = deltas(await chat(application(OLD), {**body, "stream": True}))
    assert (_text(parts), _calls(parts)) == ("Let me look.", {})
    (call,) = (await chat(application(OLD), body)).json()["choices"][0]["message"]["tool_calls"]
    assert call["id"].startswith("chatcmpl-tool-")


@pytest.mark.anyio
async def test_0_12_gives_the_models_own_text_for_the_choice_none() -> None:
    asked = {"tool_choice": "none", "return_token_ids": True, "stream": True}
    response = await chat(application(OLD), {**QUESTION, "tools": [READ], "vllm_xargs": SAY, **asked})
    assert _text(deltas(response)) == 'Let me look.[TOOL_CALLS]read_file{"path": "a.py"}'
    ids = [number for event in events(response)[1:-1] for number in event["choices"][0]["token_ids"]]
    assert [number for number in ids if number in (2, 9, 32)] == [9, 32, 2]


@pytest.mark.anyio
async def test_pieces_let_text_spell_a_marker() -> None:
    body = {**QUESTION, "tools": [BASH], "vllm_xargs": {"say": MARKED}}
    parts = deltas(await chat(application(), {**body, "stream": True}))
    assert _text(parts) == "It is [TOOL_CALLS] that begins a call."
    assert _calls(parts)[0]["arguments"] == '{"command": "[ARGS]"}'
    # Without streaming the text alone decides, and takes the spelling for the marker.
    message = (await chat(application(), body)).json()["choices"][0]["message"]
    assert message["content"] == "It is"


@pytest.mark.anyio
async def test_an_answer_without_streaming_loses_spelled_control_tokens() -> None:
    say = {"say": ["Use [INST] here, and </s> there."]}
    assert _text(deltas(await chat(application(), {**QUESTION, "stream": True, "vllm_xargs": say}))) == say["say"][0]
    message = (await chat(application(), {**QUESTION, "vllm_xargs": say})).json()["choices"][0]["message"]
    assert message["content"] == "Use  here, and  there."


@pytest.mark.parametrize("version", [NEW, OLD])
@pytest.mark.anyio
async def test_usage_comes_with_a_chunk_of_its_own(version: str) -> None:
    options = {"include_usage": True, "continuous_usage_stats": True}
    response = await chat(application(version), {**QUESTION, "stream": True, "stream_options": options})
    *chunks, last, done = events(response)
    assert done == "[DONE]"
    assert last["choices"] == []
    counts = [chunk["usage"]["completion_tokens"] for chunk in chunks]
    assert counts == list(range(len(chunks)))
    assert last["usage"]["completion_tokens"] == counts[-1]
    assert last["usage"]["total_tokens"] == last["usage"]["prompt_tokens"] + counts[-1]


@pytest.mark.anyio
async def test_choices_interleave_and_finish_each() -> None:
    body = {**QUESTION, "n": 3, "temperature": 1, "stream": True, "vllm_xargs": {"say": "one two"}}
    response = await chat(application(), body)
    order = [event["choices"][0]["index"] for event in events(response)[:-1]]
    assert order == [0, 1, 2] * 4
    assert [_text(deltas(response, index)) for index in range(3)] == ["one two"] * 3
    finishes = [event["choices"][0]["finish_reason"] for event in events(response)[:-1]]
    assert finishes.count("stop") == 3


@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens"])
@pytest.mark.anyio
async def test_a_cut_answer_finishes_with_length(field: str) -> None:
    body = {**QUESTION, field: 2, "vllm_xargs": {"say": "one two three"}}
    choice = (await chat(application(), body)).json()["choices"][0]
    assert (choice["message"]["content"], choice["finish_reason"]) == ("one two", "length")
    last = events(await chat(application(), {**body, "stream": True}))[-2]
    assert last["choices"][0]["finish_reason"] == "length"


@pytest.mark.parametrize("streamed", [True, False])
@pytest.mark.parametrize(
    ("stop", "keep", "text", "reason"),
    [
        ("three", False, "one two ", "three"),
        (["zzz", "two th"], False, "one ", "two th"),
        ("three", True, "one two three", "three"),
        ("four", False, "one two three", None),
    ],
)
@pytest.mark.anyio
async def test_stop_strings(stop: Any, keep: bool, text: str, reason: str | None, streamed: bool) -> None:
    body = {**QUESTION, "stop": stop, "include_stop_str_in_output": keep, "vllm_xargs": {"say": "one two three"}}
    response = await chat(application(), {**body, "stream": streamed})
    if streamed:
        assert _text(deltas(response)) == text
        choice = events(response)[-2]["choices"][0]
    else:
        choice = response.json()["choices"][0]
        assert choice["message"]["content"] == text
    assert (choice["finish_reason"], choice["stop_reason"]) == ("stop", reason)


@pytest.mark.anyio
async def test_merged_tokens() -> None:
    say = {"say": "one two three four five six"}
    apart = events(await chat(application(), {**QUESTION, "stream": True, "vllm_xargs": say}))
    merged = await chat(application(merge=3), {**QUESTION, "stream": True, "vllm_xargs": say})
    asked = await chat(application(), {**QUESTION, "stream": True, "vllm_xargs": say, "stream_interval": 3})
    at_once = await chat(application(merge=0), {**QUESTION, "stream": True, "vllm_xargs": say})
    assert [len(events(response)) for response in (merged, asked, at_once)] == [len(apart) - 4, len(apart) - 4, 3]
    assert _text(deltas(merged)) == _text(deltas(at_once)) == say["say"]


@pytest.mark.anyio
async def test_logprobs_and_token_ids() -> None:
    body = {**QUESTION, "logprobs": True, "top_logprobs": 1, "return_token_ids": True, "vllm_xargs": {"say": "Hello."}}
    choice = (await chat(application(), body)).json()["choices"][0]
    assert [entry["token"] for entry in choice["logprobs"]["content"]] == ["Hello", ".", "</s>"]
    assert [len(entry["top_logprobs"]) for entry in choice["logprobs"]["content"]] == [1, 1, 1]
    assert choice["token_ids"] == [22177, 1046, 2]


@pytest.mark.anyio
async def test_too_many_logprobs_fail_in_the_stream() -> None:
    body = {**QUESTION, "logprobs": True, "top_logprobs": 50}
    assert (await chat(application(), body)).status_code == 400
    response = await chat(application(), {**body, "stream": True})
    assert response.status_code == 200
    error, done = events(response)
    assert (error["error"]["param"], done) == ("logprobs", "[DONE]")


@pytest.mark.parametrize("streamed", [True, False])
@pytest.mark.anyio
async def test_a_reasoning_parser_takes_the_thoughts_out(streamed: bool) -> None:
    app = create_simulator(SimulatorOptions(reasoning=True, script=lambda _: Turn("Yes.", reasoning="Let me think.")))
    response = await chat(app, {**QUESTION, "stream": streamed})
    found = deltas(response) if streamed else [response.json()["choices"][0]["message"]]
    assert "".join(part.get("reasoning") or "" for part in found) == "Let me think."
    assert _text(found) == "Yes."


@pytest.mark.anyio
async def test_thoughts_are_text_without_a_reasoning_parser() -> None:
    app = create_simulator(SimulatorOptions(script=lambda _: Turn("Yes.", reasoning="Hm.")))
    assert (await chat(app, QUESTION)).json()["choices"][0]["message"]["content"] == "[THINK]Hm.[/THINK]Yes."


@pytest.mark.anyio
async def test_a_script_says_what_comes() -> None:
    seen: list[dict[str, Any]] = []

    def script(body: dict[str, Any]) -> Turn:
        seen.append(body)
        return Turn(calls=(Call("read_file", '{"path": '),), finish_reason="abort")

    app = create_simulator(SimulatorOptions(script=script))
    body = {**QUESTION, "tools": [READ]}
    choice = (await chat(app, body)).json()["choices"][0]
    assert choice["message"]["tool_calls"][0]["function"]["arguments"] == '{"path":'
    assert seen == [body]
    last = events(await chat(app, {**body, "stream": True}))[-2]
    assert last["choices"][0]["finish_reason"] == "abort"


@pytest.mark.parametrize("version", [NEW, OLD])
@pytest.mark.parametrize("tokenizer", ["v3", "v7", "v11", "v13"])
@pytest.mark.parametrize("choice", ["auto", "required", {"type": "function", "function": {"name": "bash"}}])
@pytest.mark.parametrize("streamed", [True, False])
@pytest.mark.anyio
async def test_calls_of_every_choice(choice: Any, tokenizer: str, version: str, streamed: bool) -> None:
    app = application(version, tokenizer=tokenizer)
    body = {**QUESTION, "tools": [READ, BASH], "tool_choice": choice, "stream": streamed}
    response = await chat(app, body)
    named = isinstance(choice, dict)
    if streamed:
        calls = [(call["name"], call["arguments"]) for call in _calls(deltas(response)).values()]
        finish = events(response)[-2]["choices"][0]["finish_reason"]
    else:
        (told,) = response.json()["choices"]
        found = [call["function"] for call in told["message"]["tool_calls"]]
        calls, finish = [(call["name"], call["arguments"]) for call in found], told["finish_reason"]
    if streamed and version == OLD and choice == "auto" and tokenizer in ("v11", "v13"):
        assert (calls, finish) == ([], "stop")  # F57
        return
    wanted = ("bash", '{"command": "ls -la"}') if named else ("read_file", '{"path": "README.md"}')
    assert calls == [wanted]
    assert finish == ("stop" if named else "tool_calls")


@pytest.mark.anyio
async def test_parallel_calls_can_be_switched_off() -> None:
    two = '[TOOL_CALLS]read_file[ARGS]{"path": "a"}[TOOL_CALLS]bash[ARGS]{"command": "b"}'
    body = {**QUESTION, "tools": [READ, BASH], "parallel_tool_calls": False, "vllm_xargs": {"say": two}}
    assert list(_calls(deltas(await chat(application(), {**body, "stream": True})))) == [0]
    assert len((await chat(application(), body)).json()["choices"][0]["message"]["tool_calls"]) == 1


@pytest.mark.anyio
async def test_the_answers_id_is_the_requests() -> None:
    response = await chat(application(), QUESTION, x_request_id="abc")
    assert response.json()["id"] == "chatcmpl-abc"
