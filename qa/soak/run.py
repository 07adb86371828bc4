"""One run: warm up, load with faults, wait until it is quiet, compare."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from qa.bench.machine import machine
from qa.bench.process import cpu_us
from qa.soak import load, rude
from qa.soak.asks import Ask, made
from qa.soak.directive import MODEL, RAW, SIMULATORS, Order
from qa.soak.samples import Sample, gauges, leaks, memory, processes
from qa.soak.session import Session
from qa.soak.stack import PATIENCE, Stack, stack
from qa.soak.verdict import Outcome, judge, tally
from qa.soak.wire import Cut, request

Scenario = Callable[[Session], Awaitable[None]]

SCENARIOS: Final[tuple[tuple[float, Scenario], ...]] = (
    (44, load.plain),
    (18, load.faulty),
    (1.5, load.large),
    (5, load.conversation),
    (3, load.completion),
    (3, load.kept_connection),
    (2, load.pipelined),
    (3, load.count),
    (2, load.models),
    (3, load.health),
    (1.5, load.tokenized),
    (1, load.embedding),
    (7, rude.leaves),
    (1.5, rude.reads_slowly),
    (0.3, rude.reads_nothing),
    (0.7, rude.half_head),
    (0.7, rude.half_body),
    (1, rude.bad_json),
    (0.5, rude.oversize),
    (1, rude.wrong_key),
    (1, rude.nowhere),
    (0.5, rude.two_lengths),
    (0.3, rude.compressed),
)
"""How often each comes, as weights."""
SAMPLE_EVERY: Final = 3.0
QUIET: Final = 12.0
"""Seconds without a request: over a breaker's longest opening, and lingering closes; half of it is over POOL_IDLE."""
_AT_ONCE: Final = 60
_SUSPECT: Final = re.compile(
    r"internal[ _]error|Traceback|Exception|^[\d\-T:.]+ (?:error|critical) |never (?:retrieved|awaited)"
)
Say = Callable[[str], None]


async def soak(
    folder: Path, seconds: float, seed: int, workers: int, rate: float, say: Say, quiet: float = QUIET
) -> dict[str, Any]:
    """The result of a whole run, ready for JSON. Raises RuntimeError when something does not start."""
    with stack(folder, workers) as up:
        session = Session(up, seed)
        await _warm_up(session)
        start = await _sample(session)
        if start is None:
            raise RuntimeError("the proxy tells no metrics")
        begun, used = time.monotonic(), cpu_us(up.proxy.pid)
        samples = await _loaded(session, seconds, rate, say)
        took, used = time.monotonic() - begun, cpu_us(up.proxy.pid) - used
        for upstream in up.upstreams.values():
            if upstream.child is None or upstream.child.poll() is not None:
                session.defects.append(f"upstream {upstream.name} ended by itself")
        await asyncio.sleep(quiet)
        await _afterwards(session)
        await asyncio.sleep(quiet / 2)
        end = await _sample(session)
        code = _ended(up)
        findings = log_findings(up.log, [*up.keys.values(), up.upstream_key])
        log_lines = up.log.count("\n")
    if end is None:
        end = start
        session.defects.append("no metrics at the end")
    rows = leaks(start, [sample for _, sample in samples], end, workers)
    rss = memory(start, samples, end)
    wrong = sum(count for (_, label), count in session.outcomes.items() if label == "wrong")
    return {
        "date": time.strftime("%Y-%m-%d"),
        "seconds": round(took),
        "seed": seed,
        "workers": workers,
        "rate": rate,
        "machine": machine(),
        "requests": sum(session.outcomes.values()),
        "wrong": wrong,
        "outcomes": tally(session.outcomes),
        "faults": tally(session.faults),
        "events": dict(session.events),
        "defects": session.defects,
        "leaks": [asdict(row) for row in rows],
        "memory": {**asdict(rss), "well": rss.well},
        "samples": [{"at": round(at, 1), **sample} for at, sample in samples],
        "proxy_cores": round(used / 1e6 / took, 3) if workers == 1 else None,  # workers that are gone tell nothing
        "log_lines": log_lines,
        "log_findings": findings,
        "exit_code": code,
        "failed": bool(wrong or session.defects or findings or code)
        or not rss.well
        or not all(row.well for row in rows),
    }


def log_findings(log: str, secrets: Iterable[str]) -> list[str]:
    """What must not be in the proxy's log: defects, keys, and what conversations say."""
    found = [line[:300] for line in log.splitlines() if _SUSPECT.search(line)]
    found += ["a key is in the log" for secret in secrets if secret in log]
    found += ["conversation content is in the log"] if "soak(" in log else []
    return found[:50]


async def _warm_up(session: Session) -> None:
    """One of each, so that what is made once is there before the first look."""
    for api in load.APIS:
        for stream in (False, True):
            for model in session.stack.upstreams:
                order = Order(f"warm{api}{stream:d}{model}")
                await session.ask(made(Ask(api, stream, order, "alice"), session.random), kind="warm-up")
    await asyncio.sleep(1)


