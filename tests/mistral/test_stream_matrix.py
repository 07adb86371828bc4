"""What 16 vLLM releases make of canned outputs, each asked as `plan` says: the client reads what the model meant.

The data are those of tests/data/README.md. Each answer is read by a client that streams and by one that does not, the
streams in one piece, byte by byte and with CR LF.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from typing import Any

import pytest

from devstral_proxy.errors import ProxyError
from devstral_proxy.mistral.context import AnswerContext
from devstral_proxy.mistral.fold import fold, unfold
from devstral_proxy.mistral.response import repair_response
from devstral_proxy.mistral.rewrites import RewriteLog
from devstral_proxy.mistral.token_watch import AnswerLost
from devstral_proxy.upstream.capabilities import ask_again, for_version, plan
from devstral_proxy.upstream.sse import Event
from tests.streams import DATA, context, raw, repair
from tests.strict_reader import StrictChoice, read_events

OLD = ("0.9.2", "0.10.2", "0.11.0", "0.11.2", "0.12.0", "0.13.0", "0.14.1", "0.15.1", "0.16.0", "0.17.1", "0.19.1")
VERSIONS = (*OLD, "0.20.2", "0.21.0", "0.24.0", "0.28.0", "0.32.0")
WAYS = ("token", "merged", "burst")
MARKERS = ("marker_in_string", "call_in_string", "marker_in_prose", "marker_in_prose_then_call")

# What no way of asking gives: the answer is damaged or incomplete before it leaves vLLM.
LOST: dict[str, set[tuple[str, str]]] = {
    # Neither ids nor raw text: what vLLM's own regular expression made of the whole answer is all there is.
    "0.9.2": {
        (case, way)
        for way in WAYS
        for case in (
            *("text_after_call", "marker_in_string", "marker_in_prose", "marker_in_prose_then_call", "dotted_name"),
            *("array_form", "array_form_two", "cut_in_arguments", "cut_in_escape", "cut_in_second_call"),
            *("cut_in_second_name", "cut_after_text_in_arguments"),
        )
    },
    # A spelled marker damages the whole answer, and the error of merged deltas the stream.
    "0.20.2": {(case, "burst") for case in MARKERS} | {("call_in_string", "merged")},
    # A spelled marker damages the whole answer, and the burst the stream.
    "0.21.0": {(case, "burst") for case in MARKERS},
    # The same; and a second call that was cut in its name has left no trace but the tokens.
    "0.24.0": {(case, "burst") for case in MARKERS} | {("cut_in_second_name", way) for way in WAYS},
}


@cache
def rows() -> dict[tuple[str, str, str, str], dict[str, Any]]:
    with gzip.open(DATA / "vllm_matrix.jsonl.gz", "rt", encoding="utf-8") as lines:
        answers = [json.loads(line) for line in lines]
    return {(row["version"], row["case"], row["request"], row["way"]): row for row in answers}


@cache
def cases() -> list[str]:
    return list(dict.fromkeys(case for _, case, _, _ in rows()))


def served(version: str, case: str, way: str, planned: dict[str, Any]) -> dict[str, Any] | None:
    """The canned server: what this release answers to this way of asking."""
    request = "none" if planned["tool_choice"] == "none" else "auto+ids" if "return_token_ids" in planned else "auto"
    return rows().get((version, case, request, way if planned["stream"] else "whole"))


def exchange(version: str, case: str, way: str, stream: bool, cut: int = 0, crlf: bool = False) -> list[Event] | None:
    """The client's events: as the server does it, asked for the second time where the first answer lost something."""
    row = for_version(version)
    asked = {"model": "m", "messages": [], "tools": [{}], "tool_choice": "auto", "stream": stream}
    planned = plan(asked, row)
    given = context(
        stream=stream,
        raw_text=planned["tool_choice"] == "none",
        token_ids="return_token_ids" in planned,
        lossy=row.token_ids,
    )
    answer = served(version, case, way, planned)
    if answer is None:
        return None
    try:
        return answered(answer["body"], planned["stream"], given, cut, crlf)
    except AnswerLost:
        again = ask_again(planned, row)
        assert again is not None
        given = replace(given, lossy=False)
        answer = served(version, case, way, again)
        assert answer is not None
        return answered(answer["body"], again["stream"], given, cut, crlf)


