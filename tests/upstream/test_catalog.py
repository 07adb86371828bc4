"""The models of all servers as one list, and readiness."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from devstral_proxy.errors import UpstreamUnavailable
from devstral_proxy.upstream.catalog import entry_of, listing, ready
from devstral_proxy.upstream.fleet import Fleet
from tests.server.upstreams import MODEL, Vllm, settings

pytestmark = pytest.mark.anyio


def model(name: str, length: int, **more: Any) -> dict[str, Any]:
    return {"id": name, "object": "model", "root": f"mistralai/{name}", "max_model_len": length, "created": 7, **more}


SERVED: dict[str, list[dict[str, Any]] | None] = {
    "a": [model("Small", 4096)],
    "b": [model("Small", 2048), model("large", 1000)],
    "c": None,
    "d": [model("other", 1)],
}


class Servers(httpx.AsyncBaseTransport):
    """Servers by host with the models that they serve; None: nobody there."""

    def __init__(self) -> None:
        self.served = dict(SERVED)
        self.asked = 0

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.asked += 1
        models = self.served[request.url.host]
        if models is None:
            raise httpx.ConnectError("")
        if request.url.path == "/version":
            return httpx.Response(200, json={"version": "0.32.0"})
        return httpx.Response(200, json={"object": "list", "data": models})


UPSTREAMS = {
    "small": {"servers": ["http://a", "http://b", "http://c"], "served": "Small", "aliases": ["devstral"]},
    "large": {"servers": ["http://b"]},
    "away": {"servers": ["http://c"], "fallback": ["large"]},
    "wrong": {"servers": ["http://d"]},
}


def fleet(**values: Any) -> Fleet:
    return Fleet(settings(upstreams=json.dumps(UPSTREAMS), **values), Servers())


async def test_one_list_of_all() -> None:
    one = fleet(model_aliases='{"gpt-4": "devstral", "claude-*": "small", "lost": "nowhere", "large": "small"}')
    models = await listing(one)
    await one.aclose()
    assert models["object"] == "list"
    assert [(entry["id"], entry["parent"], entry["max_model_len"]) for entry in models["data"]] == [
        ("small", None, 2048),
        ("devstral", "small", 2048),
        ("large", None, 1000),
        ("away", None, None),
        ("wrong", None, None),
        ("gpt-4", "small", 2048),
    ]
    assert entry_of(models, "devstral") == {
        "id": "devstral",
        "object": "model",
        "created": 7,
        "owned_by": "vllm",
        "root": "mistralai/Small",
        "parent": "small",
        "max_model_len": 2048,
    }
    assert entry_of(models, "lost") is None


async def test_one_server_with_an_alias() -> None:
    one = Fleet(settings(model_aliases=json.dumps({"gpt-4": MODEL, MODEL: "x"})), Vllm())
    models = await listing(one)
    await one.aclose()
    assert [(entry["id"], entry["parent"]) for entry in models["data"]] == [(MODEL, None), ("gpt-4", MODEL)]


async def test_one_server_that_is_not_there() -> None:
    nobody = Vllm(others={"/version": httpx.ConnectError(""), "/v1/models": httpx.ConnectError("")})
    one = Fleet(settings(), nobody)
    with pytest.raises(UpstreamUnavailable, match=r"vllm\.test:8000"):
        await listing(one)
    assert await ready(one, 5.0) == {
        "ready": False,
        "models": {"": {"ready": False, "servers": {"vllm.test:8000": "unreachable"}}},
    }
    await one.aclose()


async def test_readiness_by_model() -> None:
    servers = Servers()
    one = Fleet(settings(upstreams=json.dumps(UPSTREAMS)), servers)
    one.targets[1].breaker.trip(one.clock())
    told = await ready(one, 60.0)
    asked = servers.asked
    assert await ready(one, 60.0) == told
    assert servers.asked == asked
    await one.aclose()
    assert told == {
        "ready": True,
        "models": {
            "small": {"ready": True, "servers": {"a": "ok", "b": "failing", "c": "unreachable"}},
            "large": {"ready": False, "servers": {"b": "failing"}},
            "away": {"ready": False, "servers": {"c": "unreachable"}},
            "wrong": {"ready": False, "servers": {"d": "model missing"}},
        },
    }


@pytest.mark.parametrize(("listed", "wanted"), [([{"id": "any"}], True), ([], False)])
async def test_readiness_of_one_server(listed: list[Any], wanted: bool) -> None:
    one = Fleet(settings(), Vllm(others={"/v1/models": httpx.Response(200, json={"data": listed})}))
    assert (await ready(one, 5.0))["ready"] is wanted
    await one.aclose()
