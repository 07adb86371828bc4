"""Messages as chat messages, row by row."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from devstral_proxy.dialects.messages import Messages
from tests.dialects.messages.material import (
    AS_URL,
    BODY,
    CACHE,
    CALL,
    PNG,
    USE,
    assistant,
    document,
    result,
    said,
    text,
    told,
    user,
)

# what is sent as messages, the chat messages that it becomes, and the rewrites that it takes
MESSAGES: list[tuple[str, list[Any], list[Any], list[str]]] = [
    ("string", [said("user", "a")], [said("user", "a")], []),
    ("one text block", [user(text("a"))], [said("user", "a")], []),
    ("text blocks", [user(text("a"), text("b"))], [said("user", [text("a"), text("b")])], []),
    ("cache control", [user(text("a", **CACHE))], [said("user", "a")], ["key_dropped"]),
    ("null markings", [user(text("a", cache_control=None, citations=None))], [said("user", "a")], []),
    ("citations", [assistant(text("a", citations=[{"type": "x"}]))], [said("assistant", "a")], ["key_dropped"]),
    ("image", [user(text("a"), PNG)], [said("user", [text("a"), AS_URL])], []),
    (
        "image by URL",
        [user({"type": "image", "source": {"type": "url", "url": "https://x/y.png"}})],
        [said("user", [{"type": "image_url", "image_url": {"url": "https://x/y.png"}}])],
        [],
    ),
    (
        "image by id",
        [user({"type": "image", "source": {"type": "file", "file_id": "f"}})],
        [said("user", "[image omitted: only Anthropic's own service holds it]")],
        ["image_omitted"],
    ),
    (
        "text document",
        [user({**document("text", media_type="text/plain", data="abc"), "title": "T", "context": "C"})],
        [said("user", "[document T]\nC\nabc")],
        ["part_flattened"],
    ),
    ("untitled document", [user(document("text", data="abc"))], [said("user", "[document]\nabc")], ["part_flattened"]),
    (
        "document of blocks",
        [user(document("content", content=[text("a"), PNG]))],
        [said("user", [text("[document]"), text("a"), AS_URL])],
        ["part_flattened"],
    ),
    (
        "document of a string",
        [user({**document("content", content="a"), "context": "C"})],
        [said("user", [text("[document]\nC"), text("a")])],
        ["part_flattened"],
    ),
    (
        "PDF",
        [user({**document("base64", media_type="application/pdf", data="AAAA"), "title": "T", "context": "C"})],
        [said("user", "[document T omitted: this model takes no files]\nC")],
        ["attachment_omitted"],
    ),
    (
        "PDF by URL",
        [user(document("url", url="https://x/y.pdf"))],
        [said("user", "[document https://x/y.pdf omitted: this model takes no files]")],
        ["attachment_omitted"],
    ),
    (
        "search result",
        [user({"type": "search_result", "title": "T", "source": "S", "content": [text("a"), text("b")]})],
        [said("user", "[search result T]\nS\na\nb")],
        ["part_flattened"],
    ),
    (
        "upload",
        [user({"type": "container_upload", "file_id": "f1"})],
        [said("user", "[file f1 omitted: this model takes no files]")],
        ["attachment_omitted"],
    ),
    (
        "unknown block",
        [user({"type": "hologram", "data": [1], **CACHE})],
        [said("user", '{"type": "hologram", "data": [1]}')],
        ["part_flattened"],
    ),
    ("nothing", [user()], [said("user", "")], []),
    ("call", [assistant(USE)], [{"role": "assistant", "content": None, "tool_calls": [CALL]}], []),
    (
        "text and call",
        [assistant(text("a"), {**USE, **CACHE})],
        [{"role": "assistant", "content": "a", "tool_calls": [CALL]}],
        ["key_dropped"],
    ),
    (
        "thought",
        [assistant({"type": "thinking", "thinking": "t", "signature": "s"}, text("a"), USE)],
        [{"role": "assistant", "reasoning_content": "t", "content": "a", "tool_calls": [CALL]}],
        [],
    ),
    (
        "thought alone",
        [assistant({"type": "thinking", "thinking": "t", "signature": "s"})],
        [{"role": "assistant", "reasoning_content": "t", "content": ""}],
        [],
    ),
    (
        "thoughts between",
        [assistant(*({"type": "thinking", "thinking": t, "signature": "s"} for t in "tu"), text("a"))],
        [said("assistant", [*({"type": "thinking", "thinking": t} for t in "tu"), text("a")])],
        [],
    ),
    (
        "thoughts nobody reads",
        [assistant({"type": "redacted_thinking", "data": "x"}, {"type": "thinking", "thinking": ""}, text("a"))],
        [said("assistant", "a")],
        ["reasoning_opaque", "reasoning_dropped"],
    ),
    (
        "web search",
        [
            assistant(
                {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {"query": "q"}},
                {
                    "type": "web_search_tool_result",
                    "tool_use_id": "s",
                    "content": [{"type": "web_search_result", "url": "u", "title": "t", "encrypted_content": "xxx"}],
                },
                text("a"),
            )
        ],
        [
            said(
                "assistant",
                [
                    text('[call of web_search]\n{"query": "q"}'),
                    text('[result of web_search]\n[{"type": "web_search_result", "url": "u", "title": "t"}]'),
                    text("a"),
                ],
            )
        ],
        ["server_tool_as_text", "server_tool_as_text"],
    ),
    (
        "MCP",
        [
            assistant(
                {"type": "mcp_tool_use", "id": "s", "name": "f", "server_name": "m", "input": {}},
                {"type": "mcp_tool_result", "tool_use_id": "s", "content": "done", "is_error": False},
            )
        ],
        [said("assistant", [text("[call of f]\n{}"), text("[result of mcp]\ndone")])],
        ["server_tool_as_text", "server_tool_as_text"],
    ),
    (
        "compaction",
        [assistant({"type": "compaction", "content": "so far"}, {"type": "compaction", "content": None})],
        [said("assistant", "so far")],
        ["part_flattened", "block_dropped"],
    ),
    (
        "compaction of blocks",
        [assistant({"type": "compaction", "content": [text("so"), text("far")]})],
        [said("assistant", [text("so"), text("far")])],
        ["part_flattened"],
    ),
    (
        "compaction of something else",
        [assistant({"type": "compaction", "content": {"a": 1}}, text("a"))],
        [said("assistant", "a")],
        ["block_dropped"],
    ),
    (
        "text around a call",
        [assistant(text("a"), USE, text("b"), PNG, {"type": "fallback"}), user(result("r"))],
        [
            {"role": "assistant", "content": [text("a"), text("b"), AS_URL], "tool_calls": [CALL]},
            told("r"),
        ],
        ["text_before_calls", "text_before_calls", "block_dropped"],
    ),
    ("fallback", [assistant({"type": "fallback", "to": {}}, text("a"))], [said("assistant", "a")], ["block_dropped"]),
    ("result", [user(result("r"))], [told("r")], []),
    ("result without content", [user({"type": "tool_result", "tool_use_id": "toolu_1"})], [told("")], []),
    ("result of one block", [user(result([text("r")]))], [told("r")], []),
    ("result of no block", [user(result([]))], [told("")], []),
    ("result with image", [user(result([text("r"), PNG]))], [told([text("r"), AS_URL])], []),
    (
        "result with reference",
        [user(result([{"type": "tool_reference", "tool_name": "grep"}]))],
        [told("[tool grep]")],
        ["part_flattened"],
    ),
    (
        "result, then text",
        [user(result("r", **CACHE), text("a"), text("b"))],
        [told("r"), said("user", [text("a"), text("b")])],
        ["key_dropped"],
    ),
    (
        "text around results",
        [user(text("a"), result("r"), text("b"))],
        [said("user", "a"), told("r"), said("user", "b")],
        [],
    ),
    ("failed", [user(result("no file", is_error=True))], [told("Error: no file")], ["result_error"]),
    ("failed with nothing", [user(result("", is_error=True))], [told("Error")], ["result_error"]),
    ("failed and says so", [user(result("<tool_use_error>no</tool_use_error>", is_error=True))], None, []),  # type: ignore[list-item]
    ("not failed", [user(result("r", is_error=False))], [told("r")], []),
    (
        "failed with image",
        [user(result([PNG], is_error=True))],
        [told([text("Error:"), AS_URL])],
        ["result_error"],
    ),
    (
        "system in the middle",
        [said("user", "a"), said("system", [text("s", **CACHE)]), said("developer", "d")],
        [said("user", "a"), said("system", "s"), said("developer", "d")],
        ["key_dropped"],
    ),
]


@pytest.mark.parametrize(
    ("sent", "arrives", "rewrites"), [row[1:] for row in MESSAGES], ids=[row[0] for row in MESSAGES]
)
def test_messages(sent: list[Any], arrives: list[Any] | None, rewrites: list[str]) -> None:
    body = {**BODY, "messages": sent}
    before = copy.deepcopy(body)
    dialect = Messages("x")
    chat = dialect.request(body)
    assert body == before
    if arrives is None:
        arrives = [told(sent[0]["content"][0]["content"])]
    assert chat["messages"] == arrives
    assert [name for name, _ in dialect.rewrites.entries] == rewrites


HEADER = "x-anthropic-billing-header: cc_version=2.1.0.abc; cc_entrypoint=cli; cch=1f2e3;"


@pytest.mark.parametrize(
    ("system", "content", "rewrites"),
    [
        (None, None, []),
        ("", None, ["empty_dropped"]),
        ("s", "s", []),
        ([], None, ["empty_dropped"]),
        ([text("s", **CACHE)], "s", ["key_dropped"]),
        ([text("s"), text("t")], [text("s"), text("t")], []),
        ([text(HEADER), text("s"), text("t")], [text("s"), text("t")], ["billing_header"]),
        ([text(HEADER), text("s", **CACHE)], "s", ["billing_header", "key_dropped"]),
        ([text(HEADER)], None, ["billing_header", "empty_dropped"]),
        ([text(f"{HEADER}\n\ns")], "s", ["billing_header"]),
        (f"{HEADER}\ns", "s", ["billing_header"]),
        (f"s\n{HEADER}", f"s\n{HEADER}", []),
    ],
)
def test_system(system: Any, content: Any, rewrites: list[str]) -> None:
    dialect = Messages("x")
    chat = dialect.request({**BODY, "system": system})
    assert chat["messages"][:-1] == ([] if content is None else [said("system", content)])
    assert [name for name, _ in dialect.rewrites.entries] == rewrites
