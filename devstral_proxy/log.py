"""Logging: text or JSON lines, written by a thread of their own, that no content can forge or fill.

The event loop only puts a record into a bounded queue. When the writer does not keep up (a full disk, a blocked
terminal), records are dropped rather than requests delayed.
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
from typing import Any

from devstral_proxy.config import Settings

QUEUE_SIZE = 10_000
# CR, LF and every other control character, and the line separators of Unicode: none may end or restyle a line.
_ESCAPES = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160))} | {
    10: "\\n",
    13: "\\r",
    9: "\\t",
    0x2028: "\\u2028",
    0x2029: "\\u2029",
}


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
    """Hands records to the writer; drops them when it is too far behind."""

    def prepare(self, record: logging.LogRecord) -> logging.LogRecord:
        """What must be read now: the message's arguments and the exception."""
        record.msg = record.getMessage()
        record.args = None
        if record.exc_info and record.exc_info[1] is not None:
            record.__dict__["frames"] = safe_traceback(record.exc_info[1])
        record.exc_info = record.exc_text = record.stack_info = None
        return record

    def enqueue(self, record: logging.LogRecord) -> None:
        """Never waits."""
        with contextlib.suppress(queue.Full):
            self.queue.put_nowait(record)


class Writer(logging.handlers.QueueListener):
    """The thread that writes the records."""

    def enqueue_sentinel(self) -> None:
        """The thread's end stands in the queue like a record; here a full queue is waited for."""
        records: Any = self.queue
        records.put(None)

    def stop(self) -> None:
        """Write what is still in the queue, and close the files."""
        super().stop()
        for handler in self.handlers:
            handler.close()


class TextFormatter(logging.Formatter):
    """`time level logger: message key=value …`, one line each."""

    def format(self, record: logging.LogRecord) -> str:
        """One line; the frames of a traceback are lines of their own, indented."""
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(record.created))
        fields = " ".join(f"{name}={_text(value)}" for name, value in _fields(record).items() if value not in ("", {}))
        message = record.getMessage()
        says = " ".join(part for part in (message, fields) if part).translate(_ESCAPES)
        line = f"{moment}.{int(record.msecs):03d} {record.levelname.lower():8}{record.name}: {says}"
        return "\n    ".join([line, *(frame.translate(_ESCAPES) for frame in record.__dict__.get("frames", ()))])


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


def start(settings: Settings) -> Writer:
    """Set logging up for the process. The caller stops what it gets, so that the last lines are written."""
    formatter = JsonFormatter() if settings.log_format == "json" else TextFormatter()
    handlers: list[logging.Handler] = [logging.StreamHandler(sys.stderr)]
    if settings.log_file is not None:
        settings.log_file.parent.mkdir(parents=True, exist_ok=True)
        handlers.append(
            logging.handlers.RotatingFileHandler(
                settings.log_file,
                maxBytes=settings.log_file_bytes,
                backupCount=settings.log_file_count,
                encoding="utf-8",
            )
        )
    for handler in handlers:
        handler.setFormatter(formatter)
    records: queue.Queue[logging.LogRecord] = queue.Queue(QUEUE_SIZE)
    writer = Writer(records, *handlers)
    root = logging.getLogger()
    root.handlers = [QueueHandler(records)]
    root.setLevel("WARNING")
    level = settings.effective_log_level.upper()
    logging.getLogger("devstral_proxy").setLevel(level)
    if level == "DEBUG":
        logging.getLogger("uvicorn").setLevel("INFO")
    writer.start()
    return writer


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    fields: dict[str, Any] = record.__dict__.get("fields", {})
    return fields


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return ",".join(f"{name}:{count}" for name, count in value.items())
    text = str(value)
    return json.dumps(text, ensure_ascii=False) if " " in text or '"' in text or "=" in text else text
