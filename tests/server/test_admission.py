"""The queue: its bounds, turns between keys, and no place lost whatever ends a wait."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from devstral_proxy.config import load
from devstral_proxy.errors import Overloaded, RateLimited
from devstral_proxy.server.admission import Admission, admission

LONG = 60.0


async def settle() -> None:
    for _ in range(3):
        await asyncio.sleep(0)


class Crowd:
    """Tasks that want a place, and the order in which they got one."""

    def __init__(self, queue: Admission) -> None:
        self.queue = queue
        self.order: list[str] = []
        self.tasks: list[asyncio.Task[None]] = []

    async def come(self, *names: str) -> None:
        for name in names:
            self.tasks.append(asyncio.create_task(self._enter(name)))
            await settle()

    async def _enter(self, name: str) -> None:
        await self.queue.enter(name[0])
        self.order.append(name)


@asynccontextmanager
async def crowd(queue: Admission) -> AsyncIterator[Crowd]:
    people = Crowd(queue)
    yield people
    for task in people.tasks:
        task.cancel()
    await asyncio.gather(*people.tasks, return_exceptions=True)


@pytest.mark.anyio
async def test_without_limits_everybody_enters() -> None:
    queue = admission(load())
    for _ in range(1000):
        await queue.enter("a")
    assert (queue.running, queue.waiting) == (1000, 0)
    for _ in range(1000):
        queue.leave("a")
    assert queue.running == 0


@pytest.mark.anyio
async def test_one_key_is_served_in_the_order_of_arrival() -> None:
    queue = Admission(2, 10, LONG)
    async with crowd(queue) as people:
        await people.come("a1", "a2", "a3", "a4", "a5")
        assert (queue.running, queue.waiting) == (2, 3)
        for _ in range(3):
            queue.leave("a")
            await settle()
        assert people.order == ["a1", "a2", "a3", "a4", "a5"]
        assert (queue.running, queue.waiting) == (2, 0)


@pytest.mark.anyio
async def test_keys_take_turns() -> None:
    queue = Admission(1, 20, LONG)
    async with crowd(queue) as people:
        await people.come("a0", "a1", "a2", "a3", "a4", "b1", "b2", "c1")
        for _ in range(7):
            queue.leave("a")
            await settle()
        assert people.order == ["a0", "a1", "b1", "c1", "a2", "b2", "a3", "a4"]


@pytest.mark.anyio
async def test_a_full_queue_refuses() -> None:
    queue = Admission(1, 1, LONG)
    async with crowd(queue) as people:
        await people.come("a1", "a2")
        with pytest.raises(Overloaded, match="queue is full") as caught:
            await queue.enter("a")
        assert caught.value.status == 503
        assert dict(caught.value.headers)["Retry-After"] == "5"
        assert (queue.running, queue.waiting) == (1, 1)


@pytest.mark.anyio
async def test_without_a_queue_nobody_waits() -> None:
    queue = Admission(1, 0, LONG)
    await queue.enter("a")
    with pytest.raises(Overloaded):
        await queue.enter("b")
    queue.leave("a")
    await queue.enter("b")


@pytest.mark.anyio
async def test_one_key_does_not_fill_the_queue() -> None:
    queue = Admission(1, 4, LONG)
    async with crowd(queue) as people:
        await people.come("a0", "a1", "a2", "a3", "a4", "b1", "b2", "b3")
        refused = [isinstance(task.exception(), Overloaded) if task.done() else False for task in people.tasks]
        # b1 and b2 took the places of a's last two; b3 found the lines of one length
        assert refused == [False, False, False, True, True, False, False, True]
        assert (queue.running, queue.waiting) == (1, 4)
        for _ in range(4):
            queue.leave("a")
            await settle()
        assert people.order == ["a0", "a1", "b1", "a2", "b2"]


@pytest.mark.anyio
async def test_a_line_that_is_longer_by_one_is_left_in_peace() -> None:
    queue = Admission(1, 3, LONG)
    async with crowd(queue) as people:
        await people.come("a0", "a1", "a2", "b1", "b2")
        assert [task.done() for task in people.tasks] == [True, False, False, False, True]


@pytest.mark.anyio
async def test_a_wait_ends() -> None:
    queue = Admission(1, 5, 0.01)
    await queue.enter("a")
    with pytest.raises(Overloaded, match=r"within 0\.01 seconds") as caught:
        await queue.enter("b")
    assert "Retry-After" in dict(caught.value.headers)
    assert (queue.running, queue.waiting) == (1, 0)
    queue.leave("a")
    assert queue.running == 0


@pytest.mark.anyio
async def test_a_key_has_a_limit_of_its_own() -> None:
    queue = Admission(2, 5, LONG, per_key=3)
    async with crowd(queue) as people:
        await people.come("a1", "a2", "a3")  # the third waits, and counts
        with pytest.raises(RateLimited, match="Limit 3") as caught:
            await queue.enter("a")
        assert caught.value.status == 429
        assert dict(caught.value.headers) == {"Retry-After": "1"}
        await people.come("b1")
        assert queue.waiting == 2
        queue.leave("a")
        await settle()
        await people.come("a4")
        assert people.order == ["a1", "a2", "a3"]
        assert queue.waiting == 2


@pytest.mark.anyio
async def test_who_is_refused_holds_nothing_of_the_key_s_limit() -> None:
    queue = Admission(1, 0, LONG, per_key=2)
    await queue.enter("a")
    for _ in range(5):
        with pytest.raises(Overloaded):
            await queue.enter("a")
    queue.leave("a")
    await queue.enter("a")
    queue.leave("a")
    assert queue._held == {}


@pytest.mark.anyio
async def test_who_is_cancelled_while_waiting_is_passed_over() -> None:
    queue = Admission(1, 5, LONG)
    async with crowd(queue) as people:
        await people.come("a1", "a2", "b1")
        people.tasks[1].cancel()
        queue.leave("a")  # before the cancelled task has run
        await settle()
        assert people.order == ["a1", "b1"]
        assert (queue.running, queue.waiting) == (1, 0)


@pytest.mark.anyio
async def test_a_place_given_to_somebody_who_is_cancelled_goes_on() -> None:
    queue = Admission(1, 5, LONG)
    async with crowd(queue) as people:
        await people.come("a1", "a2", "b1")
        queue.leave("a")  # the place is a2's now
        people.tasks[1].cancel()
        await settle()
        assert people.order == ["a1", "b1"]
        assert (queue.running, queue.waiting) == (1, 0)
        queue.leave("b")
        assert queue.running == 0


STEPS = st.lists(
    st.tuples(st.sampled_from(["come", "come", "leave", "cancel", "give and cancel"]), st.integers(0, 5)), max_size=60
)


@given(STEPS, st.integers(1, 3), st.integers(0, 4), st.integers(0, 3))
@settings(max_examples=150)
def test_no_place_is_lost(steps: list[tuple[str, int]], places: int, room: int, per_key: int) -> None:
    async def run() -> None:
        queue = Admission(places, room, LONG, per_key)
        inside: list[str] = []
        waiting: list[asyncio.Task[None]] = []

        async def visit(key: str) -> None:
            await queue.enter(key)
            inside.append(key)

        for what, which in steps:
            if what == "come":
                waiting.append(asyncio.create_task(visit("abc"[which % 3])))
            if what in ("leave", "give and cancel") and inside:
                queue.leave(inside.pop(which % len(inside)))
            if what in ("cancel", "give and cancel") and waiting:
                waiting[which % len(waiting)].cancel()
            await settle()
            waiting = [task for task in waiting if not task.done()]
            assert queue.running == len(inside) <= places
            assert queue.waiting == len(waiting) == sum(map(len, queue._lines.values())) <= room
            assert not waiting or queue.running == places
        for task in waiting:
            task.cancel()
        await settle()
        for key in inside:
            queue.leave(key)
        assert (queue.running, queue.waiting, queue._held) == (0, 0, {})
        assert not queue._lines

    asyncio.run(run())


@pytest.mark.anyio
async def test_a_storm_leaves_nothing_behind() -> None:
    """2,000 visitors of 7 keys with short waits, cancelled at any moment."""
    draw = random.Random(7)
    queue = Admission(5, 50, 0.01, per_key=40)
    most = 0
    ends: dict[str, int] = {}

    async def visit(key: str) -> None:
        nonlocal most
        await queue.enter(key)
        try:
            most = max(most, queue.running)
            await asyncio.sleep(draw.random() / 500)
        finally:
            queue.leave(key)

    tasks = []
    for number in range(2000):
        tasks.append(asyncio.create_task(visit("abcdefg"[draw.randrange(7)])))
        if draw.random() < 0.3:
            draw.choice(tasks[-60:]).cancel()
        if number % 10 == 0:
            await asyncio.sleep(draw.random() / 200)
    for end in await asyncio.gather(*tasks, return_exceptions=True):
        ends[type(end).__name__] = ends.get(type(end).__name__, 0) + 1
    assert set(ends) <= {"NoneType", "CancelledError", "Overloaded", "RateLimited"}
    assert ends["NoneType"] > 100
    assert most == 5
    assert (queue.running, queue.waiting, queue._held) == (0, 0, {})
    assert not queue._lines
