"""What the scripted model says to an agent: always the same task, with the tools that the agent has.

    round 1   read hello.txt (or pic.png)
    round 2   list the folder and write out.txt, two calls in one turn
    round 3   read out.txt: some agents edit no file that they have not read
    round 4   edit it
    round 5   run a test on it
    then      say the last word, by the agent's own closing tool where it has one

Tools are chosen by name, arguments are made from the schema. Rounds for which an agent has no tool are left out.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from devstral_proxy.simulator.options import Call, Turn
from devstral_proxy.simulator.script import example

TASK: Final = (
    "Read hello.txt, list the files, create a file out.txt, edit it, and run the test on it. When finished say so."
)
MARK: Final = "DONE-SCRIPTED"
HELLO: Final = "hello world"
DRAFT: Final = "a draft"
FINAL: Final = "scripted-ok"
PASSED: Final = "test-passed"
TEST: Final = f"grep -q {FINAL} out.txt && echo test-$(echo passed) && sleep 0.5"
"""The word of success is not in the command, so that it is only in the result. It sleeps because Qwen Code now and then
loses what a command says that ends at once."""

NAMES: Final[dict[str, tuple[str, ...]]] = {
    "read": ("read_file", "read", "view", "read_files", "builtin_read_file"),
    "list": ("list_files", "ls", "list", "list_directory", "glob", "grep", "search_files"),
    "shell": (
        "bash", "shell", "shell_command", "exec_command", "execute_command", "run_shell_command", "terminal",
        "execute_bash", "run_commands", "run_terminal_command", "local_shell",
    ),
    "write": ("write", "write_file", "write_to_file", "create_new_file", "builtin_create_new_file", "create_file",
              "editor", "file_editor", "str_replace_editor"),
    "edit": ("edit", "edit_file", "replace", "str_replace", "replace_in_file", "search_replace", "apply_patch",
             "editor", "file_editor", "str_replace_editor"),
    "end": ("attempt_completion", "finish", "final_answer", "task_done", "submit", "submit_and_exit"),
}  # fmt: skip
"""Names of tools, small letters, by what they are for; the first that an agent has is taken."""

SUBMIT: Final = "COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT"
"""mini-swe-agent ends when a command says this, which its instructions tell."""
PATCH: Final = f"*** Begin Patch\n*** Update File: out.txt\n@@\n-{DRAFT}\n+{FINAL}\n*** End Patch\n"
BLOCK: Final = f"<<<<<<< SEARCH\n{DRAFT}\n=======\n{FINAL}\n>>>>>>> REPLACE\n"
_COMMANDS: Final = {
    "read": "cat hello.txt",
    "list": "ls -a",
    "reread": "cat out.txt",
    "write": f"echo {DRAFT} > out.txt",
    "edit": f"sed -i 's/{DRAFT}/{FINAL}/' out.txt",
    "shell": TEST,
    "submit": f"echo {SUBMIT}; echo {MARK}",
}
_EDITABLE: Final = re.compile(r"^(old|search|find|diff|patch|input|edits?$|replacements?$|command$|content$)")


@dataclass(frozen=True)
class Script:
    """One run's script.

    work        the workspace, whose files the calls name
    image       the reading tool is asked for the picture
    rich        reasoning, and text beside the calls
    tools       False: the client reads edit blocks out of the text (aider)
    """

    work: Path
    image: bool = False
    rich: bool = False
    tools: bool = True

    def __call__(self, body: dict[str, Any]) -> Turn:
        """The next turn of the conversation in `body`, a chat completion request."""
        tools = tools_of(body)
        forced = _forced(body, tools)
        if forced:
            return Turn(calls=(self._call(forced, tools[forced], "end"),))
        if not tools:
            return Turn(text=self._text(body), reasoning="I think." if self.rich else "")
        rounds = self.rounds(tools)
        done = rounds_done(body)
        reasoning = f"Round {done}." if self.rich else ""
        if done == len(rounds) and SUBMIT in json.dumps(body["messages"][:2]):
            rounds.append([(name, "submit") for name in [_pick(tools, "shell")] if name])
        if done >= len(rounds):
            return Turn(text=self._text(body), reasoning=reasoning)
        calls = tuple(self._call(name, tools[name], kind) for name, kind in rounds[done])
        if body.get("parallel_tool_calls") is False:
            calls = calls[-1:]
        return Turn(text="Now I call a tool." if self.rich else "", calls=calls, reasoning=reasoning)

    def rounds(self, tools: Mapping[str, Any]) -> list[list[tuple[str, str]]]:
        """Names of tools with what each is to do, round by round."""
        found = {kind: _pick(tools, kind) for kind in NAMES}
        shell = found["shell"]
        plan = [
            [(found["read"] or shell, "read")],
            [(found["list"] or shell, "list"), (found["write"] or shell, "write")],
            [(found["read"] or shell, "reread")],
            [(found["edit"] or shell, "edit")],
            [(shell, "shell")],
            [(found["end"], "end")],
        ]
        rounds = [[(name, kind) for name, kind in turn if name is not None] for turn in plan]
        return [turn for turn in rounds if turn]

    def _call(self, name: str, schema: Mapping[str, Any], kind: str) -> Call:
        made = self._object(schema, schema, kind)
        return Call(name, made)

    def _object(self, schema: Mapping[str, Any], root: Mapping[str, Any], kind: str) -> dict[str, Any]:
        properties: Mapping[str, Any] = schema.get("properties") or {}
        wanted = list(schema.get("required") or [])
        more = {
            "write": ("content", "file_text", "contents"),
            "edit": ("old_str", "new_str", "old_string", "new_string", "old_text", "new_text", "path", "file_path"),
        }
        wanted += [key for key in more.get(kind, ()) if key in properties and key not in wanted]
        wanted = wanted or [key for key in ("path", "patch", "input") if key in properties][:1]
        return {key: self._value(key, properties.get(key) or {}, root, kind) for key in wanted}

    def _value(self, name: str, schema: Any, root: Mapping[str, Any], kind: str) -> Any:
        schema = _plain(schema, root)
        if "const" in schema:
            return schema["const"]
        if schema.get("enum"):
            words = {"write": ("create", "write"), "edit": ("str_replace", "edit"), "read": ("view", "read")}
            low = {str(word).lower(): word for word in schema["enum"]}
            return next((low[word] for word in (*words.get(kind, ()), "low") if word in low), schema["enum"][0])
        sort = schema.get("type")
        if isinstance(sort, list):
            sort = next((one for one in sort if one != "null"), "string")
        name = name.lower()
        if sort == "array":
            if name == "command":
                return ["bash", "-lc", _COMMANDS.get(kind, "true")]
            one = name[:-1] if name.endswith("s") else name
            return [self._value(one, schema.get("items") or {}, root, kind)]
        if sort == "object" or (sort is None and "properties" in schema):
            return self._object(schema, root, kind)
        if sort == "boolean":
            return False
        if sort in ("integer", "number"):
            least = max(int(schema.get("minimum") or 0), 1)
            return max(least, 10_000 if "ms" in name else 20) if "time" in name else least
        return self._word(name, kind)

    def _word(self, name: str, kind: str) -> str:
        if kind == "end":
            return MARK
        if name in ("cmd", "command", "script"):
            return _COMMANDS[kind]
        if kind == "edit":
            if name in ("patch", "input"):
                return PATCH
            if name in ("content", "diff"):
                return BLOCK
            if name.startswith(("old", "search", "find")):
                return DRAFT
            if name.startswith(("new", "replace")):
                return FINAL
        if name in ("content", "contents", "file_text", "text", "filecontents", "new_text", "new_str"):
            return DRAFT + "\n"
        if "path" in name or "file" in name or name in ("dir", "directory"):
            files = {"list": "", "read": "pic.png" if self.image else "hello.txt"}
            return str(self.work / files.get(kind, "out.txt"))
        if name in ("pattern", "glob", "regex", "query"):
            return "*.txt" if kind == "list" else "hello"
        if name in ("workdir", "cwd", "working_directory"):
            return str(self.work)
        return "filler"

    def _text(self, body: Mapping[str, Any]) -> str:
        wanted = body.get("response_format")
        if isinstance(wanted, dict) and wanted.get("type") == "json_schema":
            return json.dumps(example((wanted.get("json_schema") or {}).get("schema") or {}))
        if isinstance(wanted, dict) and wanted.get("type") == "json_object":
            return '{"answer": "done"}'
        if not self.tools:
            block = f"<<<<<<< SEARCH\n=======\n{FINAL}\n>>>>>>> REPLACE\n"
            return f"I create the file.\n\nout.txt\n```\n{block}```\n\n{MARK}\n"
        return MARK if tools_of(body) or rounds_done(body) else "A short title"


def tools_of(body: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The schemas of the function tools in a chat completion request, by name."""
    functions = (tool.get("function") for tool in body.get("tools") or () if isinstance(tool, dict))
    return {found["name"]: found.get("parameters") or {} for found in functions if isinstance(found, dict)}


