#!/usr/bin/env python3
"""The table of rewrites for docs/failure-modes.md, made from `mistral/rewrites.py`.

    python -m qa.rewrite_table            print it
    python -m qa.rewrite_table --write    put it into the page
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

from devstral_proxy.mistral.rewrites import REQUEST, RESPONSE, Rewrite

PAGE: Final = Path(__file__).parents[1] / "docs" / "failure-modes.md"
BEGIN: Final = "<!-- rewrites -->\n"
END: Final = "<!-- end of rewrites -->"


def table() -> str:
    """The rows, those of requests first."""
    parts = []
    for title, rows in (("Of requests", REQUEST), ("Of answers", RESPONSE)):
        parts += [f"### {title}\n", "| name | failure modes | what it says |", "|---|---|---|"]
        parts += [_row(name, rewrite) for name, rewrite in rows.items()]
        parts.append("")
    return "\n".join(parts)


def _row(name: str, rewrite: Rewrite) -> str:
    return f"| `{name}` | {rewrite.modes.replace(' ', ', ') or '–'} | {rewrite.says} |"


def with_table(page: str) -> str:
    """The page with the present table in its place. Raises ValueError where the page has no place for it."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"there is no {BEGIN.strip()} … {END} in the page")
    return f"{before}{BEGIN}\n{table()}\n{END}{after}"


if __name__ == "__main__":
    if "--write" in sys.argv[1:]:
        PAGE.write_text(with_table(PAGE.read_text("utf-8")), "utf-8")
    else:
        print(table())
