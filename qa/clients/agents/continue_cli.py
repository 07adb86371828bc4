"""Continue's command line, cn. The editor extensions read the same file."""

from __future__ import annotations

from typing import Final

from qa.clients.model import Client, File, Package

_CONFIG: Final = """\
name: devstral
version: 0.0.1
schema: v1
models:
  - name: Devstral Small 2
    provider: openai
    model: devstral-small-2
    apiBase: http://127.0.0.1:9000/v1
    apiKey: unused
    roles: [chat, edit, apply]
    capabilities: [tool_use, image_input]
"""

CLIENTS: Final = (
    Client(
        name="continue",
        title="Continue (cn)",
        api="chat",
        package=Package("continue", "npm", ("@continuedev/cli@1.5.47",)),
        command=("{bin}/cn", "-p", "--auto", "--config", "{home}/.continue/config.yaml", "{task}"),
        files=(File(".continue/config.yaml", _CONFIG, "~/.continue/config.yaml"),),
        quiet={"CONTINUE_TELEMETRY_ENABLED": "0"},
    ),
)
