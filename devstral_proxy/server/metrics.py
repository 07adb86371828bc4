"""Counting for Prometheus: one call a request, and the page /metrics.

A request is counted in plain numbers, which prometheus-client is told in one go when the page is asked for: its own
counters take a lock each, and with several worker processes write into a file, a dozen times a request.

prometheus-client is imported when the first `Metrics` is built, for two reasons: without METRICS it costs nothing, and
with several worker processes `prepare_multiprocess` has to come before the import.
"""

from __future__ import annotations

import asyncio
import os
import platform
import time
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Final, Protocol

from starlette.types import Receive, Scope, Send

from devstral_proxy import __version__
from devstral_proxy.config import Settings
from devstral_proxy.mistral.rewrites import REWRITES, counts
from devstral_proxy.server.multiprocess import DIRECTORY, reading
from devstral_proxy.server.series import CHUNK_BUCKETS, SERIES
from devstral_proxy.server.tallies import LONGEST, OTHER, Counter, Histogram, Kind, Operation, Values

if TYPE_CHECKING:
    from devstral_proxy.server.exchange import Exchange

PROVIDER = "vllm"
MOST_MODELS = 64
MOST_KEYS = 256
MOST_VALUES = 128
"""Distinct values of any other label. What comes later is counted as `other`."""
MOST_KINDS = 512
MOST_CHANGES = 16
"""Kinds of requests, and lists of so many changes, whose counters are remembered."""
COLLECT_EVERY = 1.0
"""Seconds for which counts may stay in their process, where another one may be asked for them."""
OPERATIONS = {
    "/v1/chat/completions": "chat",
    "/chat/completions": "chat",
    "/v1/responses": "chat",
    "/v1/messages": "chat",
    "/v1/completions": "text_completion",
    "/v1/embeddings": "embeddings",
}
"""gen_ai.operation.name by route. Other routes are counted, not timed."""

_NAME = itemgetter(0)

Reading = Iterable[tuple[str, tuple[str, ...], float]]
"""Values of gauges: the series, its labels' values, the value."""


class Gaps:
    """The times between the writes of one stream: counted into buckets as they come, and merged at the end."""

    __slots__ = ("counts", "first", "last")

    def __init__(self) -> None:
        self.counts = [0] * (len(CHUNK_BUCKETS) + 1)
        self.first = 0.0
        self.last = 0.0

    def add(self, now: float) -> None:
        """Something was written; `now` as time.perf_counter() has it."""
        if self.last:
            self.counts[bisect_left(CHUNK_BUCKETS, now - self.last)] += 1
        else:
            self.first = now
        self.last = now

    @property
    def total(self) -> float:
        """All gaps together, in seconds."""
        return self.last - self.first


