"""Anthropic's Messages API in terms of chat completions, sans-IO."""

from devstral_proxy.dialects.messages.counting import (
    COUNT_HEADER,
    ESTIMATED,
    Attempt,
    attempts,
    counted,
    estimate,
    tokens_told,
)
from devstral_proxy.dialects.messages.dialect import Messages

__all__ = [
    "COUNT_HEADER",
    "ESTIMATED",
    "Attempt",
    "Messages",
    "attempts",
    "counted",
    "estimate",
    "tokens_told",
]
