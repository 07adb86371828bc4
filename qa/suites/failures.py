"""What agents are told when something is wrong beyond the proxy."""

from __future__ import annotations

from typing import Any, Final

from qa.client import CHAT, Skipped, error_of, expect
from qa.golden_requests import user
from qa.models import SMALL
from qa.suites.check import Check, World

_MOST: Final = 300_000
"""Longest context that is worth overflowing."""


def _request(model: str, **more: Any) -> dict[str, Any]:
    return {"model": model, "messages": [user()], **more}


def _unknown_model(world: World) -> None:
    for stream in (True, False):
        response = world.api.request("POST", CHAT, _request("nobody-knows-it", stream=stream))
        expect(response.status_code == 404, f"status {response.status_code}")
        error = error_of(response)
        expect("nobody-knows-it" in error["message"] and "does not exist" in error["message"], f"it says {error}")
        expect(error.get("via") == "devstral-proxy", "the proxy's mark is missing")


def _overflow(world: World) -> None:
    model = SMALL if world.upstream is not None else world.model
    limit = world.models()[model].get("max_model_len")
    if not isinstance(limit, int) or limit > _MOST:
        raise Skipped(f"the context is {limit} tokens")
    for stream in (True, False):
        request = _request(model, messages=[user(" word" * (limit + 1000))], stream=stream)
        response = world.api.request("POST", CHAT, request)
        expect(response.status_code == 400, f"status {response.status_code}")
        error = error_of(response)
        expect(error["code"] == "context_length_exceeded", f"the code is {error['code']!r}")
        expect("maximum context length is" in error["message"], f"it says {error['message']!r}")


def _too_many_tokens(world: World) -> None:
    """The agent asks for a fixed maximum that leaves no room for the prompt."""
    answer = world.api.chat(_request(SMALL, max_tokens=590)).accepted()
    expect(answer.message["content"], "the answer is empty")


def _down(world: World) -> None:
    for stream in (True, False):
        response = world.api.request("POST", CHAT, _request("devstral-small-2", stream=stream))
        expect(response.status_code == 502, f"status {response.status_code}")
        error = error_of(response)
        expect(error["code"] == "upstream_unavailable", f"the code is {error['code']!r}")
        expect("VLLM_BASE" in error["message"], f"it does not say what to check: {error['message']!r}")


def _down_relayed(world: World) -> None:
    for method, path, body in (("GET", "/v1/models", None), ("POST", "/tokenize", {"prompt": "hi"})):
        response = world.api.request(method, path, body)
        expect(response.status_code == 502, f"{path}: status {response.status_code}")
        expect("VLLM_BASE" in error_of(response)["message"], f"{path} does not say what to check")


def _down_health(world: World) -> None:
    response = world.api.request("GET", "/health")
    expect(response.status_code == 200, f"status {response.status_code}")
    expect(response.json()["upstream"]["reachable"] is False, "it says that vLLM answers")


CHECKS: Final = [
    Check("failure/unknown model", "404 with vLLM's text and the proxy's mark", _unknown_model),
    Check("failure/context overflow", "the code context_length_exceeded, by which agents compact", _overflow),
    Check("failure/context overflow of vLLM 0.12", "the same code, from other words of vLLM's", _overflow, "old"),
    Check("failure/max_tokens without room", "answered as far as the context goes", _too_many_tokens, "new"),
    Check("failure/max_tokens without room in vLLM 0.12", "the same", _too_many_tokens, "old"),
    Check("failure/upstream down", "502 that says what to check", _down, "down"),
    Check("failure/upstream down, other paths", "the same", _down_relayed, "down"),
    Check(
        "failure/upstream down, health", "200 all the same, and it says that vLLM does not answer", _down_health, "down"
    ),
]
