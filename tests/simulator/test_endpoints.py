"""The other endpoints, keys, and what the simulator remembers."""

from __future__ import annotations

from typing import Any

import mistral_common
import pytest

from devstral_proxy.simulator import SimulatorOptions, create_simulator
from tests.simulator.asking import BASH, CHAT, NEW, OLD, QUESTION, READ, application, chat, client, events

_KNOWS_V15 = tuple(map(int, mistral_common.__version__.split(".")[:2])) >= (1, 10)
IMAGE = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk"
    "+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)


@pytest.mark.parametrize(
    ("method", "path", "status", "body"),
    [
        ("GET", "/health", 200, None),
        ("GET", "/ping", 200, None),
        ("POST", "/ping", 200, None),
        ("GET", "/version", 200, {"version": NEW}),
        ("GET", "/v1/nope", 404, {"detail": "Not Found"}),
        ("GET", "/v1/models/devstral-small-2", 404, {"detail": "Not Found"}),
        ("GET", CHAT, 405, {"detail": "Method Not Allowed"}),
        ("POST", "/v1/models", 405, {"detail": "Method Not Allowed"}),
        ("DELETE", "/tokenize", 405, {"detail": "Method Not Allowed"}),
    ],
)
@pytest.mark.anyio
async def test_fixed_answers(method: str, path: str, status: int, body: Any) -> None:
    async with client(application()) as asking:
        response = await asking.request(method, path)
    assert response.status_code == status
    assert (response.json() if response.content else None) == body
    if status == 405:
        assert response.headers["allow"]


@pytest.mark.anyio
async def test_a_final_slash_redirects() -> None:
    async with client(application()) as asking:
        response = await asking.post(CHAT + "/", json=QUESTION)
    assert response.status_code == 307
    assert response.headers["location"].endswith(CHAT)


@pytest.mark.anyio
async def test_models() -> None:
    app = application(model="alias", root="mistralai/X", max_model_len=4096)
    async with client(app) as asking:
        (card,) = (await asking.get("/v1/models")).json()["data"]
    assert {key: card[key] for key in ("id", "root", "max_model_len", "owned_by")} == {
        "id": "alias",
        "root": "mistralai/X",
        "max_model_len": 4096,
        "owned_by": "vllm",
    }
    assert (await chat(app, {**QUESTION, "model": "alias"})).status_code == 200
    assert (await chat(app, {**QUESTION, "model": "other"})).status_code == 404


@pytest.mark.anyio
async def test_tokenize_and_detokenize() -> None:
    app = application()
    async with client(app) as asking:
        text = (await asking.post("/tokenize", json={"prompt": "hi [INST]"})).json()
        assert (text["tokens"], text["count"]) == ([1, 8101, 1766, 3174, 3074, 1093], 6)
        bare = (
            await asking.post(
                "/tokenize", json={"prompt": "hi", "add_special_tokens": False, "return_token_strs": True}
            )
        ).json()
        assert (bare["tokens"], bare["token_strs"]) == ([8101], ["hi"])
        back = (await asking.post("/detokenize", json={"tokens": [1, 3, 22177, 4]})).json()
        assert back == {"prompt": "<s>[INST]Hello[/INST]"}
        chatted = (await asking.post("/tokenize", json={**QUESTION, "tools": [READ]})).json()
        answer = (await asking.post(CHAT, json={**QUESTION, "tools": [READ], "return_token_ids": True})).json()
        assert chatted["tokens"] == answer["prompt_token_ids"]
        refused = await asking.post("/tokenize", json={"messages": [{"role": "critic", "content": "x"}]})
        assert refused.status_code == 400
        nothing = await asking.post("/tokenize", json={})
        assert (nothing.status_code, nothing.json()["error"]["param"]) == (400, "body.prompt")
        assert (await asking.post("/detokenize", json={"tokens": [10**9]})).status_code == 400


@pytest.mark.parametrize("version", [NEW, OLD])
@pytest.mark.anyio
async def test_raw_text_by_tokenize_and_completions(version: str) -> None:
    """A conversation rendered by /tokenize, continued by /v1/completions, gives the model's own text."""
    app = application(version)
    async with client(app) as asking:
        ids = (await asking.post("/tokenize", json={**QUESTION, "tools": [READ]})).json()["tokens"]
        body = {"prompt": ids, "max_tokens": 100}
        (choice,) = (await asking.post("/v1/completions", json=body)).json()["choices"]
        arguments = "" if version == OLD else "[ARGS]"
        assert choice["text"] == f'I will look first.[TOOL_CALLS]read_file{arguments}{{"path": "README.md"}}'
        streamed = events(await asking.post("/v1/completions", json={**body, "stream": True}))
        assert "".join(chunk["choices"][0]["text"] for chunk in streamed[:-1]) == choice["text"]


