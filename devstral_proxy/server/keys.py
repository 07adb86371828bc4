"""Who may come: the clients' API keys, and what an operator is told about them at the start."""

from __future__ import annotations

import ipaddress
import stat
from collections.abc import Mapping
from hashlib import sha256
from hmac import compare_digest

from devstral_proxy.config import Settings
from devstral_proxy.errors import Unauthorized

_MISSING = (
    "You didn't provide an API key. You need to provide your API key in an Authorization header using Bearer auth "
    "(i.e. Authorization: Bearer YOUR_KEY)."
)
_WRONG = "Incorrect API key provided."


class Keys:
    """The keys by name; only digests of the secrets are kept. Without keys everybody may come."""

    __slots__ = ("_digests",)

    def __init__(self, keys: Mapping[str, str]) -> None:
        self._digests = [(name, sha256(secret.encode()).digest()) for name, secret in keys.items()]

    def __repr__(self) -> str:
        return f"Keys({len(self._digests)})"

    def check(self, headers: list[tuple[bytes, bytes]]) -> str:
        """The name of the key in `Authorization: Bearer …` or, where that holds none, in `x-api-key`; "" without keys.

        Raises Unauthorized. Digests of one length are compared, all of them whatever matches, each in constant time.
        """
        if not self._digests:
            return ""
        given = _presented(headers)
        if not given:
            raise _refusal(_MISSING)
        digest = sha256(given).digest()
        found = ""
        for name, known in self._digests:
            if compare_digest(digest, known):
                found = name
        if not found:
            raise _refusal(_WRONG)
        return found


def _presented(headers: list[tuple[bytes, bytes]]) -> bytes:
    """The secret that the client shows, b"" for none. `Authorization` goes first."""
    other = b""
    for name, value in headers:
        if name == b"authorization":
            if value[:7].lower() == b"bearer " and (bearer := value[7:].strip()):
                return bearer
        elif name == b"x-api-key":
            other = other or value.strip()
    return other


def _refusal(message: str) -> Unauthorized:
    error = Unauthorized(message)
    error.headers.append(("WWW-Authenticate", "Bearer"))
    return error


def exposure_warning(settings: Settings, host: str) -> str | None:
    """What to say loudly at the start when others than this machine can come without a key.

    `host` is the address that is really listened on: not PROXY_HOST's, where the socket was handed over.
    """
    if settings.client_keys or _is_loopback(host):
        return None
    return (
        f"NO API KEYS: the proxy listens on {host}, and everybody who can reach it may use the model. "
        "Set API_KEYS or API_KEYS_FILE, or listen on 127.0.0.1 (PROXY_HOST)."
    )


def key_file_warning(settings: Settings) -> str | None:
    """What to say at the start when others than its owner and group may read API_KEYS_FILE."""
    path = settings.api_keys_file
    if path is None or not path.expanduser().stat().st_mode & (stat.S_IROTH | stat.S_IWOTH):
        return None
    return f"API_KEYS_FILE: {path} is open to every user of this machine; chmod o-rwx it."


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.rstrip(".").lower() == "localhost"
