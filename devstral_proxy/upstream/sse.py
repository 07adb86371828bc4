"""Server-sent events, sans-IO: bytes in, events out, whatever the byte boundaries.

    parser = Parser()
    for chunk in body:
        for event in parser.feed(chunk):
            ...
    for event in parser.eof():
        ...

Lines end with LF, CR LF or CR, and with nothing else: a U+2028 inside the data is data. Comments, `id` and `retry` are
left out. An event has two forms: `data`, its payload, and `raw`, the bytes to send on, always in the one form that
strict readers take (`data: ` with the space, LF).
"""

from __future__ import annotations

from devstral_proxy.errors import UpstreamProtocolError

KEEPALIVE = b": keepalive\n\n"
"""A comment that keeps a silent stream open. Never a bare `:`: some readers split every line at `": "` (F82)."""

DEFAULT_MAX_EVENT_BYTES = 16 * 1024 * 1024

_BOM = b"\xef\xbb\xbf"
_CR, _LF = b"\r\n"


class EventTooLarge(UpstreamProtocolError):
    """One event is over the limit."""

    default_code = "upstream_event_too_large"


class Event:
    """One event. `data`: its data lines joined by LF; `raw`: its bytes on the wire, blank line included;
    `type`: the event's name, empty when it has none."""

    __slots__ = ("data", "raw", "type")

    def __init__(self, data: bytes, raw: bytes, type: bytes = b"") -> None:
        self.data = data
        self.raw = raw
        self.type = type

    def __repr__(self) -> str:
        return f"Event(data={self.data!r}, type={self.type!r})"


def encode(data: bytes, type: bytes = b"") -> Event:
    """An event with this payload, written as every reader takes it."""
    if b"\n" in data:
        lines = b"".join(b"data: %b\n" % line for line in data.split(b"\n"))
    else:
        lines = b"data: %b\n" % data
    return Event(data, (b"event: %b\n%b\n" % (type, lines)) if type else lines + b"\n", type)


DONE = encode(b"[DONE]")


class Parser:
    """An incremental parser of one response's body. `idle`: nothing has begun that is not whole.

    `feed` and `eof` raise EventTooLarge when the lines of one event hold more than `max_event_bytes`; events that were
    complete before it are returned first, and the error is raised by the call after.
    """

    def __init__(self, max_event_bytes: int = DEFAULT_MAX_EVENT_BYTES) -> None:
        self.idle = True
        self._max = max_event_bytes
        self._line = bytearray()  # the line that has begun
        self._data: list[bytes] = []  # the data lines of the event that has begun
        self._type = b""
        self._size = 0  # of all finished lines of the event that has begun
        self._after_cr = False  # a CR ended the last line: a LF now belongs to it
        self._started = False  # the first line was read (only there a byte order mark is dropped)
        self._failed = False  # an event was too large

    def feed(self, chunk: bytes) -> list[Event]:
        """The events that this piece of the body completes."""
        if self.idle and self._is_one(chunk):
            self._started = True
            return [Event(chunk[6:-2], chunk)]
        return self._guarded(chunk)

    def eof(self) -> list[Event]:
        """The last event, when the body ended without its blank line."""
        self._after_cr = False
        return self._guarded(b"\n\n" if self._line else b"\n")

    def _is_one(self, chunk: bytes) -> bool:
        """One whole event of one line in the form that is sent on: so most chunks are."""
        end = len(chunk) - 2
        return (
            chunk[:6] == b"data: "
            and chunk.find(b"\n") == end
            and chunk[-1] == _LF
            and _CR not in chunk
            and end <= self._max
        )

    def _guarded(self, chunk: bytes) -> list[Event]:
        if self._failed:
            raise self._too_large()
        events: list[Event] = []
        try:
            self._read(chunk, events)
        except EventTooLarge:
            self._failed = True
            if not events:
                raise
        self.idle = not (self._size or self._line or self._after_cr or self._failed)
        return events

    def _read(self, chunk: bytes, events: list[Event]) -> None:
        if self._after_cr or b"\r" in chunk:
            chunk = self._to_lf(chunk)
        if not (self._size or self._line) and (end := chunk.rfind(b"\n\n")) >= 0:
            # Nothing has begun: whole events can be cut out of the chunk without looking at their lines.
            for piece in chunk[:end].split(b"\n\n"):
                if piece.startswith(b"data: ") and b"\n" not in piece and len(piece) <= self._max:
                    self._started = True
                    events.append(Event(piece[6:], piece + b"\n\n"))
                else:
                    self._lines(piece + b"\n\n", events)
            chunk = chunk[end + 2 :]
        if chunk:
            self._lines(chunk, events)

    def _to_lf(self, chunk: bytes) -> bytes:
        if self._after_cr and chunk.startswith(b"\n"):
            chunk = chunk[1:]
            self._after_cr = False
        if chunk:
            self._after_cr = chunk.endswith(b"\r")
        return chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n")

    def _lines(self, text: bytes, events: list[Event]) -> None:
        """Read lines that end with LF; the last one may be unfinished."""
        position = 0
        while (end := text.find(b"\n", position)) >= 0:
            if self._line:
                self._line += text[position:end]
                line = bytes(self._line)
                self._line.clear()
            else:
                line = text[position:end]
            position = end + 1
            self._size += len(line)
            if self._size > self._max:
                raise self._too_large()
            if line:
                self._field(line)
            else:
                self._dispatch(events)
        self._line += text[position:]
        if self._size + len(self._line) > self._max:
            raise self._too_large()

    def _too_large(self) -> EventTooLarge:
        self._line.clear()
        self._data.clear()
        return EventTooLarge(f"vLLM sent one stream event of more than {self._max} bytes")

    def _field(self, line: bytes) -> None:
        if not self._started:
            self._started = True
            line = line.removeprefix(_BOM)
        name, _, value = line.partition(b":")
        if name == b"data":
            self._data.append(value.removeprefix(b" "))
        elif name == b"event":
            self._type = value.removeprefix(b" ")

    def _dispatch(self, events: list[Event]) -> None:
        if self._data:
            events.append(encode(b"\n".join(self._data), self._type))
            self._data.clear()
        self._type = b""
        self._size = 0
