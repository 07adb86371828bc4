"""Keys as operators write them: every form, every mistake, and no mistake's text shows a key."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from devstral_proxy.config import ConfigError, load
from devstral_proxy.credentials import merged, parse_keys, read_keys

TAKEN: list[tuple[str, dict[str, str]]] = [
    ("sk-1", {"default": "sk-1"}),
    ("alice:sk-1", {"alice": "sk-1"}),
    ("alice:sk-1,bob:sk-2", {"alice": "sk-1", "bob": "sk-2"}),
    (" alice : sk-1 ,\n bob:sk-2,, ", {"alice": "sk-1", "bob": "sk-2"}),
    (
        "# the team\r\nalice:sk-1\r\n\r\n  # and guests\r\nguest@lab.org:sk-2\r\n",
        {"alice": "sk-1", "guest@lab.org": "sk-2"},
    ),
    ("alice:sk:1", {"alice": "sk:1"}),
    ('{"alice": "sk-1,2", "bob": "sk:2"}', {"alice": "sk-1,2", "bob": "sk:2"}),
]


@pytest.mark.parametrize(("text", "keys"), TAKEN)
def test_keys_are_read(text: str, keys: dict[str, str]) -> None:
    assert parse_keys(text) == keys


REFUSED: list[tuple[str, str]] = [
    ("", "holds no key"),
    (" ,\n", "holds no key"),
    ("# all gone", "holds no key"),
    ("{}", "holds no key"),
    ('{"alice": "seCret"', "no valid JSON"),
    ('{"alice": ["seCret"]}', "entry 1: the key"),
    ('{"alice": null}', "entry 1: the key"),
    ("alice:seCret,seCret2", "entry 2 needs a name"),
    ("alice:seCret,:seCret2", "entry 2 needs a name"),
    ("al ice:seCret", "entry 1 needs a name"),
    ("al/ice:seCret", "entry 1 needs a name"),
    ("al\x1bice:seCret", "entry 1 needs a name"),
    ("alice:", "entry 1: the key"),
    ("alice:seCret and more", "entry 1: the key"),
    ("alice:seCr\u00e9t", "entry 1: the key"),
    ("alice:" + "seCret" * 100, "entry 1: the key"),
    ("alice:seCret,alice:seCret2", "entry 2 has the name"),
    ('{"alice": "seCret", "alice": "seCret2"}', "entry 2 has the name"),
    ("alice:seCret,bob:seCret", "entry 2 has the key"),
]


@pytest.mark.parametrize(("text", "says"), REFUSED)
def test_mistakes_are_told_without_the_key(text: str, says: str) -> None:
    with pytest.raises(ValueError, match=says) as caught:
        parse_keys(text)
    assert "seCr" not in str(caught.value)
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


def test_a_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text("alice:sk-1\nbob:sk-2\n")
    assert read_keys(path) == {"alice": "sk-1", "bob": "sk-2"}
    with pytest.raises(ValueError, match=r"cannot be read \(FileNotFoundError\)"):
        read_keys(tmp_path / "none")
    path.write_bytes(b"\xff")
    with pytest.raises(ValueError, match=r"cannot be read \(UnicodeDecodeError\)"):
        read_keys(path)


def test_sources_must_not_contradict() -> None:
    assert merged({"a": "1"}, {"b": "2"}) == {"a": "1", "b": "2"}
    with pytest.raises(ValueError, match="entry 2 has the name"):
        merged({"a": "1"}, {"a": "2"})


def test_settings_take_both_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert load().client_keys == {}
    path = tmp_path / "keys"
    path.write_text('{"bob": "seCret2"}')
    monkeypatch.setenv("API_KEYS", "alice:seCret1")
    monkeypatch.setenv("API_KEYS_FILE", str(path))
    settings = load()
    assert settings.client_keys == {"alice": "seCret1", "bob": "seCret2"}
    assert "seCret" not in f"{settings!r} {settings} {settings.model_dump()}"


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"api_keys": "seCret1,seCret2"}, "API_KEYS: entry 1 needs a name"),
        ({"api_keys": " "}, "API_KEYS: holds no key"),
        ({"api_keys_file": "/nowhere/keys"}, "API_KEYS_FILE: cannot be read"),
        ({"redis_url": "http://:seCret@redis"}, "REDIS_URL: must be a URL like redis:"),
        ({"rate_limits": '{"*": {"*": {"rpm": -1}}}'}, r"RATE_LIMITS: \*\.\*\.rpm: must be"),
        ({"rate_limits": '{"*": {"*": {"rpm": true}}}'}, r"RATE_LIMITS: \*\.\*\.rpm: must be"),
        ({"rate_limits": '{"*": {"*": {"rps": 1}}}'}, r"RATE_LIMITS: \*\.\*: may hold rpm and tpm only"),
        ({"rate_limits": '{"*": 1}'}, r"RATE_LIMITS: \* must be an object"),
    ],
)
def test_a_wrong_setting_is_one_line_without_the_value(values: dict[str, str], says: str) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        load(**values)
    assert "seCret" not in str(caught.value)


def test_keys_of_one_file_and_the_variable_must_differ(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text("alice:seCret2")
    with pytest.raises(ConfigError, match="API_KEYS_FILE: entry 2 has the name of another"):
        load(api_keys="alice:seCret1", api_keys_file=path)


def test_credentials_of_systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "api_keys").write_text("alice:sk-1\nbob:sk-2\n")
    (tmp_path / "vllm_api_key").write_text("sk-vllm\n")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    settings = load()
    assert settings.client_keys == {"alice": "sk-1", "bob": "sk-2"}
    assert settings.vllm_api_key is not None
    assert settings.vllm_api_key.get_secret_value() == "sk-vllm"
    monkeypatch.setenv("API_KEYS", "carol:sk-3")
    assert load().client_keys == {"carol": "sk-3"}


def test_a_credential_without_keys_does_not_open_the_proxy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "api_keys").write_text("\n")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    with pytest.raises(ConfigError, match="API_KEYS: holds no key"):
        load()


@pytest.mark.parametrize(
    ("name", "why"),
    [("nowhere/at/all", "FileNotFoundError"), ("file", "NotADirectoryError"), ("shut", "PermissionError")],
)
def test_a_credentials_directory_that_is_none_stops_the_start(
    name: str, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever handed keys over must not find the proxy open."""
    (tmp_path / "file").touch()
    (tmp_path / "shut").mkdir(mode=0)
    if name == "shut" and os.access(tmp_path / name, os.R_OK):
        pytest.skip("root may read everything")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path / name))
    with pytest.raises(ConfigError, match=rf"^CREDENTIALS_DIRECTORY: cannot be read \({why}\)$"):
        load()


def test_a_credential_that_is_not_there_is_no_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "vllm_api_key").write_text("sk-vllm")
    for directory in ("", str(tmp_path)):
        monkeypatch.setenv("CREDENTIALS_DIRECTORY", directory)
        assert load().client_keys == {}
