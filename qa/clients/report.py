"""The table and the report of a run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from qa.clients.table import CLIENTS
from qa.clients.verdict import Verdict

Row = dict[str, Verdict]


def table(rows: Mapping[str, Mapping[str, Verdict]]) -> str:
    """Client by scenario, then the reasons of all that did not pass, each once a client."""
    names = list(dict.fromkeys(name for row in rows.values() for name in row))
    heads = ["client", "version", *names]
    lines = [
        [client, CLIENTS[client].release[1], *(row[name].status if name in row else "" for name in names)]
        for client, row in rows.items()
    ]
    widths = [max(len(line[index]) for line in (heads, *lines)) for index in range(len(heads))]
    made = [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in (heads, *lines)
    ]
    return "\n".join([*made, "", *_reasons(rows)])


def _reasons(rows: Mapping[str, Mapping[str, Verdict]]) -> list[str]:
    grouped: dict[tuple[str, str, str], list[str]] = {}
    for client, row in rows.items():
        for name, verdict in row.items():
            if verdict.status != "PASS":
                grouped.setdefault((client, verdict.status, "; ".join(verdict.reasons)), []).append(name)
    return [f"{client}: {status} {', '.join(names)}: {why}" for (client, status, why), names in grouped.items()]


def failed(rows: Mapping[str, Mapping[str, Verdict]]) -> list[str]:
    """`client scenario` of all that failed."""
    return [f"{client} {name}" for client, row in rows.items() for name, one in row.items() if one.status == "FAIL"]


def save(path: Path, rows: Mapping[str, Mapping[str, Verdict]]) -> None:
    """Writes the report as JSON. What is in it of other clients and scenarios, of the present versions, stays."""
    report = load(path)
    for name, row in rows.items():
        package = " ".join(CLIENTS[name].release)
        entry = report.get(name) or {}
        kept = entry.get("runs", {}) if entry.get("package") == package else {}
        made = {scenario: asdict(verdict) for scenario, verdict in row.items()}
        report[name] = {"package": package, "api": CLIENTS[name].api, "runs": {**kept, **made}}
    path.write_text(json.dumps(report, indent=1) + "\n", "utf-8")


def load(path: Path) -> dict[str, Any]:
    """A report that was saved; empty when there is none."""
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
