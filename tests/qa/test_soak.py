"""The soak's own parts: a right answer passes, a damaged one is found; errors have to fit; leaks are told."""

from __future__ import annotations

import json
from collections.abc import Callable
from random import Random
from typing import Any

import pytest

from devstral_proxy.dialects.base import Dialect
from devstral_proxy.dialects.messages import Messages
from devstral_proxy.dialects.responses import Responses
from devstral_proxy.errors import UpstreamError
from devstral_proxy.upstream import sse
from qa.soak import load, raw, simulated, verdict
from qa.soak.asks import LARGE, PATHS, Ask, made
from qa.soak.directive import MODEL, RAW, SIMULATORS, TOOLS, Order, last_order, orders, orders_of
from qa.soak.report import page, table
from qa.soak.run import log_findings
from qa.soak.samples import gauges, leaks, memory
from qa.soak.verdict import Around, judge, tally
from qa.soak.wire import Reply, request

APIS = ("chat", "messages", "responses")
ACTS = ("text", "tool", "tools")
KINDS = [(api, stream, act) for api in APIS for stream in (False, True) for act in ACTS]
STREAMS = [(api, act) for api in APIS for act in ACTS]


def asked(api: str = "chat", stream: bool = False, act: str = "text", **more: Any) -> Ask:
    order = Order(more.pop("nonce", "n1x0a"), act, 12, more.pop("fault", ""), more.pop("at", ""))
    return made(Ask(api, stream, order, "alice", **more), Random(3))


def dialect_of(api: str) -> Dialect | None:
    return {"chat": None, "messages": Messages("seed"), "responses": Responses(1, "seed")}[api]


def right(ask: Ask) -> Reply:
    """The answer as the proxy gives it."""
    dialect = dialect_of(ask.api)
    chat = ask.body if dialect is None else dialect.request(ask.body)
    if not ask.stream:
        whole = raw.completion(chat)
        return reply(200, json.dumps(whole if dialect is None else dialect.body(whole)).encode())
    events = sse.Parser().feed(b"".join(raw.events(chat)))
    told = events if dialect is None else [*dialect.opening(), *dialect.events(events)]
    return reply(200, b"".join(event.raw for event in told), "text/event-stream")


def reply(status: int, body: bytes, kind: str = "application/json", **headers: str) -> Reply:
    return Reply(status, {"content-type": kind, **headers}, bytearray(body))


def wrong(ask: Ask, given: Reply, around: Around | None = None) -> str:
    return judge(ask, given, around or Around()).wrong


# ---------------------------------------------------------------- answers


@pytest.mark.parametrize(("api", "stream", "act"), KINDS)
def test_a_right_answer_passes(api: str, stream: bool, act: str) -> None:
    ask = asked(api, stream, act)
    assert judge(ask, right(ask)).label == "answer"


@pytest.mark.parametrize(("api", "stream", "act"), KINDS)
def test_an_answer_for_somebody_else_is_found(api: str, stream: bool, act: str) -> None:
    assert wrong(asked(api, stream, act), right(asked(api, stream, act, nonce="n2x0b")))


