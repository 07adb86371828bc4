"""Every metric there is, one row each: what /metrics serves, and what dashboard, alerts and docs may speak of.

Names and labels are those of OpenTelemetry's GenAI semantic conventions where they have one, in Prometheus' spelling
(`gen_ai.server.request.duration` in seconds is `gen_ai_server_request_duration_seconds`); the rest begins with
`devstral_proxy_`. Buckets are the conventions' too; those of durations go on to the hour that a request may take.
"""

from __future__ import annotations

from typing import NamedTuple

_DURATION = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
_LONG = (*_DURATION, 163.84, 327.68, 655.36, 1310.72, 3600.0)
_FIRST_TOKEN = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
_PER_TOKEN = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5)
_TOKENS = tuple(float(4**power) for power in range(14))

CHUNK_BUCKETS = (0.001, 0.0025, 0.005, *_DURATION)
"""Seconds between two writes to the client. Finer at the start than the conventions': a fast model's are there."""

_OPERATION = ("gen_ai_operation_name", "gen_ai_provider_name", "gen_ai_request_model")


class Series(NamedTuple):
    """One row. `mode` is how a gauge of several worker processes adds up."""

    kind: str
    labels: tuple[str, ...]
    says: str
    buckets: tuple[float, ...] = ()
    mode: str = "livesum"


SERIES: dict[str, Series] = {
    "devstral_proxy_requests_total": Series(
        "counter", ("http_route", "http_response_status_code", "api_key"), "Requests answered, whatever the answer."
    ),
    "gen_ai_server_request_duration_seconds": Series(
        "histogram", (*_OPERATION, "error_type"), "From a request's head to the end of its answer.", _LONG
    ),
    "gen_ai_server_time_to_first_token_seconds": Series(
        "histogram",
        _OPERATION,
        "From a request's head to the first content of its stream.",
        (*_FIRST_TOKEN, 20.0, 40.0, 80.0, 160.0, 320.0, 640.0),
    ),
    "gen_ai_server_time_per_output_token_seconds": Series(
        "histogram", _OPERATION, "Mean time a token after the first, one observation a stream.", _PER_TOKEN
    ),
    "gen_ai_client_operation_time_per_output_chunk_seconds": Series(
        "histogram", _OPERATION, "Between two writes of a stream to the client.", CHUNK_BUCKETS
    ),
    "gen_ai_client_token_usage": Series(
        "histogram", (*_OPERATION, "gen_ai_token_type"), "Tokens of one request: input, output.", _TOKENS
    ),
    "devstral_proxy_tokens_total": Series(
        "counter",
        ("api_key", "gen_ai_request_model", "gen_ai_token_type"),
        "Tokens by key: input, output, and input_cached, the part of input that upstream had in its prefix cache.",
    ),
    "devstral_proxy_rewrites_total": Series("counter", ("rewrite",), "Changes of requests, by name."),
    "devstral_proxy_repairs_total": Series("counter", ("repair",), "Changes of answers, by name."),
    "devstral_proxy_refused_total": Series(
        "counter", ("error_type",), "Requests that were refused before they were read: no HTTP, too large, too slow."
    ),
    "devstral_proxy_upstream_requests_total": Series(
        "counter", ("upstream",), "Requests sent upstream, those sent again among them."
    ),
    "devstral_proxy_retries_total": Series("counter", ("upstream",), "Requests sent upstream again."),
    "devstral_proxy_upstream_errors_total": Series(
        "counter", ("upstream", "error_type"), "Failed requests to upstream, those that were sent again among them."
    ),
    "devstral_proxy_queue_time_seconds": Series(
        "histogram", (), "Waiting for admission, of the requests that had to wait.", _LONG
    ),
    "devstral_proxy_requests_queued": Series("gauge", (), "Requests that wait for admission."),
    "devstral_proxy_requests_running": Series("gauge", (), "Requests that were admitted and have not ended."),
    "devstral_proxy_upstream_running": Series("gauge", ("upstream",), "Requests that this server is working on."),
    "devstral_proxy_upstream_connections": Series(
        "gauge", ("upstream", "state"), "Connections to upstream: busy, idle; waiting: requests that want one."
    ),
    "devstral_proxy_upstream_breaker": Series(
        "gauge", ("upstream", "state"), "Worker processes whose circuit breaker is closed, open, half_open."
    ),
    "devstral_proxy_build_info": Series("gauge", ("version", "python"), "Always 1.", mode="livemax"),
}
