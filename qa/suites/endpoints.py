"""Every path: what it answers, what is not there, and the request id on each answer."""

from __future__ import annotations

import re
from functools import partial
from typing import Any, Final

import httpx

from qa.client import CHAT, error_of, expect
from qa.golden_requests import user
from qa.suites.check import Check, World

_TEXT: Final = "Grüße, Welt!"


def _json(response: httpx.Response) -> Any:
    expect(response.status_code == 200, f"status {response.status_code}: {response.text[:200]}")
    return response.json()


def _health(world: World) -> None:
    health = _json(world.api.request("GET", "/health"))
    expect(health["status"] == "ok", f"status is {health['status']!r}")
    expect(health["upstream"]["reachable"] is True, "it says that vLLM does not answer")
    expect(world.model in health["upstream"]["models"], f"its models are {health['upstream']['models']}")


def _root(world: World) -> None:
    page = _json(world.api.request("GET", "/"))
    expect(page["name"] == "devstral-proxy" and page["version"], f"it says {page}")
    expect(CHAT in page["endpoints"], f"its endpoints are {page['endpoints']}")


def _models(world: World) -> None:
    listing = _json(world.api.request("GET", "/v1/models"))
    expect(
        listing["object"] == "list" and world.model in [entry["id"] for entry in listing["data"]], str(listing)[:200]
    )


def _one_model(world: World) -> None:
    entry = _json(world.api.request("GET", f"/v1/models/{world.model}"))
    expect(entry["id"] == world.model, f"it is {entry}")
    response = world.api.request("GET", "/v1/models/nobody/knows-it")
    expect(response.status_code == 404, f"status {response.status_code} for an unknown one")
    expect(error_of(response)["code"] == "model_not_found", "another code for an unknown one")


def _tokens(world: World) -> None:
    told = _json(world.api.request("POST", "/tokenize", {"model": world.model, "prompt": _TEXT}))
    expect(told["count"] == len(told["tokens"]) > 1, f"it says {told}")
    text = _json(world.api.request("POST", "/detokenize", {"model": world.model, "tokens": told["tokens"]}))
    expect(text["prompt"].endswith(_TEXT), f"it comes back as {text['prompt']!r}")


def _completions(world: World) -> None:
    request = {"model": world.model, "prompt": "def f(", "max_tokens": 5}
    whole = _json(world.api.request("POST", "/v1/completions", request))
    expect(whole["object"] == "text_completion" and whole["choices"], f"it is {whole}")
    streamed = world.api.request("POST", "/v1/completions", {**request, "stream": True})
    expect(streamed.headers["content-type"].startswith("text/event-stream"), "streamed, it is no event stream")
    expect(streamed.content.endswith(b"data: [DONE]\n\n"), "the stream has no end")


def _other_spellings(world: World) -> None:
    request = {"model": world.model, "messages": [user()], "max_tokens": 4}
    for path in ("/chat/completions", "//v1/chat/completions", "/v1/chat/completions/"):
        expect(_json(world.api.request("POST", path, request))["choices"], f"{path}: no choices")


def _not_there(world: World, method: str, path: str, status: int, code: str) -> None:
    before = world.asked()
    response = world.api.request(method, path)
    expect(response.status_code == status, f"status {response.status_code}")
    error = error_of(response)
    expect(error["code"] == code and error["type"] == "invalid_request_error", f"the error is {error}")
    expect(status != 405 or response.headers.get("allow"), "no allow header")
    expect(world.asked() == before, "it went upstream")


def _embeddings(world: World) -> None:
    """A generating model has none: what matters is that vLLM was asked, and its refusal passed on in shape."""
    response = world.api.request("POST", "/v1/embeddings", {"model": world.model, "input": "hi"})
    if response.status_code != 200:
        expect(error_of(response).get("via") == "devstral-proxy", "the refusal is the proxy's own")


def _request_ids(world: World) -> None:
    good = {"model": world.model, "messages": [user()], "max_tokens": 4}
    asked: list[tuple[str, str, Any]] = [
        ("GET", "/health", None),
        ("GET", "/", None),
        ("GET", "/v1/models", None),
        ("GET", "/nowhere", None),
        ("DELETE", "/v1/models", None),
        ("POST", CHAT, good),
        ("POST", CHAT, {**good, "stream": True}),
        ("POST", CHAT, {}),
        ("POST", "/tokenize", {"model": world.model, "prompt": "hi"}),
    ]
    seen = set()
    for method, path, body in asked:
        made = world.api.request(method, path, body).headers.get_list("x-request-id")
        expect(len(made) == 1 and made[0] and made[0] not in seen, f"{method} {path}: x-request-id is {made}")
        seen.update(made)
        own = world.api.request(method, path, body, headers={"x-request-id": "qa-7.b_2"}).headers.get("x-request-id")
        expect(own == "qa-7.b_2", f"{method} {path}: the client's own id came back as {own!r}")
    forged = world.api.request("GET", "/health", headers={"x-request-id": "a b"}).headers["x-request-id"]
    expect(re.fullmatch(r"[A-Za-z0-9._-]+", forged), f"an id that is none was taken: {forged!r}")


_NOWHERE: Final = [
    ("GET", "/nowhere", 404, "not_found"),
    ("POST", "/v1/load_lora_adapter", 404, "not_found"),
    ("GET", "/version", 404, "not_found"),
    ("GET", "/_fleet", 404, "not_found"),
    ("POST", "/v1/nothing/../../version", 404, "not_found"),
    ("GET", CHAT, 405, "method_not_allowed"),
    ("POST", "/v1/models", 405, "method_not_allowed"),
    ("DELETE", "/v1/models/m", 405, "method_not_allowed"),
    ("GET", "/tokenize", 405, "method_not_allowed"),
]
CHECKS: Final = [
    Check("endpoint/GET health", "200, and its JSON says that vLLM answers", _health),
    Check("endpoint/GET root", "what this is, and where the API is", _root),
    Check("endpoint/GET models", "passed through", _models),
    Check("endpoint/GET one model", "its entry; an unknown one is a 404", _one_model),
    Check("endpoint/POST tokenize, detokenize", "there and back", _tokens),
    Check("endpoint/POST completions", "passed through, streamed and not", _completions),
    Check("endpoint/POST embeddings", "asked of vLLM", _embeddings),
    Check("endpoint/other spellings", "base URLs with a slash too many or without /v1", _other_spellings),
    *(
        Check(
            f"endpoint/{method} {path}",
            f"{status} in OpenAI's shape, and nothing goes upstream",
            partial(_not_there, method=method, path=path, status=status, code=code),
        )
        for method, path, status, code in _NOWHERE
    ),
    Check("endpoint/x-request-id", "on every answer, the client's own where it is sane", _request_ids),
]
