"""serve: the proxy on uvicorn, in one process or in several."""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import gc
import logging
import shutil
import socket
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import uvicorn

from devstral_proxy import log
from devstral_proxy.config import ConfigError, Settings, load
from devstral_proxy.server.http import HttpLimits, protocol_factory
from devstral_proxy.server.keys import exposure_warning, key_file_warning
from devstral_proxy.server.lifecycle import Lifecycle
from devstral_proxy.server.process import LAST_WORDS, Alone, Supervised, patience
from devstral_proxy.server.systemd import Notifier, activated

_log = logging.getLogger("devstral_proxy")

KEEP_ALIVE = 75
"""Seconds that a client's idle connection is kept: longer than the clients' own pools keep theirs, so that it is they
who close it, and no request meets a connection that is just closing."""

BACKLOG = 2048
"""Connections that wait to be taken: clients may come before the application is ready."""
STAY = ("proxy_host", "proxy_port", "workers", "metrics")
"""Settings that need a restart: what they say was done before the workers were started."""


def server_config(app: Any, settings: Settings) -> uvicorn.Config:
    """uvicorn as this proxy runs it: one line a request is ours, the server does not name itself."""
    metrics = app.state.services.metrics
    limits = HttpLimits(
        settings.header_limit, settings.header_timeout, settings.body_timeout, settings.send_timeout, KEEP_ALIVE
    )
    return uvicorn.Config(
        app,
        host=settings.proxy_host,
        port=settings.proxy_port,
        http=protocol_factory(limits, metrics.refused if metrics is not None else None),  # type: ignore[arg-type]  # uvicorn calls it, whatever it is
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=KEEP_ALIVE,
        timeout_graceful_shutdown=settings.drain_timeout + LAST_WORDS,
    )


def application(settings: Settings, lifecycle: Lifecycle) -> Any:
    """The application of one process."""
    from devstral_proxy.app import create_app

    return create_app(settings, lifecycle=lifecycle)


def run(options: argparse.Namespace) -> int:
    """Serve until a signal ends it. Raises ConfigError for a wrong setting, and for an address that is taken."""
    flags = {"proxy_host": options.host, "proxy_port": options.port, "workers": options.workers}
    flags = {name: value for name, value in flags.items() if value is not None}
    settings = load(**flags)
    notifier = Notifier()
    sockets = listeners(settings)
    writer = _start_log(settings)
    try:
        for one in sockets:
            _log.info("listening on %s, vLLM at %s", where(one), settings.vllm_base)
        _warn(settings, sockets)
        if settings.workers == 1:
            code = _alone(settings, sockets, notifier, writer)
        else:
            code = _Workers(settings, flags, sockets, notifier, writer).run()
    finally:
        writer.stop()
    return code


def _alone(settings: Settings, sockets: list[socket.socket], notifier: Notifier, writer: log.Writer) -> int:
    _tell_of_crashes()
    lifecycle = Lifecycle()
    config = server_config(application(settings, lifecycle), settings)
    server = Alone(config, lifecycle, notifier, delay=settings.shutdown_delay, drain=settings.drain_timeout)
    server.last_lines = writer.stop
    server.run(sockets=sockets)
    _log.info("stopped")
    return 0


class _Workers:
    """WORKERS of 2 or more: what the supervisor and its workers need of the settings and of the log."""

    def __init__(
        self,
        settings: Settings,
        flags: dict[str, Any],
        sockets: list[socket.socket],
        notifier: Notifier,
        writer: log.Writer,
    ) -> None:
        self._settings = settings
        self._flags = flags
        self._sockets = sockets
        self._notifier = notifier
        self._writer = writer

    def run(self) -> int:
        """The exit code when all have ended."""
        from devstral_proxy.server.multiprocess import mark_process_dead, prepare_multiprocess
        from devstral_proxy.server.supervisor import Supervisor

        counters = tempfile.mkdtemp(prefix="devstral-proxy-")
        if self._settings.metrics:
            prepare_multiprocess(Path(counters))
        import devstral_proxy.app  # noqa: F401  # its memory is shared by all workers

        gc.collect()
        gc.freeze()  # the collector would write to, and so copy, every page
        try:
            supervisor = Supervisor(
                self._settings.workers,
                self._sockets,
                self._serve,
                self._notifier,
                patience=lambda: patience(self._settings.shutdown_delay, self._settings.drain_timeout),
                reload=self._reload,
                forking=self._forking,
                gone=mark_process_dead,
            )
            code = supervisor.run()
            _log.info("stopped")
            return code
        finally:
            self._writer.stop()
            shutil.rmtree(counters, ignore_errors=True)

    def _serve(self, channel: socket.socket) -> int:
        """One worker's life. What ends it early is told here: there is no log before, and none after."""
        _tell_of_crashes()
        settings = self._settings
        writer = log.start(settings)
        try:
            lifecycle = Lifecycle()
            config = server_config(application(settings, lifecycle), settings)
            server = Supervised(config, lifecycle, channel, delay=settings.shutdown_delay, drain=settings.drain_timeout)
            server.last_lines = writer.stop
            server.run(sockets=self._sockets)
        except ConfigError as error:
            _log.critical("a worker cannot start: %s", error)
            return 1
        except Exception as error:
            _log.critical("a worker failed: %s", type(error).__name__, exc_info=error)
            return 1
        finally:
            writer.stop()
        return 0

    def _reload(self) -> bool:
        kept = {name: getattr(self._settings, name) for name in STAY}
        try:
            settings = load(**self._flags).model_copy(update=kept)
            writer = _start_log(settings)
        except ConfigError as error:
            _log.error("the settings are not changed: %s", error)
            return False
        self._writer.stop()
        self._settings, self._writer = settings, writer
        _warn(settings, self._sockets)
        return True

    @contextlib.contextmanager
    def _forking(self) -> Iterator[None]:
        """Without the log's thread: a lock that it holds would be held for ever in the new process."""
        self._writer.stop()
        try:
            yield
        finally:
            self._writer = log.start(self._settings)


def _warn(settings: Settings, sockets: list[socket.socket]) -> None:
    """Say who can come that perhaps should not. A Unix socket has the permissions of its file."""
    hosts = [one.getsockname()[0] for one in sockets if one.family in (socket.AF_INET, socket.AF_INET6)]
    for warning in (*(exposure_warning(settings, host) for host in hosts), key_file_warning(settings)):
        if warning is not None:
            _log.warning("%s", warning)


def _start_log(settings: Settings) -> log.Writer:
    try:
        return log.start(settings)
    except OSError as error:
        raise ConfigError(f"LOG_FILE: cannot be written ({error.strerror})") from None


def _tell_of_crashes() -> None:
    """Where every thread is, on standard error, when a watchdog ends the process (SIGABRT): files and lines only."""
    with contextlib.suppress(OSError, AttributeError, ValueError):
        faulthandler.enable(sys.stderr)


def listeners(settings: Settings) -> list[socket.socket]:
    """What to serve on: the sockets that systemd hands over, or PROXY_HOST and PROXY_PORT."""
    try:
        given = activated()
    except (OSError, ValueError) as error:
        raise ConfigError(f"LISTEN_FDS: {error}") from None
    return given or [bind(settings.proxy_host, settings.proxy_port)]


def where(listener: socket.socket) -> str:
    """The address of a listening socket as a base URL."""
    if listener.family not in (socket.AF_INET, socket.AF_INET6):
        return f"unix:{listener.getsockname()}"
    host, port = listener.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}/v1"


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
    return listener
