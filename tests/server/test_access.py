"""The one line a request: its fields, and that nothing of the client's can break it."""

from __future__ import annotations

import json
import logging

import pytest

from devstral_proxy import log
from devstral_proxy.server import access
from tests.server.exchanges import ended

HOSTILE = "m\r\n2026-01-01T00:00:00.000 info devstral_proxy.access: id=forged status=200\x1b[2J" + "x" * 10_000


def test_the_fields() -> None:
    exchange = ended(
        key="alice",
        dialect="chat",
        upstream="gpu-1",
        stream=True,
        rewrites=[("tool_call_id", "messages[1]"), ("key_dropped", "messages[0]"), ("tool_call_id", "messages[2]")],
        repairs=[("usage_hidden", "")],
        input_tokens=7,
        output_tokens=5,
        first_token=0.25,
        queued=0.5,
        attempts=2,
        finish="stop",
        note="",
    )
    fields = access.fields(exchange, exchange.started + 1.5)
    assert list(fields) == list(access.FIELDS)
    assert fields == {
        "id": "request-1",
        "key": "alice",
        "dialect": "chat",
        "method": "POST",
        "path": "/v1/chat/completions",
        "model": "devstral",
        "served": "devstral",
        "upstream": "gpu-1",
        "status": 200,
        "ms": 1500,
        "first_token_ms": 250,
        "queued_ms": 500,
        "input_tokens": 7,
        "output_tokens": 5,
        "cached_tokens": None,
        "stream": True,
        "attempts": 2,
        "finish": "stop",
        "rewrites": {"tool_call_id": 2, "key_dropped": 1},
        "repairs": {"usage_hidden": 1},
        "error": "",
        "note": "",
    }


def test_what_is_unknown_is_null() -> None:
    fields = access.fields(ended(served="", status=404, path=""))
    assert [name for name, value in fields.items() if value is None] == [
        "first_token_ms",
        "input_tokens",
        "output_tokens",
        "cached_tokens",
    ]


def line(caplog: pytest.LogCaptureFixture, formatter: logging.Formatter, model: str) -> str:
    with caplog.at_level("INFO", "devstral_proxy.access"):
        access.write(ended(model=model))
    (record,) = caplog.records
    caplog.clear()
    return formatter.format(record)


def test_a_model_s_name_cannot_forge_a_line(caplog: pytest.LogCaptureFixture) -> None:
    text = line(caplog, log.TextFormatter(), HOSTILE)
    assert text.isprintable()
    assert len(text) < 600
    assert "\\r\\n2026-01-01" in text
    # What looks like fields of ours stands between quotes.
    assert text.split(" model=")[1].startswith('"')
    entry = json.loads(line(caplog, log.JsonFormatter(), HOSTILE))
    assert entry["model"] == HOSTILE[: access.MODEL_LENGTH]
    assert entry["id"] == "request-1"


def test_the_text_line(caplog: pytest.LogCaptureFixture) -> None:
    text = line(caplog, log.TextFormatter(), "devstral")
    assert "id=request-1 method=POST path=/v1/chat/completions model=devstral served=devstral status=200 ms=" in text
    assert text.endswith(" queued_ms=0 stream=false attempts=0")


def test_nothing_is_made_for_a_line_that_is_not_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access.access_log, "isEnabledFor", lambda _: False)
    monkeypatch.delattr(access, "fields")
    access.write(ended())
