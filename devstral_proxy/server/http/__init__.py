"""HTTP/1.1 with clients: a protocol for uvicorn's server, by httptools."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from devstral_proxy.server.http.deadlines import Deadlines
from devstral_proxy.server.http.protocol import HttpProtocol
from devstral_proxy.server.http.wire import HttpLimits

__all__ = ["HttpLimits", "HttpProtocol", "protocol_factory"]


def protocol_factory(limits: HttpLimits, refused: Callable[[str], None] | None = None) -> Callable[..., HttpProtocol]:
    """What uvicorn's Config takes as `http`. `refused` is told the code of the error of each request that was refused
    before an application had it, or whose body broke off."""
    shortest = min(limits.head, limits.body, limits.send, limits.keep_alive)
    deadlines = Deadlines(min(1.0, shortest / 4))
    return partial(HttpProtocol, limits=limits, deadlines=deadlines, refused=refused)
