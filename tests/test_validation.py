"""The check of strict profiles, and the prompt that explain shows."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from devstral_proxy.errors import BadRequest
from devstral_proxy.validation import check, prompt

CALL = {"id": "aB3dE5fG7", "type": "function", "function": {"name": "look", "arguments": "{}"}}
GOOD: dict[str, Any] = {
    "model": "m",
    "messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Look."},
        {"role": "assistant", "content": "", "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "aB3dE5fG7", "content": "seen"},
    ],
    "tools": [{"type": "function", "function": {"name": "look", "description": "", "parameters": {"type": "object"}}}],
}


@pytest.mark.parametrize("tokenizer", ["v3", "v7", "v11", "v13", "v15"])
def test_what_mistral_common_takes(tokenizer: Any) -> None:
    body = copy.deepcopy(GOOD)
    check(body, tokenizer)
    assert "seen" in prompt(body, tokenizer)
    assert body == GOOD


BAD: dict[str, list[dict[str, Any]]] = {
    "role": [{"role": "secretRole", "content": "secret"}],
    "order": [{"role": "assistant", "content": "secret"}, {"role": "tool", "tool_call_id": "x", "content": "secret"}],
    "id": [*GOOD["messages"][:2], {"role": "assistant", "tool_calls": [{**CALL, "id": "x"}]}],
    "content": [{"role": "user", "content": 7}],
    "empty": [],
    "no role": [{"content": "secret"}],
    "shape": [{"role": "user", "content": [{"type": "video", "secret": "secret"}]}],
}


@pytest.mark.parametrize("case", BAD)
def test_what_it_refuses_is_told_without_content(case: str) -> None:
    with pytest.raises(BadRequest) as caught:
        check({"model": "m", "messages": BAD[case]}, "v3")
    assert caught.value.code == "strict_validation"
    assert caught.value.message.startswith("mistral-common refuses the request for tokenizer v3: ")
    assert "secret" not in caught.value.message.replace("secretRole", "")
    assert "\n" not in caught.value.message
    with pytest.raises(BadRequest):
        prompt({"model": "m", "messages": BAD[case]}, "v3")


def test_a_prompt_says_where_images_are() -> None:
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    body = {"messages": [{"role": "user", "content": [{"type": "text", "text": "See:"}, image]}]}
    assert prompt(body, "v13").replace("\n", "") == "<s>[INST]See:[image][/INST]"
