"""What a prompt orders of the upstream, and the answer that has to come of it: upstreams make it, the judge expects it.

A prompt holds `soak(nonce=… act=… words=… fault=… at=…)`. The answer tells the nonces of all such orders of the
conversation, so one that was cut, merged, repeated or given to another client is found by comparing it with what had
to come. `fault` goes wrong at the server `at`, or at every one (`*`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

MODEL: Final = "devstral-small-2"
SIMULATORS: Final = "soak-simulators"
RAW: Final = "soak-raw"
"""Entries of UPSTREAMS: all servers, the simulators alone, the raw server alone."""
VERSION: Final = "0.32.0"
CLIENT_KEY: Final = "sk-soak-"
"""How every client's key begins: none may come upstream, or get into the log."""
TOOLS: Final = ("lookup", "measure")
_ORDER: Final = re.compile(r"soak\((nonce=\w+ act=\w+ words=\d+ fault=[\w-]* at=[\w*]*)\)")


@dataclass(frozen=True, slots=True)
class Order:
    """One prompt's order. `act`: `text`, `tool` (one call), `tools` (text and two calls)."""

    nonce: str
    act: str = "text"
    words: int = 8
    fault: str = ""
    at: str = ""

    def __str__(self) -> str:
        return f"soak(nonce={self.nonce} act={self.act} words={self.words} fault={self.fault} at={self.at})"

    def hits(self, server: str) -> str:
        """The fault that this server has to show."""
        return self.fault if self.at in ("*", server) else ""


def orders(text: str) -> list[Order]:
    """All orders in a text."""
    found = []
    for match in _ORDER.finditer(text):
        fields = dict(field.split("=", 1) for field in match[1].split(" "))
        found.append(Order(fields["nonce"], fields["act"], int(fields["words"]), fields["fault"], fields["at"]))
    return found


def last_order(body: bytes) -> Order | None:
    """The newest order of a request, without reading its JSON."""
    at = body.rfind(b"soak(nonce=")
    found = orders(body[at : at + 300].decode("ascii", "replace")) if at >= 0 else []
    return found[0] if found else None


def orders_of(request: dict[str, Any]) -> list[Order]:
    """The orders of a chat completion request's user messages, the newest last."""
    return [order for text in _texts(request) for order in orders(text)]


def _texts(request: dict[str, Any]) -> Iterator[str]:
    for message in request.get("messages") or ():
        if message.get("role") != "user":
            continue
        content = message.get("content")
        for part in [content] if isinstance(content, str) else content or ():
            yield part if isinstance(part, str) else str(part.get("text", ""))


def text_of(asked: list[Order]) -> str:
    """The text that answers them."""
    last = asked[-1]
    if last.act == "tool":
        return ""
    told = " ".join(order.nonce for order in asked)
    return f"heard {told}:" + "".join(f" {last.nonce}.{number}" for number in range(last.words)) + " over"


def calls_of(asked: list[Order]) -> list[tuple[str, dict[str, Any]]]:
    """The calls that answer them: names and arguments."""
    last = asked[-1]
    if last.act == "text":
        return []
    made: list[tuple[str, dict[str, Any]]] = [
        (TOOLS[0], {"nonce": last.nonce, "path": f"src/{last.nonce}.py", "note": 'said "no\\yes"\n'})
    ]
    if last.act == "tools":
        made.append((TOOLS[1], {"nonce": last.nonce, "counts": list(range(last.words))}))
    return made
