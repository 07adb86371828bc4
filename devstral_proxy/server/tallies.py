"""What `metrics` counts in: plain numbers, which prometheus-client is told in one go."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable
from operator import add
from typing import Any

OTHER = "other"
LONGEST = 256
"""Longer values of a label are counted as `other`."""


class Values:
    """The values of one label, no more than a number of them."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._known: dict[str, str] = {OTHER: OTHER}

    def of(self, value: str) -> str:
        """The value, or `other`."""
        known = self._known.get(value)
        if known is None:
            known = value if len(self._known) <= self._most and len(value) <= LONGEST else OTHER
            if known is value:
                self._known[value] = value
        return known


class Counter:
    """What a counter's child has still to be told."""

    __slots__ = ("_child", "pending")

    def __init__(self, child: Any) -> None:
        self._child = child
        self.pending = 0.0

    def flush(self) -> None:
        """Tell it."""
        if self.pending:
            self._child.inc(self.pending)
            self.pending = 0.0


class Histogram:
    """What a histogram's child has still to be told."""

    __slots__ = ("_bounds", "_child", "counts", "total")

    def __init__(self, child: Any) -> None:
        self._child = child
        self._bounds: list[float] = child._upper_bounds
        self.counts = [0] * len(self._bounds)
        self.total = 0.0

    def observe(self, value: float) -> None:
        """One more."""
        self.total += value
        self.counts[bisect_left(self._bounds, value)] += 1

    def merge(self, total: float, counts: Iterable[int]) -> None:
        """Many at once: their sum, and how many there are for each bucket."""
        self.total += total
        self.counts = list(map(add, self.counts, counts))

    def flush(self) -> None:
        """Tell it."""
        if any(self.counts):
            for bucket, count in zip(self._child._buckets, self.counts, strict=True):
                if count:
                    bucket.inc(count)
            self._child._sum.inc(self.total)
            self.counts = [0] * len(self._bounds)
            self.total = 0.0


class Operation:
    """The children of one operation on one model."""

    __slots__ = ("chunk", "first_token", "input", "output", "per_token")

    def __init__(self, histogram: Callable[..., Histogram], *labels: str) -> None:
        self.first_token = histogram("gen_ai_server_time_to_first_token_seconds", *labels)
        self.per_token = histogram("gen_ai_server_time_per_output_token_seconds", *labels)
        self.chunk = histogram("gen_ai_client_operation_time_per_output_chunk_seconds", *labels)
        self.input = histogram("gen_ai_client_token_usage", *labels, "input")
        self.output = histogram("gen_ai_client_token_usage", *labels, "output")


class Kind:
    """What the requests of one kind are counted by, so that it need not be looked up one by one for each of them."""

    __slots__ = ("cached", "duration", "input", "of", "output", "requests")

    def __init__(self, requests: Counter, duration: Histogram | None = None, of: Operation | None = None) -> None:
        self.requests = requests
        self.duration = duration
        self.of = of
        self.input: Counter | None = None  # tokens, from the first request on that has some
        self.output: Counter | None = None
        self.cached: Counter | None = None
