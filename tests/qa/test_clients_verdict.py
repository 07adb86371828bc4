"""Whether a run of a client counts as done: verdicts on outcomes, nothing is started."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from qa.clients.model import Client
from qa.clients.scenarios import SCENARIOS
from qa.clients.script import FINAL, HELLO, MARK, PASSED
from qa.clients.table import CLIENTS
from qa.clients.upstream import Seen
from qa.clients.verdict import Outcome, Verdict, judge

TOOLS = [{"type": "function", "function": {"name": "Bash", "parameters": {"type": "object"}}}]
PI = CLIENTS["pi"]
OPENAI = CLIENTS["openai-py"]
DONE = {
    "tools": TOOLS,
    "messages": [{"role": "tool", "content": HELLO}, {"role": "tool", "content": PASSED}],
}
GOOD = Outcome(0, f"… {MARK}\n", f"{FINAL}\n", [Seen({"tools": TOOLS, "messages": []}, "", 200), Seen(DONE, "", 200)])
LINE = {"method": "POST", "path": "/v1/chat/completions", "status": 200}


def of(outcome: Outcome, scenario: str = "base", client: Client = PI) -> Verdict:
    return judge(client, scenario, SCENARIOS[scenario], outcome)


def test_a_good_run_passes() -> None:
    lines = [{**LINE, "rewrites": {"a": 1}}, {**LINE, "rewrites": {"a": 2}, "repairs": {"b": 1}}]
    verdict = of(replace(GOOD, access=lines))
    assert verdict.status == "PASS", verdict.reasons
    assert (verdict.requests, verdict.rewrites, verdict.repairs) == (2, {"a": 3}, {"b": 1})


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"exit": 1}, "exit code 1"),
        ({"exit": None}, "still running"),
        ({"written": None}, "not written"),
        ({"written": "a draft\n"}, "not the right content"),
        ({"output": "all fine"}, "last word"),
        ({"seen": GOOD.seen[:1]}, "never saw the file's content"),
        ({"seen": [Seen(DONE, "", 400)]}, "never saw"),
        ({"seen": [*GOOD.seen, Seen({}, "", 400, "no")]}, "upstream refused with 400: no"),
        ({"access": [{**LINE, "status": 400, "error": "bad"}]}, "the proxy refused with 400 bad"),
        ({"access": [{**LINE, "path": "", "status": 404}]}, "the proxy refused with 404"),
    ],
)
def test_what_makes_a_run_fail(change: dict[str, Any], says: str) -> None:
    verdict = of(replace(GOOD, **change))
    assert verdict.status == "FAIL"
    assert any(says in reason for reason in verdict.reasons), verdict.reasons


@pytest.mark.parametrize(
    "line",
    [
        {**LINE, "status": 499},
        {"method": "GET", "path": "", "status": 404},
        {**LINE, "path": "/v1/messages", "status": 400, "error": "thread_unsupported_request"},
    ],
)
def test_what_does_not(line: dict[str, Any]) -> None:
    assert of(replace(GOOD, access=[line])).status == "PASS"


def test_the_fault_itself_is_no_refusal() -> None:
    faulty = [GOOD.seen[0], Seen({"tools": TOOLS}, "429", 429), GOOD.seen[1]]
    lines = [{**LINE, "status": 429}, LINE]
    assert of(replace(GOOD, seen=faulty, access=lines), "429once").status == "PASS"
    assert of(replace(GOOD, seen=faulty, access=[lines[0], lines[0]]), "429once").status == "FAIL", "told twice"
    assert "never came" in of(GOOD, "429once").reasons[0]


def test_to_give_up_is_right_where_the_table_says_so() -> None:
    cut = replace(GOOD, seen=[*GOOD.seen[:1], Seen({"tools": TOOLS}, "cut", 200)], output="error", written=None, exit=1)
    assert of(cut, "cutonce", OPENAI).status == "ends"
    assert of(replace(cut, exit=0), "cutonce", OPENAI).status == "FAIL", "it must not look like success"
    assert of(replace(cut, exit=None), "cutonce", OPENAI).status == "FAIL"
    assert of(cut, "cutonce", replace(PI, gives_up={})).status == "FAIL"


def test_a_picture_has_to_be_seen() -> None:
    assert "the model saw no picture" in of(GOOD, "image").reasons
