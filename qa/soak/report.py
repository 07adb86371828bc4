"""The table of a run on the terminal, and docs/soak.md."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from qa.bench.report import grid
from qa.soak.stack import SETTINGS

Json = dict[str, Any]
LABELS: Final = ("answer", "error event", "left", "dropped", "wrong")
_HOW: Final = """\
The proxy runs as `devstral-proxy serve`, with keys, rate limits, admission, breakers, health checks, metrics and
stored responses (SQLite) on, before three upstreams as replicas: two of the project's simulator, and one that speaks
HTTP by hand so that it can speak it wrongly. Scenarios begin at random moments, chosen by weight from a seed: questions
in all three APIs, streamed and whole, with text, one call or two calls to come, histories of 600 KB, stored
conversations by `previous_response_id`, text completions, counting, tokenizing, embeddings, lists, health; clients that
leave, read slowly or not at all, stop within a request, pipeline, send what is no JSON, too much, compressed, framed in
two ways, or with a wrong key. Meanwhile upstreams are killed and started again, now and then one key or two send more
requests at once than are admitted, and where there are several workers SIGHUP replaces them.

Every prompt orders its answer: text made of a word that no other request has, calls with that word in their arguments,
and in a conversation the words of all turns before it. An answer is right when it is exactly that, with everything
that its API says about the order of events and their end. Whatever else a request ends in has to be an error in the
shape of its API whose status fits the fault that was ordered, or an error event after a beginning that is right; a
request without a fault may fail only where its servers were dead or left alone. None may take over 40 seconds."""
_COLUMNS: Final = """\
*error event*: a stream that had begun broke off, and said so. *left*: the client went away, as it meant to. *dropped*:
the proxy closed the connection of a client that reads nothing, or that rested on a worker which was being replaced.
*afterwards*: when all is over each server has to answer again, without an excuse."""


def table(result: Json) -> str:
    """The run on the terminal."""
    lines = [f"{result['requests']:,} requests in {result['seconds']} s, seed {result['seed']}", ""]
    lines += _aligned(_outcomes(result["outcomes"]))
    lines += ["", *_aligned(_outcomes(result["faults"], "fault"))]
    lines += ["", *_aligned(_leaks(result)), "", *_aligned(_memory(result["memory"])), ""]
    lines += [f"{name}: {count}" for name, count in result["events"].items()]
    lines += [f"{_cores(result)}exit code {result['exit_code']}"]
    lines += [f"in the log: {finding}" for finding in result["log_findings"]]
    lines += [f"DEFECT {defect}" for defect in result["defects"]]
    lines.append("FAILED" if result["failed"] else "PASSED")
    return "\n".join(lines)


def _cores(result: Json) -> str:
    used = result["proxy_cores"]
    return "" if used is None else f"The proxy used {used:.2f} cores. "


def _outcomes(counts: Mapping[str, Mapping[str, int]], head: str = "request") -> list[list[str]]:
    """Kinds by outcomes; all statuses of errors in one cell."""
    rows = [[head, "requests", "right answer", "error, by status", *LABELS[1:]]]
    for kind, row in counts.items():
        errors = [f"{label.removeprefix('error ')}: {row[label]}" for label in row if label[6:].isdigit()]
        cells = [str(row.get(label, "")) for label in LABELS]
        rows.append([kind, str(sum(row.values())), cells[0], ", ".join(errors), *cells[1:]])
    return rows


def _leaks(result: Json) -> list[list[str]]:
    rows = [["what", "before", "highest", "after", "at most", ""]]
    for row in result["leaks"]:
        figures = [f"{row[name]:.0f}" for name in ("start", "highest", "end", "bound")]
        rows.append([row["says"], *figures, "well" if row["well"] else "LEAK"])
    return rows


def _memory(memory: Json) -> list[list[str]]:
    names = ("start", "half", "highest", "end")
    heads = ["", "before", "after half", "highest", "after", "growth in the second half", "at most", ""]
    cells = [f"{memory[name]:.1f}" for name in names]
    verdict = ("well" if memory["well"] else "LEAK") if memory["judged"] else "too short to tell"
    return [heads, ["RSS, MB", *cells, f"{memory['growth']:+.1f}", f"{memory['bound']:.1f}", verdict]]


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _listed(items: Iterable[str], nothing: str) -> list[str]:
    return [f"- {item}" for item in items] or [nothing]


def page(result: Json) -> str:
    """docs/soak.md."""
    machine = result["machine"]
    libraries = ", ".join(f"{name} {version}" for name, version in machine["libraries"].items())
    settings = ", ".join(f"`{name.upper()}={value}`" for name, value in SETTINGS.items() if name != "proxy_port")
    events = ", ".join(f"{name}: {count}" for name, count in result["events"].items()) or "none"
    verdict = "failed" if result["failed"] else "passed"
    minutes = result["seconds"] / 60
    lines = [
        "# Soak",
        "",
        f"devstral-proxy {machine['project']}, {result['date']}: {result['requests']:,} requests in {minutes:.1f} "
        f"minutes, {result['wrong']} ended wrongly; the run {verdict}. This page is written by the run, not edited by "
        "hand.",
        "",
        "    make soak                                     # ten minutes; the report is .soak/report.json",
        f"    python -m qa.soak --minutes {minutes:.0f} --seed {result['seed']} --workers {result['workers']} "
        "--report docs/soak.md",
        "",
        "The same seed makes the same choices, not the same moments: what meets what is left to chance.",
        "",
        "## What ran",
        "",
        _HOW,
        "",
        f"Workers: {result['workers']}; {result['rate']:g} scenarios a second. {_cores(result)}Done to processes: "
        f"{events}. Settings: {settings}.",
        "",
        "## How requests ended",
        "",
        _COLUMNS,
        "",
        *grid(_outcomes(result["outcomes"])),
        "",
        "## By fault",
        "",
        "What was ordered of one of three replicas shows only where that one is asked, and not when another is asked",
        "after it. A whole and right answer is right whatever was ordered.",
        "",
        *grid(_outcomes(result["faults"], "fault")),
        "",
        "## What was left",
        "",
        "Before the load, the most during it, and after a quiet period.",
        "",
        *grid(_leaks(result)),
        "",
        *grid(_memory(result["memory"])),
        "",
        f"The proxy then ended after SIGTERM with exit code {result['exit_code']}.",
        "",
        "## The log",
        "",
        f"{result['log_lines']:,} lines were searched for internal errors, tracebacks, lines of level error, keys, and",
        "words of the conversations:",
        "",
        *_listed(result["log_findings"], "Nothing was found."),
        "",
        "## Defects",
        "",
        *_listed(result["defects"], "None."),
        "",
        "## Where",
        "",
        f"{machine['processor']}, {machine['cores']} cores, {machine['memory_gb']} GB; Linux {machine['kernel']}; "
        f"Python {machine['python']}; {libraries}.",
    ]
    return "\n".join(lines) + "\n"
