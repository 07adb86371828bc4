"""Whatever JSON comes: it is translated, or refused with a BadRequest that names a field."""

from __future__ import annotations

import copy
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from devstral_proxy.dialects.messages import Messages, attempts, estimate
from devstral_proxy.errors import BadRequest
from devstral_proxy.mistral.profiles import ModelProfile
from devstral_proxy.mistral.translator import Translator
from tests.dialects.messages.material import PNG, TOOL, USE, assistant, result, said, text, user

RICH: dict[str, Any] = {
    "model": "m",
    "max_tokens": 9,
    "system": [text("s", cache_control={"type": "ephemeral"})],
    "messages": [
        user(text("a"), PNG, {"type": "document", "title": "T", "source": {"type": "text", "data": "d"}}),
        said("system", "b"),
        assistant({"type": "thinking", "thinking": "t", "signature": "s"}, text("c"), USE),
        user(result([text("r"), PNG], is_error=True), text("d")),
        assistant(
            {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {}},
            {"type": "web_search_tool_result", "tool_use_id": "s", "content": []},
        ),
        user({"type": "search_result", "title": "t", "source": "s", "content": [text("e")]}),
    ],
    "tools": [TOOL, {"type": "web_search_20250305", "name": "web_search"}],
    "tool_choice": {"type": "tool", "name": "read", "disable_parallel_tool_use": True},
    "thinking": {"type": "enabled", "budget_tokens": 1024},
    "output_config": {"effort": "high", "format": {"type": "json_schema", "schema": {}}},
    "stop_sequences": ["x"],
    "temperature": 0.5,
    "top_p": 0.5,
    "top_k": 5,
    "metadata": {"user_id": "u"},
    "stream": True,
}
WORDS = ("text", "image", "tool_use", "tool_result", "document", "fallback", "compaction", "auto", "user", "system", "")
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.floats(-1, 2) | st.sampled_from(WORDS),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(("type", "content", "a")), inner),
    max_leaves=4,
)


def _places(value: Any) -> list[tuple[Any, Any]]:
    """Every container and key in it, outermost first."""
    keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    found = [(value, key) for key in keys]
    return found + [place for key in keys for place in _places(value[key])]


@given(st.data())
def test_translated_or_refused(data: st.DataObject) -> None:
    body = copy.deepcopy(RICH)
    for _ in range(data.draw(st.integers(1, 2))):
        container, key = data.draw(st.sampled_from(_places(body)))
        if data.draw(st.booleans()):
            container[key] = data.draw(JSON)
        else:
            container.pop(key)
    dialect = Messages("x")
    refused: BadRequest | None = None
    chat: dict[str, Any] = {}
    sent: dict[str, Any] = {}
    try:
        chat = dialect.request(body)
        sent = Translator(ModelProfile("m", "v13", images=True)).request(chat)
    except BadRequest as error:
        refused = error
    if refused is not None:
        told = dialect.error(refused)["error"]
        assert refused.param
        assert told["type"] == "invalid_request_error"
        assert told["message"].startswith(refused.param.partition("[")[0].partition(".")[0])
        return
    assert sent["messages"]
    assert attempts(sent)
    assert estimate(chat) > 0
    assert estimate(sent) > 0
