"""The simulator on a real socket: what a broken connection looks like from both ends."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import httpx
import pytest
import uvicorn
from starlette.applications import Starlette

from devstral_proxy.simulator import SimulatorOptions, create_simulator
from tests.simulator.asking import CHAT, QUESTION

STREAMED = {**QUESTION, "stream": True}


@asynccontextmanager
async def served(app: Starlette) -> AsyncIterator[str]:
    """The application at a free port of this machine."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(app, log_level="critical", ws="none", lifespan="off"))
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(server.serve, [bound])
            while not server.started:  # noqa: ASYNC110  # uvicorn has no event for it
                await anyio.sleep(0.01)
            yield f"http://127.0.0.1:{bound.getsockname()[1]}"
            server.should_exit = True


@pytest.mark.anyio
async def test_streams_and_counts_what_nobody_waits_for() -> None:
    app = create_simulator(SimulatorOptions(delay=0.02))
    async with served(app) as base, httpx.AsyncClient(base_url=base) as asking:
        async with asking.stream("POST", CHAT, json=STREAMED) as response:
            assert [line async for line in response.aiter_lines() if line][-1] == "data: [DONE]"
        assert (app.state.simulator.running, app.state.simulator.aborted) == (0, 0)
        async with asking.stream("POST", CHAT, json=STREAMED) as response:
            async for _ in response.aiter_lines():
                break
            assert app.state.simulator.running == 1
        with anyio.fail_after(10):
            while not app.state.simulator.aborted:  # noqa: ASYNC110
                await anyio.sleep(0.01)
        assert (app.state.simulator.running, app.state.simulator.aborted) == (0, 1)


@pytest.mark.parametrize("body", [QUESTION, STREAMED])
@pytest.mark.anyio
async def test_a_cut_breaks_the_connection(body: dict[str, object]) -> None:
    async with served(create_simulator(SimulatorOptions())) as base, httpx.AsyncClient(base_url=base) as asking:
        with pytest.raises(httpx.RemoteProtocolError):
            await asking.post(CHAT, json=body, headers={"x-simulate": "cut"})
