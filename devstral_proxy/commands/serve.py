"""serve: the proxy on uvicorn."""

from __future__ import annotations

import argparse
import logging
import signal
import socket
from typing import Any

import uvicorn

from devstral_proxy import log
from devstral_proxy.app import create_app
from devstral_proxy.config import ConfigError, Settings, load

KEEP_ALIVE = 75
"""Seconds that a client's idle connection is kept: longer than the clients' own pools keep theirs, so that it is they
who close it, and no request meets a connection that is just closing."""


BACKLOG = 2048
"""Connections that wait to be taken: clients may come before the application is ready."""


def server_config(app: Any, settings: Settings) -> uvicorn.Config:
    """uvicorn as this proxy runs it: one line a request is ours, the server does not name itself."""
    return uvicorn.Config(
        app,
        host=settings.proxy_host,
        port=settings.proxy_port,
        http="httptools",
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=KEEP_ALIVE,
        timeout_graceful_shutdown=settings.drain_timeout,
    )


def run(options: argparse.Namespace) -> int:
    """Serve until a signal ends it. Raises ConfigError for a wrong setting, and for an address that is taken."""
    flags = {"proxy_host": options.host, "proxy_port": options.port}
    settings = load(**{name: value for name, value in flags.items() if value is not None})
    listener_socket = bind(settings.proxy_host, settings.proxy_port)
    try:
        listener = log.start(settings)
    except OSError as error:
        raise ConfigError(f"LOG_FILE: cannot be written ({error.strerror})") from None
    try:
        host, port = listener_socket.getsockname()[:2]
        logging.getLogger("devstral_proxy").info(
            "listening on http://%s:%s/v1, vLLM at %s", f"[{host}]" if ":" in host else host, port, settings.vllm_base
        )
        server = uvicorn.Server(server_config(create_app(settings), settings))
        # uvicorn handles both while it runs, ends in order, and then raises the signal again, for whoever handled it
        # before: that must not kill the process, its last lines unwritten.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: None)
        server.run(sockets=[listener_socket])
        logging.getLogger("devstral_proxy").info("stopped")
    finally:
        listener.stop()
    return 0


def bind(host: str, port: int) -> socket.socket:
    """A listening socket. Raises ConfigError that names the variable when the address cannot be had."""
    try:
        family, kind, proto, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, proto)
    except OSError as error:
        raise ConfigError(f"PROXY_HOST: {host} is no address here ({error.strerror})") from None
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise ConfigError(f"PROXY_PORT: cannot listen on {host} port {port} ({error.strerror})") from None
    listener.set_inheritable(True)
    return listener
