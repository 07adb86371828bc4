"""Qwen Code."""

from __future__ import annotations

from typing import Final

from qa.clients.model import KEY, Client, File, Package

_SETTINGS: Final = """\
{
  "modelProviders": {
    "openai": [
      {
        "id": "devstral-small-2",
        "name": "Devstral Small 2",
        "baseUrl": "http://127.0.0.1:9000/v1",
        "envKey": "DEVSTRAL_PROXY_KEY",
        "generationConfig": {"contextWindowSize": 131072, "modalities": {"image": true}}
      }
    ]
  },
  "security": {"auth": {"selectedType": "openai"}},
  "model": {"name": "devstral-small-2"}
}
"""

CLIENTS: Final = (
    Client(
        name="qwen",
        title="Qwen Code",
        api="chat",
        package=Package("qwen", "npm", ("@qwen-code/qwen-code@0.24.4",)),
        command=("{bin}/qwen", "--yolo", "{task}", "{image}"),
        files=(File(".qwen/settings.json", _SETTINGS, "~/.qwen/settings.json"),),
        image=("@pic.png",),
        env={"DEVSTRAL_PROXY_KEY": KEY},
    ),
)
