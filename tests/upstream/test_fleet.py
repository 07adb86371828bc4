"""The fleet: names to servers, in which order they are tried, and what a failure does."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import httpx
import pytest

from devstral_proxy.errors import (
    BadRequest,
    NotFound,
    Overloaded,
    PayloadTooLarge,
    ProxyError,
    UpstreamProtocolError,
    UpstreamRefused,
    UpstreamTimeout,
    UpstreamUnavailable,
)
from devstral_proxy.upstream.affinity import affinity_of
from devstral_proxy.upstream.attempts import Attempt, backoff, retryable, send
from devstral_proxy.upstream.fleet import Candidate, Fleet
from devstral_proxy.upstream.target import Target, seconds_of
from tests.server.upstreams import Vllm, settings

UPSTREAMS: dict[str, Any] = {
    "small": {
        "servers": [{"url": f"http://{name}:8000", "name": name} for name in ("a", "b", "c")],
        "served": "mistralai/Small",
        "aliases": ["devstral"],
        "fallback": ["large"],
    },
    "large": {"servers": [{"url": "http://d", "name": "d"}, {"url": "http://c:8000", "name": "c"}]},
}


class Clock:
    """A time that stands still until it is set."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


def fleet(upstreams: Any = UPSTREAMS, transport: Any = None, clock: Clock | None = None, **values: Any) -> Fleet:
    if upstreams is not None:
        values["upstreams"] = json.dumps(upstreams)
    return Fleet(settings(**values), transport or Vllm(), clock=clock or Clock(), random=lambda: 1.0)


def names(candidates: Sequence[Candidate]) -> list[str]:
    return [candidate.target.name for candidate in candidates]


def refused(status: int) -> UpstreamRefused:
    return UpstreamRefused(status, {"error": {"message": "no"}})


def lost() -> UpstreamProtocolError:
    error = UpstreamProtocolError("connection lost")
    error.phase = "lost"
    return error


def by_name(one: Fleet) -> dict[str, Target]:
    return {target.name: target for target in one.targets}


# ---------------------------------------------------------------- names


def test_without_upstreams_any_name_goes_to_the_one_server() -> None:
    one = fleet(None)
    for model in ("", "devstral", "x" * 9999, "no such model"):
        route = one.resolve(model)
        assert (route.served, route.spread) == ("", False)
        ((target, name, own),) = route.candidates()
        assert (target, name, own) == (one.single, "", "")
    assert [target.name for target in one.targets] == ["vllm.test:8000"]


@pytest.mark.parametrize("model", ["small", "devstral"])
def test_a_model_and_its_alias(model: str) -> None:
    route = fleet().resolve(model)
    assert (route.model, route.served, route.spread) == ("small", "mistralai/Small", True)


def test_one_server_of_two_models_is_one_target() -> None:
    one = fleet()
    assert sorted(by_name(one)) == ["a", "b", "c", "d"]
    assert by_name(one)["c"] in one.resolve("small").targets
    assert by_name(one)["c"] in one.resolve("large").targets


def test_an_unknown_model_is_refused_in_openai_s_words() -> None:
    with pytest.raises(NotFound, match="The model `gpt-9` does not exist or you do not have access to it") as caught:
        fleet().resolve("gpt-9")
    assert (caught.value.code, caught.value.param, caught.value.type) == (
        "model_not_found",
        "model",
        "invalid_request_error",
    )
    with pytest.raises(NotFound) as caught:
        fleet().resolve("x" * 100_000)
    assert len(caught.value.message) < 300


def test_a_request_without_a_model() -> None:
    with pytest.raises(BadRequest, match="you must provide a model parameter"):
        fleet().resolve("")
    assert fleet({"only": {"servers": ["http://a"]}}).resolve("").model == "only"
    assert fleet(default_model="large").resolve("").model == "large"


def test_aliases_and_the_default_lead_to_models() -> None:
    one = fleet(model_aliases='{"claude-*": "small", "gpt": "devstral", "lost": "nowhere"}', default_model="large")
    assert [one.resolve(name).model for name in ("claude-9", "gpt", "who", "small", "devstral")] == [
        "small",
        "small",
        "large",
        "small",
        "small",
    ]
    with pytest.raises(NotFound, match="`lost`"):
        one.resolve("lost")


