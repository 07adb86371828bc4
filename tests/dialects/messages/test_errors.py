"""Errors in Anthropic's shape: types by status, fields by Anthropic's names, overflow in its words."""

from __future__ import annotations

import orjson
import pytest
from anthropic.types import ErrorResponse

from devstral_proxy.dialects.messages import Messages
from devstral_proxy.dialects.messages.errors import overflow_words, type_of
from devstral_proxy.errors import (
    BadRequest,
    InternalError,
    MethodNotAllowed,
    NotFound,
    Overloaded,
    PayloadTooLarge,
    ProxyError,
    RateLimited,
    RequestTimeout,
    Unauthorized,
    UpstreamProtocolError,
    UpstreamTimeout,
    UpstreamUnavailable,
)
from devstral_proxy.mistral.profiles import Profiles
from devstral_proxy.mistral.translator import Translator
from tests.dialects.messages.material import BODY, TOOL


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (BadRequest("x"), "invalid_request_error"),
        (Unauthorized("x"), "authentication_error"),
        (NotFound("x"), "not_found_error"),
        (MethodNotAllowed("x"), "invalid_request_error"),
        (RequestTimeout("x"), "timeout_error"),
        (PayloadTooLarge("x"), "request_too_large"),
        (RateLimited("x"), "rate_limit_error"),
        (Overloaded("x"), "overloaded_error"),
        (InternalError("x"), "api_error"),
        (UpstreamUnavailable("x"), "api_error"),
        (UpstreamProtocolError("x"), "api_error"),
        (UpstreamTimeout("x"), "timeout_error"),
    ],
)
def test_types(error: ProxyError, kind: str) -> None:
    told = Messages("x").error(error)
    assert told == {"type": "error", "error": {"type": kind, "message": "x"}}


@pytest.mark.parametrize(
    ("status", "kind"),
    [(402, "billing_error"), (403, "permission_error"), (409, "invalid_request_error"), (422, "invalid_request_error"),
     (418, "invalid_request_error"), (500, "api_error"), (501, "api_error"), (529, "overloaded_error")],
)  # fmt: skip
def test_statuses_of_vllm(status: int, kind: str) -> None:
    error = Translator(Profiles().find("m")).error(status, orjson.dumps({"error": {"message": "no"}}))
    told = Messages("x").error(error)
    assert told == {"type": "error", "error": {"type": kind, "message": "no"}}
    ErrorResponse.model_validate(told, strict=True)
    assert type_of(status) == kind


def test_an_answer_without_words() -> None:
    told = Messages("x").error(Translator(Profiles().find("m")).error(500, b"<html>"))
    assert told["error"]["message"] == "vLLM answered with status 500"


TOO_LONG = "prompt is too long: 210000 tokens > 200000 maximum"


@pytest.mark.parametrize(
    ("message", "words"),
    [
        (
            "This model's maximum context length is 200000 tokens. However, your prompt contains at least 210000 input "
            "tokens. Please reduce the length of the input prompt.",
            TOO_LONG,
        ),
        (
            "This model's maximum context length is 200000 tokens. However, your request has 210000 input tokens. "
            "Please reduce the length of the input messages.",
            TOO_LONG,
        ),
        (
            "This model's maximum context length is 200000 tokens. However, you requested 210100 tokens (210000 in "
            "the messages, 100 in the completion). Please reduce the length of the messages or completion.",
            TOO_LONG,
        ),
        ("The decoder prompt (length 210000) is longer than the maximum model length of 200000. Make sure", TOO_LONG),
        (
            "The prompt is too long to fit into the model (context length 200000)",
            "prompt is too long: 200000 tokens is the maximum",
        ),
        ("max_tokens must be at least 1, got -5.", "prompt is too long: 300000 tokens is the maximum"),
    ],
)
@pytest.mark.parametrize("status", [400])
def test_overflow_in_anthropics_words(message: str, words: str, status: int) -> None:
    translator = Translator(Profiles().find("m"), max_model_len=300_000)
    error = translator.error(status, orjson.dumps({"object": "error", "message": message, "code": status}))
    dialect = Messages("x")
    assert dialect.error(error) == {"type": "error", "error": {"type": "invalid_request_error", "message": words}}
    (event,) = dialect.broken(error)
    assert orjson.loads(event.data)["error"]["message"] == words


def test_overflow_without_numbers() -> None:
    assert overflow_words("too much") == "prompt is too long"


def test_what_only_the_translation_refuses_names_anthropics_field() -> None:
    dialect = Messages("x")
    schema: dict[str, object] = {}
    for _ in range(60):
        schema = {"type": "object", "properties": {"a": schema}}
    chat = dialect.request({**BODY, "tools": [{"name": "deep", "input_schema": schema}]})
    with pytest.raises(BadRequest) as caught:
        Translator(Profiles().find("m")).request(chat)
    assert dialect.error(caught.value)["error"]["message"].startswith("tools.0.")


@pytest.mark.parametrize(
    ("param", "path"),
    [
        ("messages[0].content", "messages.0.content"),
        ("messages[2].content[1]", "messages.1.content.1.content.1"),
        ("messages[9].content", "messages.9.content"),
        ("tools[0].function.parameters.a", "tools.1.custom.input_schema.a"),
        ("tools[0].function.name", "tools.1.custom.name"),
        ("tool_choice.function.name", "tool_choice.tool.name"),
        ("response_format.json_schema.schema.a[0]", "output_config.format.schema.a.0"),
        ("max_completion_tokens", "max_tokens"),
        ("temperature", "temperature"),
    ],
)
def test_paths_lead_to_the_clients_own_fields(param: str, path: str) -> None:
    results = [{"type": "tool_result", "tool_use_id": name, "content": "r"} for name in "ab"]
    dialect = Messages("x")
    dialect.request(
        {
            **BODY,
            "messages": [{"role": "user", "content": "a"}, {"role": "user", "content": results}],
            "tools": [{"type": "web_search_20250305", "name": "web_search"}, TOOL],
        }
    )
    assert dialect.error(BadRequest("no", param=param))["error"]["message"] == f"{path}: no"
