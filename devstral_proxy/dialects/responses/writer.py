"""The answer as output items, and as the events that tell them.

One writer makes both: a stream's events come out as it is fed, a whole answer is fed in one go and its events are
forgotten. So the two cannot differ.

An item is done when the next one begins. Only a call may still be completed at the end of the answer, when another has
begun since: one whose arguments are no whole object stays open until then, and a custom tool's until its input came.

A call that the end of the answer cut is never told to be done: Codex 0.169.0 runs whatever is, be its status
`incomplete`, and half a command is not the command. It stands in the response that ends the stream.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import orjson

from devstral_proxy.dialects.responses.ids import Ids
from devstral_proxy.dialects.responses.reasoning import sealed
from devstral_proxy.dialects.responses.tools import Tools
from devstral_proxy.upstream import sse

Event = sse.Event

# Kind of item -> the event that adds to it, the members that place the addition, those that follow it.
_DELTAS: Final[dict[str, tuple[bytes, bytes, bytes]]] = {
    "message": (b"response.output_text.delta", b'"content_index":0,', b',"logprobs":[]'),
    "reasoning": (b"response.reasoning_summary_text.delta", b'"summary_index":0,', b""),
    "function_call": (b"response.function_call_arguments.delta", b"", b""),
    "custom_tool_call": (b"response.custom_tool_call_input.delta", b"", b""),
}
_CALLS: Final = ("function_call", "custom_tool_call")
_INCOMPLETE: Final = {"length": "max_output_tokens", "content_filter": "content_filter"}


class _Open:
    """An item that is not done. `head`, `tail`: its delta events but for the text and the number."""

    __slots__ = ("head", "index", "item", "kind", "line", "logprobs", "pieces", "tail", "type")

    def __init__(self, item: dict[str, Any], index: int) -> None:
        self.item = item
        self.index = index
        self.kind: str = item["type"]
        self.pieces: list[str] = []
        self.logprobs: list[dict[str, Any]] = []
        self.type, place, after = _DELTAS[self.kind]
        id = item["id"].encode()
        self.line = b"event: %b\ndata: " % self.type
        self.head = b'{"type":"%b","item_id":"%b","output_index":%d,%b"delta":' % (self.type, id, index, place)
        self.tail = after + b',"sequence_number":'

    @property
    def at(self) -> dict[str, Any]:
        """Where the item stands."""
        return {"item_id": self.item["id"], "output_index": self.index}


class Writer:
    """One answer. `output`: its items, those that are done and those that are not.

    Each method adds the events of what it is told to `out`. `clock` tells when the response was completed.
    """

    def __init__(
        self,
        head: dict[str, Any],
        ids: Ids,
        tools: Tools,
        encrypted: bool,
        clock: Callable[[], int] | None = None,
    ) -> None:
        self._head = head
        self._ids = ids
        self._tools = tools
        self._encrypted = encrypted
        self._clock = clock
        self._number = 0
        self._current: _Open | None = None  # a message or reasoning
        self._calls: dict[int, _Open] = {}  # by chat's index
        self.output: list[dict[str, Any]] = []
        self.result: dict[str, Any] | None = None
        """The response, once it has ended."""

    # -- what the answer says

    def opening(self) -> list[Event]:
        """The events before the first item."""
        response = orjson.dumps(self._head)
        events = []
        for kind in (b"response.created", b"response.in_progress"):
            data = b'{"type":"%b","sequence_number":%d,"response":%b}' % (kind, self._next(), response)
            events.append(sse.encode(data, kind))
        return events

    def text(self, text: str, logprobs: list[Any] | None, out: list[Event]) -> None:
        """A piece of the text."""
        current = self._current
        if current is None or current.kind != "message":
            current = self._open_message(out)
        current.pieces.append(text)
        if logprobs:
            current.logprobs += map(_with_bytes, logprobs)
            told = [_without_bytes(entry) for entry in current.logprobs[-len(logprobs) :]]
            more = {**current.at, "content_index": 0, "delta": text, "logprobs": told}
            out.append(self._event("response.output_text.delta", more))
        else:
            out.append(self._delta(current, text))

    def reasoning(self, text: str, out: list[Event]) -> None:
        """A piece of the thought."""
        current = self._current
        if current is None or current.kind != "reasoning":
            current = self._open({"type": "reasoning", "summary": []}, out)
            self._current = current
            part = {"type": "summary_text", "text": ""}
            out.append(self._event("response.reasoning_summary_part.added", {**_summary(current), "part": part}))
        current.pieces.append(text)
        out.append(self._delta(current, text))

    def call(self, entry: dict[str, Any], index: int, out: list[Event]) -> None:
        """One entry of chat's `tool_calls`: a call begins, or goes on."""
        custom = entry.get("custom")
        inner: dict[str, Any] = custom or entry.get("function") or {}
        if "id" in entry:
            space, name = self._tools.own(inner["name"])
            item = {"type": "function_call", "arguments": ""} if custom is None else _CUSTOM_CALL
            item = {**item, "status": "in_progress", "call_id": entry["id"], "name": name}
            if space:
                item["namespace"] = space
            self._calls[index] = self._open(item, out)
        text = inner.get("arguments") if custom is None else inner.get("input")
        call = self._calls.get(index)
        if text and call is not None:
            call.pieces.append(text)
            out.append(self._delta(call, text))

    # -- how it ends

    def finish(self, reason: str, usage: dict[str, Any] | None, out: list[Event]) -> dict[str, Any]:
        """The answer has ended for `reason`, one of chat's finish reasons; chat's `usage`. Returns the response."""
        why = _INCOMPLETE.get(reason)
        last = len(self.output) - 1
        if last < 0:
            self._open_message(out)  # an answer without a word is an empty message, not none
            last = 0
        for open_item in self._undone():
            if why is None or open_item.index != last:
                self._close(open_item, out)
            elif open_item.kind in _CALLS:
                self._fill(open_item, "incomplete")
            else:
                self._close(open_item, out, "incomplete")
        if why:
            return self._end("incomplete", out, incomplete_details={"reason": why}, usage=_usage(usage))
        at = self._clock() if self._clock is not None else None
        return self._end("completed", out, completed_at=at, usage=_usage(usage))

    def fail(self, code: str, message: str, out: list[Event]) -> None:
        """The answer has broken off."""
        for open_item in self._undone():
            self._fill(open_item, "incomplete")
        self._end("failed", out, error={"code": code, "message": message})

    def _undone(self) -> list[_Open]:
        """The open items, which are open no more."""
        undone = [self._current] if self._current is not None else []
        undone += self._calls.values()
        self._current = None
        self._calls.clear()
        return sorted(undone, key=lambda open_item: open_item.index)

    def _end(self, status: str, out: list[Event], **more: Any) -> dict[str, Any]:
        result = self.result = {**self._head, "status": status, "output": self.output, **more}
        out.append(self._event(f"response.{status}", {"response": result}))
        return result

    # -- items

    def _open_message(self, out: list[Event]) -> _Open:
        item = {"type": "message", "status": "in_progress", "role": "assistant", "content": []}
        current = self._current = self._open(item, out)
        part = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
        out.append(self._event("response.content_part.added", {**current.at, "content_index": 0, "part": part}))
        return current

    def _open(self, item: dict[str, Any], out: list[Event]) -> _Open:
        """Begin an item; the ones before it are done."""
        if self._current is not None:
            self._close(self._current, out)
            self._current = None
        for index, call in list(self._calls.items()):
            if call.pieces and (call.kind == "custom_tool_call" or _is_object("".join(call.pieces))):
                self._close(call, out)
                del self._calls[index]
        number = len(self.output)
        item = {"id": self._ids.output(item["type"], number), **item}
        self.output.append(item)
        out.append(self._event("response.output_item.added", {"output_index": number, "item": item}))
        return _Open(item, number)

    def _close(self, done: _Open, out: list[Event], status: str = "completed") -> None:
        """End an item: what it holds is told whole."""
        text = self._fill(done, status)
        item, at = done.item, done.at
        if done.kind == "message":
            part = item["content"][0]
            at["content_index"] = 0
            told = [_without_bytes(entry) for entry in done.logprobs]
            out.append(self._event("response.output_text.done", {**at, "text": text, "logprobs": told}))
            out.append(self._event("response.content_part.done", {**at, "part": part}))
        elif done.kind == "reasoning":
            at = _summary(done)
            out.append(self._event("response.reasoning_summary_text.done", {**at, "text": text}))
            out.append(self._event("response.reasoning_summary_part.done", {**at, "part": item["summary"][0]}))
        elif done.kind == "function_call":
            out.append(self._event("response.function_call_arguments.done", {**at, "arguments": text}))
        else:
            out.append(self._event("response.custom_tool_call_input.done", {**at, "input": text}))
        out.append(self._event("response.output_item.done", {"output_index": done.index, "item": item}))

    def _fill(self, done: _Open, status: str) -> str:
        """Write what was said into the item."""
        text = "".join(done.pieces)
        item = done.item
        if done.kind == "message":
            item["content"] = [{"type": "output_text", "text": text, "annotations": [], "logprobs": done.logprobs}]
        elif done.kind == "reasoning":
            item["summary"] = [{"type": "summary_text", "text": text}]
            if self._encrypted:
                item["encrypted_content"] = sealed(text)
        else:
            item["arguments" if done.kind == "function_call" else "input"] = text
        if "status" in item:
            item["status"] = status
        return text

    # -- events

    def _next(self) -> int:
        number = self._number
        self._number = number + 1
        return number

    def _event(self, kind: str, members: dict[str, Any]) -> Event:
        return sse.encode(orjson.dumps({"type": kind, **members, "sequence_number": self._next()}), kind.encode())

    def _delta(self, open_item: _Open, text: str) -> Event:
        """The event of every chunk: only the text is written anew."""
        data = b"%b%b%b%d}" % (open_item.head, orjson.dumps(text), open_item.tail, self._next())
        return Event(data, b"%b%b\n\n" % (open_item.line, data), open_item.type)


