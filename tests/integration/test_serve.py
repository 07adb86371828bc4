"""`serve` as real processes: its start, its workers, and its end by signals."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from devstral_proxy.commands.serve import bind
from devstral_proxy.server import process as server_process
from devstral_proxy.server import traces
from tests.integration.serving import SECONDS, Serving, serving
from tests.server.upstreams import DONE, Connection, Raw, chunk, request

pytestmark = pytest.mark.anyio

CHAT = "/v1/chat/completions"
ENDED = b'"stop"'


class Slow:
    """An upstream whose streams begin at once and go on when `go_on` is set."""

    def __init__(self) -> None:
        self.go_on = asyncio.Event()
        self.upstream = Raw(self._answer)

    async def _answer(self, raw: Raw, connection: Connection, line: str, body: bytes) -> None:
        await connection.head()
        await connection.piece(chunk({"role": "assistant", "content": ""}) + chunk({"content": "Hel"}))
        await self.go_on.wait()
        await connection.piece(chunk({"content": "lo."}) + chunk({}, "stop") + DONE)
        await connection.piece(b"")


class Streams:
    """Streams under way at the proxy."""

    def __init__(self) -> None:
        self._begun = 0
        self._all_begun = asyncio.Event()
        self._tasks: list[asyncio.Task[bytes]] = []

    async def begin(self, client: httpx.AsyncClient, count: int) -> None:
        """Start them, and wait until each has had its first text."""
        self._tasks = [asyncio.create_task(self._read(client, count)) for _ in range(count)]
        async with asyncio.timeout(SECONDS):
            await self._all_begun.wait()

    async def _read(self, client: httpx.AsyncClient, count: int) -> bytes:
        body = b""
        try:
            async with client.stream("POST", CHAT, json=request(stream=True)) as response:
                async for piece in response.aiter_raw():
                    if b"Hel" in piece and b"Hel" not in body:
                        self._begun += 1
                        if self._begun == count:
                            self._all_begun.set()
                    body += piece
        except httpx.HTTPError:
            body += b"CUT"
        return body

    async def bodies(self) -> list[bytes]:
        """All of them, to their end; CUT stands at the end of one that broke off."""
        async with asyncio.timeout(SECONDS):
            return await asyncio.gather(*self._tasks)


@asynccontextmanager
async def streaming(
    folder: Path, count: int, **values: object
) -> AsyncIterator[tuple[Serving, Slow, Streams, httpx.AsyncClient]]:
    """A proxy with streams under way."""
    slow, streams = Slow(), Streams()
    async with (
        slow.upstream.serve() as vllm,
        serving(folder, {"vllm_base": vllm, **values}) as process,
        httpx.AsyncClient(base_url=await process.base(), timeout=SECONDS) as client,
    ):
        await streams.begin(client, count)
        yield process, slow, streams, client
        slow.go_on.set()


async def refused(client: httpx.AsyncClient) -> None:
    """Wait until nobody listens any more."""
    async with asyncio.timeout(SECONDS):
        while True:
            try:
                _, writer = await asyncio.open_connection(client.base_url.host, client.base_url.port)
            except OSError:
                return
            writer.close()
            await asyncio.sleep(0.02)


# ---------------------------------------------------------------- the end


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("workers", [1, 2])
async def test_streams_run_to_their_end(number: int, workers: int, tmp_path: Path) -> None:
    async with streaming(tmp_path, 20, workers=workers) as (process, slow, streams, client):
        process.signal(number)
        await refused(client)
        slow.go_on.set()
        bodies = await streams.bodies()
        assert await process.end() == 0
    assert all(ENDED in body and body.endswith(DONE) for body in bodies)
    assert process.log.rstrip().endswith("stopped")


@pytest.mark.parametrize("workers", [1, 2])
async def test_past_the_deadline_answers_end_in_an_error(workers: int, tmp_path: Path) -> None:
    async with streaming(tmp_path, 4, workers=workers, drain_timeout=0) as (process, slow, streams, client):
        slow.upstream.arrived.clear()
        whole = asyncio.create_task(client.post(CHAT, json=request()))
        await slow.upstream.arrived.wait()
        process.signal(signal.SIGTERM)
        bodies = await streams.bodies()
        answer = await whole
        assert await process.end() == 0
    assert answer.status_code == 503
    assert answer.json()["error"]["code"] == "proxy_stopping"
    for body in bodies:
        assert ENDED not in body
        assert b'"code":"proxy_stopping"' in body
        assert body.endswith(DONE)


@pytest.mark.parametrize("workers", [1, 2])
async def test_a_second_signal_ends_it_at_once(workers: int, tmp_path: Path) -> None:
    async with streaming(tmp_path, 2, workers=workers, shutdown_delay=600, drain_timeout=600) as (
        process,
        _,
        streams,
        client,
    ):
        process.signal(signal.SIGTERM)
        await process.line("stopping: ")
        # The delay: requests are still taken, but no load balancer should send any more.
        assert (await client.get("/health")).status_code == 200
        assert (await client.get("/health/ready")).status_code == 503
        process.signal(signal.SIGTERM)
        assert all(body.endswith(b"CUT") for body in await streams.bodies())
        assert await process.end() == 128 + signal.SIGTERM


async def test_a_hangup_leaves_a_process_alone_as_it_is(tmp_path: Path) -> None:
    async with streaming(tmp_path, 2) as (process, slow, streams, client):
        for _ in range(2):
            process.signal(signal.SIGHUP)
            await process.line("reload needs WORKERS of 2 or more; restart instead")
        assert (await client.get("/health/ready")).status_code != 503
        slow.go_on.set()
        assert all(body.endswith(DONE) for body in await streams.bodies())
        process.signal(signal.SIGTERM)
        assert await process.end() == 0


def test_the_last_spans_are_sent_within_the_margin() -> None:
    assert traces.CLOSE_TIMEOUT <= server_process.MARGIN / 2


def test_no_other_program_gets_the_listener() -> None:
    with bind("127.0.0.1", 0) as listener:
        assert not listener.get_inheritable()


# ---------------------------------------------------------------- who can come

EXPOSED = "NO API KEYS: the proxy listens on {}, "


@pytest.mark.parametrize("workers", [1, 2])
async def test_a_handed_over_socket_that_all_can_reach_is_told_once(workers: int, tmp_path: Path) -> None:
    async with (
        listening(socket.AF_INET, ("0.0.0.0", 0)) as listener,
        serving(tmp_path, {"workers": workers}, listener.fileno()) as process,
    ):
        await process.line(EXPOSED.format("0.0.0.0"))
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{listener.getsockname()[1]}") as client:
            assert (await client.get("/health", timeout=SECONDS)).status_code == 200
        process.signal(signal.SIGTERM)
        assert await process.end() == 0
    assert process.log.count("NO API KEYS") == 1


async def test_what_few_can_reach_is_not_told(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("alice=sk-0123456789abcdef")
    keys.chmod(0o644)
    async with listening(socket.AF_INET, ("127.0.0.1", 0)) as listener:
        async with serving(tmp_path, {"proxy_host": "0.0.0.0"}, listener.fileno()) as process:
            await process.line("listening on")
            process.signal(signal.SIGTERM)
            await process.end()
        assert "NO API KEYS" not in process.log
        async with serving(tmp_path, {"api_keys_file": keys}, listener.fileno()) as process:
            await process.line("API_KEYS_FILE: .* is open to every user")


# ---------------------------------------------------------------- workers


async def test_why_no_worker_can_start_is_told(tmp_path: Path) -> None:
    values = {"workers": 2, "responses_store": "sqlite", "responses_store_path": tmp_path}
    async with serving(tmp_path, values) as process:
        assert await process.end() == 1
    assert "devstral_proxy: a worker cannot start: RESPONSES_STORE_PATH: " in process.log


def test_of_an_unforeseen_error_only_type_and_place_are_told(tmp_path: Path) -> None:
    code = """
