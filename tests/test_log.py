"""Log lines: one line each, whatever is in them; no content of exceptions; nothing that waits."""

from __future__ import annotations

import json
import logging
import os
import queue
import stat
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from devstral_proxy import log
from devstral_proxy.config import Settings, load
from devstral_proxy.log.files import LogFile, StandardError
from devstral_proxy.log.secrets import MARK, Redact, secrets_of
from devstral_proxy.log.writer import LIBRARIES, TextFormatter, printable

NASTY = "model\r\n2026-01-01 forged\x1b[2J\x00\u2028line\x85"


@pytest.fixture(autouse=True)
def _logging_restored() -> Iterator[None]:
    root = logging.getLogger()
    loggers = [root, *map(logging.getLogger, ("devstral_proxy", *LIBRARIES))]
    before = [(one, list(one.handlers), one.level, one.propagate) for one in loggers]
    yield
    for one, handlers, level, propagate in before:
        one.handlers, one.propagate = handlers, propagate
        one.setLevel(level)
    logging.raiseExceptions = True
    logging.captureWarnings(False)


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


def test_a_level_ends_before_the_name_begins() -> None:
    told = []
    for level in (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR, logging.CRITICAL):
        record = logging.LogRecord("devstral_proxy.test", level, "", 0, "said", None, None)
        told.append(TextFormatter().format(record).split(" ", 1)[1])
    assert [line.split() for line in told] == [
        [level, "devstral_proxy.test:", "said"] for level in ("debug", "info", "warning", "error", "critical")
    ]
    assert {line.index("devstral_proxy") for line in told[:4]} == {8}


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


@given(st.text(max_size=60))
def test_no_text_ends_or_restyles_a_line(text: str) -> None:
    record = logging.LogRecord("x", logging.INFO, "", 0, "%s", (text,), None)
    record.__dict__["fields"] = {"model": text}
    says = log.TextFormatter().format(record)
    assert says.isprintable()
    assert json.loads(line := log.JsonFormatter().format(record))["model"] == text
    assert line.isprintable()


@pytest.mark.parametrize(
    ("text", "wanted"),
    [("plain é 日本", "plain é 日本"), ("a\u202eb", "a\\u202eb"), ("\ud800", "\\ud800"), ("\x7f\xa0", "\\x7f\\xa0")],
)
def test_what_is_printable(text: str, wanted: str) -> None:
    assert printable(text) == wanted


def record_of(text: str) -> logging.LogRecord:
    return logging.LogRecord("x", logging.INFO, "", 0, text, None, None)


def test_lost_lines_are_counted_and_told() -> None:
    records: queue.Queue[logging.LogRecord] = queue.Queue(2)
    handler = log.QueueHandler(records)
    for number in range(5):
        handler.handle(record_of(str(number)))
    assert handler.dropped == 3
    while not records.empty():
        records.get()
    handler.handle(record_of("after"))
    assert records.get().getMessage() == "after"
    assert records.get().getMessage().startswith("3 log lines were dropped")
    assert handler.dropped == 0


