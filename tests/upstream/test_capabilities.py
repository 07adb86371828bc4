"""How each vLLM release is asked."""

from __future__ import annotations

from typing import Any

import pytest

from devstral_proxy.upstream.capabilities import ROWS, UNKNOWN, ask_again, for_version, plan

TOOLS = [{"type": "function", "function": {"name": "f"}}]
USAGE = {"include_usage": True}


@pytest.mark.parametrize(
    ("version", "since"),
    [
        ("0.9.2", (0, 0, 0)),
        ("0.6.4.post1", (0, 0, 0)),
        ("0.10.1.1", (0, 0, 0)),
        ("0.10.2", (0, 10, 2)),
        ("0.10.2rc1", (0, 10, 2)),
        ("0.11.0", (0, 10, 2)),
        ("v0.12.0", (0, 10, 2)),
        (" 0.12.0\n", (0, 10, 2)),
        ("0.13", (0, 10, 2)),
        ("0.19.1+cu128", (0, 10, 2)),
        ("0.20.0", (0, 20, 0)),
        ("0.20.2.dev5+gabcdef", (0, 20, 0)),
        ("0.21.0", (0, 21, 0)),
        ("0.23.9", (0, 21, 0)),
        ("0.24.0", (0, 24, 0)),
        ("0.32.0", (0, 24, 0)),
        ("1.0.0", (0, 24, 0)),
        ("12.1", (0, 24, 0)),
    ],
)
def test_rows(version: str, since: tuple[int, int, int]) -> None:
    assert for_version(version).since == since


@pytest.mark.parametrize("version", [None, "", "dev", "latest-0.9"])
def test_a_server_that_tells_no_version_is_asked_as_the_client_asks(version: str | None) -> None:
    assert for_version(version) is UNKNOWN
    for body in (AUTO, {**AUTO, "stream": True, "stream_options": USAGE}):
        assert plan(body, UNKNOWN) is body


def test_rows_are_in_order_and_say_why() -> None:
    assert [row.since for row in ROWS] == sorted(row.since for row in ROWS)
    assert all(row.why for row in ROWS)


AUTO = {"model": "m", "messages": [], "tools": TOOLS}
RAW = {"tool_choice": "none", "return_token_ids": True}


@pytest.mark.parametrize(
    ("version", "streamed", "changes"),
    [
        ("0.9.2", False, {}),
        ("0.12.0", None, RAW),
        ("0.19.1", None, RAW),
        ("0.20.2", False, {"return_token_ids": True}),
        ("0.21.0", True, {"return_token_ids": True}),
        ("0.24.0", True, {}),
        ("0.32.0", True, {}),
        (None, None, {}),
    ],
)
@pytest.mark.parametrize("choice", [{}, {"tool_choice": "auto"}])
@pytest.mark.parametrize("client", [{}, {"stream": False}, {"stream": True}, {"stream": True, "stream_options": USAGE}])
def test_where_the_model_may_call(
    version: str | None, streamed: bool | None, changes: dict[str, Any], choice: dict[str, Any], client: dict[str, Any]
) -> None:
    body = {**AUTO, **choice, **client}
    given = dict(body)
    planned = plan(body, for_version(version))
    assert body == given, "the caller's dict is not touched"
    expected = {**AUTO, **choice, **changes}
    if streamed is None:  # as the client asks
        streamed = bool(client.get("stream"))
    if streamed or "stream" in client:
        expected["stream"] = streamed
    if streamed:
        expected["stream_options"] = USAGE
    assert planned == expected
    assert plan(planned, for_version(version)) == planned


@pytest.mark.parametrize("version", ["0.9.2", "0.12.0", "0.20.2", "0.21.0", "0.32.0", None])
@pytest.mark.parametrize(
    "body",
    [
        {"messages": []},
        {"messages": [], "tools": []},
        {"messages": [], "tools": TOOLS, "tool_choice": "none"},
        {"messages": [], "tools": TOOLS, "tool_choice": "required"},
        {"messages": [], "tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "f"}}},
    ],
)
def test_elsewhere_the_client_decides(version: str | None, body: dict[str, Any]) -> None:
    row = for_version(version)
    assert plan(body, row) is body
    whole = {**body, "stream": False}
    assert plan(whole, row) is whole
    asked = {**body, "stream": True, "stream_options": {"include_usage": True, "continuous_usage_stats": True}}
    assert plan(asked, row) is asked
    for options in ({}, {"stream_options": None}, {"stream_options": {"include_usage": False}}):
        assert plan({**body, "stream": True, **options}, row) == {**body, "stream": True, "stream_options": USAGE}


def test_the_clients_own_options_stay() -> None:
    body = {**AUTO, "stream": True, "stream_options": {"continuous_usage_stats": True}}
    assert plan(body, for_version(None))["stream_options"] == {"continuous_usage_stats": True, "include_usage": True}


@pytest.mark.parametrize(("version", "again"), [("0.20.2", True), ("0.21.0", False)])
def test_asked_again_the_other_way(version: str, again: bool) -> None:
    row = for_version(version)
    first = plan({**AUTO, "stream": True}, row)
    second = ask_again(first, row)
    assert second is not None
    assert second["stream"] is again is not first["stream"]
    assert second.get("stream_options") == (USAGE if again else None)
    assert second["return_token_ids"] is True


@pytest.mark.parametrize("version", ["0.9.2", "0.12.0", "0.24.0", None])
def test_asked_once(version: str | None) -> None:
    row = for_version(version)
    assert ask_again(plan(AUTO, row), row) is None