import sys
from devstral_proxy import cli
from devstral_proxy.commands import serve

def application(settings, lifecycle):
    raise LookupError("the content")

serve.application = application
sys.exit(cli.main(["serve", "--workers", "2"]))
"""
    ended = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={"PATH": os.defpath, "PYTHONPATH": str(Path(__file__).parents[2]), "PROXY_PORT": "0"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ended.returncode == 1
    assert "devstral_proxy: a worker failed: LookupError" in ended.stderr
    assert "in application" in ended.stderr
    assert "the content" not in ended.stderr


async def test_a_hangup_keeps_what_needs_a_restart(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("METRICS=false\n")
    async with serving(tmp_path, {"workers": 2}) as process:
        base = await process.base()
        await process.workers(2)
        (tmp_path / ".env").write_text(f"METRICS=true\nLOG_FILE={tmp_path}\n")
        process.signal(signal.SIGHUP)
        await process.line("not changed: LOG_FILE: cannot be written")
        (tmp_path / ".env").write_text("METRICS=true\nPROXY_PORT=1\nWORKERS=3\n")
        process.signal(signal.SIGHUP)
        await process.workers(2)
        async with httpx.AsyncClient(base_url=base) as client:
            assert (await client.get("/metrics")).status_code == 404
        process.signal(signal.SIGTERM)
        assert await process.end() == 0


async def test_a_killed_worker_is_replaced_and_the_others_serve_on(tmp_path: Path) -> None:
    async with streaming(tmp_path, 8, workers=2) as (process, slow, streams, client):
        # Their lines may have come before or after the one with the address.
        first, second = await process.workers(2)
        os.kill(first, signal.SIGKILL)
        while f"worker {first} ended: SIGKILL" not in process.log:
            assert (await client.get("/health")).status_code == 200
            await process.line("devstral_proxy")
        (third,) = await process.workers(1)
        assert third not in (first, second)
        slow.go_on.set()
        for body in await streams.bodies():
            assert (ENDED in body and body.endswith(DONE)) != body.endswith(b"CUT")
        process.signal(signal.SIGTERM)
        assert await process.end() == 0


async def test_workers_do_not_outlive_their_supervisor(tmp_path: Path) -> None:
    async with streaming(tmp_path, 2, workers=2) as (process, slow, streams, client):
        os.kill(process.pid, signal.SIGKILL)
        await refused(client)
        slow.go_on.set()
        assert all(body.endswith(DONE) for body in await streams.bodies())
        await process.end()  # standard error is closed when the last of them has ended


async def test_a_hangup_renews_the_workers_with_new_settings(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("LOG_FORMAT=text\n")
    async with streaming(tmp_path, 4, workers=2) as (process, slow, streams, _):
        old = await process.workers(2)
        (tmp_path / ".env").write_text("KEEPALIVE=x\n")
        process.signal(signal.SIGHUP)
        await process.line("not changed: KEEPALIVE")
        (tmp_path / ".env").write_text("LOG_FORMAT=json\n")
        process.signal(signal.SIGHUP)
        new = await process.workers(2)
        assert not {*old} & {*new}
        slow.go_on.set()
        assert all(body.endswith(DONE) for body in await streams.bodies())
        process.signal(signal.SIGTERM)
        assert await process.end() == 0
    last = json.loads(process.log.splitlines()[-1])
    assert last["message"] == "stopped"


async def test_a_stalled_worker_is_replaced(tmp_path: Path) -> None:
    values = {"workers": 2, "watchdog_usec": 1_200_000, "notify_socket": tmp_path / "nobody"}
    async with serving(tmp_path, values) as process:
        first, _ = await process.workers(2)
        os.kill(first, signal.SIGSTOP)
        await process.line(f"worker {first} is killed: it is stalled")
        await process.line(f"worker {first} ended")
        process.signal(signal.SIGTERM)
        await process.end()


# ---------------------------------------------------------------- systemd


@asynccontextmanager
async def listening(family: int, address: object) -> AsyncIterator[socket.socket]:
    with socket.socket(family) as listener:
        listener.bind(address)  # type: ignore[arg-type]
        listener.listen()
        yield listener


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("kind", ["tcp", "unix"])
async def test_socket_activation(kind: str, workers: int, tmp_path: Path) -> None:
    path = str(tmp_path / "proxy.sock")
    given = (socket.AF_INET, ("127.0.0.1", 0)) if kind == "tcp" else (socket.AF_UNIX, path)
    async with listening(*given) as listener:
        async with serving(tmp_path, {"workers": workers}, listener.fileno()) as process:
            uds = path if kind == "unix" else None
            base = "http://proxy" if uds else f"http://127.0.0.1:{listener.getsockname()[1]}"
            assert await process.line(r"listening on (\S+),") == (f"unix:{path}" if uds else f"{base}/v1")
            # Who comes before it serves waits in the socket's queue.
            async with httpx.AsyncClient(transport=httpx.AsyncHTTPTransport(uds=uds), base_url=base) as client:
                assert (await client.get("/health", timeout=SECONDS)).status_code == 200
            process.signal(signal.SIGTERM)
            assert await process.end() == 0
        # The socket is systemd's: it listens on for the next start.
        with socket.socket(given[0]) as late:
            late.connect(listener.getsockname())


async def test_a_descriptor_that_is_no_listener_is_refused(tmp_path: Path) -> None:
    with socket.socket() as plain:
        async with serving(tmp_path, {}, plain.fileno()) as process:
            assert await process.end() == 2
    assert process.log == "devstral-proxy: LISTEN_FDS: descriptor 3 is no listening stream socket\n"


@pytest.mark.parametrize("workers", [1, 2])
async def test_systemd_is_told(workers: int, tmp_path: Path) -> None:
    path = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notified:
        notified.bind(path)
        notified.setblocking(False)
        loop = asyncio.get_running_loop()

        async def told(wanted: str) -> str:
            async with asyncio.timeout(SECONDS):
                while True:
                    message = (await loop.sock_recv(notified, 4096)).decode()
                    if wanted in message.split("\n"):
                        return message

        values = {"workers": workers, "notify_socket": path, "watchdog_usec": 1_500_000}
        async with serving(tmp_path, values) as process:
            await told("READY=1")
            base = await process.base()
            async with httpx.AsyncClient(base_url=base) as client:
                assert (await client.get("/health")).status_code == 200
            await told("WATCHDOG=1")
            await told("WATCHDOG=1")
            if workers > 1:
                process.signal(signal.SIGHUP)
                assert "MONOTONIC_USEC=" in await told("RELOADING=1")
                await told("READY=1")
            process.signal(signal.SIGTERM)
            assert "EXTEND_TIMEOUT_USEC=" in await told("STOPPING=1")
            assert await process.end() == 0
