"""Stored conversations across processes: a killed proxy, two on one store, owners, and what is never kept."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sqlite3
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest

from tests.integration.serving import serving
from tests.server.upstreams import COMPLETION, DONE, MODEL, Connection, Raw, Vllm, chunk, live, proxied
from tests.stores.conftest import database, server
from tests.stores.postgresql import PostgreSQL

__all__ = ["database", "server"]  # fixtures
pytestmark = pytest.mark.anyio

RESPONSES = "/v1/responses"
KINDS = ["sqlite", "postgres"]


async def answering(raw: Raw, connection: Connection, line: str, body: bytes) -> None:
    await connection.whole(json.dumps(COMPLETION).encode())


def store_of(kind: str, folder: Path, request: pytest.FixtureRequest) -> dict[str, Any]:
    """Settings of a store."""
    if kind == "sqlite":
        return {"responses_store": "sqlite", "responses_store_path": folder / "responses.db"}
    return {"responses_store": "postgres", "responses_store_url": request.getfixturevalue("database")}


async def turn(client: httpx.AsyncClient, said: str, previous: str | None = None, **more: Any) -> dict[str, Any]:
    """One turn; the response."""
    body = {"model": MODEL, "input": said, "previous_response_id": previous, **more}
    answer = await client.post(RESPONSES, json=body)
    assert answer.status_code == 200, answer.text
    told: dict[str, Any] = answer.json()
    return told


def arrived(bodies: list[dict[str, Any]]) -> list[str]:
    """The texts of the last request that vLLM got."""
    return [message["content"] for message in bodies[-1]["messages"]]


# ---------------------------------------------------------------- processes


@asynccontextmanager
async def process(folder: Path, **values: Any) -> AsyncIterator[tuple[httpx.AsyncClient, int]]:
    """A proxy as a process: a client of it, and its process id."""
    async with serving(folder, values) as running:
        base = await running.base()
        async with httpx.AsyncClient(base_url=base, timeout=20) as client:
            yield client, running.pid


@pytest.mark.parametrize("kind", KINDS)
async def test_killed_between_two_turns(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    upstream = Raw(answering)
    async with upstream.serve() as vllm, AsyncExitStack() as others:
        values = {"vllm_base": vllm, **store_of(kind, tmp_path, request)}
        async with process(tmp_path, **values) as (one, pid):
            # The other one is there before and after, and sees what the killed one did.
            other, _ = await others.enter_async_context(process(tmp_path, **values))
            first = await turn(one, "one")
            second = await turn(other, "two", first["id"])
            assert (await one.get(f"{RESPONSES}/{second['id']}")).json() == second
            third = await turn(one, "three", second["id"])
            os.kill(pid, signal.SIGKILL)
        async with process(tmp_path, **values) as (again, _):
            for client in (again, other):
                await turn(client, "four", third["id"])
                bodies = [json.loads(body) for _, body in upstream.asked]
                assert arrived(bodies) == ["one", "Hello.", "two", "Hello.", "three", "Hello.", "four"]
                assert (await client.get(f"{RESPONSES}/{first['id']}")).json() == first
            assert (await again.delete(f"{RESPONSES}/{second['id']}")).status_code == 200
            broken = await other.post(RESPONSES, json={"model": MODEL, "previous_response_id": third["id"]})
            assert broken.status_code == 400
            assert broken.json()["error"]["code"] == "previous_response_not_found"


# ---------------------------------------------------------------- owners


@pytest.mark.parametrize("kind", ["memory", *KINDS])
async def test_no_key_sees_another_ones(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    store = {"responses_store": kind} if kind == "memory" else store_of(kind, tmp_path, request)
    upstream = Vllm()
    async with proxied(upstream, api_keys="alice:sk-a,bob:sk-b", **store) as client:
        client.headers["authorization"] = "Bearer sk-a"
        first = await turn(client, "a secret")
        path = f"{RESPONSES}/{first['id']}"
        client.headers["authorization"] = "Bearer sk-b"
        for method, rest in (("GET", ""), ("DELETE", ""), ("POST", "/cancel"), ("GET", "/input_items")):
            answer = await client.request(method, path + rest)
            assert answer.status_code == 404
            assert answer.json()["error"]["code"] == "response_not_found"
        follows = {"model": MODEL, "input": "go on", "previous_response_id": first["id"]}
        assert (await client.post(RESPONSES, json=follows)).status_code == 400
        item = {"type": "item_reference", "id": first["output"][0]["id"]}
        assert (await client.post(RESPONSES, json={"model": MODEL, "input": [item]})).status_code == 404
        assert len(upstream.bodies) == 1
        client.headers["authorization"] = "Bearer sk-a"
        assert (await client.get(path)).json() == first
        assert (await client.post(RESPONSES, json={"model": MODEL, "input": [item]})).status_code == 200


# ---------------------------------------------------------------- what is not kept


def content_of(folder: Path) -> bytes:
    """Every byte of the files of a store."""
    files = [path for path in folder.iterdir() if path.is_file()]
    assert files
    return b"".join(path.read_bytes() for path in files)


@pytest.mark.parametrize("stream", [True, False])
async def test_store_false_leaves_no_trace(stream: bool, tmp_path: Path) -> None:
    path = tmp_path / "responses.db"
    async with proxied(Vllm(), responses_store="sqlite", responses_store_path=path) as client:
        body = {"model": MODEL, "input": "mark-unkept", "store": False, "stream": stream}
        assert (await client.post(RESPONSES, json=body)).status_code == 200
        assert b"mark-unkept" not in content_of(tmp_path)
        kept = await turn(client, "mark-kept")
        assert b"mark-kept" in content_of(tmp_path)
        assert (await client.delete(f"{RESPONSES}/{kept['id']}")).status_code == 200
    assert b"mark-unkept" not in content_of(tmp_path)


async def test_no_store() -> None:
    async with proxied(Vllm(), responses_store="none") as client:
        first = await turn(client, "one")
        assert (await client.get(f"{RESPONSES}/{first['id']}")).status_code == 404
        follows = {"model": MODEL, "input": "two", "previous_response_id": first["id"]}
        answer = await client.post(RESPONSES, json=follows)
        assert answer.status_code == 400
        assert answer.json()["error"]["param"] == "previous_response_id"


async def test_memory_is_bounded() -> None:
    async with proxied(Vllm(), responses_store_bytes=20_000) as client:
        ids = [(await turn(client, "x" * 1000))["id"] for _ in range(20)]
        there = [(await client.get(f"{RESPONSES}/{id}")).status_code for id in ids]
    assert there == sorted(there, reverse=True)  # the oldest are gone
    assert there[0] == 404
    assert there[-1] == 200


ERROR_EVENT = b'data: {"error": {"message": "died", "type": "InternalServerError", "param": null, "code": 500}}\n\n'


@pytest.mark.parametrize("how", ["client leaves", "connection breaks", "error event"])
async def test_what_ends_midway_is_not_stored(how: str, tmp_path: Path) -> None:
    begun = asyncio.Event()

    async def handler(raw: Raw, connection: Connection, line: str, body: bytes) -> None:
        await connection.head()
        await connection.piece(chunk({"role": "assistant", "content": ""}) + chunk({"content": "Hel"}))
        await begun.wait()
        if how == "client leaves":
            await connection.until_closed()
        elif how == "connection breaks":
            connection.writer.transport.abort()
        else:
            await connection.piece(ERROR_EVENT + DONE)
            await connection.piece(b"")

    path = tmp_path / "responses.db"
    store = {"responses_store": "sqlite", "responses_store_path": path}
    upstream = Raw(handler)
    async with upstream.serve() as vllm, live(vllm, **store) as base, httpx.AsyncClient(base_url=base) as client:
        body = {"model": MODEL, "input": "hi", "stream": True}
        async with client.stream("POST", RESPONSES, json=body) as answer:
            seen = b""
            async for piece in answer.aiter_raw():
                seen += piece
                if b'"Hel"' in seen:
                    begun.set()
                    if how == "client leaves":
                        break
        if how == "client leaves":
            async with asyncio.timeout(10):
                await upstream.answering[0].closed.wait()
        else:
            assert b"event: response.failed\n" in seen
        id = json.loads(seen.split(b"data: ")[1].split(b"\n")[0])["response"]["id"]
        assert (await client.get(f"{RESPONSES}/{id}")).status_code == 404
    connection = sqlite3.connect(path)
    assert connection.execute("SELECT count(*) FROM devstral_responses").fetchone() == (0,)
    connection.close()


# ---------------------------------------------------------------- the store is gone


async def test_postgres_goes_away(server: PostgreSQL, database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The answer is given all the same; what needs the store gets a clear error; afterwards all is well again."""
    monkeypatch.setattr("devstral_proxy.stores.pool.PATIENCE", 0.2)
    async with proxied(Vllm(), responses_store="postgres", responses_store_url=database) as client:
        first = await turn(client, "one")
        server.stop()
        try:
            unkept = await turn(client, "two")
            follows = {"model": MODEL, "input": "three", "previous_response_id": first["id"]}
            for answer in (
                await client.post(RESPONSES, json=follows),
                await client.post(RESPONSES, json={**follows, "stream": True}),
                await client.get(f"{RESPONSES}/{first['id']}"),
            ):
                assert answer.status_code == 503
                assert answer.headers["retry-after"]
                assert answer.json()["error"]["code"] == "store_unavailable"
        finally:
            server.start()
        assert (await client.get(f"{RESPONSES}/{unkept['id']}")).status_code == 404
        await turn(client, "three", first["id"])
    with psycopg.connect(database) as connection:
        assert connection.execute("SELECT count(*) FROM devstral_responses").fetchone() == (2,)
