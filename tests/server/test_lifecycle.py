"""The end of a process, as the answers under way see it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from devstral_proxy.errors import Overloaded
from devstral_proxy.server.lifecycle import Lifecycle

pytestmark = pytest.mark.anyio


def test_draining() -> None:
    lifecycle = Lifecycle()
    assert not lifecycle.draining
    lifecycle.begin_drain()
    assert lifecycle.draining


def running() -> asyncio.Task[Any]:
    task = asyncio.current_task()
    assert task is not None
    return task


async def work(lifecycle: Lifecycle, begun: asyncio.Event, *, over: bool = False) -> str:
    try:
        with lifecycle.interruptible(running()) as block:
            if over:
                block.over()
            begun.set()
            await asyncio.sleep(0.05 if over else 600)
    except Overloaded as error:
        await asyncio.sleep(0)  # the task goes on: its cancellation has been taken back
        return f"{error.status} {error.code} {error.headers}"
    return "done"


async def test_the_deadline_ends_what_runs() -> None:
    lifecycle, begun = Lifecycle(), asyncio.Event()
    task = asyncio.create_task(work(lifecycle, begun))
    await begun.wait()
    assert lifecycle.running == 1
    lifecycle.pass_deadline()
    assert await task == "503 proxy_stopping [('retry-after', '1')]"
    assert lifecycle.running == 0


async def test_after_the_deadline_nothing_begins() -> None:
    lifecycle = Lifecycle()
    lifecycle.pass_deadline()
    assert (await work(lifecycle, asyncio.Event())).startswith("503")


async def test_what_is_over_is_left_alone() -> None:
    lifecycle, begun = Lifecycle(), asyncio.Event()
    task = asyncio.create_task(work(lifecycle, begun, over=True))
    await begun.wait()
    lifecycle.pass_deadline()
    assert await task == "done"


@pytest.mark.parametrize("late", [False, True])
async def test_a_cancellation_from_outside_goes_on(late: bool) -> None:
    lifecycle, begun = Lifecycle(), asyncio.Event()
    task = asyncio.create_task(work(lifecycle, begun))
    await begun.wait()
    task.cancel()
    if late:
        lifecycle.pass_deadline()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert lifecycle.running == 0


async def test_an_error_of_the_block_is_its_own() -> None:
    lifecycle = Lifecycle()
    with pytest.raises(KeyError), lifecycle.interruptible(running()):
        raise KeyError
    assert lifecycle.running == 0
