"""The clients' keys as an operator writes them: text or JSON, in a variable, a file or a credential of systemd's."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

DEFAULT_NAME = "default"
"""The name of a key that stands alone."""

_NAME = re.compile(r"[A-Za-z0-9@._+-]{1,64}")
_SECRET = re.compile(r"[\x21-\x7e]{1,512}")


def parse_keys(text: str) -> dict[str, str]:
    """Secrets by name, of `{"alice": "sk-…"}`, of `alice:sk-…,bob:sk-…` (commas or lines), or of one bare secret.

    A line that starts with `#` is a comment. Raises ValueError that tells which entry is wrong, and shows none; also
    for a text without keys: what an operator meant to close must not stand open.
    """
    text = text.strip()
    if text.startswith("{"):
        try:
            pairs = json.loads(text, object_pairs_hook=list)
        except ValueError:
            raise ValueError("is no valid JSON") from None
    else:
        lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
        entries = [entry.strip() for line in lines for entry in line.split(",") if entry.strip()]
        pairs = [_named(entry, alone=len(entries) == 1) for entry in entries]
    if not pairs:
        raise ValueError("holds no key")
    return _checked(pairs)


def read_keys(path: Path) -> dict[str, str]:
    """The keys of a file, as `parse_keys` reads them. Raises ValueError also when it cannot be read."""
    try:
        text = path.expanduser().read_text("utf-8")
    except (OSError, ValueError) as error:
        raise ValueError(f"cannot be read ({type(error).__name__})") from None
    return parse_keys(text)


def merged(*sources: dict[str, str]) -> dict[str, str]:
    """The keys of several sources as one. Raises ValueError for a name, or a secret, that is there twice."""
    return _checked([pair for keys in sources for pair in keys.items()])


def _named(entry: str, alone: bool) -> tuple[str, str]:
    name, colon, secret = entry.partition(":")
    if colon:
        return name.strip(), secret.strip()
    return (DEFAULT_NAME, entry) if alone else ("", entry)


def _checked(pairs: list[Any]) -> dict[str, str]:
    keys: dict[str, str] = {}
    for number, (name, secret) in enumerate(pairs, 1):
        if not _NAME.fullmatch(name):
            raise ValueError(
                f"entry {number} needs a name of letters, digits and @._+- before its key, as in alice:sk-1"
            )
        if not isinstance(secret, str) or not _SECRET.fullmatch(secret):
            raise ValueError(f"entry {number}: the key must be one word of printable ASCII")
        if name in keys:
            raise ValueError(f"entry {number} has the name of another")
        if secret in keys.values():
            raise ValueError(f"entry {number} has the key of another")
        keys[name] = secret
    return keys
