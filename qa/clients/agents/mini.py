"""mini-swe-agent: one tool, a shell, not streamed."""

from __future__ import annotations

from typing import Final

from qa.clients.model import BASE, KEY, Client, Package

CLIENTS: Final = (
    Client(
        name="mini-swe-agent",
        title="mini-swe-agent",
        api="chat",
        package=Package("mini", "pip", ("mini-swe-agent==2.4.6", "mcp==2.3.0"), ("3.12", "3.11", "3.10")),
        command=("{bin}/mini", "--yolo", "--exit-immediately", "-m", "openai/devstral-small-2", "-t", "{task}"),
        env={"OPENAI_API_BASE": BASE + "/v1", "OPENAI_API_KEY": KEY, "MSWEA_COST_TRACKING": "ignore_errors"},
        quiet={"MSWEA_CONFIGURED": "true", "LITELLM_LOCAL_MODEL_COST_MAP": "True", "MSWEA_SILENT_STARTUP": "1"},
        notes=("Start it with `mini -m openai/devstral-small-2`.",),
    ),
)