def rounds_done(body: Mapping[str, Any]) -> int:
    """Assistant turns with calls in the history; calls that a client sends one by one count as one turn."""
    count, before = 0, ""
    for message in body.get("messages") or ():
        role = message.get("role")
        count += role == "assistant" and bool(message.get("tool_calls")) and before != "assistant"
        before = role
    return count


def results_of(body: Mapping[str, Any]) -> str:
    """The texts of all tool results in a request."""
    texts = [json.dumps(one.get("content")) for one in body.get("messages") or () if one.get("role") == "tool"]
    return "\n".join(texts)


def has_image(body: Mapping[str, Any]) -> bool:
    """Whether a message of the request holds a picture."""
    contents = (one.get("content") for one in body.get("messages") or () if isinstance(one, dict))
    parts = (part for content in contents if isinstance(content, list) for part in content)
    return any(isinstance(part, dict) and part.get("type") == "image_url" for part in parts)


def _pick(tools: Mapping[str, Mapping[str, Any]], kind: str) -> str | None:
    low = {name.lower(): name for name in tools}
    for name in NAMES[kind]:
        if name in low and (kind != "edit" or _can_edit(tools[low[name]])):
            return low[name]
    return None


def _can_edit(schema: Mapping[str, Any]) -> bool:
    return any(_EDITABLE.match(name.lower()) for name in schema.get("properties") or {})


def _forced(body: Mapping[str, Any], tools: Mapping[str, Any]) -> str | None:
    choice = body.get("tool_choice")
    name = (choice.get("function") or {}).get("name") if isinstance(choice, dict) else None
    return name if name in tools else None


def _plain(schema: Any, root: Mapping[str, Any]) -> Mapping[str, Any]:
    """The schema without `$ref`, `anyOf` and `oneOf`: the first alternative that is not null."""
    for _ in range(8):
        if not isinstance(schema, Mapping):
            return {}
        if "$ref" in schema:
            found: Any = root
            for part in str(schema["$ref"]).lstrip("#/").split("/"):
                found = found.get(part) if isinstance(found, Mapping) else None
            schema = found
            continue
        options = schema.get("anyOf") or schema.get("oneOf")
        if not options:
            return schema
        schema = next((one for one in options if isinstance(one, Mapping) and one.get("type") != "null"), options[0])
    return {}
