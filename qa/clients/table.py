"""All clients, in the order of the table."""

from __future__ import annotations

from typing import Final

from qa.clients.agents import aider, claude, cline, codex, continue_cli, mini, opencode, openhands, pi, qwen, sdks, vibe
from qa.clients.model import Client

CLIENTS: Final[dict[str, Client]] = {
    client.name: client
    for family in (pi, codex, continue_cli, opencode, claude, sdks, qwen, cline, aider, vibe, openhands, mini)
    for client in family.CLIENTS
}
