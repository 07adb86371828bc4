"""The shipped nginx configurations, as nginx reads them and as it runs them."""

from __future__ import annotations

import asyncio
import re
import shutil
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import httpx
import pytest

from devstral_proxy.config import load
from tests.server.upstreams import COMPLETION, DONE, Connection, Raw, chunk, live, request

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy" / "nginx"
TLS = ROOT / "tests" / "data" / "tls" / "loopback.pem"
NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
MAIN = """
daemon off;
master_process off;
pid {folder}/nginx.pid;
error_log stderr;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    include {folder}/site.conf;
}}
"""
CHAT = "/v1/chat/completions"

pytestmark = [pytest.mark.anyio, pytest.mark.skipif(NGINX is None, reason="nginx is not installed")]


def written(name: str, folder: Path, changes: dict[str, str]) -> list[str]:
    """The shipped file with its examples replaced, and the command that runs nginx with it."""
    assert NGINX is not None
    text = (FOLDER / name).read_text("utf-8")
    for example, value in changes.items():
        assert example in text
        text = text.replace(example, value)
    (folder / "site.conf").write_text(text)
    (folder / "nginx.conf").write_text(MAIN.format(folder=folder))
    return [NGINX, "-p", str(folder), "-c", str(folder / "nginx.conf")]


@asynccontextmanager
async def running(command: list[str], port: int) -> AsyncIterator[None]:
    process = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.DEVNULL)
    try:
        async with asyncio.timeout(20):
            while True:
                assert process.returncode is None
                try:
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                except OSError:
                    await asyncio.sleep(0.02)
                else:
                    writer.close()
                    break
        yield
    finally:
        process.terminate()
        await process.wait()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def proxy_changes(port: int, base: str) -> dict[str, str]:
    return {
        "listen 443": f"listen 127.0.0.1:{port}",
        "server 127.0.0.1:9000": f"server {base.removeprefix('http://')}",
        "/etc/nginx/tls/llm.example.com.pem": str(TLS),
        "/etc/nginx/tls/llm.example.com.key": str(TLS),
        "llm.example.com": "localhost",
    }


CHANGES = {"devstral-proxy.conf": proxy_changes(1, "http://127.0.0.1:9000"), "vllm.conf": {}}


@pytest.mark.parametrize("name", sorted(path.name for path in FOLDER.glob("*.conf")))
def test_nginx_reads_it(name: str, tmp_path: Path) -> None:
    command = written(name, tmp_path, CHANGES[name])
    done = subprocess.run([*command, "-t"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "[warn]" not in done.stderr


def test_its_numbers_are_those_of_the_settings() -> None:
    text = (FOLDER / "devstral-proxy.conf").read_text("utf-8")
    defaults = load()
    megabytes = re.search(r"client_max_body_size (\d+)m;", text)
    assert megabytes
    assert int(megabytes[1]) * 1024 * 1024 == defaults.body_limit
    seconds = re.search(r"proxy_read_timeout (\d+)s;", text)
    assert seconds
    assert int(seconds[1]) > defaults.request_timeout
    assert f"127.0.0.1:{defaults.proxy_port};" in text


async def test_a_stream_passes_event_by_event(tmp_path: Path) -> None:
    go_on = asyncio.Event()

    async def handler(raw: Raw, connection: Connection, line: str, body: bytes) -> None:
        await connection.head()
        await connection.piece(chunk({"role": "assistant", "content": ""}) + chunk({"content": "Hel"}))
        await go_on.wait()
        await connection.piece(chunk({"content": "lo."}) + chunk({}, "stop") + DONE)
        await connection.piece(b"")

    port = free_port()
    trusted = ssl.create_default_context(cafile=str(TLS))
    async with Raw(handler).serve() as vllm, live(vllm) as base:
        command = written("devstral-proxy.conf", tmp_path, proxy_changes(port, base))
        async with (
            running(command, port),
            httpx.AsyncClient(base_url=f"https://127.0.0.1:{port}", verify=trusted, timeout=20) as client,
            client.stream("POST", CHAT, json=request(stream=True)) as response,
        ):
            assert response.headers["content-type"].startswith("text/event-stream")
            text = b""
            async for piece in response.aiter_raw():
                text += piece
                if b'"Hel"' in text:
                    go_on.set()  # only now does the rest come: a buffer would wait for ever
            assert text.endswith(DONE)


METRICS = (
    "/metrics",
    "/metrics/",
    "/metrics//",
    "//metrics",
    "///metrics//",
    "/%6detrics",
    "/%2Fmetrics",
    "/x/../metrics",
)


@pytest.mark.parametrize("inside", [True, False])
async def test_metrics_are_for_the_inside_however_they_are_asked_for(inside: bool, tmp_path: Path) -> None:
    async def handler(raw: Raw, connection: Connection, line: str, body: bytes) -> None:
        await connection.whole(httpx.Response(200, json=COMPLETION).content)

    port = free_port()
    trusted = ssl.create_default_context(cafile=str(TLS))
    async with Raw(handler).serve() as vllm, live(vllm) as base:
        changes = proxy_changes(port, base)
        if not inside:
            changes["allow 127.0.0.1;"] = "allow 192.0.2.1;"
        async with (
            running(written("devstral-proxy.conf", tmp_path, changes), port),
            httpx.AsyncClient(verify=trusted, timeout=20) as client,
        ):

            async def status(path: str) -> int:
                url = httpx.URL(f"https://127.0.0.1:{port}").copy_with(raw_path=path.encode())
                return (await client.get(url)).status_code

            assert await status("/health/live") == 200
            told = {path: await status(path) for path in METRICS}
            if inside:
                assert [told[path] for path in METRICS[:6]] == [200] * 6
            else:
                assert set(told.values()) == {403}


async def test_requests_are_spread_and_a_dead_server_is_passed_over(tmp_path: Path) -> None:
    async def handler(raw: Raw, connection: Connection, line: str, body: bytes) -> None:
        await connection.whole(httpx.Response(200, json=COMPLETION).content)

    one, two = Raw(handler), Raw(handler)
    port = free_port()
    async with one.serve() as first, AsyncExitStack() as second_server:
        second = await second_server.enter_async_context(two.serve())
        changes = {
            "listen 127.0.0.1:8100": f"listen 127.0.0.1:{port}",
            "server 127.0.0.1:8000": f"server {first.removeprefix('http://')}",
            "server 127.0.0.1:8001": f"server {second.removeprefix('http://')}",
        }
        async with (
            running(written("vllm.conf", tmp_path, changes), port),
            live(f"http://127.0.0.1:{port}") as base,
            httpx.AsyncClient(base_url=base, timeout=20) as client,
        ):
            for _ in range(6):
                assert (await client.post(CHAT, json=request())).status_code == 200
            assert one.asked
            assert two.asked
            await second_server.aclose()
            for _ in range(6):
                assert (await client.post(CHAT, json=request())).status_code == 200