@pytest.mark.anyio
async def test_aliases_with_one_server() -> None:
    one = fleet(None, model_aliases='{"claude-*": "devstral-small-2"}', default_model="devstral-small-2")
    assert one.resolve("claude-9").served == "devstral-small-2"
    assert one.resolve("who").served == ""  # what is served is not known yet
    await one.targets[0].facts.facts()
    assert one.resolve("who").served == "devstral-small-2"
    assert one.resolve("devstral-small-2").served == ""
    assert names(one.resolve("who").candidates()) == ["vllm.test:8000"]
    await one.aclose()


# ---------------------------------------------------------------- who is tried


def affinities(count: int = 50) -> list[bytes]:
    return [affinity_of({"model": "small", "prompt": str(number)}, "") for number in range(count)]


def test_own_replicas_come_first_then_the_fallback() -> None:
    route = fleet().resolve("small")
    firsts = set()
    for affinity in affinities():
        found = route.candidates(affinity)
        assert found == route.candidates(affinity)
        assert sorted(names(found)[:3]) == ["a", "b", "c"]
        assert sorted(names(found)[3:]) == ["c", "d"]
        assert [candidate.model for candidate in found] == ["mistralai/Small"] * 3 + ["large"] * 2
        assert [candidate.name for candidate in found] == ["small"] * 3 + ["large"] * 2
        firsts.add(names(found)[0])
    assert firsts == {"a", "b", "c"}


def test_a_server_that_fails_is_left_out_and_nobody_else_moves() -> None:
    clock = Clock()
    one = fleet(clock=clock)
    route = one.resolve("small")
    before = {affinity: names(route.candidates(affinity)) for affinity in affinities()}
    by_name(one)["b"].breaker.trip(clock.now)
    for affinity, order in before.items():
        assert names(route.candidates(affinity)) == [name for name in order if name != "b"]
    clock.now += 5.0
    assert {affinity: names(route.candidates(affinity)) for affinity in before} == before


def test_one_that_fails_its_health_check_is_tried_last() -> None:
    clock = Clock()
    one = fleet(clock=clock)
    target = by_name(one)["b"]
    target.passed(False)
    target.passed(False)
    assert target.breaker.state == "open"
    clock.now += 100
    for affinity in affinities(5):
        assert names(one.resolve("small").candidates(affinity))[-1] == "b"


def test_a_replica_with_far_too_much_to_do_comes_after_the_others() -> None:
    one = fleet()
    route = one.resolve("small")
    affinity = affinities(1)[0]
    order = names(route.candidates(affinity))
    by_name(one)[order[0]].running = 10
    assert names(route.candidates(affinity)) == [order[1], order[2], order[0], *order[3:]]
    by_name(one)[order[1]].running = by_name(one)[order[2]].running = 9
    assert names(route.candidates(affinity)) == order
    assert names(fleet(affinity_overload=0).resolve("small").candidates(affinity)) == order


def test_when_nobody_may_be_asked_the_answer_comes_at_once() -> None:
    clock = Clock()
    one = fleet(clock=clock)
    for target in one.targets:
        target.breaker.trip(clock.now)
    by_name(one)["d"].breaker.recovered(clock.now - 1.5)
    clock.now += 0.5
    assert names(one.resolve("small").candidates(b"")) == ["d"]
    by_name(one)["d"].breaker.allow(clock.now)
    with pytest.raises(Overloaded) as caught:
        one.resolve("small").candidates(b"")
    assert (caught.value.status, caught.value.code) == (503, "upstream_unavailable")
    assert caught.value.headers == [("Retry-After", "5")]


def test_a_single_server_has_a_breaker_too() -> None:
    clock = Clock()
    one = fleet(None, clock=clock)
    for _ in range(5):
        assert names(one.resolve("m").candidates()) == ["vllm.test:8000"]
        one.targets[0].failed(UpstreamUnavailable(""))
    with pytest.raises(Overloaded):
        one.resolve("m").candidates()
    clock.now += 5
    assert names(one.resolve("m").candidates()) == ["vllm.test:8000"]


