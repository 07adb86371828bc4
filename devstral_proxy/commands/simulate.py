"""simulate: the stand-in for vLLM alone."""

from __future__ import annotations

import argparse

import uvicorn

from devstral_proxy.commands.serve import bind
from devstral_proxy.simulator.app import create_simulator
from devstral_proxy.simulator.options import SimulatorOptions


def run(options: argparse.Namespace) -> int:
    """Serve until a signal ends it. Raises ConfigError for an address that is taken."""
    simulator = create_simulator(
        SimulatorOptions(tokenizer=options.tokenizer, model=options.model, version=options.vllm_version)
    )
    listener = bind(options.host, options.port)
    port = listener.getsockname()[1]
    print(
        f"simulated vLLM {options.vllm_version} with {options.model} ({options.tokenizer}) on port {port}", flush=True
    )
    uvicorn.Server(uvicorn.Config(simulator, log_level="warning", lifespan="off", ws="none")).run(sockets=[listener])
    return 0
