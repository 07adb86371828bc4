"""What goes wrong upstream, or is unusual, while the client does its task."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final


@dataclass(frozen=True)
class Scenario:
    """One column of the table.

    fault       of the simulator's (`devstral_proxy.simulator.faults`), at the client's second request with tools, once
    long_ids    calls have ids like `chatcmpl-tool-` and 32 hexadecimal digits
    rich        reasoning, and text beside the calls
    image       the model has to see a picture
    settings    settings of the proxy
    """

    says: str
    fault: str = ""
    long_ids: bool = False
    rich: bool = False
    image: bool = False
    settings: Mapping[str, str] = field(default_factory=dict)

    @property
    def status(self) -> int:
        """The error's status, 0 for other faults."""
        return int(self.fault) if self.fault.isdigit() else 0


SCENARIOS: Final[dict[str, Scenario]] = {
    "base": Scenario("nothing goes wrong"),
    "429once": Scenario("one 429 with Retry-After", fault="429"),
    "503once": Scenario("one 503 with Retry-After", fault="503"),
    "cutonce": Scenario("one stream breaks off in the middle of a call", fault="cut"),
    "slow": Scenario(
        "8 s before the first token, keep-alives meanwhile", fault="slow-first:8", settings={"KEEPALIVE": "2"}
    ),
    "longids": Scenario("calls with long ids", long_ids=True),
    "rich": Scenario("reasoning, and text beside the calls", rich=True),
    "image": Scenario("a picture in the conversation", image=True),
}
