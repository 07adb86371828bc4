"""Who may come: every spelling of a key, what the others are told, and that nothing shows a key."""

from __future__ import annotations

import hmac
import traceback
from pathlib import Path
from typing import Any

import pytest

from devstral_proxy.config import load
from devstral_proxy.errors import Unauthorized, render
from devstral_proxy.server.keys import Keys, exposure_warning, key_file_warning

KEYS = Keys({"alice": "sk-a1ice", "bob": "sk-b0b"})
Headers = list[tuple[bytes, bytes]]

KNOWN: list[tuple[Headers, str]] = [
    ([(b"authorization", b"Bearer sk-a1ice")], "alice"),
    ([(b"authorization", b"bearer sk-b0b")], "bob"),
    ([(b"authorization", b"BEARER   sk-b0b ")], "bob"),
    ([(b"host", b"x"), (b"x-api-key", b"sk-a1ice")], "alice"),
    ([(b"x-api-key", b"wrong"), (b"authorization", b"Bearer sk-b0b")], "bob"),
    ([(b"authorization", b"Bearer "), (b"x-api-key", b"sk-b0b")], "bob"),
    ([(b"authorization", b"Basic c2stYjBi"), (b"x-api-key", b"sk-b0b")], "bob"),
]


@pytest.mark.parametrize(("headers", "name"), KNOWN)
def test_a_key_is_known(headers: Headers, name: str) -> None:
    assert KEYS.check(headers) == name


UNKNOWN: list[tuple[Headers, str | None]] = [
    ([], None),
    ([(b"authorization", b"")], None),
    ([(b"authorization", b"Bearer")], None),
    ([(b"authorization", b"Bearer   ")], None),
    ([(b"authorization", b"sk-a1ice")], None),
    ([(b"authorization", b"Basic sk-a1ice")], None),
    ([(b"cookie", b"sk-a1ice")], None),
    ([(b"authorization", b"Bearer sk-a1icE")], "invalid_api_key"),
    ([(b"authorization", b"Bearer sk-a1ic")], "invalid_api_key"),
    ([(b"authorization", b"Bearer sk-a1ice\x00")], "invalid_api_key"),
    ([(b"authorization", b"Bearer alice:sk-a1ice")], "invalid_api_key"),
    ([(b"authorization", b"Bearer \xff\xfe")], "invalid_api_key"),
    ([(b"authorization", b"Bearer " + b"x" * 60_000)], "invalid_api_key"),
    ([(b"authorization", b"Bearer wrong"), (b"x-api-key", b"sk-a1ice")], "invalid_api_key"),
    ([(b"x-api-key", b"wrong"), (b"x-api-key", b"sk-a1ice")], "invalid_api_key"),
]


@pytest.mark.parametrize(("headers", "code"), UNKNOWN)
def test_others_are_refused(headers: Headers, code: str | None) -> None:
    with pytest.raises(Unauthorized) as caught:
        KEYS.check(headers)
    error = caught.value
    assert error.status == 401
    assert error.headers == [("WWW-Authenticate", "Bearer")]
    said = render(error)["error"]
    assert said["type"] == "invalid_request_error"
    assert said["code"] == "invalid_api_key"
    assert said["message"].startswith("Incorrect API key" if code else "You didn't provide an API key.")
    for _, value in headers:
        assert len(value) < 12 or value.decode("latin-1")[7:] not in str(said)


def test_without_keys_everybody_may_come() -> None:
    assert Keys({}).check([]) == ""
    assert Keys({}).check([(b"authorization", b"Bearer anything")]) == ""


def test_every_key_is_compared_whatever_matches(monkeypatch: pytest.MonkeyPatch) -> None:

    lengths: list[tuple[int, int]] = []
    real = hmac.compare_digest

    def counted(a: bytes, b: bytes) -> bool:
        lengths.append((len(a), len(b)))
        return real(a, b)

    monkeypatch.setattr("devstral_proxy.server.keys.compare_digest", counted)
    for given in (b"sk-a1ice", b"sk-b0b"):
        KEYS.check([(b"x-api-key", given)])
    with pytest.raises(Unauthorized):
        KEYS.check([(b"x-api-key", b"x" * 500)])
    assert lengths == [(32, 32)] * 6


def test_nothing_shows_a_key() -> None:
    assert repr(KEYS) == "Keys(2)"
    try:
        KEYS.check([(b"authorization", b"Bearer sk-wrong")])
    except Unauthorized as error:
        shown = "".join(traceback.TracebackException.from_exception(error, capture_locals=True).format())
    assert "a1ice" not in shown
    assert "b0b" not in shown


EXPOSED: list[tuple[dict[str, Any], str, bool]] = [
    ({}, "localhost", False),
    ({}, "127.9.9.9", False),
    ({}, "::1", False),
    ({}, "0.0.0.0", True),
    ({}, "::", True),
    ({}, "gpu-host", True),
    ({}, "192.168.1.2", True),
    ({"api_keys": "sk-1"}, "0.0.0.0", False),
    ({"proxy_host": "0.0.0.0"}, "127.0.0.1", False),
]


@pytest.mark.parametrize(("values", "host", "told"), EXPOSED)
def test_an_open_proxy_is_told(values: dict[str, Any], host: str, told: bool) -> None:
    warning = exposure_warning(load(**values), host)
    assert (warning is not None) == told
    assert warning is None or "API_KEYS" in warning


def test_a_key_file_that_everybody_reads_is_told(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text("alice:seCret")
    assert key_file_warning(load()) is None
    for mode, told in ((0o600, False), (0o640, False), (0o644, True), (0o602, True)):
        path.chmod(mode)
        warning = key_file_warning(load(api_keys_file=path))
        assert (warning is not None) == told, oct(mode)
        assert warning is None or "seCret" not in warning
