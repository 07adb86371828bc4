#!/usr/bin/env python3
"""The tables of docs/ that are made from the code's own.

    python -m qa.doc_tables            says which pages are out of date; 1 when there are any
    python -m qa.doc_tables --write    puts the present tables into the pages

In a page a table stands between `<!-- table: NAME -->` and `<!-- end of table -->`.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

from devstral_proxy.mistral.rewrites import REQUEST, RESPONSE, Rewrite
from devstral_proxy.server.access import FIELDS
from devstral_proxy.server.series import SERIES
from devstral_proxy.server.traces import CLIENT_ATTRIBUTES, SERVER_ATTRIBUTES
from devstral_proxy.upstream.capabilities import ROWS

DOCS: Final = Path(__file__).parents[1] / "docs"
_PLACE = re.compile(r"(<!-- table: ([\w-]+) -->\n).*?(<!-- end of table -->)", re.DOTALL)


def _table(heads: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    heads = list(heads)
    lines = [heads, ["---"] * len(heads), *rows]
    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |\n" for line in lines)


def _rewrites(rows: dict[str, Rewrite]) -> str:
    cells = ([f"`{name}`", rewrite.modes.replace(" ", ", ") or "–", rewrite.says] for name, rewrite in rows.items())
    return _table(("name", "failure modes", "what it says"), cells)


def _versions() -> str:
    ways = {"as-client": "as the client asks", "stream": "streamed", "whole": "not streamed"}
    cells = [
        [
            ".".join(map(str, row.since)) if any(row.since) else "any",
            ways[row.ask],
            "yes" if row.raw_text else "",
            "yes" if row.token_ids or row.raw_text else "",
            row.why,
        ]
        for row in ROWS
    ]
    return _table(("from", "asked", "the model's own text", "token ids", "what it does"), cells)


def _metrics() -> str:
    cells = (
        [f"`{name}`", series.kind, ", ".join(f"`{label}`" for label in series.labels), series.says]
        for name, series in SERIES.items()
    )
    return _table(("metric", "kind", "labels", "what"), cells)


def _named(rows: dict[str, str]) -> str:
    return _table(("name", "what"), ([f"`{name}`", says] for name, says in rows.items()))


TABLES: Final[dict[str, Callable[[], str]]] = {
    "rewrites-of-requests": lambda: _rewrites(REQUEST),
    "rewrites-of-answers": lambda: _rewrites(RESPONSE),
    "versions": _versions,
    "metrics": _metrics,
    "log-fields": lambda: _named(FIELDS),
    "server-span": lambda: _named(SERVER_ATTRIBUTES),
    "client-span": lambda: _named(CLIENT_ATTRIBUTES),
}


def filled(page: str) -> str:
    """The page with the present tables in their places. Raises KeyError for a table that nobody makes."""
    return _PLACE.sub(lambda found: f"{found[1]}\n{TABLES[found[2]]()}\n{found[3]}", page)


def tables_of(page: str) -> list[str]:
    """Names of the tables that the page has places for."""
    return [found[2] for found in _PLACE.finditer(page)]


def main(arguments: list[str]) -> int:
    """The command line; the exit code."""
    stale = []
    for path in sorted(DOCS.glob("*.md")):
        page = path.read_text("utf-8")
        if filled(page) != page:
            stale.append(path.name)
            if "--write" in arguments:
                path.write_text(filled(page), "utf-8")
    print(f"{'written' if '--write' in arguments else 'out of date'}: {', '.join(stale) or 'none'}")
    return 1 if stale and "--write" not in arguments else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
