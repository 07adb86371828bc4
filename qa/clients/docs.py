"""The configurations in docs/clients.md: the very files that the runner writes; and the results of the last runs.

In the page a client's stand between `<!-- client: NAME -->` and `<!-- end of client -->`, the results between
`<!-- results -->` and `<!-- end of results -->`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from qa.clients.model import ROOT, Client
from qa.clients.report import load
from qa.clients.scenarios import SCENARIOS
from qa.clients.table import CLIENTS

PAGE: Final = ROOT / "docs" / "clients.md"
_RESULTS = re.compile(r"(<!-- results -->\n).*?(<!-- end of results -->)", re.DOTALL)
_PLACE = re.compile(r"(<!-- client: ([\w-]+) -->\n).*?(<!-- end of client -->)", re.DOTALL)


def filled(page: str) -> str:
    """The page with the present configurations in their places. Raises KeyError for an unknown client."""
    return _PLACE.sub(lambda found: f"{found[1]}\n{block(CLIENTS[found[2]])}\n{found[3]}", page)


def with_results(page: str, report: Path) -> str:
    """The page with the table of a report that has every client in every scenario; else the page as it is."""
    told = load(report)
    if not all(SCENARIOS.keys() <= told.get(name, {}).get("runs", {}).keys() for name in CLIENTS):
        return page
    return _RESULTS.sub(lambda found: f"{found[1]}\n{results(told)}\n{found[2]}", page)


def results(report: Mapping[str, Any]) -> str:
    """The table of a report, and why something did not pass."""
    lines = [["client", "version", *SCENARIOS], ["---"] * (len(SCENARIOS) + 2)]
    notes: dict[str, list[str]] = {}
    for name, client in CLIENTS.items():
        runs = report[name]["runs"]
        lines.append([client.title, client.release[1], *(runs[one]["status"] for one in SCENARIOS)])
        for one in SCENARIOS:
            if runs[one]["status"] != "PASS":
                why = f"{runs[one]['status']}: {'; '.join(runs[one]['reasons'])}"
                notes.setdefault(why, []).append(f"{client.title} `{one}`")
    rows = "".join(f"| {' | '.join(line)} |\n" for line in lines)
    return rows + "".join(f"\n- {why} ({'; '.join(names)})" for why, names in notes.items()) + "\n"


def clients_of(page: str) -> list[str]:
    """Names of the clients that the page has places for."""
    return [found[2] for found in _PLACE.finditer(page)]


def block(client: Client) -> str:
    """A client's version, files, environment and notes as Markdown."""
    said = [f"Run here: yes, `{client.release[0]}` {client.release[1]}, over `{_PATHS[client.api]}`.\n"]
    said += [
        f"`{file.shown or '~/' + file.path}`:\n\n```{file.language}\n{file.text.rstrip()}\n```\n"
        for file in client.files
    ]
    if client.env:
        lines = "\n".join(f"export {name}={value}" for name, value in client.env.items())
        said.append(f"Environment:\n\n```sh\n{lines}\n```\n")
    notes = [*client.notes, *(f"`{name}`: {why}." for name, why in client.gives_up.items())]
    if notes:
        said.append("\n".join(f"- {note}" for note in notes) + "\n")
    return "\n".join(said)


_PATHS: Final = {"chat": "/v1/chat/completions", "responses": "/v1/responses", "messages": "/v1/messages"}
