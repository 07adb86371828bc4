"""Keys: who gets in, in the words of each API; and that no key and no word of a conversation is ever written down."""

from __future__ import annotations

import asyncio
import hmac
import json
import signal
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.integration.faults.rig import (
    ANSWER,
    APIS,
    BEGUN,
    MESSAGES,
    RELAY,
    Api,
    Connection,
    Raw,
    each,
    error_of,
    good,
    pair,
    says,
    until,
)
from tests.integration.serving import SECONDS, serving

pytestmark = pytest.mark.anyio

KEYS = "ada:sk-ada-1234567890,bob:sk-bob-1234567890"
ADA = "sk-ada-1234567890"

# ---------------------------------------------------------------- who gets in

COME: list[tuple[dict[str, str], bool]] = [
    ({}, False),
    ({"authorization": f"Bearer {ADA}"}, True),
    ({"authorization": f"bearer  {ADA}"}, True),
    ({"x-api-key": "sk-bob-1234567890"}, True),
    ({"authorization": f"Bearer {ADA}", "x-api-key": "wrong"}, True),
    ({"authorization": "Bearer wrong", "x-api-key": ADA}, False),
    ({"authorization": "Bearer", "x-api-key": ADA}, True),
    ({"authorization": ADA}, False),
    ({"authorization": "Basic " + ADA}, False),
    ({"authorization": f"Bearer {ADA}x"}, False),
    ({"authorization": f"Bearer {ADA[:-1]}"}, False),
    ({"authorization": f"Bearer {ADA.upper()}"}, False),
    ({"authorization": f"Bearer {ADA},{ADA}"}, False),
    ({"authorization": "Bearer " + "x" * 30_000}, False),
    ({"x-api-key": "\u00e9"}, False),
    ({"cookie": f"authorization=Bearer {ADA}"}, False),
]


@each(*APIS)
async def test_only_who_has_a_key_gets_in(api: Api) -> None:
    async with pair(good, api_keys=KEYS) as (upstream, proxy):
        admitted = 0
        for headers, comes in COME:
            raw = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
            for stream in (False, True):
                response = await proxy.client.post(api.path, json=api.request(stream=stream), headers=raw)
                if comes:
                    admitted += 1
                    assert response.status_code == 200, headers
                    continue
                assert response.status_code == 401, headers
                assert response.headers["www-authenticate"] == "Bearer"
                error = error_of(api, response)
                if api is MESSAGES:
                    assert error["type"] == "authentication_error"
                else:
                    assert error["code"] == "invalid_api_key"
                for secret in (*headers.values(), ADA):
                    assert len(secret) < 5 or secret not in response.text
        assert len(upstream.asked) == admitted


async def test_every_other_path_asks_for_a_key_too() -> None:
    async with pair(good, api_keys=KEYS) as (upstream, proxy):
        for method, path in (
            ("GET", "/v1/models"), ("GET", "/v1/models/x"), ("GET", "/v1/responses/resp_1"), ("GET", "/metrics"),
            ("DELETE", "/v1/responses/resp_1"), ("POST", "/v1/responses/resp_1/cancel"), ("GET", "/nowhere"),
            ("GET", "/v1/responses/resp_1/input_items"), ("POST", "/v1/messages/count_tokens"),
            ("POST", "/v1/embeddings"), ("POST", "/tokenize"), ("POST", "/detokenize"), ("PUT", "/v1/chat/completions"),
            ("POST", "//v1/chat/completions"), ("POST", "/chat/completions/"),
        ):  # fmt: skip
            response = await proxy.client.request(method, path, json={})
            assert response.status_code == 401, (method, path, response.text)
        for path in ("/", "/health", "/health/live", "/health/ready"):
            response = await proxy.client.get(path)
            assert response.status_code in (200, 503)
            assert "sk-" not in response.text
        assert upstream.asked == []


