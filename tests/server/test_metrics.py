"""What /metrics tells after requests of many kinds, how much there can be of it, and with several processes."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from devstral_proxy.errors import Unauthorized
from devstral_proxy.server import metrics as metrics_module
from devstral_proxy.server.exchange import Exchange
from devstral_proxy.server.metrics import Gaps, Metrics, metrics_of, of_admission, of_target
from devstral_proxy.server.series import CHUNK_BUCKETS, SERIES
from tests.server.exchanges import ended
from tests.server.upstreams import settings

ROOT = Path(__file__).parents[2]
Values = dict[tuple[str, frozenset[tuple[str, str]]], float]
OPERATION = {"gen_ai_operation_name": "chat", "gen_ai_provider_name": "vllm", "gen_ai_request_model": "devstral"}


def values(page: bytes) -> Values:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(page.decode())
        for sample in family.samples
    }


def told(metrics: Metrics) -> Values:
    metrics.collect()
    return values(metrics.render()[0])


def value(found: Values, name: str, **labels: str) -> float:
    return found[name, frozenset(labels.items())]


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


def test_a_stream_that_went_well(metrics: Metrics) -> None:
    gaps = Gaps()
    for at in (1.0, 1.0005, 1.0305, 3.0):
        gaps.add(at)
    exchange = ended(
        key="alice",
        stream=True,
        upstream="gpu-1",
        attempts=3,
        queued=0.5,
        rewrites=[("tool_call_id", "a"), ("tool_call_id", "b"), ("key_dropped", "c")],
        repairs=[("usage_hidden", "")],
        input_tokens=100,
        output_tokens=11,
        cached_tokens=64,
        first_token=1.5,
        gaps=gaps,
    )
    exchange.started -= 4.0
    exchange.first_token -= 4.0
    metrics.finished(exchange)
    found = told(metrics)
    route = {"http_route": "/v1/chat/completions", "http_response_status_code": "200", "api_key": "alice"}
    assert value(found, "devstral_proxy_requests_total", **route) == 1
    duration = "gen_ai_server_request_duration_seconds"
    assert value(found, f"{duration}_count", **OPERATION, error_type="") == 1
    assert 4.0 <= value(found, f"{duration}_sum", **OPERATION, error_type="") < 60
    first = "gen_ai_server_time_to_first_token_seconds"
    assert value(found, f"{first}_sum", **OPERATION) == pytest.approx(1.5)
    assert value(found, f"{first}_bucket", **OPERATION, le="2.5") == 1
    assert value(found, f"{first}_bucket", **OPERATION, le="1.0") == 0
    assert value(found, "gen_ai_server_time_per_output_token_seconds_sum", **OPERATION) >= 0.25
    chunk = "gen_ai_client_operation_time_per_output_chunk_seconds"
    assert value(found, f"{chunk}_count", **OPERATION) == 3
    assert value(found, f"{chunk}_sum", **OPERATION) == pytest.approx(2.0)
    assert [value(found, f"{chunk}_bucket", **OPERATION, le=le) for le in ("0.001", "0.02", "0.04", "2.56")] == [
        1,
        1,
        2,
        3,
    ]
    for kind, count in (("input", 100), ("output", 11)):
        assert value(found, "gen_ai_client_token_usage_sum", **OPERATION, gen_ai_token_type=kind) == count
    for kind, count in (("input", 100), ("output", 11), ("input_cached", 64)):
        labels = {"api_key": "alice", "gen_ai_request_model": "devstral", "gen_ai_token_type": kind}
        assert value(found, "devstral_proxy_tokens_total", **labels) == count
    assert value(found, "devstral_proxy_rewrites_total", rewrite="tool_call_id") == 2
    assert value(found, "devstral_proxy_rewrites_total", rewrite="key_dropped") == 1
    assert value(found, "devstral_proxy_repairs_total", repair="usage_hidden") == 1
    assert value(found, "devstral_proxy_upstream_requests_total", upstream="gpu-1") == 3
    assert value(found, "devstral_proxy_retries_total", upstream="gpu-1") == 2
    assert value(found, "devstral_proxy_queue_time_seconds_sum") == 0.5


ENDS: list[tuple[dict[str, Any], str]] = [
    ({}, ""),
    ({"status": 502, "error": "upstream_unavailable"}, "upstream_unavailable"),
    ({"status": 200, "error": "upstream_timeout", "note": "error upstream_timeout"}, "upstream_timeout"),
    ({"status": 499}, "client_gone"),
    ({"status": 200, "note": "client gone"}, "client_gone"),
]


@pytest.mark.parametrize(("changes", "wanted"), ENDS)
def test_the_error_s_type(metrics: Metrics, changes: dict[str, Any], wanted: str) -> None:
    metrics.finished(ended(output_tokens=5, first_token=0.1, **changes))
    found = told(metrics)
    assert value(found, "gen_ai_server_request_duration_seconds_count", **OPERATION, error_type=wanted) == 1
    # The time a token is told of answers that are whole.
    assert value(found, "gen_ai_server_time_per_output_token_seconds_count", **OPERATION) == (not wanted)


def test_what_is_no_operation_is_counted_only(metrics: Metrics) -> None:
    for path, status in (("/v1/models", 200), ("", 404)):
        metrics.finished(ended(path=path, status=status))
    found = told(metrics)
    assert sum(number for (name, _), number in found.items() if name == "devstral_proxy_requests_total") == 2
    assert not any(name.startswith("gen_ai") for name, _ in found)


def test_every_count_is_told_once(metrics: Metrics) -> None:
    for wanted in (1, 2, 3):
        metrics.finished(ended(output_tokens=2))
        for _ in range(3):
            found = told(metrics)
            assert value(found, "gen_ai_server_request_duration_seconds_count", **OPERATION, error_type="") == wanted
            assert value(found, "gen_ai_client_token_usage_sum", **OPERATION, gen_ai_token_type="output") == 2 * wanted


def hostile(number: int) -> Exchange:
    text = f'{number}\n{{}}"\\' + "x" * 300
    return ended(
        served=f"model-{number}",
        model=text,
        key=f"key-{number}",
        upstream=f"gpu-{number}",
        path="/v1/chat/completions" if number % 2 else f"/route/{number}",
        error=f"error_{number}",
        rewrites=[(text, text)],
        repairs=[(text, text)],
        attempts=2,
        input_tokens=1,
        output_tokens=2,
        first_token=0.1,
    )


def test_labels_are_bounded(metrics: Metrics) -> None:
    sizes = []
    for start in (0, 1000, 2000):
        for number in range(start, start + 1000):
            metrics.finished(hostile(number))
            metrics.upstream_failed(f"gpu-{number}", f"error_{number}")
        sizes.append(len(told(metrics)))
    # Later names add what is counted as `other`, and nothing of their own.
    assert sizes[1] - sizes[0] < 100
    assert sizes[2] == sizes[1]
    found = told(metrics)
    labels = {pair for _, labels in found for pair in labels}
    for label, most in (("gen_ai_request_model", 65), ("api_key", 257), ("upstream", 129), ("error_type", 129)):
        assert len({text for name, text in labels if name == label}) <= most
    assert {text for name, text in labels if name in ("rewrite", "repair")} == {"other"}
    assert "xxx" not in str(labels)


def test_an_unknown_model_is_other(metrics: Metrics) -> None:
    metrics.finished(ended(served="", model="an invention"))
    assert "invention" not in metrics.render()[0].decode()
    labels = {**OPERATION, "gen_ai_request_model": "other", "error_type": ""}
    assert value(told(metrics), "gen_ai_server_request_duration_seconds_count", **labels) == 1


class Queue:
    running, waiting, busy, idle = 3, 2, 5, 7


def test_gauges_are_read_when_asked(metrics: Metrics) -> None:
    state = ["open"]
    metrics.source(lambda: of_admission(Queue()))
    metrics.source(lambda: of_target("gpu-1", 4, state[0], Queue()))
    metrics.source(lambda: of_target("gpu-2", 0, "closed", None))
    found = told(metrics)
    assert value(found, "devstral_proxy_requests_running") == 3
    assert value(found, "devstral_proxy_requests_queued") == 2
    assert value(found, "devstral_proxy_upstream_running", upstream="gpu-1") == 4
    pool = {
        one: value(found, "devstral_proxy_upstream_connections", upstream="gpu-1", state=one)
        for one in ("busy", "idle", "waiting")
    }
    assert pool == {"busy": 5, "idle": 7, "waiting": 2}
    for state[0], wanted in (("open", [0, 1, 0]), ("half-open", [0, 0, 1]), ("closed", [1, 0, 0])):
        found = told(metrics)
        states = ("closed", "open", "half_open")
        assert [
            value(found, "devstral_proxy_upstream_breaker", upstream="gpu-1", state=one) for one in states
        ] == wanted


def test_gaps_are_counted_as_the_histogram_would() -> None:
    import prometheus_client

    wanted = prometheus_client.Histogram("x", "x", buckets=CHUNK_BUCKETS, registry=None)
    gaps, at = Gaps(), 10.0
    gaps.add(at)
    for gap in (0.0, *CHUNK_BUCKETS, 1e9):
        gaps.last = 0.5 if gap else gaps.last  # exact numbers, to hit the bounds
        gaps.add(gaps.last + gap)
    for gap in (0.0, *[(0.5 + bound) - 0.5 for bound in CHUNK_BUCKETS], 1e9):
        wanted.observe(gap)
    assert gaps.counts == [bucket.get() for bucket in wanted._buckets]


def test_the_page_has_the_table_s_series_only(metrics: Metrics) -> None:
    metrics.finished(ended())
    families = list(text_string_to_metric_families(metrics.render()[0].decode()))
    kinds = {family.name + ("_total" if family.type == "counter" else ""): family.type for family in families}
    ours = {name: kind for name, kind in kinds.items() if not name.startswith("process_")}
    assert ours == {name: series.kind for name, series in SERIES.items()}


# ---------------------------------------------------------------- the page


async def get(
    metrics: Metrics, *headers: tuple[bytes, bytes], method: str = "GET"
) -> tuple[int, dict[bytes, bytes], bytes]:
    sent: list[Any] = []

    async def receive() -> Any:
        raise AssertionError

    async def send(message: Any) -> None:
        sent.append(message)

    await metrics.page({"type": "http", "method": method, "headers": list(headers)}, receive, send)
    start, body = sent
    return start["status"], dict(start["headers"]), body["body"]


@pytest.mark.anyio
async def test_the_page(metrics: Metrics) -> None:
    metrics.finished(ended())
    status, headers, body = await get(metrics)
    assert status == 200
    assert headers[b"content-type"].startswith(b"text/plain; version=")
    assert headers[b"content-length"] == b"%d" % len(body)
    assert value(values(body), "gen_ai_server_request_duration_seconds_count", **OPERATION, error_type="") == 1
    assert b"_created" not in body
    _, headers, body = await get(metrics, (b"accept", b"application/openmetrics-text; version=1.0.0"))
    assert headers[b"content-type"].startswith(b"application/openmetrics-text")
    assert body.endswith(b"# EOF\n")
    assert (await get(metrics, method="HEAD"))[2] == b""


@pytest.mark.anyio
async def test_the_page_needs_a_key_where_there_are_keys() -> None:
    def check(headers: list[tuple[bytes, bytes]]) -> str:
        if (b"authorization", b"Bearer right") not in headers:
            raise Unauthorized("no")
        return "alice"

    metrics = metrics_of(settings(), check)
    assert metrics is not None
    with pytest.raises(Unauthorized):
        await get(metrics)
    assert (await get(metrics, (b"authorization", b"Bearer right")))[0] == 200
    public = metrics_of(settings(metrics_public=True), check)
    assert public is not None
    assert (await get(public))[0] == 200
    assert metrics_of(settings(metrics=False), check) is None


@pytest.mark.anyio
async def test_collecting_goes_on_and_ends_with_all_counts(metrics: Metrics, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics_module, "COLLECT_EVERY", 0.001)
    metrics.finished(ended())
    task = asyncio.create_task(metrics.collecting())
    name = "gen_ai_server_request_duration_seconds_count"
    for _ in range(1000):
        await asyncio.sleep(0.001)
        if (name, frozenset({**OPERATION, "error_type": ""}.items())) in (found := values(metrics.render()[0])):
            break
    assert value(found, name, **OPERATION, error_type="") == 1
    metrics.finished(ended())
    task.cancel()
    await asyncio.wait({task})
    assert value(values(metrics.render()[0]), name, **OPERATION, error_type="") == 2


def test_nothing_is_imported_until_it_is_used() -> None:
    code = """
import sys
import devstral_proxy.server.metrics, devstral_proxy.server.access, devstral_proxy.server.traces, devstral_proxy.log
print([name for name in sys.modules if name.split(".")[0] in ("prometheus_client", "opentelemetry")])
"""
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    assert run.stdout == "[]\n"
