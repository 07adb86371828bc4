"""open_store: which store a setting opens, and one clear line for what is wrong."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from devstral_proxy.config import ConfigError, load
from devstral_proxy.stores import open_store
from devstral_proxy.stores.memory import MemoryStore
from devstral_proxy.stores.nothing import NoStore
from devstral_proxy.stores.sqlite import SQLiteStore
from tests.stores.conftest import record


def test_memory_is_the_default() -> None:
    assert isinstance(open_store(load()), MemoryStore)


@pytest.mark.anyio
async def test_none_keeps_nothing() -> None:
    store = open_store(load(responses_store="None"))
    assert isinstance(store, NoStore)
    await store.put(record("resp_1"))
    assert await store.get("resp_1", "alice") is None
    assert await store.chain("resp_1", "alice") is None
    assert await store.delete("resp_1", "alice") is False
    await store.aclose()


@pytest.mark.anyio
async def test_a_path_in_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    store = open_store(load(responses_store="sqlite", responses_store_path="~/responses.db"))
    assert isinstance(store, SQLiteStore)
    await store.aclose()
    assert (tmp_path / "responses.db").is_file()


def files(folder: Path) -> None:
    (folder / "text").write_text("this is no database, whatever its name says, but a text\n" * 100)
    connection = sqlite3.connect(folder / "other.db")
    connection.execute("CREATE TABLE devstral_responses (something TEXT)")
    connection.close()


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"responses_store": "sqlite"}, "RESPONSES_STORE_PATH: a file is needed with RESPONSES_STORE=sqlite"),
    ({"responses_store": "sqlite", "responses_store_path": "."}, "RESPONSES_STORE_PATH: cannot be opened (Is a dir"),
    (
        {"responses_store": "sqlite", "responses_store_path": "text/responses.db"},
        "RESPONSES_STORE_PATH: cannot be opened (File exists",
    ),
    ({"responses_store": "sqlite", "responses_store_path": "text"}, "RESPONSES_STORE_PATH: SQLite cannot use the file"),
    (
        {"responses_store": "sqlite", "responses_store_path": "other.db"},
        "RESPONSES_STORE_PATH: SQLite cannot use the file",
    ),
    ({"responses_store": "postgres"}, "RESPONSES_STORE_URL: is needed with RESPONSES_STORE=postgres"),
    ({"responses_store": "postgres", "responses_store_url": " "}, "RESPONSES_STORE_URL: is needed"),
    (
        {"responses_store": "postgres", "responses_store_url": "seCret@host/database"},
        "RESPONSES_STORE_URL: must be like postgresql://",
    ),
    (
        {"responses_store": "postgres", "responses_store_url": "postgresql://user:seCret%@host/database"},
        "RESPONSES_STORE_URL: must be like postgresql://",
    ),
]


@pytest.mark.parametrize(("given", "says"), WRONG)
def test_a_wrong_setting_is_one_line(
    given: dict[str, Any], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files(tmp_path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError) as caught:
        open_store(load(**given))
    assert str(caught.value).startswith(says)
    assert "seCret" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    monkeypatch.delitem(sys.modules, "devstral_proxy.stores.postgres", raising=False)
    settings = load(responses_store="postgres", responses_store_url="postgresql://user:seCret@host/database")
    with pytest.raises(ConfigError, match=r"RESPONSES_STORE: postgres .*'devstral-proxy\[postgres\]'"):
        open_store(settings)


def test_the_others_do_not_load_the_driver(tmp_path: Path) -> None:
    program = (
        "import sys; from devstral_proxy.config import load; from devstral_proxy.stores import open_store\n"
        "open_store(load(responses_store='sqlite', responses_store_path='x.db'))\n"
        "sys.exit(any(name.startswith('psycopg') for name in sys.modules))"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=tmp_path)


@pytest.mark.parametrize(
    "given",
    [
        {"responses_store": "redis"},
        {"responses_store_ttl": 0},
        {"responses_store_bytes": 1},
    ],
)
def test_settings_out_of_range(given: dict[str, Any]) -> None:
    (name,) = given
    with pytest.raises(ConfigError, match=f"^{name.upper()}: "):
        load(**given)


def test_the_url_is_never_shown() -> None:
    settings = load(responses_store="postgres", responses_store_url="postgresql://user:seCret@host/database")
    assert "seCret" not in f"{settings!r} {settings} {settings.model_dump()}"
