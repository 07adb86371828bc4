"""A soak of seconds: that it runs, finds nothing wrong, and leaves nothing behind. `make soak` is the long one."""

from __future__ import annotations

from pathlib import Path

import pytest

from qa.bench.process import LINUX
from qa.soak.report import page, table
from qa.soak.run import soak

pytestmark = [pytest.mark.anyio, pytest.mark.skipif(not LINUX, reason="it looks at processes through /proc")]


async def test_a_short_soak(tmp_path: Path) -> None:
    result = await soak(tmp_path, 5, 11, 1, 8, lambda line: None, quiet=8)
    assert not result["failed"], table(result)
    assert result["requests"] > 20
    assert result["outcomes"]["warm-up"] == {"answer": 18}
    assert "passed" in page(result)