@pytest.mark.parametrize(("api", "stream", "act"), KINDS)
def test_no_byte_of_an_answer_may_be_missing_at_its_end(api: str, stream: bool, act: str) -> None:
    ask = asked(api, stream, act)
    given = right(ask)
    for cut in (1, 2, 3, len(given.body) // 2):
        assert wrong(ask, Reply(200, given.headers, given.body[:-cut]))


def blocks(given: Reply) -> list[bytes]:
    return [bytes(block) + b"\n\n" for block in bytes(given.body).split(b"\n\n")[:-1]]


def tells_nothing(event: bytes) -> bool:
    """An event without which, or with which twice, an answer says the same."""
    return any(mark in event for mark in (b"event: ping", b'"content":""', b'"arguments":""}', b'"choices":[]'))


@pytest.mark.parametrize(("api", "act"), STREAMS)
def test_every_event_of_a_stream_is_missed(api: str, act: str) -> None:
    ask = asked(api, True, act)
    events = blocks(right(ask))
    for at, event in enumerate(events):
        if not tells_nothing(event) or b'"id":"raw' in event:
            left = b"".join(events[:at] + events[at + 1 :])
            assert wrong(ask, reply(200, left, "text/event-stream")), event


@pytest.mark.parametrize(("api", "act"), STREAMS)
def test_every_event_of_a_stream_is_noticed_twice(api: str, act: str) -> None:
    ask = asked(api, True, act)
    events = blocks(right(ask))
    for at, event in enumerate(events):
        if not tells_nothing(event) or b'"id":"raw' in event:
            told = b"".join([*events[: at + 1], *events[at:]])
            assert wrong(ask, reply(200, told, "text/event-stream")), event


DAMAGES: dict[str, Callable[[Ask, Reply], Reply]] = {
    "no stream": lambda ask, given: reply(200, bytes(given.body)),
    "HTML": lambda ask, given: reply(200, b"<html></html>", "text/event-stream"),
    "nothing": lambda ask, given: reply(200, b"", "text/event-stream"),
    "half a character": lambda ask, given: Reply(200, given.headers, given.body[:60] + b"\xc3" + given.body[60:]),
    "an error in front": lambda ask, given: Reply(200, given.headers, broken(ask.api) + given.body),
    "an error behind": lambda ask, given: Reply(200, given.headers, given.body + broken(ask.api)),
}


def broken(api: str) -> bytearray:
    error: dict[str, Any] = {"message": "it broke", "type": "server_error", "param": None, "code": "x"}
    if api == "chat":
        return bytearray(b"data: " + json.dumps({"error": error}).encode() + b"\n\ndata: [DONE]\n\n")
    said = {"type": "error", "error": error}
    return bytearray(b"event: error\ndata: " + json.dumps(said).encode() + b"\n\n")


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("api", APIS)
def test_damages_are_found(api: str, damage: str) -> None:
    ask = asked(api, True, fault="cut", model=RAW)
    assert wrong(ask, DAMAGES[damage](ask, right(ask)))


# ---------------------------------------------------------------- errors


def broken_off(api: str, **more: Any) -> Reply:
    """A stream of which the first six events have come, then an error."""
    events = blocks(right(asked(api, True, **more)))[:6]
    return reply(200, b"".join(events) + bytes(broken(api)), "text/event-stream")


@pytest.mark.parametrize("api", ["chat", "messages"])
def test_an_error_event_comes_after_a_right_beginning(api: str) -> None:
    cut = asked(api, True, fault="cut", model=RAW)
    assert judge(cut, broken_off(api)) == verdict.Outcome("error event")
    assert "without a reason" in wrong(asked(api, True), broken_off(api))
    assert judge(asked(api, True), broken_off(api), Around(killed=True)).label == "error event"
    assert "before it broke off" in wrong(cut, broken_off(api, nonce="n2x0b"))
    assert "before it broke off" in wrong(cut, broken_off(api, nonce="n1x0"))


@pytest.mark.parametrize("act", ACTS)
def test_an_error_after_the_finish_reason_needs_a_whole_answer(act: str) -> None:
    """A stream that lacks only its `[DONE]`."""
    ask = asked("chat", True, act, fault="no-done", model=RAW)
    events = blocks(right(ask))[:-1]
    assert judge(ask, reply(200, b"".join(events) + bytes(broken("chat")), "text/event-stream")).label == "error event"
    del events[-2 if b'"finish_reason":"' in events[-1] else -3]
    assert wrong(ask, reply(200, b"".join(events) + bytes(broken("chat")), "text/event-stream"))


def test_a_response_that_failed() -> None:
    cut = asked("responses", True, fault="cut", model=RAW)
    dialect = Responses(1, "seed")
    chunks = sse.Parser().feed(b"".join(raw.events(dialect.request(cut.body))[:5]))
    told = [*dialect.opening(), *dialect.events(chunks), *dialect.broken(UpstreamError("it broke"))]
    given = reply(200, b"".join(event.raw for event in told), "text/event-stream")
    assert judge(cut, given) == verdict.Outcome("error event")
    assert "before it broke off" in wrong(asked("responses", True, fault="cut", nonce="n2x0b"), given)


ERROR = {"message": "no", "type": "server_error", "param": None, "code": "upstream_error"}
ANTHROPIC = {"type": "error", "error": {"type": "api_error", "message": "no"}}
REFUSALS: list[tuple[dict[str, Any], int, bool]] = [
    ({"fault": "500", "at": "*"}, 500, True),
    ({"fault": "500", "at": "*"}, 502, False),
    ({"fault": "500", "at": "a"}, 500, True),
    ({"fault": "reset", "at": "a"}, 502, False),  # another server had to be asked
    ({"fault": "reset", "at": "c", "model": RAW}, 502, True),
    ({"fault": "close-after", "at": "c", "model": RAW}, 502, False),
    ({}, 500, False),
    ({}, 400, False),
    ({}, 503, False),
]


@pytest.mark.parametrize(("order", "status", "passes"), REFUSALS)
@pytest.mark.parametrize("api", APIS)
def test_an_error_has_to_fit(api: str, order: dict[str, Any], status: int, passes: bool) -> None:
    body = ANTHROPIC if api == "messages" else {"error": ERROR}
    given = reply(status, json.dumps(body).encode(), **({"retry-after": "1"} if status == 503 else {}))
    assert bool(wrong(asked(api, **order), given)) is not passes


def test_an_error_needs_its_shape_and_its_headers() -> None:
    down = Around(down=True)
    told = json.dumps({"error": ERROR}).encode()
    assert not wrong(asked(), reply(503, told, **{"retry-after": "2"}), down)
    assert "Retry-After" in wrong(asked(), reply(503, told), down)
    assert "Anthropic" in wrong(asked("messages"), reply(503, told, **{"retry-after": "2"}), down)
    assert "OpenAI" in wrong(asked(), reply(503, json.dumps(ANTHROPIC).encode(), **{"retry-after": "2"}), down)
    assert "without JSON" in wrong(asked(), reply(503, b"<html>"), down)
    assert not wrong(asked(), reply(429, told, **{"retry-after": "2"}), Around(full=True))


def test_silence_is_taken_elsewhere_in_streams_only() -> None:
    told = reply(504, json.dumps({"error": ERROR}).encode())
    assert not wrong(asked(fault="silent", at="a"), told)
    assert wrong(asked(stream=True, fault="silent", at="a"), told)


# ---------------------------------------------------------------- orders


def test_orders_are_read_as_they_are_written() -> None:
    first, second = Order("n1xff", "tools", 3), Order("n2x00", "text", 5, "reset-in-it", "*")
    assert orders(f"a {first} b {second}") == [first, second]
    assert last_order(json.dumps({"x": f"{first}", "y": [f"{second}"]}).encode()) == second
    assert last_order(b"{}") is None
    parts = [{"type": "text", "text": f"{second}"}]
    messages = [{"role": "user", "content": f"{first}"}, {"role": "assistant", "content": f"{first}"}]
    assert orders_of({"messages": [*messages, {"role": "user", "content": parts}]}) == [first, second]
    assert [second.hits(name) for name in "abc"] == ["reset-in-it"] * 3
    assert first.hits("a") == ""


def test_every_fault_has_its_verdict() -> None:
    assert simulated.FAULTS.keys() | raw.FAULTS.keys() == verdict.FAULTS.keys()
    assert set(load.EVERYWHERE) <= simulated.FAULTS.keys() & (raw.FAULTS.keys() | {"slow-first"})


def test_the_simulator_says_what_the_raw_server_says() -> None:
    for act in ACTS:
        ask = asked(act=act)
        turn = simulated.said(ask.body)
        message = raw.completion(ask.body)["choices"][0]["message"]
        assert turn.text == (message["content"] or "")
        told = [(call["function"]["name"], json.loads(call["function"]["arguments"])) for call in message["tool_calls"]]
        assert [(call.name, call.arguments) for call in turn.calls] == told


def test_a_large_request_is_large() -> None:
    for api in APIS:
        ask = made(Ask(api, True, Order("n1"), "alice"), Random(1), large=True)
        assert LARGE <= len(json.dumps(ask.body)) <= 1.2 * LARGE
        assert last_order(request("POST", PATHS[api], "k", ask.body)) == ask.order


# ---------------------------------------------------------------- leaks

PAGE = """# HELP x y
devstral_proxy_requests_running 3.0
devstral_proxy_requests_queued 1.0
devstral_proxy_upstream_running{upstream="a"} 2.0
devstral_proxy_upstream_running{upstream="b"} 1.0
devstral_proxy_upstream_connections{state="busy",upstream="a"} 4.0
devstral_proxy_upstream_breaker{state="closed",upstream="a"} 1.0
devstral_proxy_upstream_breaker{state="open",upstream="b"} 1.0
"""


def test_gauges() -> None:
    found = gauges(PAGE)
    assert found["running"] == 3
    assert found["queued"] == 1
    assert found["upstream_running"] == 3
    assert found["busy"] == 4
    assert found["breakers"] == 1


def sample(**values: float) -> dict[str, float]:
    names = ("processes", "threads", "fds", "established", "close_wait", "sockets_else", "rss")
    return {**gauges(""), **dict.fromkeys(names, 5.0), **values}


def test_leaks_are_told() -> None:
    start = sample()
    rows = leaks(start, [sample(fds=90), sample(running=7)], sample(fds=12, busy=1, idle=3), 1)
    assert [row.says for row in rows if not row.well] == ["open file descriptors", "upstream connections, busy"]
    assert max(row.highest for row in rows) == 90
    assert all(row.well for row in leaks(start, [], sample(fds=12), 2)), "each worker may have as many more"


def test_memory_is_judged_by_the_second_half() -> None:
    def run(of: Callable[[float], float], seconds: int = 600) -> Any:
        samples = [(float(at), sample(rss=of(at))) for at in range(0, seconds + 1, 3)]
        return memory(sample(rss=50), samples, sample(rss=80))

    assert run(lambda at: 50 + min(at, 250) / 5).well, "it grows until caches are full"
    grows = run(lambda at: 50 + at / 20)
    assert not grows.well
    assert grows.growth == pytest.approx(15, abs=0.3)
    short = run(lambda at: 50 + at, 30)
    assert short.well
    assert not short.judged


def test_the_log_is_searched() -> None:
    fine = "2026-11-21T16:07:07.279 info    devstral_proxy.access: id=1 status=500 error=upstream_error note=x\n"
    assert log_findings(fine, ["sk-1"]) == []
    for line in (
        "2026-11-21T16:07:07.279 error   devstral_proxy.server: request 1 failed: KeyError",
        "Traceback (most recent call last):",
        "2026-11-21T16:07:07.279 info    devstral_proxy.access: error=internal_error",
        "Task exception was never retrieved",
        "said sk-1 aloud",
        f"asked {Order('n1')}",
    ):
        assert log_findings(fine + line, ["sk-1"]), line


# ---------------------------------------------------------------- the report


def test_the_report_tells_everything() -> None:
    start = sample()
    rss = memory(start, [(0.0, start), (600.0, start)], start)
    rows = leaks(start, [start], sample(fds=99), 1)
    result: dict[str, Any] = {
        "date": "2026-01-01", "seconds": 600, "seed": 7, "workers": 1, "rate": 16.0, "requests": 12, "wrong": 1,
        "machine": {"project": "1.0", "libraries": {"uvicorn": "1"}, "processor": "CPU", "cores": 2, "memory_gb": 8,
                    "kernel": "6.1", "python": "3.11"},
        "outcomes": tally({("chat stream", "answer"): 9, ("chat stream", "error 502"): 2, ("chat whole", "wrong"): 1}),
        "faults": tally({("cut, every server", "error event"): 2}),
        "events": {"crowds": 3}, "defects": ["chat whole: the text is another"],
        "leaks": [{name: getattr(row, name) for name in ("says", "start", "highest", "end", "bound", "well")}
                  for row in rows],
        "memory": {name: getattr(rss, name)
                   for name in ("start", "half", "highest", "end", "growth", "bound", "judged", "well")},
        "proxy_cores": 0.1, "log_lines": 5, "log_findings": [], "exit_code": 0, "failed": True,
    }  # fmt: skip
    for told in (table(result), page(result)):
        assert "the text is another" in told
        assert "502: 2" in told
        assert "LEAK" in told
        assert "crowds: 3" in told
    assert "failed" in page(result)
    assert table(result).endswith("FAILED")
    assert {MODEL, RAW, SIMULATORS}.isdisjoint(TOOLS)