class Metrics:
    """The registry of one process. Used on the event loop's thread only, but for the rendering of the page."""

    def __init__(self, check: Callable[[list[tuple[bytes, bytes]]], object] | None = None) -> None:
        """`check` is given the headers of a request for the page and raises what refuses it; None: whoever asks."""
        import prometheus_client

        prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]
        self.multiprocess = DIRECTORY in os.environ
        """Other processes count too: then somebody has to run `collecting`."""
        self._check = check
        self._registry = prometheus_client.CollectorRegistry()
        self._rendering = asyncio.Lock()
        self._sources: list[Callable[[], Reading]] = []
        self._families: dict[str, Any] = {}
        for name, series in SERIES.items():
            args: dict[str, Any] = {"labelnames": series.labels, "registry": self._registry}
            if series.kind == "histogram":
                self._families[name] = prometheus_client.Histogram(name, series.says, buckets=series.buckets, **args)
            elif series.kind == "gauge":
                self._families[name] = prometheus_client.Gauge(name, series.says, multiprocess_mode=series.mode, **args)  # type: ignore[arg-type]
            else:
                self._families[name] = prometheus_client.Counter(name, series.says, **args)
        if not self.multiprocess:
            prometheus_client.ProcessCollector(registry=self._registry)
        self._models, self._keys = Values(MOST_MODELS), Values(MOST_KEYS)
        self._routes, self._errors, self._upstreams = Values(MOST_VALUES), Values(MOST_VALUES), Values(MOST_VALUES)
        self._kinds: dict[tuple[str, int, str, str, str], Kind] = {}
        self._changed: dict[tuple[str, ...], Sequence[tuple[Counter, int]]] = {}
        self._counters: dict[tuple[str, ...], Counter] = {}
        self._histograms: list[Histogram] = []
        self._operations: dict[tuple[str, str], Operation] = {}
        self._durations: dict[tuple[str, str, str], Histogram] = {}
        self._queue_time = self._histogram("devstral_proxy_queue_time_seconds")
        self._set("devstral_proxy_build_info", (__version__, platform.python_version()), 1)

    def gaps(self) -> Gaps:
        """For a stream that begins."""
        return Gaps()

    def source(self, read: Callable[[], Reading]) -> None:
        """`read` is called whenever the gauges are wanted."""
        self._sources.append(read)

    def upstream_failed(self, upstream: str, error_type: str) -> None:
        """One request to this server has failed, whether it is sent again or not."""
        labels = (self._upstreams.of(upstream), self._errors.of(error_type))
        self._counter("devstral_proxy_upstream_errors_total", *labels).pending += 1

    def refused(self, error_type: str) -> None:
        """A request was refused by the HTTP protocol, before there was an exchange."""
        self._counter("devstral_proxy_refused_total", self._errors.of(error_type)).pending += 1

    def finished(self, exchange: Exchange) -> None:
        """Count one request at its end."""
        now = time.perf_counter()
        error = error_type(exchange)
        which = (exchange.path, exchange.status, exchange.key, exchange.served, error)
        kind = self._kinds.get(which)
        if kind is None:
            kind = self._kind(*which)
            if len(self._kinds) >= MOST_KINDS:
                self._kinds.clear()
            if len(error) <= LONGEST:
                self._kinds[which] = kind
        kind.requests.pending += 1
        if kind.of is not None and kind.duration is not None:
            kind.duration.observe(now - exchange.started)
            self._operation(exchange, kind, kind.of, error, now)
        if exchange.rewrites:
            self._changes("devstral_proxy_rewrites_total", exchange.rewrites)
        if exchange.repairs:
            self._changes("devstral_proxy_repairs_total", exchange.repairs)
        if exchange.queued:
            self._queue_time.observe(exchange.queued)
        if exchange.attempts:
            upstream = self._upstreams.of(exchange.upstream)
            self._counter("devstral_proxy_upstream_requests_total", upstream).pending += exchange.attempts
            if exchange.attempts > 1:
                self._counter("devstral_proxy_retries_total", upstream).pending += exchange.attempts - 1

    def _kind(self, path: str, status: int, key: str, served: str, error: str) -> Kind:
        key = self._keys.of(key)
        requests = self._counter("devstral_proxy_requests_total", self._routes.of(path), str(status), key)
        operation = OPERATIONS.get(path)
        if operation is None:
            return Kind(requests)
        model = self._models.of(served or OTHER)
        if error:
            error = self._errors.of(error)
        duration = self._durations.get((operation, model, error))
        if duration is None:
            duration = self._durations[operation, model, error] = self._histogram(
                "gen_ai_server_request_duration_seconds", operation, PROVIDER, model, error
            )
        of = self._operations.get((operation, model))
        if of is None:
            of = self._operations[operation, model] = Operation(self._histogram, operation, PROVIDER, model)
        return Kind(requests, duration, of)

    def _operation(self, exchange: Exchange, kind: Kind, of: Operation, error: str, now: float) -> None:
        tokens = exchange.output_tokens
        if exchange.first_token:
            of.first_token.observe(exchange.first_token - exchange.started)
            if tokens > 1 and not error:
                of.per_token.observe((now - exchange.first_token) / (tokens - 1))
        gaps = exchange.gaps
        if gaps is not None and gaps.last:
            of.chunk.merge(gaps.total, gaps.counts)
        if exchange.input_tokens:
            of.input.observe(exchange.input_tokens)
            if kind.input is None:
                kind.input = self._tokens(exchange, "input")
            kind.input.pending += exchange.input_tokens
        if tokens:
            of.output.observe(tokens)
            if kind.output is None:
                kind.output = self._tokens(exchange, "output")
            kind.output.pending += tokens
        if exchange.cached_tokens:
            if kind.cached is None:
                kind.cached = self._tokens(exchange, "input_cached")
            kind.cached.pending += exchange.cached_tokens

    def _tokens(self, exchange: Exchange, type: str) -> Counter:
        key, model = self._keys.of(exchange.key), self._models.of(exchange.served or OTHER)
        return self._counter("devstral_proxy_tokens_total", key, model, type)

    def _changes(self, series: str, changes: list[tuple[str, str]]) -> None:
        if len(changes) > MOST_CHANGES:
            known = self._counters_of(series, changes)
        else:  # those of a short conversation are the same again and again
            which = (series, *map(_NAME, changes))
            known = self._changed.get(which, ())
            if not known:
                if len(self._changed) >= MOST_KINDS:
                    self._changed.clear()
                known = self._changed[which] = self._counters_of(series, changes)
        for counter, count in known:
            counter.pending += count

    def _counters_of(self, series: str, changes: list[tuple[str, str]]) -> Sequence[tuple[Counter, int]]:
        names = counts(changes).items()
        return [(self._counter(series, name if name in REWRITES else OTHER), count) for name, count in names]

    def _counter(self, *which: str) -> Counter:
        """The counter with this name and these labels."""
        counter = self._counters.get(which)
        if counter is None:
            name, *labels = which
            counter = self._counters[which] = Counter(self._families[name].labels(*labels))
        return counter

    def _histogram(self, name: str, *labels: str) -> Histogram:
        family = self._families[name]
        histogram = Histogram(family.labels(*labels) if labels else family)
        self._histograms.append(histogram)
        return histogram

    def _set(self, name: str, labels: tuple[str, ...], value: float) -> None:
        family = self._families[name]
        (family.labels(*labels) if labels else family).set(value)

    def collect(self) -> None:
        """Tell prometheus-client what was counted, and read the gauges."""
        for counter in self._counters.values():
            counter.flush()
        for histogram in self._histograms:
            histogram.flush()
        for read in self._sources:
            for name, labels, value in read():
                self._set(name, labels, value)

    async def collecting(self) -> None:
        """Collect again and again, for the process that will be asked. Runs until it is cancelled."""
        try:
            while True:
                self.collect()
                await asyncio.sleep(COLLECT_EVERY)
        finally:
            self.collect()

    async def page(self, scope: Scope, receive: Receive, send: Send) -> None:
        """GET /metrics, an ASGI application. Raises what `check` raises."""
        if self._check is not None:
            self._check(scope["headers"])
        accept = next((value.decode("latin-1") for name, value in scope["headers"] if name == b"accept"), "")
        async with self._rendering:
            self.collect()
            body, content_type = await asyncio.to_thread(self.render, accept)
        headers = [
            (b"content-type", content_type.encode("ascii")),
            (b"content-length", b"%d" % len(body)),
            (b"cache-control", b"no-store"),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})

    def render(self, accept: str = "") -> tuple[bytes, str]:
        """The page and its content type, in the format that the scraper asks for."""
        from prometheus_client import CollectorRegistry, exposition

        encode, content_type = exposition.choose_encoder(accept)
        if not self.multiprocess:
            return encode(self._registry), content_type
        from prometheus_client.multiprocess import MultiProcessCollector

        registry = CollectorRegistry()
        with reading() as directory:
            MultiProcessCollector(registry, directory)  # type: ignore[no-untyped-call]
            return encode(registry), content_type


