"""Cline's command line. The editor extension has the same fields in its settings panel."""

from __future__ import annotations

from typing import Final

from qa.clients.model import Client, File, Package

_PROVIDERS: Final = """\
{
  "version": 1,
  "lastUsedProvider": "openai-compatible",
  "modes": {},
  "providers": {
    "openai-compatible": {
      "settings": {
        "provider": "openai-compatible",
        "apiKey": "unused",
        "model": "devstral-small-2",
        "baseUrl": "http://127.0.0.1:9000/v1"
      },
      "updatedAt": "2026-01-01T00:00:00.000Z",
      "tokenSource": "manual"
    }
  }
}
"""

CLIENTS: Final = (
    Client(
        name="cline",
        title="Cline",
        api="chat",
        package=Package("cline", "npm", ("cline@3.0.65",)),
        command=("{bin}/cline", "-P", "openai-compatible", "-m", "devstral-small-2", "{task}"),
        files=(File(".cline/data/settings/providers.json", _PROVIDERS, "~/.cline/data/settings/providers.json"),),
        gives_up={"cutonce": "it does not repeat a stream that breaks off, with the proxy or without: the run ends"},
        notes=("`cline auth -p openai -k unused -m devstral-small-2 -b http://127.0.0.1:9000/v1` writes this file.",),
    ),
)
