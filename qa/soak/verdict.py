"""Whether what a request ended in is right: a right answer, or a right error. Nothing here does I/O."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from qa.soak.answers import Seen, Wrong, error_of, expect, read
from qa.soak.asks import Ask
from qa.soak.directive import RAW
from qa.soak.wire import Reply

UNAVAILABLE: Final = "upstream_unavailable"


@dataclass(frozen=True, slots=True)
class Fault:
    """What a client may get when an upstream shows it: statuses, or (`broken`) an error event in a stream that has
    begun. `elsewhere`: another server is to be asked, so that it is not seen where there is one."""

    statuses: frozenset[int]
    broken: bool = False
    elsewhere: bool = False


def _fault(*statuses: int, broken: bool = False, elsewhere: bool = False) -> Fault:
    return Fault(frozenset(statuses), broken, elsewhere)


FAULTS: Final[dict[str, Fault]] = {
    "400": _fault(400),
    "429": _fault(429, elsewhere=True),
    "500": _fault(500),
    "503": _fault(503, elsewhere=True),
    "html": _fault(502),
    "half-json": _fault(502),
    "empty": _fault(502),
    "redirect": _fault(502),
    "cut": _fault(502, broken=True),
    "error-event": _fault(500, broken=True),
    "no-done": _fault(502, broken=True),
    "stall": _fault(504, broken=True),
    "slow-first": _fault(),
    "reset": _fault(502, elsewhere=True),
    "close": _fault(502, elsewhere=True),
    "silent": _fault(504, broken=True, elsewhere=True),
    "garbage": _fault(502),
    "reset-in-it": _fault(502, broken=True),
    "bad-chunk": _fault(502, broken=True),
    "half-event": _fault(502, broken=True),
    "bad-event": _fault(502, broken=True),
    "huge-event": _fault(502, broken=True),
    "huge-body": _fault(502),
    "early-hints": _fault(),
    "close-after": _fault(),
}
"""Every fault. A whole and right answer is right in any case."""


@dataclass(frozen=True, slots=True)
class Around:
    """What was wrong around a request while it ran. `killed`: one of its servers was dead, or died; `down`: each of
    them had been in trouble; `full`: more requests were sent than are admitted, with this key."""

    killed: bool = False
    down: bool = False
    full: bool = False


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a request ended. `wrong`: why that is a defect, "" when it is none."""

    label: str
    wrong: str = ""
    id: str = ""


def judge(ask: Ask, reply: Reply, around: Around = Around()) -> Outcome:
    """The verdict on a reply that has come whole."""
    try:
        if reply.status != 200:
            return _refused(ask, reply, around)
        seen = read(ask.api, ask.stream, reply.body)
        expect(reply.streamed == ask.stream, "a stream for a whole answer, or the other way round")
        return _broken(ask, seen, around) if seen.error or not seen.done else _answer(ask, seen)
    except Wrong as wrong:
        return Outcome("wrong", f"{wrong}")


def _answer(ask: Ask, seen: Seen) -> Outcome:
    expect(seen.text == ask.text, f"the text is {_differs(seen.text, ask.text)}")
    expect(seen.calls == ask.calls, f"the calls are {str(seen.calls)[:200]}, not {str(ask.calls)[:200]}")
    expect(seen.finish == ask.finish, f"it ended with {seen.finish!r}, not {ask.finish!r}")
    return Outcome("answer", id=seen.id)


def _broken(ask: Ask, seen: Seen, around: Around) -> Outcome:
    expect(seen.error, f"it ended as {seen.finish!r} without an error")
    expect(ask.text.startswith(seen.text), f"before it broke off the text was {_differs(seen.text, ask.text)}")
    whole = (seen.text, seen.calls, seen.finish) == (ask.text, ask.calls, ask.finish)
    expect(whole or seen.finish in ("", "failed"), f"it was said to end with {seen.finish!r} before it broke off")
    expect(ask.calls[: len(seen.calls)] == seen.calls, f"before it broke off the calls were {str(seen.calls)[:200]}")
    fault = FAULTS.get(ask.order.fault)
    allowed = around.killed or (fault is not None and fault.broken and _shown(ask, fault))
    expect(allowed, f"an error event without a reason: {seen.error}")
    return Outcome("error event")


def _refused(ask: Ask, reply: Reply, around: Around) -> Outcome:
    code = status_error(ask.api, reply)
    label = f"error {reply.status}"
    fault = FAULTS.get(ask.order.fault)
    if fault is not None and reply.status in fault.statuses and _shown(ask, fault):
        return Outcome(label)
    if reply.status in (502, 503) and around.down:  # 502: of the last that was asked, when the rest is left alone
        return Outcome(label)
    if around.full and reply.status in (429, 503):
        return Outcome(label)
    if around.killed and ask.model == RAW and reply.status == 502:
        return Outcome(label)
    raise Wrong(f"status {reply.status} ({code}) without a reason, fault {ask.order.fault!r} at {ask.order.at!r}")


def _shown(ask: Ask, fault: Fault) -> bool:
    """Whether the client may see it: no other server is to be asked, or can be. Silence uses up all of a whole
    answer's time."""
    alone = ask.model == RAW or ask.order.at == "*" or not fault.elsewhere
    return alone or (ask.order.fault == "silent" and not ask.stream)


def status_error(api: str, reply: Reply) -> str:
    """The code of an error answer. Raises Wrong where its shape or headers are not right."""
    try:
        value = json.loads(reply.body)
    except ValueError:
        raise Wrong(f"status {reply.status} without JSON: {bytes(reply.body[:80])!r}") from None
    expect(isinstance(value, dict), "error JSON that is no object")
    code = error_of(api, value)
    if reply.status in (429, 503):
        expect(reply.headers.get("retry-after", "").isdigit(), f"status {reply.status} without Retry-After")
    return code


def _differs(found: str, wanted: str) -> str:
    """Where two texts part."""
    at = next((at for at, (one, other) in enumerate(zip(found, wanted, strict=False)) if one != other), None)
    at = min(len(found), len(wanted)) if at is None else at
    return f"{found[at - 10 if at > 10 else 0 : at + 30]!r} from character {at} on ({len(found)} of {len(wanted)})"


def tally(rows: Mapping[tuple[str, str], int]) -> dict[str, dict[str, int]]:
    """Counts by kind and outcome as a table: kinds, each with its outcomes."""
    table: dict[str, dict[str, int]] = {}
    for (kind, label), count in sorted(rows.items()):
        table.setdefault(kind, {})[label] = count
    return table
