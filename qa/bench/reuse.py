"""What keeping the translation of the part of a conversation that the last turn did not change would give.

    python -m qa.bench.reuse [--out .bench/reuse.json]

Conversations as agents have them, at three sizes. For a turn: the time to parse the body, to translate it, to write it;
and what is left of each when all but the last turn were known already, which no cache can beat. What such a cache would
itself cost is measured too: knowing again, by comparing parsed messages or raw bytes, and the memory it holds.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any, Final

import orjson

from devstral_proxy.mistral.profiles import Profiles
from devstral_proxy.mistral.translator import Translator
from qa.bench.bodies import Writer
from qa.bench.lab import LAB
from qa.bench.machine import machine

SIZES: Final = {"60 KB": (60_000, 3000, 2200), "600 KB": (600_000, 6000, 3900), "3 MB": (3_000_000, 6000, 3900)}
"""Bytes of the body, characters of the system text and of a result."""
MODEL: Final = "devstral-small-2"
ROUNDS: Final = 31


def micros(run: Callable[[], Any], rounds: int = ROUNDS) -> float:
    """Median CPU time of a call, in microseconds."""
    taken = []
    for _ in range(rounds):
        begun = time.thread_time_ns()
        run()
        taken.append((time.thread_time_ns() - begun) / 1e3)
    return median(taken)


def last_turn(body: dict[str, Any]) -> dict[str, Any]:
    """The request without all messages between the first user message and the last call with its result."""
    return {**body, "messages": [*body["messages"][:2], *body["messages"][-2:]]}


def measured(size: int, system: int, result: int) -> dict[str, float]:
    """Times in microseconds, and sizes, of a conversation's last turn."""
    body = {**Writer().body(size, 20, 300, system, result), "model": MODEL}
    profile = Profiles().find(MODEL)

    def translated(request: dict[str, Any]) -> dict[str, Any]:
        return Translator(profile).request(request)

    raw = orjson.dumps(body)
    parsed = orjson.loads(raw)
    before = orjson.loads(raw)["messages"][:-2]  # what the turn before had, parsed then
    short = last_turn(parsed)
    whole, part = translated(parsed), translated(short)
    prefix = raw[: raw.rindex(orjson.dumps(body["messages"][-2]))]
    toolless = {name: value for name, value in short.items() if name not in ("tools", "tool_choice")}
    return {
        "bytes": len(raw),
        "messages": len(body["messages"]),
        "loads": micros(lambda: orjson.loads(raw)),
        "request": micros(lambda: translated(parsed)),
        "dumps": micros(lambda: orjson.dumps(whole)),
        "request of the last turn": micros(lambda: translated(short)),
        "request without tools": micros(lambda: translated(toolless)),
        "dumps of the last turn": micros(lambda: orjson.dumps(part)),
        "compare messages": micros(lambda: parsed["messages"][: len(before)] == before),
        "compare bytes": micros(lambda: raw.startswith(prefix)),
    }


def saved(times: dict[str, float]) -> dict[str, float]:
    """What reuse would save at most, in µs: of the translation, less what knowing again costs; and of all three."""
    whole = times["loads"] + times["request"] + times["dumps"]
    translation = times["request"] - times["request of the last turn"] - times["compare messages"]
    everything = whole - times["request of the last turn"] - times["dumps of the last turn"] - times["compare bytes"]
    return {"of": whole, "translation": translation, "everything": everything}


def main(arguments: list[str]) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m qa.bench.reuse")
    parser.add_argument("--out", type=Path, default=LAB / "reuse.json")
    chosen = parser.parse_args(arguments)
    LAB.mkdir(exist_ok=True)
    gc.collect()
    gc.freeze()
    sizes = {}
    for name, shape in SIZES.items():
        times = measured(*shape)
        sizes[name] = times | {f"saved {key}": value for key, value in saved(times).items()}
        print(name + ": " + ", ".join(f"{key} {value:,.0f}" for key, value in sizes[name].items()))
    found = {"date": time.strftime("%Y-%m-%d"), "machine": machine(), "sizes": sizes}
    chosen.out.write_text(json.dumps(found, indent=1), "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
