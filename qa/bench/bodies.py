"""Request bodies as coding agents send them: chat completions with tools and a history of calls, drawn from a seed.

The markers `req:…` (first user message) and `end:…` (last message) are filled in by `load` for each request and read
by `sim`. Sizes in the names are rough: 1k, 60k, 600k; with `_s` the same, streamed.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any, Final

_WORDS: Final = (
    "the a of to in is that for with on as are this be by from or an it not we can will has if but which all file "
    "function class module value default setting config request response stream chunk token call result error "
    "test path line code return import async await handler client server limit timeout retry header body parse "
    "write read update remove check before after inside where when never always should must could list dict "
    "string number first last next only same other new old small large fast slow thread loop task queue lock "
    "cache key index field type"
)
WORDS: Final = _WORDS.split()
CODE: Final = (
    'def load(path: str) -> dict:\n    with open(path, encoding="utf-8") as f:\n        return json.load(f)\n',
    'if (!entry || entry.status !== "ok") {\n\tthrow new Error(`bad entry: ${name}`);\n}\n',
    "pattern = re.compile(r\"^(?P<key>[a-z_]+)\\s*=\\s*'(.*)'$\")\n",
    '{"name": "devstral", "limits": {"max_tokens": 4096, "stop": ["\\n\\n"]}}\n',
    'for i, row in enumerate(rows):\n    total += row["n"] * weights.get(i, 0.5)\n',
)
_TOOLS: Final = (
    "read_file write_file edit_file list_directory search_files run_command grep glob apply_patch git_diff "
    "git_log fetch_url ask_user todo_write create_directory move_file delete_file run_tests open_terminal "
    "list_symbols"
)
TOOLS: Final = _TOOLS.split()
READ_FILE: Final = {
    "path": {"type": "string", "description": "Path relative to the workspace root"},
    "start_line": {"type": "integer", "description": "First line, from 1", "minimum": 1},
    "end_line": {"type": "integer", "description": "Last line, inclusive"},
}
STREAMED: Final = {"stream": True, "stream_options": {"include_usage": True}}


class Writer:
    """Draws texts, tools and turns; the same seed draws the same."""

    def __init__(self, seed: int = 7) -> None:
        self._random = random.Random(seed)

    def text(self, length: int) -> str:
        """Words, some code, a few characters beyond ASCII."""
        draw, parts, size = self._random, list[str](), 0
        while size < length:
            if draw.random() < 0.04:
                part = draw.choice(CODE)
            else:
                end = "é " if draw.random() < 0.004 else ".\n" if draw.random() < 0.07 else " "
                part = draw.choice(WORDS) + end
            parts.append(part)
            size += len(part)
        return "".join(parts)[:length]

    def tool(self, index: int, length: int) -> dict[str, Any]:
        """A tool's definition: the first reads files, the others have descriptions of about `length` characters."""
        properties: dict[str, Any] = {
            "target": {"type": "string", "description": self.text(length // 4)},
            "mode": {"type": "string", "enum": ["plain", "regex", "glob"], "description": self.text(length // 5)},
            "options": {"type": "array", "items": {"type": "string"}, "description": self.text(length // 5)},
            "limit": {"type": ["integer", "null"], "description": self.text(length // 5)},
        }
        parameters = {
            "type": "object",
            "properties": properties if index else READ_FILE,
            "required": ["target" if index else "path"],
            "additionalProperties": False,
        }
        function = {"name": TOOLS[index], "description": self.text(length), "parameters": parameters}
        return {"type": "function", "function": function}

    def turn(self, result: int) -> list[dict[str, Any]]:
        """A call of the file reader, and its result of `result` characters."""
        draw = self._random
        identifier = f"call_{draw.getrandbits(96):024x}"
        arguments = {"path": f"src/app/{draw.choice(WORDS)}.py", "start_line": 1, "end_line": draw.randint(20, 400)}
        function = {"name": "read_file", "arguments": json.dumps(arguments)}
        call = {"id": identifier, "type": "function", "function": function}
        return [
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": identifier, "content": self.text(result)},
        ]

    def body(self, size: int, tools: int, tool_text: int, system: int, result: int) -> dict[str, Any]:
        """A request of about `size` bytes: tools, a system text, then calls and results until it is full."""
        asked = f"req:{'0' * 16} n0100 d0020 k0000. {self.text(120)}"
        messages = [{"role": "system", "content": self.text(system)}, {"role": "user", "content": asked}]
        body = {
            "model": "devstral",
            "messages": messages,
            "temperature": 0.15,
            "max_tokens": 4096,
            "tools": [self.tool(index, tool_text) for index in range(tools)],
            "tool_choice": "auto",
        }
        left, turns = size - len(json.dumps(body)), 0
        while left > 0 or not turns:
            if turns and turns % 5 == 0:
                messages.append({"role": "assistant", "content": self.text(100)})
                messages.append({"role": "user", "content": self.text(160)})
            messages += self.turn(result)
            turns += 1
            left -= result + 420
        messages[-1]["content"] += " end:" + "0" * 16
        return body


def sizes() -> dict[str, dict[str, Any]]:
    """The bodies by name."""
    writer = Writer()
    return {
        "1k": writer.body(1000, 1, 60, 200, 80),
        "60k": writer.body(60_000, 20, 300, 3000, 2200),
        "600k": writer.body(600_000, 20, 300, 6000, 3900),
    }


def write(folder: Path) -> None:
    """All bodies as files, compact as clients send them."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, body in sizes().items():
        for suffix, more in ("", {}), ("_s", STREAMED):
            text = json.dumps(body | more, separators=(",", ":"), ensure_ascii=False)
            (folder / f"{name}{suffix}.json").write_text(text, "utf-8")
