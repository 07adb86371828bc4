"""Logging for the whole process: `start(settings)` at its beginning, `stop()` of what it returns at its end."""

from devstral_proxy.log.writer import JsonFormatter, QueueHandler, TextFormatter, Writer, safe_traceback, start

__all__ = ["JsonFormatter", "QueueHandler", "TextFormatter", "Writer", "safe_traceback", "start"]
