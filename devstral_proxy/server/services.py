"""What the endpoints share: built once by `create_app`, handed to each."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from devstral_proxy.config import Settings
from devstral_proxy.mistral.profiles import Profiles
from devstral_proxy.mistral.tool_memo import ToolMemo
from devstral_proxy.server.admission import Admission
from devstral_proxy.server.content_log import ContentLog
from devstral_proxy.server.keys import Keys
from devstral_proxy.server.lifecycle import Lifecycle
from devstral_proxy.server.limits import RateLimits
from devstral_proxy.server.metrics import Metrics
from devstral_proxy.server.shape import Refuse
from devstral_proxy.server.traces import Forwarding
from devstral_proxy.stores import Store, StoreError
from devstral_proxy.upstream.fleet import Fleet


@dataclass(frozen=True, slots=True)
class Services:
    """What is None is switched off, and costs nothing."""

    settings: Settings
    fleet: Fleet
    profiles: Profiles
    keys: Keys
    limits: RateLimits | None
    admission: Admission
    images: Refuse | None
    store: Store
    metrics: Metrics | None
    traces: Forwarding
    content: ContentLog | None
    lifecycle: Lifecycle
    tools: ToolMemo = field(default_factory=ToolMemo)
    storing: set[asyncio.Task[StoreError | None]] = field(default_factory=set)
    """Responses that are on their way into the store."""
