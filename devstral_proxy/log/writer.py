"""Logging: text or JSON lines, written by a thread of their own, that no content can forge or fill.

The event loop only puts a record into a bounded queue. When the writer does not keep up (a full disk, a blocked
terminal), records are dropped and counted rather than requests delayed.
"""

from __future__ import annotations

import contextlib
import json
import logging
import logging.handlers
import queue
import sys
import time
import traceback
from collections.abc import Iterable
from typing import Any

from devstral_proxy.config import Settings
from devstral_proxy.log.files import LogFile, StandardError
from devstral_proxy.log.secrets import Redact, secrets_of

QUEUE_SIZE = 10_000
STOP_TIMEOUT = 3.0
"""Seconds that the writer has at the end; a terminal that takes nothing must not keep the process."""
# Loggers of libraries that bring, or may be given, handlers of their own: their lines go where all go.
LIBRARIES = ("uvicorn", "uvicorn.error", "uvicorn.access", "asyncio", "httpx", "opentelemetry", "py.warnings")


def safe_traceback(error: BaseException) -> list[str]:
    """Where an exception came from, a line a frame, and the types of its chain; no message, which may hold content."""
    lines = [f"{frame.filename}:{frame.lineno} in {frame.name}" for frame in traceback.extract_tb(error.__traceback__)]
    seen: BaseException | None = error
    types: list[str] = []
    while seen is not None and len(types) < 10:
        types.append(f"{type(seen).__module__}.{type(seen).__qualname__}")
        seen = seen.__cause__ or seen.__context__
    return [*lines, " from ".join(types)]


class QueueHandler(logging.handlers.QueueHandler):
    """Hands records to the writer; drops them when it is too far behind, and says so when it is back."""

    dropped = 0
    """Records that were lost since the last that got through."""

    def prepare(self, record: logging.LogRecord) -> logging.LogRecord:
        """What must be read now: the message's arguments and the exception."""
        record.msg = record.getMessage()
        if record.name == "asyncio":
            # The lines after the first show tasks, futures and with them texts of exceptions, which may hold content.
            record.msg = record.msg.partition("\n")[0]
        record.args = None
        if record.exc_info and record.exc_info[1] is not None:
            record.__dict__["frames"] = safe_traceback(record.exc_info[1])
        record.exc_info = record.exc_text = record.stack_info = None
        return record

    def enqueue(self, record: logging.LogRecord) -> None:
        """Never waits."""
        try:
            self.queue.put_nowait(record)
        except queue.Full:
            self.dropped += 1
            return
        if self.dropped:
            lost, self.dropped = self.dropped, 0
            says = f"{lost} log lines were dropped: the log could not be written fast enough"
            try:
                self.queue.put_nowait(logging.LogRecord("devstral_proxy.log", logging.WARNING, "", 0, says, None, None))
            except queue.Full:
                self.dropped += lost


class Writer(logging.handlers.QueueListener):
    """The thread that writes the records."""

    def enqueue_sentinel(self) -> None:
        """The thread's end stands in the queue like a record; here a full queue is waited for, for a while."""
        records: Any = self.queue
        with contextlib.suppress(queue.Full):
            records.put(None, timeout=STOP_TIMEOUT)

    def stop(self) -> None:
        """Write what is still in the queue, and close the files. A writer that is stuck is left behind."""
        thread = getattr(self, "_thread", None)
        if thread is None:
            return
        logging.captureWarnings(False)
        self.enqueue_sentinel()
        thread.join(STOP_TIMEOUT)
        self._thread = None
        if not thread.is_alive():
            for handler in self.handlers:
                handler.close()


class TextFormatter(logging.Formatter):
    """`time level logger: message key=value …`, one line each."""

    def format(self, record: logging.LogRecord) -> str:
        """One line; the frames of a traceback are lines of their own, indented."""
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(record.created))
        fields = " ".join(
            f"{name}={_text(value)}" for name, value in _fields(record).items() if value not in ("", None, {}, [])
        )
        message = record.getMessage()
        says = printable(" ".join(part for part in (message, fields) if part))
        line = f"{moment}.{int(record.msecs):03d} {record.levelname.lower() + ' ':8}{record.name}: {says}"
        return "\n    ".join([line, *(printable(frame) for frame in record.__dict__.get("frames", ()))])


class JsonFormatter(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        entry: dict[str, Any] = {
            "time": f"{moment}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
        }
        if message := record.getMessage():
            entry["message"] = message
        entry |= _fields(record)
        if frames := record.__dict__.get("frames"):
            entry["traceback"] = frames
        return json.dumps(entry, default=str)


def start(settings: Settings, secrets: Iterable[str] = ()) -> Writer:
    """Set logging up for the process. The caller stops what it gets, so that the last lines are written.

    `secrets` are written as [secret] wherever they would appear, as are those of the settings. Raises OSError when
    LOG_FILE cannot be written.
    """
    formatter = JsonFormatter() if settings.log_format == "json" else TextFormatter()
    handlers: list[logging.Handler] = [StandardError(sys.stderr)]
    if settings.log_file is not None:
        settings.log_file.parent.mkdir(parents=True, exist_ok=True)
        handlers.append(LogFile(settings.log_file, settings.log_file_bytes, settings.log_file_count))
    redact = Redact([*secrets_of(settings), *secrets])
    for handler in handlers:
        handler.setFormatter(formatter)
        handler.addFilter(redact)
    records: queue.Queue[logging.LogRecord] = queue.Queue(QUEUE_SIZE)
    writer = Writer(records, *handlers)
    root = logging.getLogger()
    root.handlers = [QueueHandler(records)]
    root.setLevel("WARNING")
    for name in LIBRARIES:
        library = logging.getLogger(name)
        library.handlers, library.propagate = [], True
    logging.captureWarnings(True)
    # A line that cannot be written is lost: its text on standard error, as logging would have it, helps nobody.
    logging.raiseExceptions = False
    level = settings.effective_log_level.upper()
    logging.getLogger("devstral_proxy").setLevel(level)
    logging.getLogger("uvicorn").setLevel("INFO" if level == "DEBUG" else "NOTSET")
    writer.start()
    return writer


def printable(text: str) -> str:
    """The text with every character escaped that could end a line, restyle a terminal or hide: control characters,
    line separators, marks of writing direction, lone surrogates."""
    if text.isprintable():
        return text
    return "".join([one if one.isprintable() else one.encode("unicode_escape").decode("ascii") for one in text])


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    fields: dict[str, Any] = record.__dict__.get("fields", {})
    return fields


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return ",".join(f"{name}:{count}" for name, count in value.items())
    if isinstance(value, list):
        return ",".join(map(str, value))
    if isinstance(value, bool):
        return "true" if value else "false"
    text = str(value)
    return json.dumps(text, ensure_ascii=False) if " " in text or '"' in text or "=" in text else text
