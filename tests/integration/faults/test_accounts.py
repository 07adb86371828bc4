"""What an operator reads: /metrics and the log line, after one of each kind of request."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.integration.faults.rig import (
    APIS,
    BEGUN,
    CHAT,
    DIALECTS,
    MESSAGES,
    RELAY,
    TEXT_COMPLETION,
    Connection,
    Proxy,
    Raw,
    Samples,
    chunk,
    pair,
    parsed,
    samples,
    says,
    until,
    value,
)
from tests.integration.faults.test_fleet import replicas
from tests.integration.serving import SECONDS, serving
from tests.server.upstreams import COMPLETION, DONE, MODEL

pytestmark = pytest.mark.anyio

USAGE = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10, "prompt_tokens_details": {"cached_tokens": 4}}
TOOL_TEXT = '[TOOL_CALLS]look[ARGS]{"path": "a"}'
TOOLS = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}]
REQUESTS = "devstral_proxy_requests_total"


async def counting(raw: Raw, connection: Connection, line: str, body: bytes) -> None:
    """Answers of 7 and 3 tokens; or what the user's text asks for."""
    request = parsed(body)
    said = says(body)
    if "refuse" in said:
        await connection.whole(b'{"error": {"message": "no"}}', status=b"400 X")
    elif "fail" in said:
        await connection.whole(b'{"error": {"message": "no"}}', status=b"500 X")
    elif "wait" in said:
        await connection.until_closed()
    elif "cut" in said:
        await connection.head()
        await connection.piece(BEGUN)
        await asyncio.sleep(0.02)
        raise ConnectionError
    elif "/v1/completions" in line and not request.get("stream"):
        await connection.whole(TEXT_COMPLETION)
    elif request.get("stream"):
        text = TOOL_TEXT if "tools" in request else "lo."
        await connection.head()
        await connection.piece(BEGUN)
        await asyncio.sleep(0.002)
        await connection.piece(chunk({"content": text}) + chunk({}, "stop") + chunk({}, usage=USAGE, choices=[]) + DONE)
        await connection.piece(b"")
    else:
        await connection.whole(json.dumps({**COMPLETION, "usage": USAGE}).encode())


