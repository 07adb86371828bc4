"""The simulator as a server of its own."""

from __future__ import annotations

import uvicorn

from devstral_proxy.simulator.app import create_simulator
from devstral_proxy.simulator.options import SimulatorOptions


def serve_simulator(options: SimulatorOptions, host: str = "127.0.0.1", port: int = 8000) -> None:
    """Serve until interrupted. Raises ValueError where the installed mistral-common has no such tokenizer."""
    uvicorn.run(create_simulator(options), host=host, port=port, log_level="info")
