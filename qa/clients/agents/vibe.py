"""Mistral Vibe."""

from __future__ import annotations

from typing import Final

from qa.clients.model import KEY, Client, File, Package

_CONFIG: Final = """\
active_model = "devstral"

[[providers]]
name = "devstral-proxy"
api_base = "http://127.0.0.1:9000/v1"
api_key_env_var = "DEVSTRAL_PROXY_KEY"
api_style = "openai"
backend = "generic"

[[models]]
name = "devstral-small-2"
provider = "devstral-proxy"
alias = "devstral"
supports_images = true
max_context_length = 131072
"""

CLIENTS: Final = (
    Client(
        name="vibe",
        title="Mistral Vibe",
        api="chat",
        package=Package("vibe", "pip", ("mistral-vibe==2.26.1",), ("3.12", "3.13")),
        command=("{bin}/vibe", "-p", "{task}", "--auto-approve", "--trust"),
        files=(File(".vibe/config.toml", _CONFIG, "~/.vibe/config.toml"),),
        env={"DEVSTRAL_PROXY_KEY": KEY},
        quiet={"VIBE_HOME": "{home}/.vibe", "VIBE_ENABLE_TELEMETRY": "false", "VIBE_ENABLE_UPDATE_CHECKS": "false"},
    ),
)