# ---------------------------------------------------------------- what a failure says of a server

VERDICTS: list[tuple[Any, bool]] = [
    (200, False),
    (400, False),
    (404, False),
    (413, False),
    (429, False),
    (499, False),
    (500, False),
    (502, True),
    (503, True),
    (504, True),
    (UpstreamUnavailable(""), True),
    (UpstreamTimeout(""), True),
    (lost(), True),
    (refused(503), False),  # its head has been judged
    (PayloadTooLarge(""), False),
]


@pytest.mark.parametrize(("what", "counts"), VERDICTS)
def test_what_counts_as_failure(what: Any, counts: bool) -> None:
    target = fleet(None, breaker_failures=1).targets[0]
    if isinstance(what, int):
        target.answered(what)
    else:
        target.failed(what)
    assert (target.breaker.state == "open") is counts


def test_our_own_full_pool_is_not_the_server_s_fault() -> None:
    target = fleet(None, breaker_failures=1).targets[0]
    target.failed(target.client.explain(httpx.PoolTimeout("")))
    assert target.breaker.state == "closed"


@pytest.mark.parametrize("status", [429, 503])
def test_retry_after_is_respected(status: int) -> None:
    clock = Clock()
    target = fleet(None, clock=clock).targets[0]
    target.answered(status, "30")
    assert target.breaker.retry_after(clock.now) == 30
    target.answered(200)
    assert not target.breaker.ready(clock.now + 29)
    assert target.breaker.ready(clock.now + 30)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("30", 30),
        (" 0 ", 0),
        ("9" * 99, 999_999_999),
        ("Thu, 01 Jan 1970 00:01:40 GMT", 40),
        ("Thu, 01 Jan 1970 00:00:10 GMT", 0),
        ("soon", 0),
        ("-1", 0),
        ("1.5", 0),
        ("٣", 0),
        ("", 0),
    ],
)
def test_retry_after_in_seconds(text: str, seconds: float) -> None:
    assert seconds_of(text, 60.0) == seconds


# ---------------------------------------------------------------- one request, several servers

RETRYABLE: list[tuple[BaseException, bool]] = [
    (UpstreamUnavailable(""), True),
    (UpstreamTimeout(""), True),
    (lost(), True),
    (UpstreamProtocolError("HTML"), False),
    *((refused(status), True) for status in (429, 502, 503, 504)),
    *((refused(status), False) for status in (400, 401, 404, 413, 422, 500, 501)),
    (Overloaded(""), False),
    (BadRequest(""), False),
    (KeyError(), False),
]


@pytest.mark.parametrize(("error", "wanted"), RETRYABLE)
def test_what_may_be_sent_again(error: BaseException, wanted: bool) -> None:
    assert retryable(error) is wanted


def test_pauses_grow_and_have_an_end() -> None:
    assert [backoff(attempt, lambda: 1.0) for attempt in (1, 2, 3, 4, 5, 6, 16)] == [0.05, 0.1, 0.2, 0.4, 0.8, 1, 1]
    assert backoff(3, lambda: 0.0) == 0


class Asked:
    """What is asked of one server after the other; each error is raised in turn, at the end there is an answer."""

    def __init__(self, *errors: BaseException, committed: bool = False) -> None:
        self.errors = list(errors)
        self.committed = committed
        self.asked: list[tuple[str, str]] = []

    async def __call__(self, attempt: Attempt) -> str:
        self.asked.append((attempt.target.name, attempt.model))
        assert attempt.target.running == 1
        attempt.committed = self.committed
        if self.errors:
            error = self.errors.pop(0)
            if isinstance(error, UpstreamRefused):
                attempt.answered(error.status)
            raise error
        attempt.answered(200)
        return attempt.target.name


def idle(one: Fleet) -> bool:
    return all(target.running == 0 for target in one.targets)


@pytest.mark.anyio
async def test_the_next_one_answers() -> None:
    one = fleet()
    route = one.resolve("small")
    order = names(route.candidates(b"x"))
    once = Asked(UpstreamUnavailable(""), refused(503))
    assert await send(one, route, b"x", once) == order[2]
    assert once.asked == [(name, "mistralai/Small") for name in order[:3]]
    assert idle(one)


