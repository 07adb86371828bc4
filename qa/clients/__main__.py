"""The command line: see `qa.clients`."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from qa.clients.docs import PAGE, filled, with_results
from qa.clients.install import CACHE, Missing, install, installed
from qa.clients.model import ROOT, Client
from qa.clients.report import Row, failed, save, table
from qa.clients.run import run
from qa.clients.scenarios import SCENARIOS
from qa.clients.table import CLIENTS
from qa.clients.verdict import Verdict


def options(arguments: list[str]) -> argparse.Namespace:
    """The command line, read."""
    parser = argparse.ArgumentParser(prog="python -m qa.clients", description=__doc__)
    parser.add_argument("--only", default=",".join(CLIENTS), help="clients, with commas between (all)")
    parser.add_argument("--fault", default=",".join(SCENARIOS), help="scenarios, with commas between (all)")
    parser.add_argument("--list", action="store_true", help="name the clients and the scenarios")
    parser.add_argument("--keep", action="store_true", help="keep the logs of runs that passed, too")
    parser.add_argument("--present", action="store_true", help="install nothing: skip what is not there")
    parser.add_argument(
        "--docs",
        action="store_true",
        help="write the configurations, and the results when there are all, into docs/clients.md",
    )
    parser.add_argument("--out", type=Path, default=CACHE, help="where report.json and the logs go (%(default)s)")
    parser.add_argument("--proxy", type=Path, default=ROOT, help="another checkout whose proxy is to be run")
    found = parser.parse_args(arguments)
    for given, known in ((found.only, CLIENTS), (found.fault, SCENARIOS)):
        unknown = set(given.split(",")) - set(known)
        if unknown:
            parser.error(f"unknown: {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    return found


def listed() -> str:
    """The clients and scenarios, for people."""
    lines = [f"{one.name:24}{one.api:11}{' '.join(one.release)}" for one in CLIENTS.values()]
    return "\n".join([*lines, "", *(f"{name:24}{one.says}" for name, one in SCENARIOS.items())])


def why_not(client: Client, name: str) -> str:
    """Why a scenario is not run with this client, or nothing."""
    if name == "image" and client.image is None:
        return "no way is known to show it a picture without a screen"
    return client.skip.get(name, "")


def drive(client: Client, asked: argparse.Namespace) -> Row:
    """All scenarios that were asked for, with one client."""
    names = asked.fault.split(",")
    try:
        if asked.present and not installed(client.package):
            raise Missing("is not installed")
        folder = install(client.package)
    except Missing as missing:
        return {name: Verdict("skipped", (str(missing),)) for name in names}
    row: Row = {}
    for name in names:
        reason = why_not(client, name)
        if reason:
            row[name] = Verdict("skipped", (reason,))
            continue
        logs = asked.out / "logs" / f"{client.name}-{name}"
        row[name] = run(client, name, SCENARIOS[name], folder, logs, asked.keep, asked.proxy.resolve())
        _say(client.name, name, row[name])
    return row


def main(arguments: list[str]) -> int:
    """Runs what is asked for; 1 when a client failed."""
    asked = options(arguments)
    if asked.list:
        print(listed())
        return 0
    if asked.docs:
        page = filled(PAGE.read_text("utf-8"))
        PAGE.write_text(with_results(page, asked.out / "report.json"), "utf-8")
        return 0
    asked.out.mkdir(parents=True, exist_ok=True)
    begun, rows = time.monotonic(), {}
    for name in asked.only.split(","):
        rows[name] = drive(CLIENTS[name], asked)
        save(asked.out / "report.json", rows)
    print(f"\n{table(rows)}\n{time.monotonic() - begun:.0f} s; report: {asked.out / 'report.json'}")
    return 1 if failed(rows) else 0


def _say(client: str, scenario: str, verdict: Verdict) -> None:
    reasons = f"  {'; '.join(verdict.reasons)[:400]}" if verdict.reasons else ""
    print(f"{client:22} {scenario:9} {verdict.status:8} {verdict.seconds:5.1f} s{reasons}", flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
