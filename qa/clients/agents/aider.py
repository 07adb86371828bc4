"""aider: no tools, edit blocks in the text."""

from __future__ import annotations

from typing import Final

from qa.clients.model import BASE, KEY, Client, Package

CLIENTS: Final = (
    Client(
        name="aider",
        title="aider",
        api="chat",
        package=Package("aider", "pip", ("aider-chat==0.86.2",), ("3.12", "3.11", "3.10")),
        command=("{bin}/aider", "--model", "openai/devstral-small-2", "--edit-format", "diff", "--yes-always",
                 "--no-check-update", "--no-show-model-warnings", "--analytics-disable", "--no-gitignore",
                 "--message", "{task}"),
        env={"OPENAI_API_BASE": BASE + "/v1", "OPENAI_API_KEY": KEY},
        quiet={"LITELLM_LOCAL_MODEL_COST_MAP": "True"},
        tools=False,
        notes=("Start it with `aider --model openai/devstral-small-2 --edit-format diff`.",),
    ),
)  # fmt: skip