async def test_a_wrong_key_costs_the_same_work_as_a_right_one(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[int, int]] = []

    def counted(a: bytes, b: bytes) -> bool:
        compared.append((len(a), len(b)))
        return hmac.compare_digest(a, b)

    monkeypatch.setattr("devstral_proxy.server.keys.compare_digest", counted)
    async with pair(good, api_keys=KEYS) as (_, proxy):
        for key in (ADA, "sk-bob-1234567890", "x", ADA[:-1] + "x", "y" * 1000):
            compared.clear()
            await proxy.client.post(APIS[0].path, json=APIS[0].request(), headers={"authorization": f"Bearer {key}"})
            assert compared == [(32, 32)] * 2


# ---------------------------------------------------------------- what is written down

SECRETS = {
    "client": "CANARY-client-key", "other": "CANARY-other-key", "wrong": "CANARY-wrong-key",
    "vllm": "CANARY-vllm-key", "server": "CANARY-server-key", "redis": "CANARY-redis-password",
    "log": "CANARY-log-key",
}  # fmt: skip
SAID = "CANARY-said"
DEFECT = """
import devstral_proxy.mistral.translator as translator
from devstral_proxy.mistral.stream import StreamRepair

request, feed = translator.Translator.request, StreamRepair.feed_into

def broken(self, body):
    if "DEFECT-request" in str(body):
        raise RuntimeError(f"{body} CANARY-client-key CANARY-vllm-key")
    return request(self, body)

def broken_feed(self, event, out):
    if b"DEFECT-answer" in event.data:
        raise RuntimeError(f"{event} CANARY-client-key")
    return feed(self, event, out)

translator.Translator.request = broken
StreamRepair.feed_into = broken_feed
"""


async def misbehaving(raw: Raw, connection: Connection, line: str, body: bytes) -> None:
    """What the text of the user asks for; the conversation comes back in every wrong answer."""
    said, stream = says(body), json.loads(body).get("stream")
    if "refuse" in said:
        await connection.whole(json.dumps({"error": {"message": f"no: {said}"}}).encode(), status=b"400 X")
    elif "html" in said:
        await connection.whole(b"<p>" + body, b"text/html")
    elif "half" in said:
        await connection.whole(ANSWER[:40] + body)
    elif "cut" in said or "DEFECT-answer" in said:
        await connection.head()
        await connection.piece(BEGUN)
        await asyncio.sleep(0.02)
        text = "DEFECT-answer" if "DEFECT" in said else ""
        await connection.piece(b"data: {" + f"{text}{SAID}".encode() + b"\n\n")
        raise ConnectionError
    elif "chunk" in said and stream:
        await connection.head()
        await connection.send(SAID.encode() + b"\r\n")
        raise ConnectionError
    else:
        await good(raw, connection, line, body)


async def provoke(client: httpx.AsyncClient) -> list[str]:
    """One of everything; the bodies of the errors that are all our own."""
    ours = []
    for api in APIS:
        for stream in (False, True):
            for what in ("fine", "refuse", "html", "half", "cut", "chunk", "DEFECT-request", "DEFECT-answer"):
                more: dict[str, Any] = {"user": SAID, "metadata": {"user_id": SAID}} if api is MESSAGES else {}
                response = await client.post(api.path, json=api.request(f"{what} {SAID}", stream, **more))
                if api is RELAY and response.status_code == 200:
                    continue
                if what.startswith("DEFECT") or (what in ("html", "half", "chunk") and response.status_code != 200):
                    ours.append(response.text)
            await client.post(api.path, json={**api.request(SAID, stream), "temperature": SAID})
            ours.append((await client.post(api.path, json={**api.request(SAID, stream), "messages": SAID})).text)
        ours.append((await client.post(api.path, content=b'{"messages": "' + SAID.encode())).text)
        ours.append((await client.post(api.path, content=json.dumps([SAID]).encode())).text)
        wrong = {"authorization": f"Bearer {SECRETS['wrong']}", "x-api-key": SECRETS["client"]}
        ours.append((await client.post(api.path, json=api.request(SAID), headers=wrong)).text)
        ours.append((await client.post(api.path + f"/{SECRETS['client']}", json={})).text.replace(api.path, ""))
    tools = {
        "model": "m", "messages": [
            {"role": "system", "content": SAID},
            {"role": "user", "content": [{"type": "image_url", "image_url": {"url": f"http://10.0.0.1/{SAID}"}}]},
            {"role": "assistant", "tool_calls": [{"id": SAID, "function": {"name": SAID, "arguments": f"[{SAID}"}}]},
        ], "tools": [{"type": "function", "function": {"name": SAID, "description": SAID, "parameters": SAID}}],
    }  # fmt: skip
    await client.post(APIS[0].path, json=tools)
    await client.post("/v1/messages/count_tokens", json=MESSAGES.request(f"DEFECT-request {SAID}"))
    return ours


