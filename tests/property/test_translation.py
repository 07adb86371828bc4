"""The promises of the translation, each a property of whole agent conversations with every oddity."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from devstral_proxy.mistral.profiles import ModelProfile, TokenizerVersion
from devstral_proxy.mistral.translator import Translator
from tests.conversations import MARK, Conversation, odd_conversations, plain_conversations
from tests.oracle import prompt

VERSIONS: tuple[TokenizerVersion, ...] = ("v3", "v7", "v11", "v13", "v15")
# Rewrites that change the order of what was said, and say so.
REORDERING = {"result_moved", "results_merged", "text_before_calls", "image_moved"}


def _profile(version: TokenizerVersion, images: bool, reasoning: bool) -> ModelProfile:
    thinks = version in ("v13", "v15")
    return ModelProfile("drawn", version, images=images, reasoning=reasoning and thinks)


profiles = st.builds(_profile, st.sampled_from(VERSIONS), st.booleans(), st.booleans())


def translate(profile: ModelProfile, body: dict[str, Any]) -> tuple[dict[str, Any], Translator]:
    translator = Translator(profile)
    return translator.request(body), translator


def expected_marks(conversation: Conversation, profile: ModelProfile) -> list[str]:
    """The marks that have to arrive, in the order in which the client sent them."""
    gone = conversation.attachments | (set() if profile.reasoning else conversation.reasoning)
    return [mark for mark in MARK.findall(json.dumps(conversation.messages)) if mark not in gone]


@settings(max_examples=1500)
@given(odd_conversations(), profiles)
def test_accepted_and_nothing_lost(conversation: Conversation, profile: ModelProfile) -> None:
    """mistral-common takes the translation, and each mark stands in the decoded prompt once, in the client's order."""
    body, translator = translate(profile, conversation.body())
    text = prompt(body, profile.tokenizer, profile.images).text
    names = set(translator.rewrites.counts())
    expected = expected_marks(conversation, profile)
    in_messages = MARK.findall(json.dumps(body["messages"]))
    # A thought that came twice in one message, or as the second of a pair of fields, goes in once: named, too.
    if "reasoning_dropped" in names:
        expected = [mark for mark in expected if mark not in conversation.reasoning or mark in in_messages]
    assert sorted(in_messages) == sorted(expected)
    if not names & REORDERING:
        reasoning = conversation.reasoning
        assert [m for m in in_messages if m not in reasoning] == [m for m in expected if m not in reasoning]
    tool_marks = MARK.findall(json.dumps(conversation.tools))
    if profile.tokenizer in ("v11", "v13", "v15"):  # before v11 the tokenizer itself puts the system prompt last
        in_prompt = MARK.findall(text)
        assert sorted(in_prompt) == sorted(expected + tool_marks)
        assert [mark for mark in in_prompt if mark not in tool_marks] == in_messages
        assert [mark for mark in in_prompt if mark in tool_marks] == tool_marks


@settings(max_examples=700)
@given(odd_conversations(), profiles)
def test_a_turn_is_a_prefix_of_the_next(conversation: Conversation, profile: ModelProfile) -> None:
    """What the model has read stays as it was, message for message, and from v13 on token for token."""
    before: list[dict[str, Any]] = []
    ids: list[int] = []
    for length in conversation.turns():
        body, _ = translate(profile, conversation.body(length))
        messages = body["messages"]
        assert messages[: len(before)] == before
        before = messages
        if profile.tokenizer in ("v13", "v15"):  # older ones write the tools before the last user message
            now = prompt(body, profile.tokenizer, profile.images).ids
            assert now[: len(ids)] == ids
            ids = now


@settings(max_examples=700)
@given(odd_conversations(), profiles)
def test_translating_a_translation_changes_nothing(conversation: Conversation, profile: ModelProfile) -> None:
    once, _ = translate(profile, conversation.body())
    twice, translator = translate(profile, once)
    assert twice == once
    assert translator.rewrites.entries == []


@settings(max_examples=700)
@given(odd_conversations(), profiles)
def test_every_change_is_named(conversation: Conversation, profile: ModelProfile) -> None:
    given_body = conversation.body(stream=True, stream_options={"include_usage": True})
    before = json.dumps(given_body)
    body, translator = translate(profile, given_body)
    assert json.dumps(given_body) == before, "the client's own dict was changed"
    if not translator.rewrites:
        assert body == given_body
    for name, where in translator.rewrites.entries:
        assert "M" not in where, f"content in the path of {name}"


@settings(max_examples=500)
@given(plain_conversations(), st.sampled_from(VERSIONS[1:]))
def test_what_is_in_mistrals_form_goes_through_unchanged(conversation: Conversation, version: TokenizerVersion) -> None:
    """Not equal but the same: no message and no tool is copied."""
    for tool in conversation.tools:
        tool["function"].pop("strict", None)
    streamed = conversation.body(stream=True, stream_options={"include_usage": True})
    body, translator = translate(ModelProfile("plain", version), streamed)
    assert translator.rewrites.entries == []
    assert all(new is old for new, old in zip(body["messages"], conversation.messages, strict=True))
    assert all(new is old for new, old in zip(body.get("tools", []), conversation.tools, strict=True))


@pytest.mark.parametrize("version", VERSIONS)
def test_the_strictest_form_is_taken_by_every_tokenizer(version: TokenizerVersion) -> None:
    """A name that matches nothing gets a profile whose form all of them take."""

    @settings(max_examples=60)
    @given(odd_conversations())
    def check(conversation: Conversation) -> None:
        body, _ = translate(ModelProfile("strictest"), conversation.body())
        prompt(body, version)

    check()
