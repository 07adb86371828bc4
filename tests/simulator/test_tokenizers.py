"""The tokenizers made from what mistral-common ships."""

from __future__ import annotations

from typing import Any

import mistral_common
import pytest
from hypothesis import given
from hypothesis import strategies as st

from devstral_proxy.simulator import SimulatorOptions, create_simulator
from devstral_proxy.simulator.generate import merged, steps
from devstral_proxy.simulator.options import TOKENIZER_VERSIONS, TokenizerVersion
from devstral_proxy.simulator.tokenizers import MARKERS, Detokenizer, load

_KNOWS_V15 = tuple(map(int, mistral_common.__version__.split(".")[:2])) >= (1, 10)
_LOADED = [version for version in TOKENIZER_VERSIONS if _KNOWS_V15 or version != "v15"]
SHOWN = frozenset(MARKERS) - {"</s>"}
any_text = st.text(st.characters(codec="utf-8"), max_size=60)


@pytest.mark.parametrize("version", _LOADED)
def test_markers(version: TokenizerVersion) -> None:
    tokenizer = load(version)
    late = {"[ARGS]": 32, "[CALL_ID]": 33, "[THINK]": 34, "[/THINK]": 35} if tokenizer.number >= 11 else {}
    assert tokenizer.markers == {"[TOOL_CALLS]": 9, "</s>": 2} | late
    assert tokenizer.size == 131072
    assert tokenizer.mistral.instruct_tokenizer.tokenizer.version.value == version


def test_a_version_that_mistral_common_does_not_know() -> None:
    unknown: Any = "v99"
    with pytest.raises(ValueError, match="has no tokenizer v99"):
        load(unknown)
    with pytest.raises(ValueError, match="has no tokenizer v99"):
        create_simulator(SimulatorOptions(tokenizer=unknown))


@given(any_text)
def test_tokens_come_back_as_the_text(text: str) -> None:
    tokenizer = load("v13")
    ids = tokenizer.split([text])
    detokenizer = Detokenizer(tokenizer, SHOWN)
    assert "".join(map(detokenizer.feed, ids)) == text.rstrip("\ufffd") or "\ufffd" in text
    assert tokenizer.text(ids) == text


@given(st.lists(any_text | st.sampled_from(sorted(SHOWN)), max_size=6))
def test_markers_among_text_come_back(pieces: list[str]) -> None:
    tokenizer = load("v13")
    detokenizer = Detokenizer(tokenizer, SHOWN)
    if not any("\ufffd" in piece for piece in pieces):
        assert "".join(map(detokenizer.feed, tokenizer.split(pieces))) == "".join(pieces)


@given(any_text, st.integers(0, 5), st.lists(st.text(min_size=1, max_size=3), max_size=2), st.integers(1, 30))
def test_merging_steps_changes_no_text(text: str, size: int, stops: list[str], most: int) -> None:
    tokenizer = load("v13")
    ids = tokenizer.split([text])

    def run(merge: int) -> tuple[str, list[int], str | None]:
        source = steps(ids, tokenizer, shown=SHOWN, max_tokens=most, stops=stops)
        found = list(merged(source, merge) if merge != 1 else source)
        assert [step.finish is not None for step in found] == [False] * (len(found) - 1) + [True]
        whole = [number for step in found for number in step.ids]
        return "".join(step.text for step in found), whole, found[-1].finish

    assert run(size) == run(1)
    assert not any(stop in run(1)[0] for stop in stops)
