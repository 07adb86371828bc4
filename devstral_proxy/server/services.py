"""What the endpoints share: built once by `create_app`, handed to each."""

from __future__ import annotations

from dataclasses import dataclass

from devstral_proxy.config import Settings
from devstral_proxy.mistral.profiles import Profiles
from devstral_proxy.upstream.client import UpstreamClient
from devstral_proxy.upstream.models import Upstream


@dataclass(frozen=True, slots=True)
class Services:
    """`client` talks to vLLM, `upstream` knows its version and models, `profiles` says what each model takes."""

    settings: Settings
    client: UpstreamClient
    upstream: Upstream
    profiles: Profiles
