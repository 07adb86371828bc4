"""Ends of processes under load: the proxy's by SIGTERM, a worker's and vLLM's by SIGKILL."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import httpx
import pytest

from tests.integration.faults.rig import (
    APIS,
    BEGUN,
    DONE,
    Api,
    Connection,
    Raw,
    chunk,
    ending,
    error_of,
    good,
    says,
    served,
    until,
)
from tests.integration.serving import SECONDS, serving

pytestmark = pytest.mark.anyio


class Slow:
    """An upstream whose answers to `slow` begin at once and go on when `go_on` is set."""

    def __init__(self) -> None:
        self.go_on = asyncio.Event()
        self.upstream = Raw(self._answer)

    async def _answer(self, raw: Raw, connection: Connection, line: str, body: bytes) -> None:
        if not says(body).startswith("slow"):
            await good(raw, connection, line, body)
            return
        await connection.head()
        await connection.piece(BEGUN)
        await self.go_on.wait()
        await connection.piece(chunk({"content": "lo."}) + chunk({}, "stop") + DONE)
        await connection.piece(b"")


class Stream:
    """One that a client reads."""

    def __init__(self, client: httpx.AsyncClient, api: Api) -> None:
        self.api = api
        self.body = b""
        self.cut = False
        self._client = client
        self.task = asyncio.create_task(self._read())

    async def _read(self) -> None:
        try:
            async with self._client.stream("POST", self.api.path, json=self.api.request("slow", True)) as response:
                assert response.status_code == 200
                async for piece in response.aiter_raw():
                    self.body += piece
        except httpx.TransportError:
            self.cut = True


async def begun(client: httpx.AsyncClient, count: int) -> list[Stream]:
    """So many streams, of each API in turn, which have had their first text."""
    streams = [Stream(client, APIS[number % len(APIS)]) for number in range(count)]
    await until(lambda: all(b"Hel" in stream.body for stream in streams))
    return streams


async def ended(streams: list[Stream]) -> None:
    async with asyncio.timeout(SECONDS):
        await asyncio.gather(*(stream.task for stream in streams))


@asynccontextmanager
async def clients(base: str) -> AsyncIterator[httpx.AsyncClient]:
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
    async with httpx.AsyncClient(base_url=base, timeout=SECONDS, limits=limits) as client:
        yield client


@pytest.mark.parametrize("workers", [1, 2])
async def test_sigterm_with_streams_of_every_api(workers: int, tmp_path: Path) -> None:
    slow = Slow()
    async with (
        slow.upstream.serve() as vllm,
        serving(tmp_path, {"vllm_base": vllm, "workers": workers}) as process,
        clients(await process.base()) as client,
    ):
        streams = await begun(client, 20)
        process.signal(signal.SIGTERM)
        await process.line("stopping")
        slow.go_on.set()
        await ended(streams)
        assert await process.end() == 0
    for stream in streams:
        assert not stream.cut
        told = ending(stream.api, stream.body)
        assert told.clean
        assert told.text == "Hello."
    assert "error" not in process.log.replace("error=", "")


@pytest.mark.parametrize("workers", [1, 2])
async def test_past_the_deadline_each_api_has_its_own_last_event(workers: int, tmp_path: Path) -> None:
    slow = Slow()
    async with (
        slow.upstream.serve() as vllm,
        serving(tmp_path, {"vllm_base": vllm, "workers": workers, "drain_timeout": 0}) as process,
        clients(await process.base()) as client,
    ):
        streams = await begun(client, 20)
        asked = len(slow.upstream.asked)
        whole = [asyncio.create_task(client.post(api.path, json=api.request("slow"))) for api in APIS]
        await until(lambda: len(slow.upstream.asked) == asked + len(APIS))
        process.signal(signal.SIGTERM)
        await ended(streams)
        answers = await asyncio.gather(*whole)
        assert await process.end() == 0
        slow.go_on.set()
    for stream in streams:
        assert not stream.cut
        told = ending(stream.api, stream.body)
        assert not told.clean
        assert "stopping" in told.error["message"]
    for api, answer in zip(APIS, answers, strict=True):
        assert answer.status_code == 503
        assert answer.headers["retry-after"]
        assert "stopping" in error_of(api, answer)["message"]
    assert "Traceback" not in process.log


async def test_a_worker_is_killed_under_load(tmp_path: Path) -> None:
    slow = Slow()
    over = False
    cut: list[str] = []
    done = 0

    async def agent(client: httpx.AsyncClient, number: int) -> None:
        nonlocal done
        api = APIS[number % len(APIS)]
        while not over:
            for stream in (False, True):
                try:
                    response = await client.post(api.path, json=api.request(stream=stream))
                except httpx.TransportError as error:
                    cut.append(type(error).__name__)
                    continue
                assert response.status_code == 200, response.text
                assert not stream or ending(api, response.content).clean
                done += 1

    async with (
        slow.upstream.serve() as vllm,
        serving(tmp_path, {"vllm_base": vllm, "workers": 2, "log_level": "info"}) as process,
        clients(await process.base()) as client,
    ):
        first, second = await process.workers(2)
        streams = await begun(client, 8)
        agents = [asyncio.create_task(agent(client, number)) for number in range(8)]
        await until(lambda: done > 20)
        os.kill(first, signal.SIGKILL)
        (third,) = await process.workers(1)
        assert third not in (first, second)
        before = done
        await until(lambda: done > before + 20)
        over = True
        await asyncio.gather(*agents)
        slow.go_on.set()
        await ended(streams)
        # Only what the dead worker held is lost, and nobody takes it for an answer.
        assert len(cut) <= len(agents)
        for stream in streams:
            if not stream.cut:
                assert ending(stream.api, stream.body).clean
        for api in APIS:
            assert (await client.post(api.path, json=api.request())).status_code == 200
        process.signal(signal.SIGTERM)
        assert await process.end() == 0


class Simulator:
    """The simulated vLLM as a process, at one port."""

    def __init__(self) -> None:
        self.port = 0
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        command = ["-m", "devstral_proxy", "simulate", "--port", str(self.port)]
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            *command,
            cwd=Path(__file__).parents[3],
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
        assert self._process.stdout is not None
        async with asyncio.timeout(60):
            line = (await self._process.stdout.readline()).decode()
        self.port = int(line.rsplit(" ", 1)[1])

    async def kill(self) -> None:
        assert self._process is not None
        with suppress(ProcessLookupError):
            self._process.kill()
        await self._process.communicate()


async def test_vllm_is_killed_and_starts_again_under_load() -> None:
    simulator = Simulator()
    await simulator.start()
    over = False
    good, failed = 0, 0

    try:
        async with served(f"http://127.0.0.1:{simulator.port}", breaker_open=0.2, breaker_failures=3) as proxy:

            async def agent(number: int) -> None:
                nonlocal good, failed
                api = APIS[number % len(APIS)]
                while not over:
                    for stream in (False, True):
                        response = await proxy.ask(api, f"{number}", stream)
                        if response.status_code != 200:
                            assert response.status_code in (502, 503), response.text
                            error_of(api, response)
                            failed += 1
                            await asyncio.sleep(0.02)
                        elif stream and not ending(api, response.content).clean:
                            failed += 1
                        else:
                            good += 1

            agents = [asyncio.create_task(agent(number)) for number in range(8)]
            await until(lambda: good > 20)
            await simulator.kill()
            breaker = proxy.services.fleet.targets[0].breaker
            await until(lambda: breaker.state == "open")
            await until(lambda: failed > 0)
            await simulator.start()
            await until(lambda: breaker.state == "closed")
            before, failures = good, failed
            await until(lambda: good > before + 20)
            assert failed <= failures + len(agents)
            over = True
            await asyncio.gather(*agents)
            await until(lambda: proxy.idle)
    finally:
        await simulator.kill()