async def _afterwards(session: Session) -> None:
    """Every server answers again, without an excuse. It is a request that closes a breaker, not a health check; each
    worker has its own."""
    for _ in range(10):
        for model in (RAW, SIMULATORS, MODEL) * 4:
            ask = made(load.choose(session, model=model), session.random)
            async with session.client() as client:
                reply = await session.exchange(client, session.request(ask))
            session.note("afterwards", reply if isinstance(reply, Outcome) else judge(ask, reply))
        await asyncio.sleep(1)
        sample = await _sample(session)
        if sample is not None and not sample["breakers"]:
            return


async def _sample(session: Session) -> Sample | None:
    """Processes and gauges; a page that cannot be had is a defect."""
    async with session.client() as client:
        reply = await session.exchange(client, request("GET", "/metrics", session.key("alice")))
    if isinstance(reply, Outcome) or reply.status != 200:
        session.note("metrics", Outcome("wrong", "no metrics"))
        return None
    session.note("metrics", Outcome("answer"))
    return {**processes(session.stack.processes()), **gauges(reply.body.decode())}


async def _loaded(session: Session, seconds: float, rate: float, say: Say) -> list[tuple[float, Sample]]:
    """The load, the faults of processes beside it, and samples with their times."""
    begun = time.monotonic()
    until = begun + seconds
    samples: list[tuple[float, Sample]] = []

    async def sampling() -> None:
        told = begun
        while time.monotonic() < until:
            sample = await _sample(session)
            if sample is not None:
                samples.append((time.monotonic() - begun, sample))
                if time.monotonic() - told > 30:
                    told = time.monotonic()
                    say(_progress(session, samples[-1]))
            await asyncio.sleep(min(SAMPLE_EVERY, seconds / 5))

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(sampling())
        tasks.create_task(_killing(session, until, min(25.0, seconds / 4)))
        tasks.create_task(_crowds(session, until, min(40.0, seconds / 2)))
        if session.stack.workers > 1:
            tasks.create_task(_renewing(session, until, min(60.0, seconds / 8)))
        await _arrivals(session, until, rate, tasks)
    return samples


async def _arrivals(session: Session, until: float, rate: float, tasks: asyncio.TaskGroup) -> None:
    """Scenarios at random moments, chosen by weight."""
    weights = [weight for weight, _ in SCENARIOS]
    room = asyncio.Semaphore(_AT_ONCE)
    while True:
        await asyncio.sleep(min(session.random.expovariate(rate), 1.0))
        if time.monotonic() >= until:
            return
        scenario = session.random.choices(SCENARIOS, weights)[0][1]
        await room.acquire()
        task = tasks.create_task(_guarded(session, scenario))
        task.add_done_callback(lambda _: room.release())


async def _guarded(session: Session, scenario: Scenario) -> None:
    try:
        async with asyncio.timeout(6 * PATIENCE):
            await scenario(session)
    except TimeoutError:
        session.note(scenario.__name__, Outcome("wrong", "it does not end"))
    except (OSError, Cut) as error:
        session.note(scenario.__name__, Outcome("wrong", f"the connection failed: {type(error).__name__} {error}"))


async def _killing(session: Session, until: float, every: float) -> None:
    """SIGKILL for one upstream after the other, and a new start a little later."""
    while await _pause(every * (0.6 + 0.8 * session.random.random()), until):
        upstream = session.stack.upstreams[session.random.choice("abc")]
        upstream.kill()
        session.events["upstreams killed and started again"] += 1
        await asyncio.sleep(0.5 + 2 * session.random.random())
        upstream.start()
        await session.until_ready(upstream)


async def _crowds(session: Session, until: float, every: float) -> None:
    while await _pause(every * (0.6 + 0.8 * session.random.random()), until):
        session.events["crowds"] += 1
        await _guarded(session, load.crowd)


async def _renewing(session: Session, until: float, every: float) -> None:
    """SIGHUP: the workers are replaced under load."""
    while await _pause(every, until):
        session.renew()


async def _pause(seconds: float, until: float) -> bool:
    """Whether there is still time after it."""
    await asyncio.sleep(max(0.0, min(seconds, until - time.monotonic())))
    return time.monotonic() < until - 1


def _ended(up: Stack) -> int:
    """SIGTERM to the proxy: its exit code, -1 when it does not end."""
    os.kill(up.proxy.pid, signal.SIGTERM)
    try:
        return up.proxy.wait(30)
    except subprocess.TimeoutExpired:
        return -1


def _progress(session: Session, latest: tuple[float, Sample]) -> str:
    at, sample = latest
    total, bad = sum(session.outcomes.values()), len(session.defects)
    return (
        f"{at:>5.0f} s  {total:>7,} requests  {bad} defects  {sample['rss']:.1f} MB  {sample['fds']:.0f} fds  "
        f"{sample['running']:.0f} running  {sample['breakers']:.0f} breakers"
    )
