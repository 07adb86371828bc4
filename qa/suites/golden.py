"""Every golden request, streamed and not: accepted, told by its rewrites, and arrived as the table says."""

from __future__ import annotations

from typing import Any, Final

from qa.client import Skipped, expect
from qa.golden_requests import CASES, Case, body
from qa.models import Served
from qa.suites.check import Check, World

_ASKED_BY_PLAN: Final = ("stream", "stream_options")
"""How upstream is asked depends on its version, not on the request."""
_SHORT: Final = 16
"""`max_tokens` for a real model, whose answer is nobody's business here."""

_OF_THE_SERVER: Final = {
    "not a multimodal model": "the model that is served sees no images, its profile says that it does",
    "Invalid JSON: EOF": "accepted; this vLLM refuses its own answer when a forced call is cut by max_tokens",
}
"""Refusals of a real vLLM that say nothing about the request."""


def _run(case: Case, stream: bool, world: World) -> None:
    own = world.upstream is not None
    model = Served(case.tokenizer, case.images, case.reasoning).name if own else world.model
    request = body(case, model) | {"stream": stream}
    if not stream:
        request.pop("stream_options", None)
    if not own and not {"max_tokens", "max_completion_tokens"} & request.keys():
        request["max_tokens"] = _SHORT
    answer = world.api.chat(request)
    if not own and answer.error:
        for words, reason in _OF_THE_SERVER.items():
            if words in answer.error["message"]:
                raise Skipped(reason)
    answer.accepted()
    if own:
        missing = set(case.rewrites) - answer.rewrites
        expect(not missing, f"x-devstral-rewrites does not tell {', '.join(missing)}")
        _compare(case, world.told()["last"]["body"])


def _compare(case: Case, arrived: dict[str, Any]) -> None:
    for key, value in {**case.sends, **case.arrives}.items():
        if key in _ASKED_BY_PLAN:
            continue
        if key in case.arrives and value is None:
            expect(key not in arrived, f"{key} arrived")
        else:
            expect(arrived.get(key) == value, f"{key} arrived as {arrived.get(key)!r}")


def _checks(case: Case) -> list[Check]:
    ways = {"streamed": True, "whole": False}
    return [
        Check(f"golden/{case.name} {way}", case.says, lambda world, s=stream: _run(case, s, world))  # type: ignore[misc]
        for way, stream in ways.items()
    ]


CHECKS: Final = [check for case in CASES for check in _checks(case)]