def answered(body: str, streamed: bool, given: AnswerContext, cut: int, crlf: bool) -> list[Event]:
    if not streamed:
        return unfold(repair_response(json.loads(body), given, RewriteLog()), include_usage=True)
    data = body.encode()
    events = repair(data.replace(b"\n", b"\r\n") if crlf else data, given, cut=cut)
    return events if given.stream else unfold(fold(events), include_usage=True)


def wrong(choice: StrictChoice, truth: dict[str, Any], as_json: bool) -> str:
    """How the answer differs from what the model meant; empty when it does not."""
    if choice.content != truth["content"]:
        return f"content {choice.content[:80]!r}"
    if [call.name for call in choice.calls] != [call["name"] for call in truth["calls"]]:
        return f"calls {choice.calls}"
    if choice.finish != truth["finish_reason"]:
        return f"finish {choice.finish}"
    for place, (call, meant) in enumerate(zip(choice.calls, truth["calls"], strict=True)):
        last = place == len(truth["calls"]) - 1
        if last and truth["cut"] == "arguments":
            kept = call.arguments.rstrip('"]}')
            if not meant["arguments"].startswith(kept) or len(meant["arguments"]) - len(kept) > 12:
                return f"closed arguments {call.arguments[:80]!r}"
        elif call.arguments != meant["arguments"] and (
            not as_json or json.loads(call.arguments) != json.loads(meant["arguments"])
        ):
            return f"arguments {call.arguments[:80]!r}"
    return ""


Told = list[Event] | ProxyError


def exchanges(version: str) -> Iterator[tuple[str, str, bool, Told, dict[str, Any]]]:
    """Case, way, whether the client streams, its events or error, the truth."""
    for case in cases():
        for way in WAYS:
            for stream in (True, False):
                told: Told | None
                try:
                    told = exchange(version, case, way, stream)
                except ProxyError as error:
                    told = error
                if told is not None:
                    yield case, way, stream, told, rows()[version, case, "auto", "whole"]["truth"]


@pytest.mark.parametrize("version", VERSIONS)
def test_every_answer_is_right(version: str) -> None:
    as_json = version == "0.9.2"  # its whole answers hold the arguments written anew
    lost = LOST.get(version, set())
    seen = set()
    for case, way, stream, told, truth in exchanges(version):
        difference = verdict(told, truth, as_json, objects=(case, way) not in lost)
        assert bool(difference) is ((case, way) in lost), (
            f"{case} {way} stream={stream}: {difference or 'is right now'}"
        )
        seen.add((case, way))
    assert len(seen) >= 100


def verdict(told: Told, truth: dict[str, Any], as_json: bool, objects: bool) -> str:
    if isinstance(told, ProxyError):
        return told.message
    read = read_events(told, objects=objects)
    return read.error["message"] if read.error is not None else wrong(read.choices[0], truth, as_json)


@pytest.mark.parametrize("version", ["0.10.2", "0.12.0", "0.19.1", "0.21.0", "0.24.0", "0.32.0"])
def test_any_cut_is_the_same(version: str) -> None:
    for case in cases():
        for way, cut, crlf in (("token", 1, False), ("merged", 5, True), ("burst", 3, False)):
            events = None if case == "long_argument" else told(version, case, way)
            if events is not None:
                again = told(version, case, way, cut, crlf)
                assert again is not None
                assert raw(again) == raw(events), (case, way, cut)


def told(version: str, case: str, way: str, cut: int = 0, crlf: bool = False) -> list[Event] | None:
    try:
        return exchange(version, case, way, stream=True, cut=cut, crlf=crlf)
    except ProxyError:
        return []


@pytest.mark.parametrize("version", ["0.9.2", "0.12.0", "0.19.1", "0.21.0", "0.24.0", "0.32.0"])
def test_asked_in_the_wrong_way(version: str) -> None:
    """As when the version is unknown: not every answer is right, but each is a stream that strict readers take."""
    for (release, case, request, way), row in rows().items():
        if release == version and way != "whole" and case != "long_argument":
            given = context(raw_text=request == "none", token_ids=request == "auto+ids")
            read_events(repair(row["body"].encode(), given), objects=False)
