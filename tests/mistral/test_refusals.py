"""vLLM's error answers in the words that agents act upon."""

from __future__ import annotations

import json
from typing import Any

import pytest

from devstral_proxy.mistral.profiles import ModelProfile
from devstral_proxy.mistral.refusals import OVERFLOW, room_for_answer, translated
from devstral_proxy.mistral.translator import Translator

NEW = (
    "This model's maximum context length is 4096 tokens. However, your prompt contains 4604 input tokens, which "
    "exceeds this limit even without any output tokens. Please reduce the length of the input prompt."
)
MIDDLE = (
    "This model's maximum context length is 4096 tokens. However, your request has 5000 input tokens. Please reduce "
    "the length of the input messages."
)
MIDDLE_TOO_MANY = (
    "'max_tokens' or 'max_completion_tokens' is too large: 4000. This model's maximum context length is 4096 tokens "
    "and your request has 300 input tokens (4000 > 4096 - 300)."
)
OLDEST = (
    "This model's maximum context length is 4096 tokens. However, you requested 5000 tokens (4800 in the messages, 200 "
    "in the completion). Please reduce the length of the messages or completion."
)
OLDEST_TOO_MANY = OLDEST.replace("4800 in", "1000 in").replace("200 in", "4000 in")


def refuse(message: Any, status: int = 400, **more: Any) -> dict[str, Any]:
    body = json.dumps({"error": {"message": message, "type": "BadRequestError", "param": None, "code": status, **more}})
    error: dict[str, Any] = translated(status, body.encode(), 4096).body["error"]
    return error


@pytest.mark.parametrize(
    "message",
    [
        NEW,
        MIDDLE,
        OLDEST,
        "max_tokens must be at least 1, got -508.",
        "The decoder prompt (length 5000) is longer than the maximum model length of 4096. Make sure that …",
        "The prompt (total length 4604) is too long to fit into the model (context length 4096). Make sure that …",
    ],
)
def test_overflow_has_the_code_that_agents_look_for(message: str) -> None:
    """F56. The words `maximum context length` are what agents without the code look for."""
    error = refuse(message)
    assert error["code"] == OVERFLOW
    assert error["type"] == "invalid_request_error"
    assert "maximum context length is 4096 tokens" in error["message"]
    assert message in error["message"]


@pytest.mark.parametrize(
    ("message", "room"),
    [(MIDDLE_TOO_MANY, 3796), (OLDEST_TOO_MANY, 3096), (OLDEST, None), (NEW, None), ("no", None)],
)
def test_room_for_the_answer(message: str, room: int | None) -> None:
    error = translated(400, json.dumps({"error": {"message": message, "code": 400}}).encode(), None)
    assert room_for_answer(error) == room


def test_a_second_try_with_the_room_that_there_is() -> None:
    """F55: the client's fixed maximum does not fit beside the prompt."""
    translator = Translator(ModelProfile("m"))
    upstream = {"model": "m", "messages": [], "max_tokens": 4000}
    error = translator.error(400, json.dumps({"error": {"message": MIDDLE_TOO_MANY, "code": 400}}).encode())
    assert translator.retry(upstream, error) == {**upstream, "max_tokens": 3796}
    assert translator.rewrites.counts() == {"max_tokens_clamped": 1}
    assert translator.retry({**upstream, "max_tokens": 100}, error) is None
    assert translator.retry(upstream, translator.error(400, b'{"error": {"message": "other"}}')) is None


@pytest.mark.parametrize(
    ("message", "kept"),
    [("m is not a multimodal model", 0), ("At most 1 image(s) may be provided in one prompt.", 1), ("other", None)],
)
def test_a_second_try_with_the_images_that_the_server_takes(message: str, kept: int | None) -> None:
    def image(name: str) -> dict[str, Any]:
        return {"type": "image_url", "image_url": {"url": name}}

    messages: list[dict[str, Any]] = [
        {"role": "user", "content": [{"type": "text", "text": "see"}, image("a")]},
        {"role": "assistant", "content": "yes"},
        {"role": "user", "content": [image("b")]},
    ]
    translator = Translator(ModelProfile("m", "v13", images=True))
    upstream = {"model": "m", "messages": messages}
    again = translator.retry(upstream, translator.error(400, json.dumps({"error": {"message": message}}).encode()))
    if kept is None:
        assert again is None
        return
    assert again is not None
    assert translator.rewrites.counts() == {"image_omitted": 1}
    parts = [part for message in again["messages"] if message["role"] == "user" for part in message["content"]]
    assert [part["type"] for part in parts] == ["text", "text", "image_url" if kept else "text"]
    assert messages[0]["content"][1] == image("a"), "the client's own messages are not touched"


def test_status_text_and_members_are_kept() -> None:
    said = {"message": "The model `x` does not exist.", "type": "NotFoundError", "param": "model", "code": 404}
    error = translated(404, json.dumps({"error": said}).encode(), None)
    assert error.status == 404
    assert error.body == {"error": {**said, "via": "devstral-proxy"}}


@pytest.mark.parametrize(
    ("body", "message", "kind"),
    [
        (
            b'{"object":"error","message":"flat","type":"BadRequestError","param":null,"code":400}',
            "flat",
            "BadRequestError",
        ),
        (b'{"detail":"Not Found"}', "Not Found", "server_error"),
        (b'{"error":"Unauthorized"}', "Unauthorized", "server_error"),
        (b'{"detail":[{"loc":["body"],"msg":"x"}]}', '[{"loc":["body"],"msg":"x"}]', "server_error"),
        (b"<html>secret</html>", "vLLM answered with status 418", "server_error"),
        (b"", "vLLM answered with status 418", "server_error"),
        (b"[1]", "vLLM answered with status 418", "server_error"),
        (b'{"error":{"message":null}}', "vLLM answered with status 418", "server_error"),
    ],
)
def test_every_shape_becomes_openais(body: bytes, message: str, kind: str) -> None:
    error = translated(418, body, None)
    assert error.status == 418
    inner = error.body["error"]
    assert (inner["message"], inner["type"], inner["via"]) == (message, kind, "devstral-proxy")
    assert {"message", "type", "param", "code"} <= inner.keys()


def test_a_server_without_automatic_tools_is_told_how_to_start() -> None:
    """F41."""
    error = refuse('"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set')
    assert "--tool-call-parser mistral" in error["message"]