WRITTEN = [("text", "off"), ("json", "hash")]


@pytest.mark.parametrize(("form", "content"), WRITTEN)
async def test_no_key_and_no_word_is_written_down(form: str, content: str, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(DEFECT)
    root = Path(__file__).parents[3]
    upstream = Raw(misbehaving)
    async with upstream.serve() as vllm:
        server = {"url": vllm, "api_key": SECRETS["server"], "name": "gpu"}
        values = {
            "pythonpath": f"{tmp_path}:{root}", "debug": "true", "log_format": form, "log_content": content,
            "log_content_key": SECRETS["log"], "log_file": tmp_path / "proxy.log", "vllm_api_key": SECRETS["vllm"],
            "api_keys": f"ada:{SECRETS['client']},bob:{SECRETS['other']}", "image_urls": "public",
            "upstreams": json.dumps({"devstral-small-2": {"servers": [server], "aliases": ["m"]}}),
            "redis_url": f"redis://:{SECRETS['redis']}@127.0.0.1:9/0", "rate_limit_requests": 100_000,
            "breaker_failures": 0,
        }  # fmt: skip
        headers = {"authorization": f"Bearer {SECRETS['client']}"}
        async with (
            serving(tmp_path, values) as process,
            httpx.AsyncClient(base_url=await process.base(), headers=headers, timeout=SECONDS) as client,
        ):
            ours = await provoke(client)
            page = (await client.get("/metrics")).text
            ours.append(page)
            process.signal(signal.SIGTERM)
            assert await process.end() == 0
    written = process.log + (tmp_path / "proxy.log").read_text()
    assert "RuntimeError" in written, "the defects left no traceback"
    assert "REDIS_URL does not answer" in written
    assert ("devstral_proxy.content" in written) == (content == "hash")
    for name, secret in SECRETS.items():
        assert secret not in written, (name, written[written.find(secret) - 300 :][:400])
        if name != "client":  # which was in a path that the client gave
            assert not [one for one in ours if secret in one]
    assert SAID not in written, written[written.find(SAID) - 300 :][:400]
    assert SAID not in page
    assert not [one for one in ours if SAID in one]
    for _, body in upstream.asked:
        assert b"-key" not in body


async def test_a_defect_in_this_process_shows_nothing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Through the server's own layers, which tell of exceptions that reach them: none does."""

    def broken(*_: object) -> None:
        raise RuntimeError(f"{SAID} {ADA}")

    monkeypatch.setattr("devstral_proxy.mistral.translator.Translator.request", broken)
    caplog.set_level("DEBUG")
    async with pair(good, api_keys=KEYS) as (_, proxy):
        for api in APIS[:3]:
            for stream in (False, True):
                response = await proxy.client.post(api.path, json=api.request(SAID, stream), headers={"x-api-key": ADA})
                assert response.status_code == 500
                error = error_of(api, response)
                assert response.headers["x-request-id"] in error["message"]
                assert SAID not in response.text
                assert ADA not in response.text
        await until(lambda: proxy.idle)
    assert {one.name for one in caplog.records if one.levelname == "ERROR"} == {"devstral_proxy.server"}
