"""The command: start everything, load it for the time, look at what is left, tell.

    python -m qa.soak [--minutes 10] [--seed 1] [--workers 1] [--rate 24] [--report docs/soak.md]

Exits with 1 when a request ended wrongly, something leaked, or the proxy's log tells of a defect or a secret.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from pathlib import Path

from qa.bench.process import LINUX
from qa.soak.report import page, table
from qa.soak.run import soak
from qa.soak.stack import ROOT

OUT = ROOT / ".soak" / "report.json"


def main(arguments: list[str]) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m qa.soak")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=int(time.time()) % 100_000)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--rate", type=float, default=24.0, help="scenarios a second")
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--report", type=Path, help="write the document here too")
    chosen = parser.parse_args(arguments)
    if not LINUX:
        print("qa.soak: Linux is needed: processes are looked at through /proc", file=sys.stderr)
        return 2
    chosen.out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        try:
            result = asyncio.run(
                soak(Path(folder), chosen.minutes * 60, chosen.seed, chosen.workers, chosen.rate, print)
            )
        except RuntimeError as error:
            print(f"qa.soak: {error}", file=sys.stderr)
            return 2
    chosen.out.write_text(json.dumps(result, indent=1) + "\n", "utf-8")
    print(table(result))
    if chosen.report is not None:
        chosen.report.write_text(page(result), "utf-8")
    return 1 if result["failed"] else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
