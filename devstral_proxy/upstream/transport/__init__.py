"""An HTTP/1.1 transport of our own behind httpx's public interface, on asyncio protocols and httptools."""

from devstral_proxy.upstream.transport.transport import FastTransport

__all__ = ["FastTransport"]
