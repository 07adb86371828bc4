"""The golden cases of the request translation, to the letter."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from devstral_proxy.mistral.profiles import ModelProfile
from devstral_proxy.mistral.translator import Translator
from qa.golden_requests import CASES, ELSEWHERE, MAX_MODEL_LEN, Case, body


def translate(case: Case, given: dict[str, Any]) -> tuple[dict[str, Any], Translator]:
    profile = ModelProfile("case", case.tokenizer, images=case.images, reasoning=case.reasoning)
    translator = Translator(profile, max_model_len=MAX_MODEL_LEN)
    return translator.request(given), translator


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_case(case: Case) -> None:
    given = body(case)
    before = copy.deepcopy(given)
    sent, translator = translate(case, given)
    assert given == before, "the client's dict was changed"
    names = set(translator.rewrites.counts())
    assert set(case.rewrites) <= names if case.rewrites else not names
    for key, value in {**case.sends, **case.arrives}.items():
        if key in case.arrives and value is None:
            assert key not in sent
        elif not (key == "stream" and value is None):
            assert sent[key] == value, key


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_translating_twice_changes_nothing(case: Case) -> None:
    once, _ = translate(case, body(case))
    twice, translator = translate(case, once)
    assert twice == once
    assert not translator.rewrites


def test_every_request_failure_mode_has_a_case() -> None:
    named = {case.name.partition("-")[0] for case in CASES} | ELSEWHERE.keys()
    assert {f"F{number:02d}" for number in range(1, 57)} <= named
