"""Names that clients insist on, and the served models behind them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devstral_proxy.config import ConfigError, load
from devstral_proxy.upstream.aliases import Aliases

MAPPING = {
    "claude-*": "devstral-small-2",
    "claude-opus-*": "devstral-2",
    "claude-opus-4-5": "devstral-1",
    "gpt-5-codex": "devstral-2",
    "gpt-[45]*": "devstral-small-2",
    "o?": "devstral-1",
    "*-a": "first",
    "b-*": "second",
    "served-too": "devstral-2",
}
SERVED = ["devstral-small-2", "devstral-2", "devstral-1", "served-too", "claude-local"]

# asked, what it becomes when the served models are known, and when they are not
CASES = [
    ("devstral-2", "devstral-2", "devstral-2"),
    ("served-too", "served-too", "devstral-2"),
    ("claude-local", "claude-local", "devstral-small-2"),
    ("gpt-5-codex", "devstral-2", "devstral-2"),
    ("gpt-5-codex-mini", "devstral-small-2", "devstral-small-2"),
    ("gpt-4o", "devstral-small-2", "devstral-small-2"),
    ("gpt-3", "default", "gpt-3"),
    ("claude-sonnet-4-5", "devstral-small-2", "devstral-small-2"),
    ("claude-opus-4-1", "devstral-2", "devstral-2"),
    ("claude-opus-4-5", "devstral-1", "devstral-1"),
    ("CLAUDE-opus-4-5", "default", "CLAUDE-opus-4-5"),
    ("o3", "devstral-1", "devstral-1"),
    ("o3-mini", "default", "o3-mini"),
    ("b-a", "first", "first"),
    ("", "default", "default"),
    ("nothing like it", "default", "nothing like it"),
    ("claude-\n", "devstral-small-2", "devstral-small-2"),
    ("claude-" + "x" * 100_000, "default", "claude-" + "x" * 100_000),
]


@pytest.mark.parametrize(("asked", "known", "unknown"), CASES, ids=lambda text: text[:20])
def test_the_model_behind_a_name(asked: str, known: str, unknown: str) -> None:
    aliases = Aliases(MAPPING, "default")
    assert aliases.resolve(asked, SERVED) == known
    assert aliases.resolve(asked, set(SERVED)) == known
    assert aliases.resolve(asked, ()) == unknown


@pytest.mark.parametrize("default", [None, ""])
def test_without_a_default(default: str | None) -> None:
    aliases = Aliases({}, default)
    assert aliases.resolve("gpt-3", SERVED) == "gpt-3"
    assert aliases.resolve("", SERVED) == ""
    assert aliases.resolve("", ()) == ""


def test_a_pattern_for_everything_leaves_what_aliases_lead_to() -> None:
    aliases = Aliases({"*": "small", "big-*": "big", "old": "small"}, "other")
    for model in ("small", "big", "other"):
        assert aliases.resolve(model, ()) == model
    assert aliases.resolve("anything", ()) == "small"
    assert aliases.resolve("", ()) == "other"


def test_an_alias_is_not_looked_up_again() -> None:
    aliases = Aliases({"a": "b", "b": "c"})
    assert (aliases.resolve("a", ()), aliases.resolve("b", ())) == ("b", "c")


@pytest.mark.parametrize("pattern", ["[", "[]", "[!", "a[b", "***", "(", "\\", "^$.+"])
def test_odd_patterns_do_no_harm(pattern: str) -> None:
    aliases = Aliases({pattern: "model"})
    assert aliases.resolve(pattern, ()) == "model"
    assert aliases.resolve("", ()) == ""


def test_a_pattern_that_could_take_long() -> None:
    aliases = Aliases({"*a" * 60 + "b": "model"})
    assert aliases.resolve("a" * 256, ()) == "a" * 256


@given(
    st.dictionaries(st.text("abc*?[]-", min_size=1, max_size=6), st.text("abcd", min_size=1, max_size=3), max_size=5),
    st.sampled_from(["", "d", "dd"]),
    st.text("abcd", max_size=4),
    st.lists(st.text("abcd", min_size=1, max_size=3), max_size=3),
)
def test_only_what_is_told_comes_out(mapping: dict[str, str], default: str, asked: str, served: list[str]) -> None:
    model = Aliases(mapping, default).resolve(asked, served)
    assert model in {asked, default, *mapping.values()}
    assert asked not in served or model == asked


def test_the_setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert load().aliases == {}
    monkeypatch.setenv("MODEL_ALIASES", json.dumps({" claude-* ": " devstral "}))
    monkeypatch.setenv("DEFAULT_MODEL", "devstral")
    settings = load()
    assert (settings.aliases, settings.default_model) == ({"claude-*": "devstral"}, "devstral")
    path = tmp_path / "aliases.json"
    path.write_text(json.dumps(MAPPING))
    monkeypatch.setenv("MODEL_ALIASES", str(path))
    assert load().aliases == MAPPING


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("{seCret", "the JSON cannot be read"),
        ("[]", "is neither a JSON object nor a file"),
        ("seCret.json", "is neither a JSON object nor a file"),
        ('{"claude-*": 1}', r"claude-\*: must be the name of a model"),
        ('{"a": "b", "claude-*": " "}', r"claude-\*: must be the name of a model"),
        ('{"claude-*": {"model": "seCret"}}', r"claude-\*: must be the name of a model"),
        ('{" ": "seCret"}', "the JSON has an entry without a name"),
        ('{"claude-*": "seCret", "claude-*": "seCret"}', r"claude-\*: is there twice"),
        ('{"a": ' + "[" * 100_000, "the JSON "),
    ],
)
def test_a_wrong_setting_names_the_entry(value: str, says: str) -> None:
    with pytest.raises(ConfigError, match=f"^MODEL_ALIASES: {says}") as caught:
        load(model_aliases=value)
    assert "seCret" not in str(caught.value)


def test_a_file_that_holds_no_object(tmp_path: Path) -> None:
    path = tmp_path / "aliases.json"
    path.write_text("[]")
    with pytest.raises(ConfigError, match=r"^MODEL_ALIASES: the file must be an object of model names"):
        load(model_aliases=str(path))
