"""docs/benchmarks.md and docs/benchmarks.svg, from what the measurements wrote.

    python -m qa.bench.report [RESULT] [--docs docs]

RESULT is `.bench/result.json`; profile.json, memory.json, workers.json and reuse.json are taken from beside it, those
that are there. Numbers are only ever put into the page by this.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

from qa.bench.goals import GOALS, with_memory
from qa.bench.lab import LAB, ROOT
from qa.bench.plan import TESTS
from qa.bench.plot import plot
from qa.bench.summary import ratios, table
from qa.bench.targets import SAYS

Json = dict[str, Any]
PARTS: Final = ("profile", "memory", "workers", "reuse")
_LOADS: Final = {"c64": "1 KB, 64 connections", "60k": "60 KB, 16 connections", "s200": "200 streams"}
_LEAST_SHARE: Final = 0.01
_HOW = """\
Everything runs on loopback: a simulated vLLM and a load client, both in C, on one core, the target on another. The
targets take turns within each test, and several rounds are run; the figures are medians, failures are sums. CPU time
is the scheduler's, of the target's whole process tree: it holds on a machine that does other work too, where requests
a second do not. A delta carries the time at which the simulator made it; what is *added* is the target's figure less
that of `direct`, measured in the same run. A delta here is one that is stamped: a stream has about five more events.
Each answer is checked: status, framing, JSON, the request's own nonce, the tool call, of a stream every delta in
order, usage, `[DONE]` once and last. A swapped, cut, merged or repeated answer counts as failed. "–": the plan spares
a slow target that test."""


def grid(rows: Iterable[Sequence[str]], left: int = 1) -> list[str]:
    """A Markdown table, its first row the head; the first `left` columns to the left, the others to the right."""
    rows = list(rows)
    rule = ["---" if at < left else "---:" for at in range(len(rows[0]))]
    return [f"| {' | '.join(row)} |" for row in [rows[0], rule, *rows[1:]]]


def goals(result: Json, memory: Json | None) -> list[str]:
    figures = with_memory(result["figures"], memory)
    rows = [["what", "goal", "measured", "met"], *(goal.row(figures) for goal in GOALS)]
    return ["## Goals", "", "One worker on one core, translation and repair on.", "", *grid(rows), ""]


def everyone(result: Json) -> list[str]:
    lines = ["## Beside its peers", "", "![dots on logarithmic scales](benchmarks.svg)", ""]
    present = [["target", "version", "what"]]
    for name in result["figures"]:
        version = (
            result["machine"]["project"] if name == "project" else result["peers"].get(name.removesuffix("-rr"), "")
        )
        present.append([name, version, SAYS[name]])
    lines += [*grid(present, 3), "", *grid(table(result["figures"])), ""]
    if compared := ratios(result["figures"]):
        lines += ["The same as ratios, the project's figure over the peer's:", "", *grid(compared), ""]
    if result["left_out"]:
        lines += [f"Left out: {', '.join(result['left_out'])} (not installed, or no answer).", ""]
    if result["cut"]:
        lines += [f"Not measured, the time was up: {', '.join(result['cut'])}.", ""]
    for name, reasons in result["why"].items():
        lines += [f"Failures of {name}: {'; '.join(reasons)}.", ""]
    return lines


def time_spent(profile: Json) -> list[str]:
    loads: Json = profile["loads"]
    names: list[str] = []
    for of in loads.values():
        names += [name for name, share in of["components"] if share >= _LEAST_SHARE and name not in names]
    shares = {load: dict(of["components"]) for load, of in loads.items()}
    names.sort(key=lambda name: -sum(of.get(name, 0) for of in shares.values()))
    head = ["component", *(_LOADS.get(load, load) for load in loads)]
    rows = [[name, *(f"{of.get(name, 0):.1%}" for of in shares.values())] for name in names]
    rows.append(["kernel, by the scheduler's count", *(f"{of['kernel']:.1%}" for of in loads.values())])
    lines = [
        "## Where the time goes",
        "",
        "Samples of the running process (py-spy, C frames included); components under 1 % are left out.",
        "",
    ]
    lines += [*grid([head, *rows]), ""]
    for load, of in loads.items():
        functions = [[f"`{name}`", f"`{file}`", f"{share:.1%}"] for file, name, share in of["functions"][:12]]
        lines += [
            f"Functions with the most time of their own, C code that they call included; {_LOADS.get(load, load)}:",
            "",
        ]
        lines += [*grid([["function", "file", "share"], *functions], 2), ""]
    return lines


def memory_used(memory: Json | None, workers: Json | None) -> list[str]:
    lines = ["## Memory", ""]
    if memory:
        rows = [
            [
                "requests",
                "failed",
                "idle",
                "after a tenth",
                "at the end",
                "highest",
                "growth",
                "second half, per million",
            ]
        ]
        sizes = [f"{memory[name]:.1f} MB" for name in ("idle", "warm", "end", "peak")]
        rows.append(
            [
                f"{memory['requests']:,}",
                str(memory["failed"]),
                *sizes,
                f"{memory['growth']:+.1f} MB",
                f"{memory['slope']:+.1f} MB",
            ]
        )
        lines += [
            "Over many requests, streamed (ten deltas), not streamed (1 KB), and histories of 60 KB in turns:",
            "",
            *grid(rows),
            "",
        ]
    if workers:
        rows = [["process", "RSS idle", "PSS idle", "RSS after load", "PSS after load"]]
        for at, (idle, after) in enumerate(zip(workers["idle"], workers["after"], strict=False)):
            cells = [idle["rss"], idle["pss"], after["rss"], after["pss"]]
            rows.append([f"worker {at}" if at else "parent", *(f"{cell:.1f} MB" for cell in cells)])
        told = "PSS counts a page that several share once in all; it is what a worker costs."
        lines += [f"Of `devstral-proxy serve --workers {workers['workers']}`. {told}", "", *grid(rows), ""]
    return lines if len(lines) > 2 else []


def reused(reuse: Json) -> list[str]:
    saved = ("saved at most", "of which is lost to knowing again", "saved at most, parsing too")
    rows = [["a turn of", "messages", "parse", "translate", "of that tools", "write", *saved]]
    for name, of in reuse["sizes"].items():
        tools = of["request of the last turn"] - of["request without tools"]
        times = [f"{value:,.0f} µs" for value in (of["loads"], of["request"], tools, of["dumps"])]
        shares = [of[key] / of["saved of"] for key in ("saved translation", "saved everything")]
        translation = f"{of['saved translation']:,.0f} µs ({shares[0]:.0%})"
        everything = f"{of['saved everything']:,.0f} µs ({shares[1]:.0%})"
        rows.append([name, str(of["messages"]), *times, translation, f"{of['compare messages']:,.0f} µs", everything])
    return [
        "## Reusing the translation of earlier turns",
        "",
        "An agent's request repeats all turns before it. A cache of their translation could save at most this (the",
        "share is of parsing, translating and writing together). It would keep each conversation's messages in memory,",
        "and for the last column its raw bytes too.",
        "",
        *grid(rows),
        "",
    ]


def conditions(result: Json) -> list[str]:
    machine = result["machine"]
    libraries = ", ".join(f"{name} {version}" for name, version in machine["libraries"].items())
    tests = [["test", "load"], *([f"`{name}`", test.says] for name, test in TESTS.items())]
    return [
        "## How it is measured",
        "",
        *_HOW.split("\n"),
        "",
        *grid(tests, 2),
        "",
        f"{machine['processor']}, {machine['cores']} cores, {machine['memory_gb']} GB; Linux {machine['kernel']}; "
        f"Python {machine['python']}; {libraries}. Other work meanwhile: {result['other_cores']:.2f} cores.",
        "",
    ]


def page(result: Json, parts: dict[str, Json]) -> str:
    """The whole page."""
    command = "make bench PLAN=full" if result["plan"] == "full" else "make bench"
    lines = [
        "# Benchmarks",
        "",
        f"devstral-proxy {result['machine']['project']}, measured on {result['date']} by `{command}` "
        f"({result['seconds']} s). This page is made by `make bench-docs`, not edited by hand.",
        "",
        "    make bench                        # under three minutes; nginx when it is installed",
        "    make bench PLAN=full PEERS=all    # installs vllm-router and LiteLLM into .bench first",
        "    make bench-memory                 # a million requests",
        "    make bench-docs                   # this page, with a fresh profile",
        "",
        *goals(result, parts.get("memory")),
        *everyone(result),
        *(time_spent(parts["profile"]) if "profile" in parts else []),
        *memory_used(parts.get("memory"), parts.get("workers")),
        *(reused(parts["reuse"]) if "reuse" in parts else []),
        *conditions(result),
    ]
    return "\n".join(lines).rstrip() + "\n"


def main(arguments: list[str]) -> int:
    """The command line; 1 when there is no result."""
    parser = argparse.ArgumentParser(prog="python -m qa.bench.report")
    parser.add_argument("result", type=Path, nargs="?", default=LAB / "result.json")
    parser.add_argument("--docs", type=Path, default=ROOT / "docs", help="the folder to write to")
    chosen = parser.parse_args(arguments)
    if not chosen.result.exists():
        print("qa.bench.report: there is no result; run: make bench", file=sys.stderr)
        return 1
    result: Json = json.loads(chosen.result.read_text("utf-8"))
    beside = {name: chosen.result.with_name(f"{name}.json") for name in PARTS}
    parts = {name: json.loads(path.read_text("utf-8")) for name, path in beside.items() if path.exists()}
    chosen.docs.mkdir(parents=True, exist_ok=True)
    (chosen.docs / "benchmarks.md").write_text(page(result, parts), "utf-8")
    (chosen.docs / "benchmarks.svg").write_text(plot(result["figures"]), "utf-8")
    missing = [name for name in PARTS if name not in parts]
    print("written: benchmarks.md, benchmarks.svg" + (f"; without {', '.join(missing)}" if missing else ""))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
