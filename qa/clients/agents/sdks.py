"""The official SDKs, and Vercel's: the programs of qa/clients/sdk/."""

from __future__ import annotations

from typing import Final

from qa.clients.model import BASE, MODEL, Api, Client, Package
from qa.clients.script import TASK

PYTHON: Final = Package("sdk", "pip", ("openai==3.54.0", "anthropic==2.12.0"))
NODE: Final = Package(
    "sdk",
    "npm",
    (
        "openai@6.49.0", "ai@6.0.326", "@ai-sdk/openai-compatible@2.0.87", "@ai-sdk/openai@3.0.141", "zod@4.6.7",
        "@anthropic-ai/sdk@1.10.0",
    ),
)  # fmt: skip
_ENDS: Final = "the SDK does not repeat a stream that has begun: it raises, and the program decides"


def _python(name: str, title: str, api: Api, module: str, of: str = "openai") -> Client:
    return Client(
        name=name,
        title=title,
        api=api,
        package=PYTHON,
        command=("{bin}/python", "-m", f"qa.clients.sdk.{module}"),
        quiet={"PYTHONPATH": "{root}", "BASE_URL": BASE, "MODEL": MODEL, "TASK": TASK, "PICTURE": "{picture}"},
        image=(),
        gives_up={"cutonce": _ENDS},
        of=of,
        documented=False,
    )


def _node(name: str, title: str, api: Api, program: str, of: str = "openai") -> Client:
    return Client(
        name=name,
        title=title,
        api=api,
        package=NODE,
        command=("node", "{sdk}/" + program),
        quiet={"BASE_URL": BASE, "MODEL": MODEL, "TASK": TASK, "PICTURE": "{picture}", "API": api},
        image=(),
        gives_up={"cutonce": _ENDS},
        of=of,
        documented=False,
    )


CLIENTS: Final = (
    _python("openai-py", "openai-python, chat", "chat", "openai_chat"),
    _python("openai-py-responses", "openai-python, responses", "responses", "openai_responses"),
    _node("openai-node", "openai-node, chat", "chat", "openai_node.mjs"),
    _node("openai-node-responses", "openai-node, responses", "responses", "openai_node.mjs"),
    _node("vercel", "Vercel AI SDK, chat", "chat", "vercel.mjs", "ai"),
    _node("vercel-responses", "Vercel AI SDK, responses", "responses", "vercel.mjs", "ai"),
    _python("anthropic-py", "anthropic-python", "messages", "anthropic_messages", "anthropic"),
    _node("anthropic-node", "anthropic-sdk-typescript", "messages", "anthropic_node.mjs", "@anthropic-ai/sdk"),
)
