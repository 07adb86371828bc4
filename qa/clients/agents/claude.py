"""Claude Code: speaks only Anthropic's Messages. Its licence is proprietary: it is run for tests, and not kept."""

from __future__ import annotations

from typing import Final

from qa.clients.model import BASE, KEY, MODEL, Client, Package

CLIENTS: Final = (
    Client(
        name="claude",
        title="Claude Code",
        api="messages",
        package=Package("claude", "npm", ("@anthropic-ai/claude-code@2.1.197",)),
        command=("{bin}/claude", "-p", "{task}", "--allowedTools", "Bash,Read,Write,Edit,Glob,Grep",
                 "--permission-mode", "acceptEdits"),
        env={
            "ANTHROPIC_BASE_URL": BASE,
            "ANTHROPIC_AUTH_TOKEN": KEY,
            "ANTHROPIC_MODEL": MODEL,
            "ANTHROPIC_DEFAULT_HAIKU_MODEL": MODEL,
            "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        },
        quiet={
            "CLAUDE_CONFIG_DIR": "{home}/.claude",
            "ANTHROPIC_SMALL_FAST_MODEL": MODEL,
            "DISABLE_TELEMETRY": "1",
            "DISABLE_AUTOUPDATER": "1",
            "DISABLE_ERROR_REPORTING": "1",
        },
        image=(),
        image_read=True,
    ),
)  # fmt: skip