@pytest.mark.anyio
async def test_completions() -> None:
    async with client(application()) as asking:
        body = {
            "prompt": ["one", "two"],
            "n": 2,
            "temperature": 1,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        *chunks, usage, _ = events(await asking.post("/v1/completions", json=body))
        assert {chunk["choices"][0]["index"] for chunk in chunks} == {0, 1, 2, 3}
        assert usage["usage"]["prompt_tokens"] == 4
        short = (await asking.post("/v1/completions", json={"prompt": "hi", "max_tokens": 1})).json()
        assert short["choices"][0]["finish_reason"] == "length"
        for refused, status in (({"prompt": []}, 400), ({"prompt": "x", "model": "y"}, 404), ({"prompt": 3}, 400)):
            assert (await asking.post("/v1/completions", json=refused)).status_code == status


@pytest.mark.anyio
async def test_the_key() -> None:
    app = application(api_key="secret")
    for header, status in ((None, 401), ("Bearer wrong", 401), ("secret", 401), ("Bearer secret", 200)):
        headers = {"authorization": header} if header else {}
        response = await chat(app, QUESTION, **headers)
        assert response.status_code == status
        assert status == 200 or response.json() == {"error": "Unauthorized"}
    async with client(app) as asking:
        assert (await asking.get("/v1/models")).status_code == 401
        assert (await asking.get("/health")).status_code == 200


@pytest.mark.anyio
async def test_accepted_requests_are_remembered() -> None:
    app = create_simulator(SimulatorOptions(keep=2))
    for number in range(3):
        await chat(app, {"messages": [{"role": "user", "content": f"question {number}"}]})
    await chat(app, {"messages": [{"role": "user", "content": None}]})
    kept = list(app.state.simulator.requests)
    assert [record.prompt for record in kept] == ["<s>[INST]question 1[/INST]", "<s>[INST]question 2[/INST]"]
    async with client(app) as asking:
        told = (await asking.get("/_simulator/requests")).json()["requests"]
    assert [entry["body"]["messages"][0]["content"] for entry in told] == ["question 1", "question 2"]
    assert told[-1]["prompt_tokens"] == kept[-1].prompt_tokens


@pytest.mark.anyio
async def test_the_body_is_remembered_as_it_came() -> None:
    call = {"id": "call_0123456789", "type": "function", "function": {"name": "read_file", "arguments": "[1]"}}
    result = {"role": "tool", "tool_call_id": "call_0123456789", "content": "x"}
    body = {"messages": [*QUESTION["messages"], {"role": "assistant", "content": "", "tool_calls": [call]}, result]}
    body |= {"tools": [READ, BASH]}
    app = create_simulator(SimulatorOptions())
    assert (await chat(app, body)).status_code == 200
    assert app.state.simulator.requests[-1].body == body


@pytest.mark.parametrize("url", [IMAGE, "https://example.com/cat.png"])
@pytest.mark.parametrize("tokenizer", ["v3", "v7", "v11", "v13", *(["v15"] if _KNOWS_V15 else [])])
@pytest.mark.anyio
async def test_images(tokenizer: str, url: str) -> None:
    parts = [{"type": "text", "text": "What is it?"}, {"type": "image_url", "image_url": {"url": url}}]
    body = {"messages": [{"role": "user", "content": parts}]}
    seeing = application(tokenizer=tokenizer, images=True)
    assert (await chat(seeing, body)).status_code == 200
    assert "[IMG][IMG_END]" in seeing.state.simulator.requests[-1].prompt
    assert (await chat(application(tokenizer=tokenizer), body)).status_code == 400


@pytest.mark.skipif(not _KNOWS_V15, reason="mistral-common 1.10 brought tokenizer v15")
@pytest.mark.parametrize(("effort", "status"), [(None, 200), ("none", 200), ("high", 200), ("low", 400)])
@pytest.mark.anyio
async def test_v15_has_model_settings(effort: str | None, status: int) -> None:
    app = application(tokenizer="v15")
    assert (await chat(app, {**QUESTION, "reasoning_effort": effort})).status_code == status
    if status == 200:
        settings = f'[MODEL_SETTINGS]{{"reasoning_effort": "{effort or "none"}"}}[/MODEL_SETTINGS]'
        assert settings in app.state.simulator.requests[-1].prompt


@pytest.mark.parametrize(
    ("version", "old"), [("0.9.2", True), ("0.12.0", True), ("0.13.0", False), ("0.32.0", False), ("v1.0", False)]
)
def test_versions(version: str, old: bool) -> None:
    assert application(version).state.simulator.old is old


@pytest.mark.anyio
async def test_context_overflow() -> None:
    body = {"messages": [{"role": "user", "content": "word " * 5000}], "max_tokens": 100}
    new = (await chat(application(NEW, max_model_len=4096), body)).json()["error"]
    assert "maximum context length is 4096 tokens" in new["message"]
    assert new["param"] == "input_tokens"
    old = (await chat(application(OLD, max_model_len=4096), body)).json()["error"]
    assert old["message"].startswith("max_tokens must be at least 1, got -")


@pytest.mark.parametrize(
    ("version", "said", "status"),
    [
        (NEW, {"content": None}, 400),
        (NEW, {}, 200),
        (NEW, {"content": ""}, 200),
        (NEW, {"content": "x"}, 200),
        (OLD, {"content": None}, 400),
        (OLD, {}, 400),
        (OLD, {"content": "x"}, 400),
    ],
)
@pytest.mark.anyio
async def test_calls_that_tokenize_refuses(version: str, said: dict[str, Any], status: int) -> None:
    called = {"role": "assistant", **said, "tool_calls": [{"id": "abcdefghi", "type": "function", "function": READ_IT}]}
    result = {"role": "tool", "tool_call_id": "abcdefghi", "content": "r"}
    messages = [{"role": "user", "content": "Hi"}, called, result]
    async with client(application(version=version)) as asking:
        response = await asking.post("/tokenize", json={"messages": messages, "add_generation_prompt": True})
    assert response.status_code == status, response.text
    if status == 400:
        assert "tool_calls must be a list, got" in response.text


READ_IT = {"name": "read", "arguments": "{}"}
