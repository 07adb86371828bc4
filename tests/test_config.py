"""Settings: defaults, spellings, one clear line for what is wrong, and papers that name them all."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from devstral_proxy.config import ConfigError, Settings, load

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize(
    "base",
    [
        "http://gpu:8000",
        "http://gpu:8000/",
        "http://gpu:8000/v1",
        "http://gpu:8000/v1/",
        "http://gpu:8000//",
        " http://gpu:8000/v1 ",
    ],
)
def test_the_base_may_be_written_in_many_ways(base: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_BASE", base)
    assert load().vllm_base == "http://gpu:8000"


def test_the_base_may_have_a_path() -> None:
    assert load(vllm_base="https://gpu/vllm/v1/").vllm_base == "https://gpu/vllm"


TAKEN: list[tuple[str, str, str, Any]] = [
    ("PROXY_PORT", "9001", "proxy_port", 9001),
    ("PROXY_PORT", "", "proxy_port", 9000),
    ("LOG_LEVEL", "WARNING", "log_level", "warning"),
    ("LOG_FORMAT", "JSON", "log_format", "json"),
    ("DEBUG", "1", "effective_log_level", "debug"),
    ("DEBUG", "false", "effective_log_level", "info"),
    ("KEEPALIVE", "0", "keepalive", 0.0),
    ("LOG_FILE", "logs/proxy.log", "log_file", Path("logs/proxy.log")),
    ("VLLM_VERSION", "0.12.0", "vllm_version", "0.12.0"),
    ("MODEL_PROFILES", '{"a": {"tokenizer": "v11"}}', "profile_overrides", {"a": {"tokenizer": "v11"}}),
    ("MODEL_PROFILES", " ", "profile_overrides", {}),
]


@pytest.mark.parametrize(("name", "value", "field", "wanted"), TAKEN)
def test_a_variable_is_read(name: str, value: str, field: str, wanted: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)
    assert getattr(load(), field) == wanted


def test_a_profile_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "profiles.json"
    path.write_text('{"a": {"images": true}}')
    assert load(model_profiles=str(path)).profile_overrides == {"a": {"images": True}}


def test_a_dotenv_file_is_read_and_the_environment_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(Settings.model_config, "env_file", ".env")
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".env").write_text("PROXY_PORT=1\nLOG_LEVEL=error\nSOMETHING_ELSE=x\nVLLM_API_KEY=\n")
    monkeypatch.setenv("PROXY_PORT", "2")
    settings = load()
    assert (settings.proxy_port, settings.log_level, settings.vllm_api_key) == (2, "error", None)


def test_a_dotenv_file_that_is_no_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(Settings.model_config, "env_file", ".env")
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".env").write_bytes(b"PROXY_PORT=\xff\xfe\n")
    with pytest.raises(ConfigError, match=r"\.env cannot be read"):
        load()


def test_a_credential_that_is_no_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "api_keys").write_bytes(b"alice:\xff\xfe\n")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    with pytest.raises(ConfigError, match=r"^the credential api_keys in CREDENTIALS_DIRECTORY cannot be read: Unicode"):
        load()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_credential_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "api_keys").write_text("alice:seCret\n")
    (tmp_path / "api_keys").chmod(0)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    with pytest.raises(ConfigError, match=r"^the credential api_keys in CREDENTIALS_DIRECTORY cannot be read: Perm"):
        load()


WRONG: list[tuple[str, str]] = [
    ("VLLM_BASE", "gpu:8000"),
    ("VLLM_BASE", "ftp://gpu"),
    ("VLLM_BASE", "http://"),
    ("VLLM_BASE", "http://gpu:seCret"),
    ("VLLM_BASE", "http://gpu:99999"),
    ("VLLM_BASE", "http://[::1"),
    ("VLLM_BASE", "http://user:seCret@gpu:8000"),
    ("VLLM_BASE", "http://gpu:8000/?key=seCret"),
    ("VLLM_API_KEY", "seCret key"),
    ("VLLM_API_KEY", "seCret\r\nx: y"),
    ("VLLM_API_KEY", "seCrét"),
    ("PROXY_PORT", "seCret"),
    ("PROXY_PORT", "70000"),
    ("LOG_LEVEL", "seCret"),
    ("LOG_FORMAT", "xml"),
    ("DEBUG", "seCret"),
    ("CONNECT_TIMEOUT", "0"),
    ("CONNECT_TIMEOUT", "nan"),
    ("IDLE_TIMEOUT", "inf"),
    ("REQUEST_TIMEOUT", "-1"),
    ("KEEPALIVE", "-1"),
    ("POOL_SIZE", "0"),
    ("BODY_LIMIT", "1 MB"),
    ("MAX_JSON_DEPTH", "15"),
    ("MAX_JSON_DEPTH", "201"),
    ("MODEL_PROFILES", "{seCret"),
    ("MODEL_PROFILES", "[]"),
    ("MODEL_PROFILES", '{"a": "seCret"}'),
    ("MODEL_PROFILES", "/seCret/there-is-no-such-file.json"),
    ("MODEL_PROFILES", '{"a": {"tokenizer": "v8"}}'),
    ("MODEL_PROFILES", '{"a": {"tokeniser": "v11"}}'),
]


@pytest.mark.parametrize(("name", "value"), WRONG)
def test_a_wrong_value_is_one_line_that_names_the_variable(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError) as caught:
        load()
    says = str(caught.value)
    assert says.startswith(f"{name}: ")
    assert "\n" not in says
    assert "seCret" not in says
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


def test_profile_errors_name_entry_and_field() -> None:
    with pytest.raises(ConfigError, match=r"MODEL_PROFILES: a\.tokenizer: must be one of v3, v7"):
        load(model_profiles=json.dumps({"a": {"tokenizer": "v8"}}))


def test_every_wrong_variable_is_named() -> None:
    with pytest.raises(ConfigError, match=r"PROXY_PORT: .*; LOG_LEVEL: "):
        load(proxy_port="x", log_level="x")


def test_the_key_is_never_shown() -> None:
    settings = load(vllm_api_key="seCret")
    assert "seCret" not in f"{settings!r} {settings} {settings.model_dump()}"


def test_settings_do_not_change() -> None:
    with pytest.raises(ValueError, match="frozen"):
        load().proxy_port = 1


@pytest.mark.parametrize(
    "value",
    [
        "MODEL_PROFILES={x",
        "KEEPALIVE=x",
        "LOG_FILE=/dev/null/x",
        "PROXY_HOST=no such host",
        "CREDENTIALS_DIRECTORY=/nowhere/at/all",
    ],
)
def test_a_wrong_start_is_one_line_on_stderr_and_code_2(value: str, tmp_path: Path) -> None:
    name, _, text = value.partition("=")
    run = subprocess.run(
        [sys.executable, "-m", "devstral_proxy", "--port", "0"],
        env={name: text, "PATH": "/usr/bin:/bin"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert run.returncode == 2
    assert run.stdout == ""
    (line,) = run.stderr.splitlines()
    assert line.startswith(f"devstral-proxy: {name}: ")


def _default(name: str) -> str:
    value = Settings.model_fields[name].default
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


def test_the_example_file_names_every_variable_with_its_default() -> None:
    text = (ROOT / ".env.example").read_text()
    told = dict(re.findall(r"^#([A-Z_]+)=(.*)$", text, re.MULTILINE))
    assert told == {name.upper(): _default(name) for name in Settings.model_fields}


def test_the_configuration_page_names_every_variable_with_its_default() -> None:
    text = (ROOT / "docs" / "configuration.md").read_text()
    told = {name: value.strip("`") for name, value in re.findall(r"^\| `([A-Z_]+)` \| (\S+) \|", text, re.MULTILINE)}
    wanted = {name.upper(): _default(name) for name in Settings.model_fields}
    assert set(told) == set(wanted)
    for name, value in wanted.items():
        assert told[name] == (value or ("asked" if name == "VLLM_VERSION" else "none"))


def test_the_configuration_page_names_every_profile_field() -> None:
    from dataclasses import fields

    from devstral_proxy.mistral.profiles import ModelProfile

    text = (ROOT / "docs" / "configuration.md").read_text()
    told = set(re.findall(r"^\| `([a-z_]+)` \|", text, re.MULTILINE))
    assert told == {field.name for field in fields(ModelProfile)} - {"name"}
