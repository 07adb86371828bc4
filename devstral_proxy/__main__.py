"""`python -m devstral_proxy`."""

from __future__ import annotations

import sys

from devstral_proxy.cli import main

sys.exit(main())
