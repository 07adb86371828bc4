"""Codex: speaks only the Responses API."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from qa.clients.model import KEY, Client, File, Package

_CONFIG: Final = """\
model = "devstral-small-2"
model_provider = "devstral"
model_context_window = 131072

[model_providers.devstral]
name = "devstral"
base_url = "http://127.0.0.1:9000/v1"
env_key = "DEVSTRAL_PROXY_KEY"
wire_api = "responses"
"""

_COMMAND: Final = (
    "{bin}/codex", "exec", "--skip-git-repo-check", "--dangerously-bypass-approvals-and-sandbox",
    "-c", "check_for_update_on_startup=false", "-c", "analytics.enabled=false",
)  # fmt: skip
_CODEX: Final = Client(
    name="codex",
    title="Codex",
    api="responses",
    package=Package("codex", "npm", ("@openai/codex@0.169.0",)),
    command=(*_COMMAND, "{image}", "--", "{task}"),
    files=(File(".codex/config.toml", _CONFIG, "~/.codex/config.toml"),),
    env={"DEVSTRAL_PROXY_KEY": KEY},
    quiet={"CODEX_HOME": "{home}/.codex"},
    image=("-i", "pic.png"),
)
# By a name that Codex knows, it sends `apply_patch` as a tool of type `custom`; the proxy maps the name.
_KNOWN: Final = replace(
    _CODEX,
    name="codex-alias",
    title="Codex, model gpt-5.5 by MODEL_ALIASES",
    command=(*_COMMAND, "-m", "gpt-5.5", "{image}", "--", "{task}"),
    documented=False,
)

CLIENTS: Final = (_CODEX, _KNOWN)
