"""Entry point of `python devstral_proxy/main.py`; the console script and `python -m devstral_proxy` do the same."""

from __future__ import annotations

import sys
from pathlib import Path

if not __package__:
    # Started as a script: Python has put this folder first on the path, where the package's modules would stand in for
    # others' of the same name, and the package itself could not be found.
    _here = Path(__file__).resolve().parent
    sys.path[:] = [entry for entry in sys.path if not entry or Path(entry).resolve() != _here]
    sys.path.insert(0, str(_here.parent))

from devstral_proxy.cli import main

if __name__ == "__main__":
    sys.exit(main())
