"""The head of vLLM's response, as much of it as anybody asks for."""

from __future__ import annotations


class Head:
    """The head of vLLM's response."""

    __slots__ = ("content_type", "plain", "retry_after", "status")

    def __init__(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        self.status = status
        self.content_type = ""
        self.retry_after: str | None = None
        self.plain = True
        """The body is not encoded. (We ask for identity.)"""
        for name, value in headers:
            name = name.lower()
            if name == b"content-type":
                self.content_type = value.decode("latin-1")
            elif name == b"retry-after":
                self.retry_after = value.decode("latin-1")
            elif name == b"content-encoding":
                self.plain = False

    @property
    def is_stream(self) -> bool:
        """The body is server-sent events."""
        return self.content_type.lower().startswith("text/event-stream")
