"""Model names to profiles, in every spelling that users serve them under."""

from __future__ import annotations

from typing import Any

import pytest

from devstral_proxy.mistral.profiles import BUILT_IN, STRICTEST, Profiles

NAMES: list[tuple[str, str]] = [
    ("mistralai/Devstral-Small-2505", "devstral-small-2505"),
    ("Devstral-Small-2505-GGUF", "devstral-small-2505"),
    ("devstral-small-1.0", "devstral-small-2505"),
    ("mistralai/Devstral-Small-2507", "devstral-small-2507"),
    ("devstral-small-1.1", "devstral-small-2507"),
    ("/models/Devstral-Small-2507/", "devstral-small-2507"),
    ("devstral-small-2507", "devstral-small-2507"),
    ("mistralai/Devstral-Small-2-24B-Instruct-2512", "devstral-small-2"),
    ("/srv/models/Devstral-Small-2-24B-Instruct-2512-FP8", "devstral-small-2"),
    ("devstral-small-2", "devstral-small-2"),
    ("devstral-small-2:latest", "devstral-small-2"),
    ("Devstral_Small_2", "devstral-small-2"),
    ("devstral-2-small", "devstral-small-2"),
    ("labs-devstral-small-2512", "devstral-small-2"),
    ("mistralai/Devstral-2-123B-Instruct-2512", "devstral-2"),
    ("devstral-2512", "devstral-2"),
    ("devstral2", "devstral-2"),
    ("devstral-2", "devstral-2"),
    ("devstral-medium-2507", "devstral-small-2507"),
    ("devstral", "devstral"),
    ("devstral:24b", "devstral"),
    ("mistralai/Magistral-Small-2506", "magistral-2506"),
    ("mistralai/Magistral-Small-2507", "magistral-2507"),
    ("mistralai/Magistral-Small-2509", "magistral-2509"),
    ("magistral-medium-1.2", "magistral-2509"),
    ("mistralai/Mistral-Small-24B-Instruct-2501", "mistral-small-3"),
    ("mistralai/Mistral-Small-3.1-24B-Instruct-2503", "mistral-small-3.1"),
    ("mistral-small3.1", "mistral-small-3.1"),
    ("mistralai/Mistral-Small-3.2-24B-Instruct-2506", "mistral-small-3.2"),
    ("mistralai/Mistral-Small-4-119B-2603", "mistral-small-4"),
    ("mistralai/Mistral-Small-Instruct-2409", "mistral-small-2409"),
    ("mistralai/Ministral-3-8B-Instruct-2512", "ministral-3"),
    ("mistralai/Ministral-3-14B-Reasoning-2512", "ministral-3-reasoning"),
    ("mistralai/Ministral-8B-Instruct-2410", "ministral-2410"),
    ("mistralai/Mistral-Large-3-675B-Instruct-2512", "mistral-large-3"),
    ("mistralai/Mistral-Large-Instruct-2411", "mistral-large-2411"),
    ("mistralai/Mistral-Large-Instruct-2407", "mistral-large-2407"),
    ("mistralai/Pixtral-Large-Instruct-2411", "pixtral-large"),
    ("mistral-medium-2508", "mistral-medium-3"),
    ("mistral-medium-3.5", "mistral-medium-3.5"),
    ("gpt-4o", "strictest"),
    ("default", "strictest"),
    ("", "strictest"),
]


@pytest.mark.parametrize(("name", "profile"), NAMES)
def test_a_name_finds_its_profile(name: str, profile: str) -> None:
    assert Profiles().find(name).name == profile


def test_every_built_in_row_is_found_by_its_own_name() -> None:
    for profile, _ in BUILT_IN:
        assert Profiles().find(profile.name).name == profile.name


def test_an_alias_is_recognised_by_its_root() -> None:
    profiles = Profiles()
    assert profiles.find("coder", "mistralai/Devstral-Small-2507").name == "devstral-small-2507"
    assert profiles.find("devstral-small-2", "/models/x").name == "devstral-small-2"
    assert profiles.find("coder", "/models/x") is STRICTEST


def test_overrides_change_the_named_fields_alone() -> None:
    profiles = Profiles({"devstral-small-2": {"tokenizer": "v11", "images": False}})
    for name in ("devstral-small-2", "mistralai/Devstral-Small-2-24B-Instruct-2512", "Devstral-Small-2"):
        profile = profiles.find(name)
        assert (profile.tokenizer, profile.images) == ("v11", False)
        assert profile.sampling == {"temperature": 0.15}
    assert profiles.find("devstral-2").tokenizer == "v13"


def test_overrides_add_names() -> None:
    profiles = Profiles({"Coder/One": {"tokenizer": "v13", "max_tokens": 100, "sampling": {"temperature": 0.5}}})
    for name in ("coder/one", "Coder/One"):
        assert profiles.find(name).max_tokens == 100
    assert profiles.find("other") is STRICTEST


def test_the_strictest_profile_can_be_overridden() -> None:
    assert Profiles({"strictest": {"tokenizer": "v13"}}).find("anything").tokenizer == "v13"


def test_reasoning_needs_tokens_for_it() -> None:
    assert not Profiles({"magistral-2509": {"tokenizer": "v11"}}).find("magistral-2509").reasoning


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ({"a": {"tokenizer": "v12"}}, "a.tokenizer: must be one of v3, v7, v11, v13, v15"),
        ({"a": {"tokeniser": "v11"}}, "a.tokeniser: no such field"),
        ({"a": {"images": "yes"}}, "a.images: must be true or false"),
        ({"a": {"max_tool_calls": 0}}, "a.max_tool_calls: must be a whole number above 0"),
        ({"a": {"max_tokens": 1.5}}, "a.max_tokens: must be a whole number above 0 or null"),
        ({"a": {"timeout": "1s"}}, "a.timeout: must be a number above 0 or null"),
        ({"a": {"sampling": {"temperature": "hot"}}}, "a.sampling: must be an object of numbers"),
        ({"a": {"tokenizer": "v7", "reasoning": True}}, "a.reasoning: tokenizer v7 has no tokens"),
        ({"a": {"sampling": {"temperature": 99}}}, "a.sampling: takes temperature 0 to 2"),
        ({"a": {"sampling": {"messages": 1}}}, "a.sampling: takes temperature 0 to 2"),
        ({"a": {"timeout": float("inf")}}, "a.timeout: must be a number above 0 or null"),
        ({"a.b": {}, "A-B": {}}, "A-B: the same name is there in another spelling"),
        ({"": {}}, "'': a profile needs a name"),
        ({"a": "v11"}, "a: must be an object of profile fields"),
    ],
)
def test_a_wrong_override_names_entry_and_field(overrides: Any, said: str) -> None:
    with pytest.raises(ValueError) as error:
        Profiles(overrides)
    assert str(error.value).startswith(said)
    assert "\n" not in str(error.value)


def test_what_is_remembered_is_bounded() -> None:
    profiles = Profiles()
    for number in range(5000):
        profiles.find(f"model-{number}")
    assert len(profiles._found) <= 256