def metrics_of(settings: Settings, check: Callable[[list[tuple[bytes, bytes]]], object]) -> Metrics | None:
    """What METRICS and METRICS_PUBLIC ask for; None when it is off. `check` lets a client's key pass, or raises."""
    return Metrics(None if settings.metrics_public else check) if settings.metrics else None


def error_type(exchange: Exchange) -> str:
    """What the request failed with: an error's code, `client_gone` (or too slow to take its answer), `cancelled`, or ""
    when it did not."""
    return exchange.error or _UNTOLD.get(exchange.note) or ("client_gone" if exchange.status == 499 else "")


_UNTOLD: Final = {"client gone": "client_gone", "client reads too slowly": "client_gone", "cancelled": "cancelled"}
"""Ends that nobody could be told of any more, by the note of the exchange."""


class _Pool(Protocol):
    busy: int

    @property
    def idle(self) -> int: ...
    @property
    def waiting(self) -> int: ...


class _Admission(Protocol):
    running: int
    waiting: int


def of_admission(admission: _Admission) -> Reading:
    """The gauges of the queue."""
    yield "devstral_proxy_requests_running", (), admission.running
    yield "devstral_proxy_requests_queued", (), admission.waiting


def of_target(name: str, running: int, state: str, pool: _Pool | None) -> Reading:
    """The gauges of one server: its requests, its breaker (closed, open, half-open), its connections."""
    yield "devstral_proxy_upstream_running", (name,), running
    for one in ("closed", "open", "half_open"):
        yield "devstral_proxy_upstream_breaker", (name, one), float(one == state.replace("-", "_"))
    if pool is not None:
        for one, count in (("busy", pool.busy), ("idle", pool.idle), ("waiting", pool.waiting)):
            yield "devstral_proxy_upstream_connections", (name, one), count