_CUSTOM_CALL: Final = {"type": "custom_tool_call", "input": ""}


def _summary(open_item: _Open) -> dict[str, Any]:
    return {**open_item.at, "summary_index": 0}


def _is_object(text: str) -> bool:
    try:
        return isinstance(orjson.loads(text), dict)
    except orjson.JSONDecodeError:
        return False


def _usage(usage: dict[str, Any] | None) -> dict[str, Any] | None:
    """Chat's usage in this API's words; what it does not tell counts as none."""
    if usage is None:
        return None
    read = usage.get("prompt_tokens") or 0
    written = usage.get("completion_tokens") or 0
    cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
    thought = (usage.get("completion_tokens_details") or {}).get("reasoning_tokens") or 0
    return {
        "input_tokens": read,
        "input_tokens_details": {"cached_tokens": cached, "cache_write_tokens": 0},
        "output_tokens": written,
        "output_tokens_details": {"reasoning_tokens": thought},
        "total_tokens": usage.get("total_tokens") or read + written,
    }


def _with_bytes(entry: dict[str, Any]) -> dict[str, Any]:
    """Chat's log probability of a token as an output item has it."""
    top = [_bytes_filled(other) for other in entry.get("top_logprobs") or ()]
    return {**_bytes_filled(entry), "top_logprobs": top}


def _bytes_filled(entry: dict[str, Any]) -> dict[str, Any]:
    given = entry.get("bytes")
    return {
        "token": entry["token"],
        "logprob": entry["logprob"],
        "bytes": list(entry["token"].encode()) if given is None else given,
    }


def _without_bytes(entry: dict[str, Any]) -> dict[str, Any]:
    """The same as an event has it."""
    top = [{"token": other["token"], "logprob": other["logprob"]} for other in entry["top_logprobs"]]
    return {"token": entry["token"], "logprob": entry["logprob"], "top_logprobs": top}
