"""What those who run the proxy look at: health, metrics, keys."""

from __future__ import annotations

from functools import partial
from typing import Any, Final

from qa.client import CHAT, Api, Skipped, error_of, expect
from qa.suites.check import Check, World


def _live(world: World) -> None:
    for method in ("GET", "HEAD"):
        answer = world.api.request(method, "/health/live")
        expect(answer.status_code == 200, f"{method}: status {answer.status_code}")


def _ready(world: World) -> None:
    answer = world.api.request("GET", "/health/ready")
    expect(answer.status_code == 200, f"status {answer.status_code}: {answer.text[:200]}")
    expect(answer.json()["status"] == "ready", f"it says {answer.text[:200]}")


def _not_ready(world: World) -> None:
    answer = world.api.request("GET", "/health/ready")
    expect(answer.status_code == 503, f"status {answer.status_code}")
    expect(world.api.request("GET", "/health/live").status_code == 200, "it is not even alive")


def _metrics(world: World) -> None:
    request = {"model": world.model, "messages": [{"role": "user", "content": "mark-of-a-secret"}], "max_tokens": 2}
    world.api.request("POST", CHAT, request)
    answer = world.api.request("GET", "/metrics")
    if answer.status_code == 404:
        raise Skipped("it has no metrics (METRICS=false)")
    expect(answer.status_code == 200, f"status {answer.status_code}")
    expect("devstral_proxy_requests_total{" in answer.text, "it counts no requests")
    expect("mark-of-a-secret" not in answer.text, "a conversation's text is in it")


def _without_key(world: World, path: str, body: dict[str, Any], anthropic: bool, header: dict[str, str]) -> None:
    if world.api.key is None:
        raise Skipped("no key was given: run with --key")
    with Api(world.api.base) as anonymous:
        answer = anonymous.request("POST" if body else "GET", path, body or None, headers=header)
    expect(answer.status_code == 401, f"status {answer.status_code}")
    if anthropic:
        told = answer.json()
        expect(told["type"] == "error" and told["error"]["type"] == "authentication_error", f"it says {told}")
    else:
        expect(error_of(answer)["code"] == "invalid_api_key", f"it says {answer.text[:200]}")
    expect(world.api.key not in answer.text, "the answer shows the key")


def _with_key(world: World, headers: str) -> None:
    key = world.api.key
    if key is None:
        raise Skipped("no key was given: run with --key")
    given = {"authorization": f"Bearer {key}"} if headers == "authorization" else {"x-api-key": key}
    with Api(world.api.base) as anonymous:
        answer = anonymous.request("GET", "/v1/models", headers=given)
        expect(answer.status_code == 200, f"status {answer.status_code}")
        for path in ("/health/live", "/health/ready", "/"):
            status = anonymous.request("GET", path).status_code
            expect(status == 200, f"{path} wants a key: status {status}")


_HI: Final = [{"role": "user", "content": "hi"}]
_GUARDED: Final[list[tuple[str, dict[str, Any], bool]]] = [
    ("/v1/models", {}, False),
    (CHAT, {"model": "m", "messages": _HI}, False),
    ("/v1/responses", {"model": "m", "input": "hi"}, False),
    ("/v1/responses/resp_0", {}, False),
    ("/v1/messages", {"model": "m", "max_tokens": 5, "messages": _HI}, True),
    ("/v1/messages/count_tokens", {"model": "m", "messages": _HI}, True),
    ("/tokenize", {"model": "m", "prompt": "hi"}, False),
]
_WRONG: Final[list[tuple[str, dict[str, str]]]] = [
    ("no key", {}),
    ("a wrong key", {"authorization": "Bearer not-it"}),
    ("a wrong x-api-key", {"x-api-key": "not-it"}),
]
CHECKS: Final = [
    Check("operations/live", "200, also to HEAD", _live),
    Check("operations/ready", "200: vLLM answers", _ready),
    Check("operations/ready without vLLM", "503, and it lives", _not_ready, "down"),
    Check("operations/metrics", "requests are counted, and no content is told", _metrics),
    *(Check(f"keys/{path} with {name}", "401 in the API's own shape",
            partial(_without_key, path=path, body=body, anthropic=anthropic, header=header), "keys")
      for path, body, anthropic in _GUARDED for name, header in _WRONG),
    *(Check(f"keys/{header}", "the key opens the door, and health needs none", partial(_with_key, headers=header),
            "keys")
      for header in ("authorization", "x-api-key")),
]  # fmt: skip
