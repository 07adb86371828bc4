"""Settings: every environment variable of the proxy, read from the environment and from `.env`.

A field's name in capitals is its variable. `load()` is the way in for whoever starts the proxy: it turns everything
that pydantic may say about a wrong value into one line that names the variable and shows no value.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

from devstral_proxy import credentials, topology
from devstral_proxy.mistral.json_text import MAX_DEPTH
from devstral_proxy.mistral.profiles import Profiles
from devstral_proxy.quotas import Quota, Quotas, table_of

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
    upstreams: SecretStr | None = Field(
        None,
        description="Models and the servers of each, instead of VLLM_BASE: a JSON object, or the path of such a file.",
    )
    affinity_overload: float = Field(
        2.0,
        ge=0,
        le=1000,
        description="A replica with more than this many times its fair share of requests is passed over; 0: never.",
    )
    retry_max: int = Field(2, ge=0, le=16, description="Most further servers that one failed request is sent to.")
    breaker_failures: int = Field(
        5, ge=0, le=10000, description="Failures in a row after which a server is left alone for a while; 0: never."
    )
    breaker_open: float = Field(
        5.0,
        gt=0,
        le=3600,
        description="Seconds for which a failed server is left alone at first; up to six times that.",
    )
    health_interval: float = Field(
        10.0, ge=0, le=3600, description="Seconds between two health checks of each server; 0: none."
    )
    health_timeout: float = Field(5.0, gt=0, le=3600, description="Seconds that a health check may take.")
    proxy_host: str = Field("127.0.0.1", min_length=1, description="The address to listen on.")
    proxy_port: int = Field(9000, ge=0, le=65535, description="The port to listen on; 0 takes a free one.")
    log_level: LogLevel = Field("info", description="debug, info, warning, error or critical.")
    log_file: Path | None = Field(None, description="A log file, rotated; none: standard error only.")
    log_file_bytes: int = Field(10 * _MIB, ge=1024, description="Size at which the log file is rotated.")
    log_file_count: int = Field(5, ge=1, le=1000, description="How many rotated log files are kept.")
    log_format: Literal["text", "json"] = Field("text", description="text or json: the form of a log line.")
    debug: bool = Field(False, description="Log at level debug: each rewrite with its path, never content.")
    log_content: Literal["off", "hash"] = Field(
        "off", description="off or hash: a line a request with lengths and keyed hashes of its messages, never text."
    )
    log_content_key: SecretStr | None = Field(
        None, description="Key of those hashes; none: a new one at each start, so that lines of two runs differ."
    )
    metrics: bool = Field(True, description="Count, and serve /metrics for Prometheus.")
    metrics_public: bool = Field(False, description="/metrics needs no API key, when there are keys.")
    otel_traces: bool = Field(
        False, description="Send OpenTelemetry spans (extra [otel]); where to is told by the OTEL_* variables."
    )
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
    header_limit: int = Field(64 * 1024, ge=1024, le=_MIB, description="Most bytes of a request's head.")
    header_timeout: float = Field(20.0, gt=0, le=3600, description="Seconds that the head of a request may take.")
    body_timeout: float = Field(
        60.0, gt=0, le=3600, description="Seconds that the body of a request may take, and one more for each kilobyte."
    )
    send_timeout: float = Field(
        120.0, gt=0, le=3600, description="Seconds after which a client that takes nothing of its answer is dropped."
    )
    cors_origins: str = Field(
        "", description="Origins of web pages that may call the proxy, separated by commas, or *; none: no page may."
    )
    body_limit: int = Field(64 * _MIB, ge=1024, description="Most bytes of a request's body.")
    answer_limit: int = Field(128 * _MIB, ge=1024, description="Most bytes of an answer that is not streamed.")
    max_event_bytes: int = Field(16 * _MIB, ge=1024, description="Most bytes of one event of a stream.")
    keepalive: float = Field(
        15.0, ge=0, le=3600, description="Seconds without bytes after which a stream gets a comment; 0: never."
    )
    facts_ttl: float = Field(60.0, gt=0, le=86400, description="Seconds for which vLLM's version and models are kept.")
    drain_timeout: int = Field(30, ge=0, le=3600, description="Seconds that running requests have to end at shutdown.")
    shutdown_delay: float = Field(
        0.0,
        ge=0,
        le=600,
        description="Seconds between SIGTERM, which turns /health/ready to 503, and the last request.",
    )
    workers: int = Field(1, ge=1, le=128, description="Processes that serve.")
    api_keys: SecretStr | None = Field(
        None,
        description="The clients' keys by name, as in alice:sk-1,bob:sk-2, a JSON object of them, or one bare key.",
    )
    api_keys_file: Path | None = Field(
        None, description="A file with more of them: a line `name:key` each, or a JSON object."
    )
    rate_limit_requests: int = Field(
        0, ge=0, description="Requests a minute that one key may send to one model; 0: any number."
    )
    rate_limit_tokens: int = Field(
        0, ge=0, description="Tokens a minute, prompt and answer, that one key may use of one model; 0: any number."
    )
    rate_limits: str = Field(
        "",
        description="Other limits by key and model: a JSON object, or the path of a file that holds one.",
    )
    redis_url: SecretStr | None = Field(
        None, description="The Redis that several proxies count in: redis://, rediss:// or unix://."
    )
    redis_failure: Literal["open", "closed"] = Field(
        "open", description="open or closed: while Redis is gone no limit is enforced, or nothing gets through."
    )
    max_concurrent: int = Field(0, ge=0, description="Most requests at vLLM at a time; 0: any number.")
    max_concurrent_per_key: int = Field(0, ge=0, description="The same for one key, waiting ones too; 0: any number.")
    max_queue: int = Field(256, ge=0, description="Most requests that wait for one of MAX_CONCURRENT places.")
    queue_timeout: float = Field(30.0, gt=0, le=3600, description="Seconds that a request may wait for a place.")
    max_messages: int = Field(0, ge=0, description="Most messages of a request; 0: any number.")
    max_tools: int = Field(0, ge=0, description="Most tools of a request; 0: any number.")
    max_json_depth: int = Field(
        MAX_DEPTH, ge=16, le=MAX_DEPTH, description="Most levels of objects and arrays within each other in a request."
    )
    image_urls: Literal["any", "public", "data"] = Field(
        "public", description="any, public or data: which URLs of images vLLM may be sent to."
    )
    model_profiles: str = Field(
        "",
        description="Profiles to add or override by model name: a JSON object, or the path of a file that holds one.",
    )

    model_aliases: str = Field(
        "",
        description="Names or patterns that clients ask for, and the model of each: a JSON object, or a file's path.",
    )
    default_model: str | None = Field(
        None, max_length=256, description="The model of requests that name none, or one that is not served."
    )
    responses_store: Literal["memory", "sqlite", "postgres", "none"] = Field(
        "memory", description="memory, sqlite, postgres or none: where responses are stored."
    )
    responses_store_bytes: int = Field(
        256 * _MIB, ge=1024, description="Most bytes of stored responses in memory; the least recently used go first."
    )
    responses_store_ttl: int = Field(
        30 * 86400, ge=1, le=3650 * 86400, description="Seconds for which a response is stored."
    )
    responses_store_path: Path | None = Field(None, description="The file of RESPONSES_STORE=sqlite.")
    responses_store_url: SecretStr | None = Field(
        None, description="The database of RESPONSES_STORE=postgres: postgresql://user:password@host/database."
    )

    @field_validator(
        "log_level",
        "log_format",
        "upstream_transport",
        "log_content",
        "responses_store",
        "redis_failure",
        "image_urls",
        mode="before",
    )
    @classmethod
    def _lower(cls, value: Any) -> Any:
        return value.lower() if isinstance(value, str) else value

    @field_validator("vllm_base")
    @classmethod
    def _base(cls, value: str) -> str:
        return topology.base_url(value)

    @field_validator("vllm_api_key")
    @classmethod
    def _key(cls, value: SecretStr | None) -> SecretStr | None:
        key = topology.one_word(value.get_secret_value()) if value is not None else ""
        return SecretStr(key) if key else None

    @field_validator("upstreams")
    @classmethod
    def _upstreams(cls, value: SecretStr | None) -> SecretStr | None:
        topology.models_of(*_read_json(value.get_secret_value() if value is not None else ""))
        return value

    @field_validator("api_keys")
    @classmethod
    def _api_keys(cls, value: SecretStr | None) -> SecretStr | None:
        _merged_keys(value, None)
        return value

    @field_validator("api_keys_file")
    @classmethod
    def _api_keys_file(cls, value: Path | None, info: ValidationInfo) -> Path | None:
        if value is not None:
            _merged_keys(info.data.get("api_keys"), value)
        return value

    @field_validator("rate_limits")
    @classmethod
    def _rate_limits(cls, value: str) -> str:
        table_of(_read_json(value)[0])
        return value

    @field_validator("redis_url")
    @classmethod
    def _redis_url(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and not value.get_secret_value().startswith(("redis://", "rediss://", "unix://")):
            raise ValueError("must be a URL like redis://127.0.0.1:6379/0")
        return value

    @field_validator("model_profiles")
    @classmethod
    def _profiles(cls, value: str) -> str:
        Profiles(_read_profiles(value))
        return value

    @field_validator("model_aliases")
    @classmethod
    def _aliases(cls, value: str) -> str:
        _read_aliases(value)
        return value

    @property
    def profile_overrides(self) -> dict[str, dict[str, Any]]:
        """MODEL_PROFILES as a dict."""
        return _read_profiles(self.model_profiles)

    @property
    def served_models(self) -> tuple[topology.ServedModel, ...]:
        """UPSTREAMS, read; empty without it."""
        return topology.models_of(*_read_json(self.upstreams.get_secret_value() if self.upstreams is not None else ""))

    @property
    def aliases(self) -> dict[str, str]:
        """MODEL_ALIASES as a dict."""
        return _read_aliases(self.model_aliases)

    @property
    def client_keys(self) -> dict[str, str]:
        """API_KEYS and the keys of API_KEYS_FILE: secrets by name. Empty: everybody may come."""
        return _merged_keys(self.api_keys, self.api_keys_file)

    @property
    def quotas(self) -> Quotas:
        """The rate limits by key and model."""
        return Quotas(
            Quota(self.rate_limit_requests, self.rate_limit_tokens), table_of(_read_json(self.rate_limits)[0])
        )

    @property
    def effective_log_level(self) -> str:
        """LOG_LEVEL, or debug when DEBUG is on."""
        return "debug" if self.debug else self.log_level


def load(**overrides: Any) -> Settings:
    """The settings of the environment, of `.env` and of systemd's credentials; `overrides` (by field name) win.

    A credential (a file of $CREDENTIALS_DIRECTORY) is read under the name of the field: `api_keys`, `vllm_api_key`.

    Raises ConfigError with one line that names every wrong variable, or the source that cannot be read. The line holds
    no value: it could be a secret.
    """
    try:
        return Settings(**{"_secrets_dir": _credentials_directory(), **overrides})
    except ValidationError as error:
        wrong = {str(item["loc"][0]).upper() if item["loc"] else "settings": item["msg"] for item in error.errors()}
        says = "; ".join(f"{name}: {message.removeprefix('Value error, ')}" for name, message in wrong.items())
        raise ConfigError(" ".join(says.split())) from None
    except (SettingsError, OSError, UnicodeDecodeError) as error:
        raise ConfigError(_unreadable(error)) from None


def _credentials_directory() -> str | None:
    """Where credentials are. Raises ConfigError for a directory that is not there or cannot be read: without the keys
    that were meant to be in it the proxy would stand open."""
    directory = os.environ.get("CREDENTIALS_DIRECTORY", "")
    if not directory:
        return None
    try:
        os.listdir(directory)
    except OSError as error:
        raise ConfigError(f"CREDENTIALS_DIRECTORY: cannot be read ({type(error).__name__})") from None
    return directory


def _unreadable(error: Exception) -> str:
    """Which of the sources cannot be read, and why."""
    directory = _credentials_directory()
    if directory is not None:
        for name in sorted(name for name in os.listdir(directory) if name.lower() in Settings.model_fields):
            try:
                Path(directory, name).read_text("utf-8")
            except (OSError, UnicodeDecodeError) as found:
                return f"the credential {name} in CREDENTIALS_DIRECTORY cannot be read: {type(found).__name__}"
    return f".env cannot be read: {type(error).__name__}"


def _merged_keys(keys: SecretStr | None, file: Path | None) -> dict[str, str]:
    given = credentials.parse_keys(keys.get_secret_value()) if keys is not None else {}
    return given if file is None else credentials.merged(given, credentials.read_keys(file))


def _read_profiles(value: str) -> dict[str, dict[str, Any]]:
    profiles, source = _read_json(value)
    if not isinstance(profiles, dict) or not all(isinstance(entry, dict) for entry in profiles.values()):
        raise ValueError(f"{source} must be an object of objects, one for each model name")
    return profiles


def _read_aliases(value: str) -> dict[str, str]:
    aliases, source = _read_json(value)
    if not isinstance(aliases, dict):
        raise ValueError(f"{source} must be an object of model names, one for each name or pattern")
    for pattern, model in aliases.items():
        if not pattern.strip():
            raise ValueError(f"{source} has an entry without a name")
        if not isinstance(model, str) or not model.strip():
            raise ValueError(f"{pattern}: must be the name of a model")
    return {pattern.strip(): model.strip() for pattern, model in aliases.items()}


def _read_json(value: str) -> tuple[Any, str]:
    """The JSON that a setting holds, or that the file which it names holds; and which of both it was.

    Raises ValueError that shows nothing of either.
    """
    text = value.strip()
    if not text:
        return {}, ""
    source = "the JSON"
    if not text.startswith("{"):
        source = "the file"
        try:
            text = Path(text).expanduser().read_text("utf-8")
        except (OSError, ValueError) as error:
            raise ValueError(f"is neither a JSON object nor a file that can be read ({type(error).__name__})") from None
    try:
        return json.loads(text, object_pairs_hook=_unique), source
    except json.JSONDecodeError as error:
        raise ValueError(f"{source} cannot be read: {error}") from None
    except RecursionError:
        raise ValueError(f"{source} is nested too deeply") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    entries: dict[str, Any] = {}
    for name, entry in pairs:
        if name in entries:
            raise ValueError(f"{name}: is there twice")
        entries[name] = entry
    return entries
