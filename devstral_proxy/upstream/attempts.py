"""One request, sent to one server after another until one answers. Never after the first byte to the client."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from devstral_proxy.errors import (
    ProxyError,
    UpstreamProtocolError,
    UpstreamRefused,
    UpstreamTimeout,
    UpstreamUnavailable,
)
from devstral_proxy.upstream.fleet import Candidate, Fleet, Route, down
from devstral_proxy.upstream.target import FAILING, Target

_log = logging.getLogger("devstral_proxy.upstream")

_T = TypeVar("_T")

ELSEWHERE: Final = FAILING | {429}
"""Statuses with which a server says that it has not done the work, and that another one may."""
_FIRST_PAUSE: Final = 0.05
_LONGEST_PAUSE: Final = 1.0


def retryable(error: BaseException) -> bool:
    """Whether another server may be asked, as long as the client has got no byte of an answer.

    A completion has no side effects, and a server whose connection is closed stops generating: sent twice, it costs at
    most the time of a GPU, never a wrong answer. So:

    - the connection failed, before or after it was sent (UpstreamUnavailable, a lost UpstreamProtocolError): yes;
    - 502, 503, 504 of vLLM or of what stands before it, and 429: yes, it was not answered there;
    - the time that the request has in all is over: no, there is none left for another server;
    - silence up to the time limit (UpstreamTimeout): yes, but `send` does it once only: the next server may be as
      busy, and each further wait costs the client the whole limit again;
    - any other status: no. A 4xx is about the request. A 500 may be its doing too, and a request that kills an engine
      must not be taken to the next one;
    - an answer that cannot be read (HTML, half a JSON, over the limit): no, it would be the same again.
    """
    if isinstance(error, UpstreamRefused):
        return error.status in ELSEWHERE
    if isinstance(error, UpstreamProtocolError):
        return error.phase == "lost"
    return isinstance(error, (UpstreamUnavailable, UpstreamTimeout)) and error.phase != "total"


def backoff(attempt: int, random: Callable[[], float]) -> float:
    """Seconds before the attempt after this one (1, 2, …): drawn from 0 to a limit that doubles. It goes to another
    server, so nothing has to be waited for but that not all lost requests arrive there at the same moment."""
    longest: float = _FIRST_PAUSE * 2 ** (attempt - 1)
    return random() * min(longest, _LONGEST_PAUSE)


class Attempt:
    """One sending of a request to one server, for whoever sends it: `answered` when the head is there, `committed`
    before the first byte of an answer goes to the client."""

    __slots__ = ("_judged", "committed", "model", "name", "number", "target")

    def __init__(self, candidate: Candidate, number: int) -> None:
        self.target: Target = candidate.target
        self.model = candidate.model
        """The model's name to send; "": as the client said it."""
        self.name = candidate.name
        """The model's name in UPSTREAMS; "" without."""
        self.number = number
        self.committed = False
        """Set it to True before the first byte of an answer goes out: from then on no other server is asked."""
        self._judged = False

    def answered(self, status: int, retry_after: str | None = None) -> None:
        """The head of the answer is there. The breaker learns from it; what follows does not concern the breaker."""
        self._judged = True
        self.target.answered(status, retry_after)

    def failed(self, error: ProxyError) -> None:
        """It has ended with this error; it tells of the server only where no head had come."""
        if isinstance(error, UpstreamUnavailable):
            self.target.facts.forget()
        if not self._judged:
            self._judged = True
            self.target.failed(error)

    def ended(self) -> None:
        """It is over, however it went."""
        self.target.running -= 1
        if not self._judged:
            self.target.breaker.released()


async def send(
    fleet: Fleet,
    route: Route,
    affinity: bytes,
    once: Callable[[Attempt], Awaitable[_T]],
    *,
    deadline: Callable[[], float] | None = None,
) -> _T:
    """What `once` returns for the first server that answers.

    `once` sends the request and sees to its answer. Where it raises what is `retryable` and nothing is `committed`, the
    next candidate is asked after a short pause: RETRY_MAX of them at most, none after `deadline` (in the loop's time).
    The last error is raised then. Raises Overloaded where no server may be asked at all.
    """
    candidates = route.candidates(affinity)
    tried: list[Target] = []
    silences = 0
    last: ProxyError | None = None
    for candidate in candidates:
        target = candidate.target
        if target in tried or not target.breaker.ready(fleet.clock()):
            continue
        if last is not None:
            pause = backoff(len(tried), fleet.random)
            if deadline is not None and asyncio.get_running_loop().time() + pause >= deadline():
                break
            await asyncio.sleep(pause)
            _log.warning("asking server %s after %s of %s", target.name, last.code or last.status, tried[-1].name)
        if not target.breaker.allow(fleet.clock()):
            continue  # somebody else's probe is under way, or it has opened since
        tried.append(target)
        attempt = Attempt(candidate, len(tried))
        target.running += 1
        try:
            return await once(attempt)
        except ProxyError as error:
            attempt.failed(error)
            silences += isinstance(error, UpstreamTimeout) and error.phase in ("", "wait")
            if attempt.committed or not retryable(error) or len(tried) > fleet.settings.retry_max or silences > 1:
                raise
            last = error
        finally:
            attempt.ended()
    try:
        raise last or down(min(candidate.target.breaker.retry_after(fleet.clock()) for candidate in candidates))
    finally:
        del last  # it refers to this frame
