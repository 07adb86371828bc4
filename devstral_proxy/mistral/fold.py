"""Between the two forms of an answer: a repaired stream becomes a chat.completion, and back."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import orjson

from devstral_proxy.errors import UpstreamProtocolError, UpstreamRefused, UpstreamTimeout
from devstral_proxy.upstream.sse import DONE, Event, encode

_IDENTITY: Final = ("id", "created", "model", "service_tier", "system_fingerprint")
_OF_CHUNK: Final = ("index", "delta", "logprobs", "token_ids")


class Message:
    """The sum of one choice's repaired deltas."""

    def __init__(self) -> None:
        self._pieces: dict[str, list[str]] = {}
        self._calls: list[dict[str, Any]] = []
        self._texts: list[list[str]] = []

    def add(self, delta: dict[str, Any]) -> None:
        """One delta."""
        for key, value in delta.items():
            if isinstance(value, str) and key != "role":
                self._pieces.setdefault(key, []).append(value)
        for entry in delta.get("tool_calls") or ():
            inner: dict[str, Any] = entry.get("function") or entry.get("custom") or {}
            if "id" in entry:
                self._calls.append(entry)
                self._texts.append([])
            self._texts[entry["index"]].append(inner.get("arguments") or inner.get("input") or "")

    def _text(self, key: str) -> str:
        return "".join(self._pieces.get(key, ()))

    @property
    def content(self) -> str:
        """All text."""
        return self._text("content")

    @property
    def reasoning(self) -> str:
        """All reasoning."""
        return self._text("reasoning_content")

    @property
    def calls(self) -> list[dict[str, Any]]:
        """The calls, as a message has them."""
        whole = []
        for entry, texts in zip(self._calls, self._texts, strict=True):
            kind, text = ("custom", "input") if entry["type"] == "custom" else ("function", "arguments")
            inner = {"name": entry[kind]["name"], text: "".join(texts)}
            whole.append({"id": entry["id"], "type": entry["type"], kind: inner})
        return whole

    def whole(self) -> dict[str, Any]:
        """The message; what there is none of is left out, but for `content`."""
        message: dict[str, Any] = {"role": "assistant", "content": self.content}
        calls = self.calls
        if calls and not self.content:
            message["content"] = None
        message.update({key: self._text(key) for key in self._pieces if key != "content"})
        if calls:
            message["tool_calls"] = calls
        return message


def fold(events: Iterable[Event]) -> dict[str, Any]:
    """The chat.completion that a repaired stream tells.

    Raises UpstreamRefused with the error that an error event tells, UpstreamProtocolError when there is nothing.
    """
    body: dict[str, Any] = {}
    messages: dict[int, Message] = {}
    rest: dict[int, dict[str, Any]] = {}
    logprobs: dict[int, list[Any]] = {}
    usage = None
    for event in events:
        if event.data == b"[DONE]":
            break
        chunk = orjson.loads(event.data)
        if "error" in chunk:
            raise _refused(chunk)
        body.update({key: chunk[key] for key in _IDENTITY if chunk.get(key) is not None})
        usage = chunk.get("usage") or usage
        for piece in chunk["choices"]:
            index = piece["index"]
            messages.setdefault(index, Message()).add(piece["delta"])
            logprobs.setdefault(index, []).extend((piece.get("logprobs") or {}).get("content") or ())
            rest[index] = {key: value for key, value in piece.items() if key not in _OF_CHUNK}
    if not messages:
        raise UpstreamProtocolError("vLLM's stream ended without an answer")
    body["object"] = "chat.completion"
    body["choices"] = [
        {
            "index": index,
            "message": messages[index].whole(),
            "logprobs": {"content": logprobs[index]} if logprobs[index] else None,
            **rest[index],
        }
        for index in sorted(messages)
    ]
    if usage is not None:
        body["usage"] = usage
    return body


def unfold(body: dict[str, Any], include_usage: bool) -> list[Event]:
    """The stream that tells a repaired chat.completion, `[DONE]` included."""
    head: dict[str, Any] = {"id": "chatcmpl-0", "created": 0, "model": ""}
    head.update({key: body[key] for key in _IDENTITY if body.get(key) is not None})
    head["object"] = "chat.completion.chunk"
    events = []

    def chunk(index: int, delta: dict[str, Any], logprobs: Any = None, finish: str | None = None) -> None:
        choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish}
        events.append(encode(orjson.dumps({**head, "choices": [choice]})))

    for number, choice in enumerate(body["choices"]):
        index = choice.get("index", number)
        message = choice["message"]
        first = {"role": "assistant", "content": ""}
        if message.get("refusal") is not None:
            first["refusal"] = message["refusal"]
        chunk(index, first)
        if thought := message.get("reasoning_content"):
            chunk(index, {"reasoning_content": thought, "reasoning": thought})
        logprobs = choice.get("logprobs")
        if message.get("content"):
            chunk(index, {"content": message["content"]}, logprobs)
            logprobs = None
        for place, call in enumerate(message.get("tool_calls") or ()):
            chunk(index, {"tool_calls": [{"index": place, **call}]}, logprobs)
            logprobs = None
        chunk(index, {}, logprobs, choice["finish_reason"])
    if include_usage and body.get("usage") is not None:
        events.append(encode(orjson.dumps({**head, "choices": [], "usage": body["usage"]})))
    return [*events, DONE]


def _refused(event: dict[str, Any]) -> UpstreamRefused:
    """The error that an error event tells; its status is vLLM's own where it names one."""
    code = event["error"].get("code")
    if isinstance(code, int) and 400 <= code < 600:
        return UpstreamRefused(code, event)
    return UpstreamRefused(504 if code == UpstreamTimeout.default_code else 502, event)
