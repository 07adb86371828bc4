"""pi: a small coding agent."""

from __future__ import annotations

from typing import Final

from qa.clients.model import Client, File, Package

_MODELS: Final = """\
{
  "providers": {
    "devstral": {
      "baseUrl": "http://127.0.0.1:9000/v1",
      "api": "openai-completions",
      "apiKey": "unused",
      "models": [
        {
          "id": "devstral-small-2",
          "name": "Devstral Small 2",
          "reasoning": false,
          "input": ["text", "image"],
          "contextWindow": 131072,
          "maxTokens": 8192,
          "cost": {"input": 0, "output": 0, "cacheRead": 0, "cacheWrite": 0}
        }
      ]
    }
  }
}
"""

CLIENTS: Final = (
    Client(
        name="pi",
        title="pi",
        api="chat",
        package=Package("pi", "npm", ("@mariozechner/pi-coding-agent@0.73.1",)),
        command=("{bin}/pi", "-p", "--offline", "--no-session", "--provider", "devstral", "--model", "devstral-small-2",
                 "{image}", "{task}"),
        files=(File(".pi/agent/models.json", _MODELS, "~/.pi/agent/models.json"),),
        quiet={"PI_OFFLINE": "1", "PI_SKIP_VERSION_CHECK": "1"},
        image=("@pic.png",),
        image_read=True,
        notes=("Start it with `--provider devstral --model devstral-small-2`.",),
    ),
)  # fmt: skip
