"""open_store: the settings' store."""

from __future__ import annotations

import time
from collections.abc import Callable

from devstral_proxy.config import ConfigError, Settings
from devstral_proxy.stores.base import Store
from devstral_proxy.stores.memory import MemoryStore
from devstral_proxy.stores.nothing import NoStore


def open_store(settings: Settings, clock: Callable[[], float] = time.time) -> Store:
    """The store that RESPONSES_STORE names. `clock` tells seconds since 1970.

    Raises ConfigError when a setting that it needs is missing or wrong, when SQLite's file cannot be had, and when the
    driver of PostgreSQL is not installed. PostgreSQL itself is not asked before the first use.
    """
    ttl = settings.responses_store_ttl
    if settings.responses_store == "none":
        return NoStore()
    if settings.responses_store == "memory":
        return MemoryStore(settings.responses_store_bytes, ttl, clock)
    if settings.responses_store == "sqlite":
        return _sqlite(settings, clock)
    return _postgres(settings, clock)


def _sqlite(settings: Settings, clock: Callable[[], float]) -> Store:
    import sqlite3  # a megabyte, for those who ask for it

    from devstral_proxy.stores.sqlite import SQLiteStore

    path = settings.responses_store_path
    if path is None:
        raise ConfigError("RESPONSES_STORE_PATH: a file is needed with RESPONSES_STORE=sqlite")
    try:
        return SQLiteStore(path.expanduser(), settings.responses_store_ttl, clock)
    except OSError as error:
        raise ConfigError(f"RESPONSES_STORE_PATH: cannot be opened ({error.strerror})") from None
    except sqlite3.Error as error:
        raise ConfigError(f"RESPONSES_STORE_PATH: SQLite cannot use the file ({error})") from None


def _postgres(settings: Settings, clock: Callable[[], float]) -> Store:
    url = settings.responses_store_url
    if url is None or not url.get_secret_value().strip():
        raise ConfigError("RESPONSES_STORE_URL: is needed with RESPONSES_STORE=postgres")
    try:
        import psycopg

        from devstral_proxy.stores.postgres import PostgresStore
    except ImportError:
        raise ConfigError(
            "RESPONSES_STORE: postgres needs more packages: pip install 'devstral-proxy[postgres]'"
        ) from None
    try:
        return PostgresStore(url.get_secret_value().strip(), settings.responses_store_ttl, clock)
    except psycopg.ProgrammingError:  # its text shows the URL
        raise ConfigError("RESPONSES_STORE_URL: must be like postgresql://user:password@host/database") from None
