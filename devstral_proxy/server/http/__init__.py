"""HTTP/1.1 with clients: a protocol for uvicorn's server, by httptools."""

from devstral_proxy.server.http.protocol import HttpProtocol, protocol_factory
from devstral_proxy.server.http.wire import HttpLimits

__all__ = ["HttpLimits", "HttpProtocol", "protocol_factory"]
