"""The one log line of a request."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from typing import Any

from devstral_proxy.server.exchange import Exchange

access_log = logging.getLogger("devstral_proxy.access")

MODEL_LENGTH = 128
"""Characters of a model's name that are logged: the client may say anything there."""

FIELDS: dict[str, str] = {
    "id": "the request's id, as in the header `x-request-id` of the answer",
    "key": "name of the API key; empty without keys",
    "dialect": "the client's API: `chat`, `responses`, `messages`, or `relay` for what is passed on as it is",
    "method": "the HTTP method",
    "path": "the route's template; empty when there is no such route",
    "model": f"as the client asked, at most {MODEL_LENGTH} characters",
    "served": "the model that upstream was asked for",
    "upstream": "name of the server that answered",
    "status": "the status sent; `499`: the client left before an answer began; `0`: none was sent",
    "ms": "milliseconds from the request's head to the end of the answer",
    "first_token_ms": "milliseconds until the first content went to the client; null: none did",
    "queued_ms": "milliseconds in the proxy's own queue",
    "input_tokens": "tokens of the prompt as upstream counts them; null: not told",
    "output_tokens": "tokens of the answer; null: not told",
    "cached_tokens": "tokens of the prompt that came from upstream's prefix cache; null: none, or not told",
    "stream": "the client asked for a stream",
    "attempts": "requests sent upstream for this one",
    "finish": "the finish reason of the first choice",
    "rewrites": "what was changed in the request, and how often",
    "repairs": "what was changed in the answer, and how often",
    "error": "code of the error that the client got",
    "note": "how the answer ended, where status and error do not tell",
}
"""Every field of the line, in its order."""


def fields(exchange: Exchange, now: float | None = None) -> dict[str, Any]:
    """The line's fields: those of `FIELDS`, in that order. `now` is the end, as time.perf_counter() has it.

    Text of the client's is in `model` alone; whoever writes the line escapes it.
    """
    started = exchange.started
    ended = time.perf_counter() if now is None else now
    first = exchange.first_token
    return {
        "id": exchange.id,
        "key": exchange.key,
        "dialect": exchange.dialect,
        "method": exchange.method,
        "path": exchange.path,
        "model": exchange.model[:MODEL_LENGTH],
        "served": exchange.served,
        "upstream": exchange.upstream,
        "status": exchange.status,
        "ms": round((ended - started) * 1000),
        "first_token_ms": round((first - started) * 1000) if first else None,
        "queued_ms": round(exchange.queued * 1000),
        "input_tokens": exchange.input_tokens or None,
        "output_tokens": exchange.output_tokens or None,
        "cached_tokens": exchange.cached_tokens or None,
        "stream": exchange.stream,
        "attempts": exchange.attempts,
        "finish": exchange.finish,
        "rewrites": _counts(exchange.rewrites),
        "repairs": _counts(exchange.repairs),
        "error": exchange.error,
        "note": exchange.note,
    }


def write(exchange: Exchange) -> None:
    """Log the request. Costs nothing when the level is above info."""
    if access_log.isEnabledFor(logging.INFO):
        access_log.info("", extra={"fields": fields(exchange)})


def _counts(changes: Iterable[tuple[str, str]]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for name, _ in changes:
        counts[name] = counts.get(name, 0) + 1
    return counts
