"""An exchange leaves nothing that only the collector of cycles could free: it seldom runs."""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Iterator

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
