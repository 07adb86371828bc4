#!/usr/bin/env python3
"""The regression suite, against a running proxy or one that it starts itself in front of simulated models.

    qa/run_tests.py                                   its own proxy and upstream, everything
    qa/run_tests.py --base http://127.0.0.1:9000      a running proxy, what can be seen there
    qa/run_tests.py --only 'golden/F0' --verbose      checks whose name matches

A line a check, a summary, and the exit code: 0 when nothing failed, 1 otherwise, 2 when it could not begin. With
`--base` the checks that need a scripted upstream are skipped and named; the others ask the model for a few tokens each.
"""

from __future__ import annotations

import argparse
import re
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Final, Literal

if not __package__:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from qa.client import Api, Failed, Skipped, expect
from qa.models import Served
from qa.stack import lonely, stack
from qa.suites import agent, dialects, endpoints, failures, golden, operations, refusals
from qa.suites.check import Check, Where, World

CHECKS: Final[list[Check]] = [
    *golden.CHECKS,
    *refusals.CHECKS,
    *agent.CHECKS,
    *dialects.CHECKS,
    *endpoints.CHECKS,
    *failures.CHECKS,
    *operations.CHECKS,
]
_KEY: Final = "qa-key-of-the-regression-suite"
"""The only key of the proxy that is started for the checks of keys."""
Verdict = Literal["PASS", "FAIL", "SKIP"]
Worlds = Callable[[Where], World]


class _OwnWorlds:
    """Proxies of our own, each started when the first check needs it."""

    def __init__(self, stop: ExitStack) -> None:
        self._stop = stop
        self._worlds: dict[Where, World] = {}

    def __call__(self, where: Where) -> World:
        where = "new" if where == "any" else where
        if where not in self._worlds:
            self._worlds[where] = self._start(where)
        return self._worlds[where]

    def _start(self, where: Where) -> World:
        key = _KEY if where == "keys" else None
        started = lonely() if where == "down" else stack("0.12.0" if where == "old" else "0.32.0", key)
        run = self._stop.enter_context(started)
        upstream = self._stop.enter_context(Api(run.upstream)) if run.upstream is not None else None
        return World(self._stop.enter_context(Api(run.base, key)), Served("v13").name, upstream)


def _running(base: str, model: str | None, key: str | None, stop: ExitStack) -> Worlds:
    """The proxy at `base`. Raises Failed when it does not answer, or serves no model."""
    api = stop.enter_context(Api(base, key))
    response = api.request("GET", "/v1/models")
    expect(response.status_code == 200, f"{api.base}/v1/models answers with status {response.status_code}")
    served = [entry["id"] for entry in response.json()["data"]]
    expect(model is not None or served, f"{api.base} serves no model")
    world = World(api, model or served[0])

    def worlds(where: Where) -> World:
        if where not in ("any", "keys"):
            raise Skipped("needs an upstream that plays along: run without --base")
        return world

    return worlds


def _judge(check: Check, worlds: Worlds) -> tuple[Verdict, str, float]:
    """Run one check: the verdict, the reason where it is not PASS, and milliseconds."""
    reason = ""
    verdict: Verdict = "PASS"
    began = time.perf_counter()
    try:
        world = worlds(check.where)
        began = time.perf_counter()  # not the start of a stack
        check.run(world)
    except Skipped as skipped:
        verdict, reason = "SKIP", str(skipped)
    except Failed as failed:
        verdict, reason = "FAIL", str(failed)
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        # The answer has another shape than the check reads.
        verdict, reason = "FAIL", f"an answer of another shape: {type(error).__name__}: {error}"
    return verdict, reason, (time.perf_counter() - began) * 1000


def run(checks: Sequence[Check], worlds: Worlds, verbose: bool = False) -> int:
    """Run the checks and print a line for each; the exit code."""
    counts: dict[Verdict, int] = {"PASS": 0, "FAIL": 0, "SKIP": 0}
    for check in checks:
        verdict, reason, milliseconds = _judge(check, worlds)
        counts[verdict] += 1
        if verdict == "SKIP":
            print(f"SKIP {check.name}: {reason}", flush=True)
            continue
        print(f"{verdict} {check.name}: {check.says}, {milliseconds:.0f} ms", flush=True)
        if reason:
            print(f"     {reason if verbose else _short(reason)}", flush=True)
    skipped = f", {counts['SKIP']} skipped" if counts["SKIP"] else ""
    print(f"{counts['PASS']} passed, {counts['FAIL']} failed{skipped}", flush=True)
    return 1 if counts["FAIL"] else 0


def _short(reason: str) -> str:
    line = " ".join(reason.split())
    return line if len(line) <= 200 else line[:200] + "…"


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; the exit code."""
    parser = argparse.ArgumentParser(description="The regression suite of devstral-proxy.")
    parser.add_argument("--base", help="a running proxy, as http://127.0.0.1:9000; default: one that is started")
    parser.add_argument("--model", help="the model to ask for, with --base (default: the first that it serves)")
    parser.add_argument("--key", help="the API key to show, with --base")
    parser.add_argument("--only", metavar="PATTERN", help="checks whose name this regular expression finds")
    parser.add_argument("--verbose", action="store_true", help="tell the whole reason of a failure")
    options = parser.parse_args(arguments)
    try:
        wanted = re.compile(options.only or "", re.IGNORECASE)
    except re.error as error:
        parser.error(f"--only: {error}")
    checks = [check for check in CHECKS if wanted.search(check.name)]
    if not checks:
        print(f"no check is called like {options.only!r}", file=sys.stderr)
        return 2
    with ExitStack() as stop:
        try:
            worlds = _running(options.base, options.model, options.key, stop) if options.base else _OwnWorlds(stop)
            return run(checks, worlds, options.verbose)
        except (Failed, RuntimeError) as error:
            print(f"cannot begin: {error}", file=sys.stderr)
            return 2


if __name__ == "__main__":
    sys.exit(main())
