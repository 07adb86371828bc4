"""RATE_LIMITS: which row counts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from devstral_proxy.config import load
from devstral_proxy.quotas import Quota

TABLE = {
    "*": {"*": {"tpm": 100}, "big": {"rpm": 1, "tpm": 50}},
    "alice": {"*": {"rpm": 7}, "big": {"tpm": 0}},
    "bob": {"small": {"rpm": 0, "tpm": 0}},
}


@pytest.mark.parametrize(
    ("key", "model", "quota"),
    [
        ("carol", "small", Quota(5, 100)),
        ("carol", "big", Quota(1, 50)),
        ("alice", "small", Quota(7, 100)),
        ("alice", "big", Quota(7, 0)),
        ("bob", "small", Quota(0, 0)),
        ("bob", "big", Quota(1, 50)),
        ("", "", Quota(5, 100)),
    ],
)
def test_the_most_specific_row_counts(key: str, model: str, quota: Quota, tmp_path: Path) -> None:
    path = tmp_path / "limits.json"
    path.write_text(json.dumps(TABLE))
    for value in (json.dumps(TABLE), str(path)):
        quotas = load(rate_limit_requests=5, rate_limit_tokens=10, rate_limits=value).quotas
        assert quotas
        assert quotas.find(key, model) == quota


def test_nothing_is_limited_by_default() -> None:
    assert not load().quotas
    assert load().quotas.find("alice", "big") == Quota(0, 0)
