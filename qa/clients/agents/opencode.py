"""opencode, and Kilo's command line, which is made of it."""

from __future__ import annotations

from typing import Final

from qa.clients.model import Client, File, Package

_CONFIG: Final = """\
{
  "$schema": "https://opencode.ai/config.json",
  "provider": {
    "devstral": {
      "npm": "@ai-sdk/openai-compatible",
      "name": "Devstral",
      "options": {"baseURL": "http://127.0.0.1:9000/v1", "apiKey": "unused"},
      "models": {
        "devstral-small-2": {
          "name": "Devstral Small 2",
          "attachment": true,
          "modalities": {"input": ["text", "image"], "output": ["text"]},
          "limit": {"context": 131072, "output": 8192}
        }
      }
    }
  },
  "model": "devstral/devstral-small-2",
  "small_model": "devstral/devstral-small-2"
}
"""
_QUIET: Final = ("DISABLE_MODELS_FETCH", "DISABLE_AUTOUPDATE", "DISABLE_LSP_DOWNLOAD", "DISABLE_DEFAULT_PLUGINS")

CLIENTS: Final = (
    Client(
        name="opencode",
        title="opencode",
        api="chat",
        package=Package("opencode", "npm", ("opencode-ai@1.18.33",)),
        command=("{bin}/opencode", "run", "{task}", "{image}"),
        files=(File(".config/opencode/opencode.json", _CONFIG, "~/.config/opencode/opencode.json"),),
        quiet={f"OPENCODE_{name}": "1" for name in _QUIET} | {"OPENCODE_PERMISSION": '"allow"'},
        image=("-f", "pic.png"),
        image_read=True,
    ),
    Client(
        name="kilo",
        title="Kilo Code (CLI)",
        api="chat",
        package=Package("kilo", "npm", ("@kilocode/cli@7.7.7",)),
        command=("{bin}/kilo", "run", "--auto", "{task}", "{image}"),
        files=(File(".config/kilo/kilo.json", _CONFIG.replace("https://opencode.ai", "https://app.kilo.ai"),
                    "~/.config/kilo/kilo.json"),),
        quiet={f"KILO_{name}": "1" for name in _QUIET},
        image=("-f", "pic.png"),
        image_read=True,
    ),
)  # fmt: skip
