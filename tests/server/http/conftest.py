"""Every test here runs on asyncio's loop and on uvloop."""

from __future__ import annotations

from typing import Any

import pytest


@pytest.fixture(scope="session", params=[False, True], ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    return "asyncio", {"use_uvloop": request.param}
