"""OpenHands' command line."""

from __future__ import annotations

from typing import Final

from qa.clients.model import BASE, KEY, Client, Package

CLIENTS: Final = (
    Client(
        name="openhands",
        title="OpenHands",
        api="chat",
        package=Package("openhands", "pip", ("openhands==1.16.0",), ("3.12", "3.13")),
        command=("{bin}/openhands", "--headless", "--override-with-envs", "-t", "{task}"),
        env={"LLM_MODEL": "openai/devstral-small-2", "LLM_BASE_URL": BASE + "/v1", "LLM_API_KEY": KEY},
        quiet={"OPENHANDS_SUPPRESS_BANNER": "1", "LITELLM_LOCAL_MODEL_COST_MAP": "True"},
        notes=("Start it with `--override-with-envs`, or it does not look at the environment.",),
    ),
)
