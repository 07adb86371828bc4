"""Whether a run did its task. Pure: what was seen in, a verdict out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from qa.clients.model import Client
from qa.clients.scenarios import Scenario
from qa.clients.script import FINAL, HELLO, MARK, PASSED, has_image, results_of, tools_of
from qa.clients.upstream import Seen

Status = Literal["PASS", "FAIL", "ends", "skipped"]
CONVERSATIONS: Final = ("/v1/chat/completions", "/v1/responses", "/v1/messages", "/v1/messages/count_tokens")

PROBES: Final = {"thread_unsupported_request"}
"""Refusals by which a client learns what the server can do: anthropic-python's tool runner asks for threads first."""


@dataclass(frozen=True)
class Outcome:
    """What was left of a run.

    exit        the client's exit code, None when the time was over
    written     the content of out.txt, None without one
    access      the proxy's log lines, one a request
    """

    exit: int | None
    output: str
    written: str | None
    seen: Sequence[Seen] = ()
    access: Sequence[Mapping[str, Any]] = ()


@dataclass(frozen=True)
class Verdict:
    """`ends`: the client rightly gave up, with an error. `reasons` say what was wrong, or why it was skipped."""

    status: Status
    reasons: tuple[str, ...] = ()
    seconds: float = 0.0
    requests: int = 0
    rewrites: Mapping[str, int] = field(default_factory=dict)
    repairs: Mapping[str, int] = field(default_factory=dict)
    """What the proxy changed in the run's requests and answers, and how often."""


def judge(client: Client, name: str, scenario: Scenario, outcome: Outcome, seconds: float = 0.0) -> Verdict:
    """The verdict on one run of the scenario called `name`."""
    wrong = list(_refusals(scenario, outcome))
    if scenario.fault and not any(seen.fault for seen in outcome.seen):
        wrong.append("the fault never came: too few requests")
    undone = list(_undone(client, scenario, outcome))
    status: Status = "FAIL" if wrong or undone else "PASS"
    reasons = (*wrong, *undone)
    if undone and not wrong and name in client.gives_up:
        if outcome.exit is None:
            reasons = ("should have given up, and was still running when the time was over",)
        elif outcome.exit == 0:
            reasons = ("should have told of the error, and ended as if all were well", *undone)
        else:
            status, reasons = "ends", (client.gives_up[name],)
    counts = {kind: _sums(line.get(kind) or {} for line in outcome.access) for kind in ("rewrites", "repairs")}
    return Verdict(status, reasons, round(seconds, 1), len(outcome.seen), counts["rewrites"], counts["repairs"])


def _undone(client: Client, scenario: Scenario, outcome: Outcome) -> Iterable[str]:
    """What of the task is missing."""
    if outcome.exit is None:
        yield "was still running when the time was over"
    elif outcome.exit:
        yield f"exit code {outcome.exit}"
    if outcome.written is None:
        yield "out.txt was not written"
    elif FINAL not in outcome.written:
        yield f"out.txt has not the right content: {outcome.written[:60]!r}"
    if MARK not in outcome.output:
        yield "the model's last word is not in its output"
    if client.tools:
        yield from _unseen(client, scenario, outcome.seen)
    if scenario.image and not any(has_image(seen.body) for seen in outcome.seen):
        yield "the model saw no picture"


def _unseen(client: Client, scenario: Scenario, seen: Sequence[Seen]) -> Iterable[str]:
    results = "\n".join(results_of(one.body) for one in seen if one.status == 200)
    pictured = scenario.image and client.image_read
    wanted = {} if pictured else {HELLO: "the file's content"}
    for word, what in {**wanted, PASSED: "the test's success"}.items():
        if word not in results:
            yield f"the model never saw {what}"
    if not any(tools_of(one.body) for one in seen):
        yield "no request had tools"


def _refusals(scenario: Scenario, outcome: Outcome) -> Iterable[str]:
    """Errors that are no fault of the scenario's."""
    for seen in outcome.seen:
        if seen.status >= 400 and not seen.fault:
            yield f"upstream refused with {seen.status}: {seen.refusal[:300]}"
    meant = sum(seen.fault.isdigit() for seen in outcome.seen)
    for line in outcome.access:
        status = line.get("status") or 0
        if line.get("path") not in CONVERSATIONS and not _unknown(line):
            continue
        if status < 400 or status == 499 or line.get("error") in PROBES:
            continue
        if scenario.status and status == scenario.status and meant > 0:
            meant -= 1
            continue
        if scenario.fault == "cut" and status >= 500:
            continue  # an answer that was not streamed: its whole fails
        where = f"{line.get('method')} {line.get('path') or 'somewhere unknown'}"
        yield f"the proxy refused with {status} {line.get('error') or ''} ({where})"


def _unknown(line: Mapping[str, Any]) -> bool:
    """A POST that the proxy has no route for."""
    return not line.get("path") and line.get("method") == "POST"


def _sums(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    total: dict[str, int] = {}
    for one in counts:
        for name, count in one.items():
            total[name] = total.get(name, 0) + count
    return dict(sorted(total.items()))
