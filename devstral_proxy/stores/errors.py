"""What a store raises. The text of a driver's own error, which may hold content or an address, is never in it."""

from __future__ import annotations

from devstral_proxy.errors import BadRequest, ProxyError


class StoreError(ProxyError):
    """The store cannot be reached, or failed. `headers` holds Retry-After."""

    status = 503
    type = "server_error"
    default_code = "store_unavailable"

    def __init__(self) -> None:
        super().__init__("the store of responses is not available; try again")
        self.headers.append(("retry-after", "2"))


class ChainTooLong(BadRequest):
    """More lies before a response than is loaded for one request."""

    default_code = "conversation_too_long"

    def __init__(self, most: str) -> None:
        super().__init__(
            f"the stored conversation before this response is over {most}; send it as input instead",
            param="previous_response_id",
        )
