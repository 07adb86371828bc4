"""The last net: what the settings keep secret is not written, whatever record it has got into.

Nothing is known to log a secret. This is for the text of a library's exception, a URL in a warning, a header that a
client put where it does not belong.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
from collections.abc import Iterable, Iterator
from typing import Any, Final
from urllib.parse import quote, unquote, urlsplit

from pydantic import SecretStr

from devstral_proxy.config import Settings

MARK = "[secret]"
SHORTEST = 4
"""Characters. A shorter secret is no secret, and to take it out would make holes in the words of every line."""


class Redact(logging.Filter):
    """Replaces secrets in a record's message, fields and frames. Lets every record pass."""

    def __init__(self, secrets: Iterable[str]) -> None:
        super().__init__()
        found = {one for one in secrets if len(one) >= SHORTEST}
        spellings = found | {quote(one, safe="") for one in found} | {json.dumps(one)[1:-1] for one in found}
        # The longest first: a secret may be the beginning of another.
        self._secrets = sorted(spellings, key=lambda one: (-len(one), one))

    def filter(self, record: logging.LogRecord) -> bool:
        """Called by the writer's thread: the message is text by then."""
        if self._secrets:
            record.msg = self.clean(record.msg)
            for name in ("fields", "frames"):
                if name in record.__dict__:
                    record.__dict__[name] = self.clean(record.__dict__[name])
        return True

    def clean(self, value: Any) -> Any:
        """The value with every secret in its strings replaced; what holds none is returned as it is."""
        if isinstance(value, str):
            for secret in self._secrets:
                if secret in value:
                    value = value.replace(secret, MARK)
            return value
        if isinstance(value, dict):
            return {self.clean(name): self.clean(entry) for name, entry in value.items()}
        if isinstance(value, (list, tuple)):
            return [self.clean(entry) for entry in value]
        return value


def secrets_of(settings: Settings) -> list[str]:
    """Every secret in the settings: what is a SecretStr, alone or in a collection, the passwords of URLs, the clients'
    keys and the servers'; and what OpenTelemetry's exporters send in headers (OTEL_EXPORTER_OTLP_HEADERS and the like).
    """
    headers = [value for name, value in os.environ.items() if name.startswith("OTEL_") and name.endswith("_HEADERS")]
    sent = [unquote(header.partition("=")[2]).strip() for value in headers for header in value.split(",")]
    keys: list[str] = []
    with contextlib.suppress(ValueError):  # the file has gone, or is just being written
        keys.extend(settings.client_keys.values())
    return [
        *_secrets(getattr(settings, name) for name in type(settings).model_fields),
        *keys,
        *(server.api_key for model in settings.served_models for server in model.servers if server.api_key),
        *(value.split()[-1] for value in sent if value),
    ]


def _secrets(values: Iterable[Any]) -> Iterator[str]:
    for value in values:
        if isinstance(value, SecretStr):
            secret = value.get_secret_value()
            yield from (secret, *_secrets([secret]))
        elif isinstance(value, dict):
            yield from _secrets(value.values())
        elif isinstance(value, (list, tuple, set, frozenset)):
            yield from _secrets(value)
        elif isinstance(value, str):
            for password in _passwords(value):
                yield from {password, unquote(password), _ESCAPED.sub(r"\1", password)}


def _passwords(text: str) -> Iterator[str]:
    """What a URL, its query, or a list of libpq's keywords names as a password, as it is written there."""
    if "://" not in text:
        yield from (quoted or plain for quoted, plain in _KEYWORD.findall(text))
        return
    try:
        parts = urlsplit(text)
        yield from filter(None, (parts.password, *_QUERY.findall(parts.query)))
    except ValueError:
        return


# password=secret, password = 'a \'secret\'': https://www.postgresql.org/docs/current/libpq-connect.html
_KEYWORD: Final = re.compile(
    r"(?:^|\s)(?:ssl)?password\s*=\s*(?:'((?:[^'\\]|\\.)*)'|((?:[^\s'\\]|\\.)(?:[^\s\\]|\\.)*))", re.S
)
_QUERY: Final = re.compile(r"(?:^|&)(?:ssl)?password=([^&]+)")
_ESCAPED: Final = re.compile(r"\\(.)", re.S)