class Lines:
    """The access log's lines."""

    def __init__(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level("INFO", "devstral_proxy.access")
        self._caplog = caplog

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for record in self._caplog.records:
            if record.name == "devstral_proxy.access":
                yield record.__dict__["fields"]

    async def of(self, response: httpx.Response) -> dict[str, Any]:
        """That of this answer; it comes when the answer has ended."""
        id = response.headers["x-request-id"]
        await until(lambda: any(line["id"] == id for line in self))
        return next(line for line in self if line["id"] == id)


def tokens(found: Samples, kind: str, **labels: str) -> float:
    return value(found, "devstral_proxy_tokens_total", gen_ai_token_type=kind, **labels)


async def test_counts_and_lines_of_each_api(caplog: pytest.LogCaptureFixture) -> None:
    lines = Lines(caplog)
    async with pair(counting, breaker_failures=0, api_keys="ada:sk-1") as (_, proxy):
        proxy.client.headers["authorization"] = "Bearer sk-1"
        for api in APIS:
            for stream in (False, True):
                line = await lines.of(await proxy.ask(api, stream=stream))
                told = (7, 3) if api is not RELAY or stream else (1, 1)
                assert (line["input_tokens"], line["output_tokens"]) == told
                assert (line["dialect"], line["path"], line["key"]) == (api.name, api.path, "ada")
                assert (line["status"], line["stream"], line["attempts"]) == (200, stream, 1)
                assert (line["error"], line["note"]) == ("", "")
                assert (line["first_token_ms"] is not None) == stream
                assert line["upstream"].startswith("127.0.0.1:")
                if api is not RELAY:
                    assert (line["served"], line["cached_tokens"]) == (MODEL, 4)
                    assert line["finish"] == "stop"
        found = await proxy.metrics()
        for api in APIS:
            labels = {"http_route": api.path, "http_response_status_code": "200", "api_key": "ada"}
            assert value(found, REQUESTS, **labels) == 2
        assert tokens(found, "input", api_key="ada") == 7 * 7 + 1
        assert tokens(found, "output", gen_ai_request_model=MODEL) == 7 * 3 + 1
        assert tokens(found, "input_cached") == 6 * 4
        first = "gen_ai_server_time_to_first_token_seconds_count"
        assert value(found, first, gen_ai_operation_name="chat") == 3
        assert value(found, first, gen_ai_operation_name="text_completion") == 1
        duration = "gen_ai_server_request_duration_seconds_count"
        assert value(found, duration, gen_ai_operation_name="chat", error_type="") == 6
        assert value(found, "gen_ai_client_operation_time_per_output_chunk_seconds_count") >= 1
        assert value(found, "devstral_proxy_upstream_requests_total") == 8
        assert value(found, "devstral_proxy_retries_total") == 0
        assert value(found, "devstral_proxy_upstream_errors_total") == 0
        assert value(found, "devstral_proxy_upstream_connections", state="busy") == 0
        assert value(found, "devstral_proxy_upstream_connections", state="idle") >= 1


async def test_counts_and_lines_of_what_fails(caplog: pytest.LogCaptureFixture) -> None:
    lines = Lines(caplog)
    async with pair(counting, breaker_failures=0) as (upstream, proxy):
        for api in APIS:
            line = await lines.of(await proxy.ask(api, "refuse"))
            assert (line["status"], line["note"], line["attempts"]) == (400, "refused by vLLM", 1)
            line = await lines.of(await proxy.ask(api, "fail", stream=True))
            assert (line["status"], line["note"]) == (500, "refused by vLLM")
            line = await lines.of(await proxy.ask(api, "cut", stream=True))
            assert line["status"] == 200
            assert line["error"] == "upstream_protocol_error"
            assert line["note"] == "error upstream_protocol_error, in the stream"
            line = await lines.of(await proxy.client.post(api.path, content=b"{"))
            assert (line["status"], line["error"], line["attempts"]) == (400, "invalid_json", 0)
            count = len(upstream.asked)
            leaving = asyncio.create_task(proxy.ask(api, "wait"))
            await until(lambda count=count: len(upstream.asked) > count)  # type: ignore[misc]
            leaving.cancel()
            await asyncio.wait({leaving})
            await until(lambda: proxy.idle)
            last = list(lines)[-1]
            assert (last["status"], last["note"], last["dialect"]) == (499, "client gone", api.name)
        found = await proxy.metrics()
        for api in APIS:
            for status, count in (("400", 2), ("500", 1), ("200", 1), ("499", 1)):
                assert value(found, REQUESTS, http_route=api.path, http_response_status_code=status) == count
        # Refused, failed, cut; not the client's own faults.
        assert value(found, "devstral_proxy_upstream_errors_total") == 3 * len(APIS)
        assert value(found, "gen_ai_server_request_duration_seconds_count", error_type="client_gone") == len(APIS)
        wrong = await lines.of(await proxy.client.get("/no/such/path/at-all"))
        assert (wrong["status"], wrong["path"], wrong["error"]) == (404, "", "not_found")


async def test_counts_and_lines_of_limits_and_queue(caplog: pytest.LogCaptureFixture) -> None:
    lines = Lines(caplog)
    values = {"max_concurrent": 1, "max_queue": 1, "queue_timeout": 0.2, "breaker_failures": 0}
    async with pair(counting, **values) as (upstream, proxy):
        busy = asyncio.create_task(proxy.ask(CHAT, "wait"))
        await upstream.arrived.wait()
        waiting = asyncio.create_task(proxy.ask(MESSAGES))
        await until(lambda: proxy.services.admission.waiting == 1)
        found = await proxy.metrics()
        assert value(found, "devstral_proxy_requests_running") == 1
        assert value(found, "devstral_proxy_requests_queued") == 1
        assert value(found, "devstral_proxy_upstream_running") == 1
        for response in (await proxy.ask(RELAY), await waiting):
            assert response.status_code == 503
            assert response.headers["retry-after"]
            line = await lines.of(response)
            assert (line["status"], line["error"], line["attempts"]) == (503, "overloaded", 0)
        busy.cancel()
        await asyncio.wait({busy})
        await until(lambda: proxy.idle)
        first, second = (asyncio.create_task(proxy.ask(CHAT, stream=True)) for _ in range(2))
        await asyncio.gather(first, second)
        found = await proxy.metrics()
        assert value(found, "devstral_proxy_queue_time_seconds_count") >= 1
        assert value(found, "devstral_proxy_requests_running") == 0
    async with pair(counting, rate_limit_requests=1) as (_, proxy):
        for api in APIS[:3]:
            # The window slides: where one has just ended, a second request may get through.
            response = [await proxy.ask(api, "fail") for _ in range(3)][-1]
            assert response.status_code == 429
            assert response.headers["retry-after"]
            line = await lines.of(response)
            assert (line["status"], line["error"], line["attempts"]) == (429, "rate_limit_exceeded", 0)


async def test_relayed_tokens_are_tokens(caplog: pytest.LogCaptureFixture) -> None:
    async with pair(counting, rate_limit_tokens=9) as (_, proxy):
        assert (await proxy.ask(RELAY, stream=True)).status_code == 200
        for api in (RELAY, *DIALECTS):
            assert (await proxy.ask(api)).status_code == 429


async def test_rewrites_and_repairs_are_counted(caplog: pytest.LogCaptureFixture) -> None:
    lines = Lines(caplog)
    async with pair(counting) as (_, proxy):
        body = {**CHAT.request(stream=True), "tools": TOOLS}
        body["messages"] = [{"role": "developer", "content": "Be brief."}, *body["messages"]]
        line = await lines.of(await proxy.client.post(CHAT.path, json=body))
        assert line["rewrites"]["developer_role"] == 1
        assert line["repairs"]
        assert line["finish"] == "tool_calls"
        found = await proxy.metrics()
        assert value(found, "devstral_proxy_rewrites_total", rewrite="developer_role") == 1
        for name, count in line["repairs"].items():
            assert value(found, "devstral_proxy_repairs_total", repair=name) == count


async def test_a_retried_request_is_told_as_one(caplog: pytest.LogCaptureFixture) -> None:
    lines = Lines(caplog)
    async with replicas("503", "answers", breaker_failures=0) as (proxy, (bad, fine)):
        for api in APIS:
            for number in range(6):
                line = await lines.of(await proxy.ask(api, str(number)))
                assert line["status"] == 200
                assert line["upstream"] == fine.name
        retried = [line["attempts"] for line in lines].count(2)
        assert retried == bad.asked > 0
        found = await proxy.metrics()
        assert value(found, "devstral_proxy_retries_total") == retried
        assert value(found, "devstral_proxy_upstream_errors_total", upstream="r0") == retried
        assert value(found, "devstral_proxy_upstream_requests_total") == 24 + retried


async def test_two_workers_count_together(tmp_path: Path) -> None:
    upstream = Raw(counting)
    async with (
        upstream.serve() as vllm,
        serving(tmp_path, {"vllm_base": vllm, "workers": 2, "log_format": "json"}) as process,
    ):
        base = await process.base()
        limits = httpx.Limits(max_keepalive_connections=0)  # each on a connection of its own: both workers are met
        async with httpx.AsyncClient(base_url=base, timeout=SECONDS, limits=limits) as client:
            for number in range(40):
                api = APIS[number % len(APIS)]
                assert (await client.post(api.path, json=api.request(stream=number % 2 == 0))).status_code == 200
                await client.post(api.path, json=api.request("refuse"))
            async with asyncio.timeout(SECONDS):
                while True:
                    found = samples((await client.get("/metrics")).text)
                    if value(found, REQUESTS, http_response_status_code="400") == 40:
                        break
                    await asyncio.sleep(0.1)
            assert value(found, REQUESTS, http_response_status_code="200", http_route=CHAT.path) == 10
            assert value(found, "devstral_proxy_upstream_errors_total") == 40
            assert tokens(found, "output", gen_ai_request_model=MODEL) == 100
        process.signal(signal.SIGTERM)
        assert await process.end() == 0
    written = [json.loads(line) for line in process.log.splitlines() if line.startswith("{")]
    assert sum(line["logger"] == "devstral_proxy.access" for line in written) >= 80


# ---------------------------------------------------------------- bounds


async def flood(proxy: Proxy, names: Iterable[str]) -> int:
    """Everything that a client chooses, under these names; how many lines the page then has."""
    limit = asyncio.Semaphore(20)

    async def send(number: int, name: str) -> None:
        api = APIS[number % len(APIS)]
        ways: list[tuple[str, str, dict[str, Any]]] = [
            ("GET", f"/v1/models/{name}", {}), ("GET", f"/{name}", {}), ("POST", f"/v1/{name}", {}),
            ("GET", f"/v1/responses/{name}", {}), ("GET", "/v1/models", {"headers": {"authorization": name}}),
            (f"X{number}", "/v1/models", {}),
        ]  # fmt: skip
        method, path, more = ways[number % len(ways)]
        async with limit:
            await proxy.ask(api, model=f"m-{name}")
            await proxy.client.request(method, path, **more)

    await asyncio.gather(*(send(number, name) for number, name in enumerate(names)))
    return len((await proxy.client.get("/metrics")).text.splitlines())


async def test_a_thousand_of_everything_leaves_the_page_as_it_was() -> None:
    codes = iter(range(10**9))

    async def errors(raw: Raw, connection: Connection, line: str, body: bytes) -> None:
        """Each with a code, a type and a status of its own."""
        code = next(codes)
        told = {"error": {"message": "no", "type": f"T{code}", "param": f"p{code}", "code": f"c{code}"}}
        await connection.whole(json.dumps(told).encode(), status=b"%d X" % (400 + code % 200))

    async with pair(errors, breaker_failures=0, api_keys="ada:sk-1", retry_max=0) as (_, proxy):
        proxy.client.headers["authorization"] = "Bearer sk-1"
        once = await flood(proxy, (f"{number}-{'x' * (number % 300)}" for number in range(1000)))
        assert once < 6000
        assert await flood(proxy, (f"{number}-again" for number in range(200))) < once + 100
