"""Settings: every environment variable of the proxy, read from the environment and from `.env`.

A field's name in capitals is its variable. `load()` is the way in for whoever starts the proxy: it turns everything
that pydantic may say about a wrong value into one line that names the variable and shows no value.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit, urlunsplit

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

from devstral_proxy.mistral.profiles import Profiles

LogLevel = Literal["debug", "info", "warning", "error", "critical"]

_MIB = 1024 * 1024


class ConfigError(Exception):
    """A setting is wrong: one line that names the variable."""


class Settings(BaseSettings):
    """Everything that can be set. Each field's description is its documentation."""

    model_config = SettingsConfigDict(
        env_file=".env", env_file_encoding="utf-8", env_ignore_empty=True, extra="ignore", frozen=True
    )

    vllm_base: str = Field("http://127.0.0.1:8000", description="Where vLLM serves, with or without a final /v1.")
    vllm_api_key: SecretStr | None = Field(None, description="The key that vLLM was started with (`--api-key`).")
    vllm_version: str | None = Field(
        None, max_length=64, description="vLLM's version, when /version cannot be asked or tells the wrong one."
    )
    proxy_host: str = Field("127.0.0.1", min_length=1, description="The address to listen on.")
    proxy_port: int = Field(9000, ge=0, le=65535, description="The port to listen on; 0 takes a free one.")
    log_level: LogLevel = Field("info", description="debug, info, warning, error or critical.")
    log_file: Path | None = Field(None, description="A log file, rotated; none: standard error only.")
    log_file_bytes: int = Field(10 * _MIB, ge=1024, description="Size at which the log file is rotated.")
    log_file_count: int = Field(5, ge=1, le=1000, description="How many rotated log files are kept.")
    log_format: Literal["text", "json"] = Field("text", description="text or json: the form of a log line.")
    debug: bool = Field(False, description="Log at level debug: each rewrite with its path, never content.")
    connect_timeout: float = Field(10.0, gt=0, le=3600, description="Seconds to connect, or to wait for a connection.")
    first_byte_timeout: float = Field(
        600.0, gt=0, le=86400, description="Seconds until vLLM's first byte of a stream: queue and prefill."
    )
    idle_timeout: float = Field(120.0, gt=0, le=86400, description="Seconds of silence inside a stream of vLLM's.")
    request_timeout: float = Field(3600.0, gt=0, le=86400, description="Seconds for one request in all.")
    pool_size: int = Field(512, ge=1, le=65535, description="Most connections to vLLM at a time.")
    pool_idle: float = Field(
        4.0, gt=0, le=3600, description="Seconds that an idle connection is kept; vLLM closes its own after 5."
    )
    upstream_transport: Literal["fast", "httpx"] = Field(
        "fast", description="fast or httpx: what speaks HTTP with vLLM, the proxy's own transport or httpx's."
    )
    body_limit: int = Field(64 * _MIB, ge=1024, description="Most bytes of a request's body.")
    answer_limit: int = Field(128 * _MIB, ge=1024, description="Most bytes of an answer that is not streamed.")
    max_event_bytes: int = Field(16 * _MIB, ge=1024, description="Most bytes of one event of a stream.")
    keepalive: float = Field(
        15.0, ge=0, le=3600, description="Seconds without bytes after which a stream gets a comment; 0: never."
    )
    facts_ttl: float = Field(60.0, gt=0, le=86400, description="Seconds for which vLLM's version and models are kept.")
    drain_timeout: int = Field(30, ge=0, le=3600, description="Seconds that running requests have to end at shutdown.")
    model_profiles: str = Field(
        "",
        description="Profiles to add or override by model name: a JSON object, or the path of a file that holds one.",
    )

    @field_validator("log_level", "log_format", "upstream_transport", mode="before")
    @classmethod
    def _lower(cls, value: Any) -> Any:
        return value.lower() if isinstance(value, str) else value

    @field_validator("vllm_base")
    @classmethod
    def _base(cls, value: str) -> str:
        """The URL without `/v1`, trailing slash, query or fragment."""
        try:
            parts = urlsplit(value.strip())
            usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        except ValueError:  # its own text would show the value
            usable = False
        if not usable:
            raise ValueError("must be a URL like http://127.0.0.1:8000")
        if parts.username is not None or parts.password is not None:
            raise ValueError("must hold no user or password; the key goes into VLLM_API_KEY")
        if parts.query or parts.fragment:
            raise ValueError("must hold no query and no fragment")
        path = parts.path.rstrip("/").removesuffix("/v1").rstrip("/")
        return urlunsplit((parts.scheme, parts.netloc, path, "", ""))

    @field_validator("vllm_api_key")
    @classmethod
    def _key(cls, value: SecretStr | None) -> SecretStr | None:
        key = value.get_secret_value().strip() if value is not None else ""
        if not all(33 <= ord(char) <= 126 for char in key):
            raise ValueError("must be one word of printable ASCII")
        return SecretStr(key) if key else None

    @field_validator("model_profiles")
    @classmethod
    def _profiles(cls, value: str) -> str:
        Profiles(_read_profiles(value))
        return value

    @property
    def profile_overrides(self) -> dict[str, dict[str, Any]]:
        """MODEL_PROFILES as a dict."""
        return _read_profiles(self.model_profiles)

    @property
    def effective_log_level(self) -> str:
        """LOG_LEVEL, or debug when DEBUG is on."""
        return "debug" if self.debug else self.log_level


def load(**overrides: Any) -> Settings:
    """The settings of the environment and `.env`; `overrides` (by field name) win.

    Raises ConfigError with one line that names every wrong variable. The line holds no value: it could be a secret.
    """
    try:
        return Settings(**overrides)
    except ValidationError as error:
        wrong = {str(item["loc"][0]).upper() if item["loc"] else "settings": item["msg"] for item in error.errors()}
        says = "; ".join(f"{name}: {message.removeprefix('Value error, ')}" for name, message in wrong.items())
        raise ConfigError(" ".join(says.split())) from None
    except (SettingsError, OSError, UnicodeDecodeError) as error:
        raise ConfigError(f".env cannot be read: {type(error).__name__}") from None


def _read_profiles(value: str) -> dict[str, dict[str, Any]]:
    text = value.strip()
    if not text:
        return {}
    source = "the JSON"
    if not text.startswith("{"):
        source = "the file"
        try:
            text = Path(text).expanduser().read_text("utf-8")
        except (OSError, ValueError) as error:
            raise ValueError(f"is neither a JSON object nor a file that can be read ({type(error).__name__})") from None
    try:
        profiles = json.loads(text)
    except ValueError as error:
        raise ValueError(f"{source} cannot be read: {error}") from None
    if not isinstance(profiles, dict) or not all(isinstance(entry, dict) for entry in profiles.values()):
        raise ValueError(f"{source} must be an object of objects, one for each model name")
    return profiles
