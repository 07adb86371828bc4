"""Log lines: one line each, whatever is in them; no content of exceptions; nothing that waits."""

from __future__ import annotations

import json
import logging
import queue
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from devstral_proxy import log
from devstral_proxy.config import load

NASTY = "model\r\n2026-01-01 forged\x1b[2J\x00\u2028line\x85"


@pytest.fixture(autouse=True)
def _logging_restored() -> Iterator[None]:
    root = logging.getLogger()
    loggers = [root, logging.getLogger("devstral_proxy"), logging.getLogger("uvicorn")]
    before = [(one, list(one.handlers), one.level) for one in loggers]
    yield
    for one, handlers, level in before:
        one.handlers, one.level = handlers, level


def lines(path: Path, **values: Any) -> list[str]:
    """What a few records look like in the log file."""
    listener = log.start(load(log_file=path, **values))
    ours = logging.getLogger("devstral_proxy.test")
    ours.info("", extra={"fields": {"id": "a", "model": NASTY, "empty": "", "rewrites": {"x": 2}}})
    ours.warning("broken: %s", NASTY)
    ours.debug("only in debug")
    try:
        try:
            raise KeyError("secret content")
        except KeyError as error:
            raise ValueError("more secret content") from error
    except ValueError as error:
        ours.error("failed", exc_info=error)
    listener.stop()
    return path.read_text("utf-8").splitlines()


def test_text_lines(tmp_path: Path) -> None:
    info, warning, error, *frames = lines(tmp_path / "logs" / "proxy.log")
    assert info.split(": ", 1)[1] == (
        'id=a model="model\\r\\n2026-01-01 forged\\u001b[2J\\u0000\\u2028line\\x85" rewrites=x:2'
    )
    assert "broken: model\\r\\n2026-01-01 forged\\x1b[2J\\x00\\u2028line\\x85" in warning
    assert error.endswith("devstral_proxy.test: failed")
    assert all(frame.startswith("    ") for frame in frames)
    assert frames[-1].strip() == "builtins.ValueError from builtins.KeyError"
    assert "secret" not in "".join(frames)


def test_json_lines(tmp_path: Path) -> None:
    entries = [json.loads(line) for line in lines(tmp_path / "proxy.log", log_format="json", debug=True)]
    assert [entry["level"] for entry in entries] == ["info", "warning", "debug", "error"]
    assert entries[0]["model"] == NASTY
    assert entries[0]["rewrites"] == {"x": 2}
    assert entries[1]["message"] == f"broken: {NASTY}"
    assert entries[3]["traceback"][-1] == "builtins.ValueError from builtins.KeyError"
    assert "secret" not in json.dumps(entries[3])


def test_the_level_holds(tmp_path: Path) -> None:
    assert len(lines(tmp_path / "proxy.log", log_level="error")) == 3  # the error, its frame and its types


def test_the_file_is_rotated(tmp_path: Path) -> None:
    path = tmp_path / "proxy.log"
    listener = log.start(load(log_file=path, log_file_bytes=1024, log_file_count=2))
    for number in range(100):
        logging.getLogger("devstral_proxy").warning("line %d", number)
    listener.stop()
    assert sorted(one.name for one in tmp_path.iterdir()) == ["proxy.log", "proxy.log.1", "proxy.log.2"]
    assert path.stat().st_size <= 1024


def test_a_full_queue_drops_and_does_not_wait() -> None:
    records: queue.Queue[logging.LogRecord] = queue.Queue(1)
    handler = log.QueueHandler(records)
    for number in range(3):
        handler.handle(logging.LogRecord("x", logging.INFO, "", 0, "%d", (number,), None))
    assert records.get_nowait().getMessage() == "0"
    assert records.empty()