def test_a_handler_that_blocks_stalls_nobody() -> None:
    records: queue.Queue[logging.LogRecord] = queue.Queue(10)
    begun, go_on = threading.Event(), threading.Event()
    written: list[str] = []

    class Blocking(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            begun.set()
            go_on.wait(30)
            written.append(record.getMessage())

    writer = log.Writer(records, Blocking())
    writer.start()
    handler = log.QueueHandler(records)
    handler.handle(record_of("first"))
    assert begun.wait(30)
    for number in range(1000):  # returns, though nothing is written
        handler.handle(record_of(str(number)))
    assert written == []
    assert handler.dropped == 990
    go_on.set()
    writer.stop()
    assert written == ["first", *map(str, range(10))]


STUCK = """
import logging, sys
from devstral_proxy import log
from devstral_proxy.config import Settings, load
from devstral_proxy.log import writer

writer.STOP_TIMEOUT = 0.2
stop = log.start(load()).stop
for number in range(20000):
    logging.getLogger("devstral_proxy").info("line %d %s", number, "x" * 1000)
stop()
print("ended", flush=True)
"""


def test_a_process_whose_standard_error_nobody_reads_goes_on_and_ends(tmp_path: Path) -> None:
    path = os.pathsep.join(filter(None, [str(Path(log.__file__).parents[2]), os.environ.get("PYTHONPATH", "")]))
    process = subprocess.Popen(
        [sys.executable, "-c", STUCK],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert process.stdout is not None
    assert process.stderr is not None
    with process.stdout, process.stderr:
        assert process.stdout.read() == b"ended\n"
        assert process.wait(60) == 0
        assert b"line 0 xxx" in process.stderr.read()


def test_a_standard_error_that_does_not_block_loses_lines_and_does_not_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("devstral_proxy.log.files.PATIENCE", 0.01)
    ours, theirs = os.pipe()
    os.set_blocking(theirs, False)
    with os.fdopen(ours, "rb") as reader, os.fdopen(theirs, "w") as stream:
        handler = StandardError(stream)
        for _ in range(3):
            handler.handle(record_of("x" * 50_000))
        assert reader.read1(10) == b"xxxxxxxxxx"


def test_the_file_is_its_owner_s(tmp_path: Path) -> None:
    path = tmp_path / "proxy.log"
    lines(path, log_file_bytes=1024)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_two_processes_may_share_a_file(tmp_path: Path) -> None:
    path = tmp_path / "proxy.log"
    one, two = LogFile(path, 100, 9), LogFile(path, 100, 9)
    for number in range(20):
        for handler in (one, two):
            handler.handle(record_of(f"{number:019d}"))  # five of them fill a file
    one.close()
    two.close()
    written = [file.read_text().splitlines() for file in tmp_path.iterdir()]
    assert sorted(map(len, written)) == [5] * 8
    assert sorted(line for lines in written for line in lines) == sorted(f"{n:019d}" for n in range(20) for _ in "ab")


def test_a_file_that_was_moved_away_is_made_again(tmp_path: Path) -> None:
    path = tmp_path / "proxy.log"
    handler = LogFile(path, 1000, 1)
    handler.handle(record_of("before"))
    path.rename(tmp_path / "moved")
    handler.handle(record_of("after"))
    handler.close()
    assert path.read_text() == "after\n"


def test_libraries_and_warnings_go_the_same_way(tmp_path: Path) -> None:
    path = tmp_path / "proxy.log"
    own = logging.getLogger("uvicorn.error")
    own.addHandler(logging.NullHandler())
    own.propagate = False
    own.setLevel(logging.NOTSET)
    writer = log.start(load(log_file=path, log_format="json"))
    own.warning("of uvicorn")
    logging.getLogger("some.library").error("of a library")
    logging.getLogger("asyncio").error(
        "Task exception was never retrieved\nfuture: <Task ValueError('secret content')>"
    )
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("of python", stacklevel=1)
    writer.stop()
    entries = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(entry["logger"], entry["message"].splitlines()[0]) for entry in entries[:3]] == [
        ("uvicorn.error", "of uvicorn"),
        ("some.library", "of a library"),
        ("asyncio", "Task exception was never retrieved"),
    ]
    assert entries[3]["logger"] == "py.warnings"
    assert "of python" in entries[3]["message"]
    assert "secret content" not in path.read_text()


SECRET = 'sk-"tr\\icky"/key'


def test_secrets_are_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20otel-secret,x=y")
    path = tmp_path / "proxy.log"
    for form in ("text", "json"):
        writer = log.start(load(log_file=path, log_format=form, vllm_api_key=SECRET), ["of-another-file"])
        ours = logging.getLogger("devstral_proxy.test")
        ours.info("a %s b", SECRET, extra={"fields": {"model": f"x {SECRET}", SECRET: [{"deep": SECRET}]}})
        ours.info("otel-secret of-another-file %s", "sk-%22tr%5Cicky%22%2Fkey")
        writer.stop()
    text = path.read_text()
    assert text.count(MARK) == 14
    for part in ("tr\\", "tr%5C", "otel-secret", "another"):
        assert part not in text


def test_secrets_are_found_in_settings(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("bob:sk-of-bob\n")
    settings_with_file = load(vllm_api_key="sk-of-alice", api_keys_file=str(tmp_path / "keys"))
    found = secrets_of(
        load(
            vllm_api_key="one-secret",
            api_keys="alice:sk-of-alice",
            api_keys_file=str(tmp_path / "keys"),
            redis_url="redis://:of-redis@host/0",
            upstreams='{"m": {"servers": [{"url": "http://gpu:8000", "api_key": "of-gpu"}]}}',
        )
    )
    (tmp_path / "keys").unlink()  # as when it is replaced while the log starts
    assert secrets_of(settings_with_file) == ["sk-of-alice"]
    assert {"one-secret", "sk-of-alice", "sk-of-bob", "of-redis", "of-gpu"} <= set(found)


@pytest.mark.parametrize(
    ("url", "secrets"),
    [
        ("host=db user=proxy password=of-store dbname=x", {"of-store"}),
        ("password = 'of \\\\ the \\'store\\'' host=db", {"of \\\\ the \\'store\\'", "of \\ the 'store'"}),
        ("host=db password=of\\\\store sslpassword=of-key", {"of\\\\store", "of\\store", "of-key"}),
        ("postgresql://db/x?user=proxy&password=of%2Fstore", {"of%2Fstore", "of/store"}),
    ],
)
def test_passwords_of_a_database(url: str, secrets: set[str]) -> None:
    found = set(secrets_of(load(responses_store_url=url)))
    assert found == secrets | {url}
    assert MARK in Redact(found).clean(f"FATAL: {min(secrets)} is wrong")


def test_what_holds_no_secret_is_left_alone() -> None:
    redact = Redact(["longer-secret-2", "longer-secret", "shy"])
    assert redact.clean({"a": 1, "b": None, "c": "shy"}) == {"a": 1, "b": None, "c": "shy"}
    assert redact.clean("longer-secret-2 longer-secret") == f"{MARK} {MARK}"


def test_secrets_are_found_in_collections_and_urls() -> None:
    class More(Settings):
        keys: dict[str, SecretStr] = {"a": SecretStr("key-of-a")}
        other_url: str = "redis://:pass%2Fword@host/0"
        servers: tuple[str, ...] = ("http://no-password", "http://[broken")
        store: SecretStr = SecretStr("postgresql://user:store-password@host/db")

    assert set(secrets_of(More.model_validate({}))) == {
        "key-of-a",
        "pass%2Fword",
        "pass/word",
        "postgresql://user:store-password@host/db",
        "store-password",
    }