@pytest.mark.anyio
async def test_the_fallback_is_asked_by_its_own_name_and_no_server_twice() -> None:
    one = fleet(retry_max=9)
    once = Asked(*(UpstreamUnavailable("") for _ in range(3)))
    assert await send(one, one.resolve("small"), b"x", once) == "d"
    assert once.asked[-1] == ("d", "large")
    once = Asked(*(UpstreamUnavailable(str(number)) for number in range(9)))
    with pytest.raises(UpstreamUnavailable, match="3"):
        await send(one, one.resolve("small"), b"x", once)
    assert sorted(name for name, _ in once.asked) == ["a", "b", "c", "d"]


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("errors", "asked"),
    [
        ([UpstreamUnavailable("")] * 9, 3),  # RETRY_MAX
        ([refused(400)], 1),
        ([refused(500)], 1),
        ([UpstreamTimeout("")] * 9, 2),
        ([UpstreamTimeout(""), UpstreamUnavailable(""), UpstreamTimeout("")], 3),
        ([BadRequest("")], 1),
    ],
)
async def test_the_last_error_is_told(errors: list[ProxyError], asked: int) -> None:
    one = fleet()
    once = Asked(*errors)
    with pytest.raises(type(errors[0])):
        await send(one, one.resolve("small"), b"x", once)
    assert len(once.asked) == asked
    assert idle(one)


@pytest.mark.anyio
async def test_nobody_else_is_asked_after_the_first_byte() -> None:
    one = fleet()
    once = Asked(lost(), committed=True)
    with pytest.raises(UpstreamProtocolError):
        await send(one, one.resolve("small"), b"x", once)
    assert len(once.asked) == 1


@pytest.mark.anyio
async def test_nobody_else_is_asked_when_time_is_over() -> None:
    one = fleet()
    once = Asked(lost())
    with pytest.raises(UpstreamProtocolError):
        await send(one, one.resolve("small"), b"x", once, deadline=lambda: 0.0)
    assert len(once.asked) == 1


@pytest.mark.anyio
async def test_a_single_server_is_asked_once() -> None:
    one = fleet(None)
    once = Asked(UpstreamUnavailable(""))
    with pytest.raises(UpstreamUnavailable):
        await send(one, one.resolve("m"), b"", once)
    assert len(once.asked) == 1


@pytest.mark.anyio
async def test_only_one_is_the_probe() -> None:
    clock = Clock()
    one = fleet({"m": {"servers": ["http://a"]}}, clock=clock)
    route, target = one.resolve("m"), one.targets[0]
    target.breaker.trip(clock.now)
    clock.now += 5

    async def once(attempt: Attempt) -> str:
        with pytest.raises(Overloaded):
            await send(one, route, b"", Asked())
        attempt.answered(200)
        return "answered"

    assert await send(one, route, b"", once) == "answered"
    assert target.breaker.state == "closed"


@pytest.mark.anyio
async def test_a_client_that_leaves_says_nothing_of_the_server() -> None:
    clock = Clock()
    one = fleet(None, clock=clock, breaker_failures=1)
    target = one.targets[0]
    target.breaker.trip(clock.now)
    clock.now += 5

    class Gone(Exception):
        pass

    with pytest.raises(Gone):
        await send(one, one.resolve("m"), b"", Asked(Gone()))
    assert idle(one)
    assert target.breaker.state == "half-open"
    assert await send(one, one.resolve("m"), b"", Asked()) == target.name


@pytest.mark.anyio
async def test_each_server_has_its_own_key() -> None:
    vllm = Vllm()
    servers = [{"url": "http://a", "api_key": "ours"}, "http://b", {"url": "http://c", "api_key": ""}]
    one = fleet({"m": {"servers": servers}}, vllm, vllm_api_key="common")
    for target in one.targets:
        async with target.client.open("POST", "/v1/chat/completions", b"{}") as answer:
            await answer.read(10_000)
    await one.aclose()
    told = {asked.url.host: asked.headers.get("authorization") for asked in vllm.requests}
    assert told == {"a": "Bearer ours", "b": "Bearer common", "c": None}
