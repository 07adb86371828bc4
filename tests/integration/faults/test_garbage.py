"""An exchange leaves nothing that only the collector of cycles could free: it seldom runs."""

from __future__ import annotations

import asyncio
import gc
import json
from collections import Counter
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest

from tests.integration.faults.rig import APIS, BEGUN, Api, Connection, Handler, Raw, good, pair, unless_told, until

pytestmark = pytest.mark.anyio


@pytest.fixture
def garbage() -> Iterator[list[object]]:
    gc.collect()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    yield gc.garbage
    gc.set_debug(0)
    gc.garbage.clear()
    gc.enable()


async def refused(raw: Raw, connection: Connection, line: str, body: bytes) -> None:
    told = b'{"error": {"message": "no", "type": "BadRequestError", "code": 400}}'
    await connection.whole(told, status=b"400 Bad Request")


async def cut(raw: Raw, connection: Connection, line: str, body: bytes) -> None:
    await connection.head()
    await connection.piece(BEGUN)
    connection.writer.close()


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("handler", [good, refused, cut], ids=lambda handler: handler.__name__)
@pytest.mark.parametrize("api", APIS, ids=lambda api: api.path)
async def test_nothing_is_left(api: Api, handler: Handler, stream: bool, garbage: list[object]) -> None:
    async with pair(unless_told(handler)) as (_, proxy):
        await proxy.works(api)
        gc.collect()
        garbage.clear()
        for _ in range(3):
            await proxy.ask(api, stream=stream)
        await until(lambda: proxy.idle)
        gc.collect()
        ours = Counter(type(one).__qualname__ for one in garbage if type(one).__module__.startswith("devstral_proxy"))
    assert not ours


async def silent(raw: Raw, connection: Connection, line: str, body: bytes) -> None:
    await connection.until_closed()


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("api", APIS, ids=lambda api: api.path)
async def test_nothing_is_left_of_who_leaves(api: Api, stream: bool, garbage: list[object]) -> None:
    async with pair(unless_told(silent)) as (_, proxy):
        await proxy.works(api)
        gc.collect()
        garbage.clear()
        body = json.dumps(api.request("Hi.", stream)).encode()
        at = urlsplit(proxy.base)
        for _ in range(3):
            _, writer = await asyncio.open_connection(at.hostname, at.port)
            writer.write(b"POST %b HTTP/1.1\r\nhost: x\r\n" % api.path.encode())
            writer.write(b"content-length: %d\r\n\r\n%b" % (len(body), body))
            await until(lambda: not proxy.idle)
            writer.close()
            await writer.wait_closed()
            await until(lambda: proxy.idle)
        await asyncio.sleep(0.05)
        gc.collect()
        ours = Counter(type(one).__qualname__ for one in garbage if type(one).__module__.startswith("devstral_proxy"))
    assert not ours
