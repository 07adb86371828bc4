"""A stand-in for vLLM: the same refusals, by mistral-common's own rules, and scripted answers in vLLM's own shape."""

from devstral_proxy.simulator.app import create_simulator
from devstral_proxy.simulator.options import Call, Script, SimulatorOptions, Turn

__all__ = ["Call", "Script", "SimulatorOptions", "Turn", "create_simulator"]
