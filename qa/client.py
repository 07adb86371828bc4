"""A client of the chat completions API that takes nothing for granted: what it is strict about, some real client is.

`Api.chat` returns an `Answer`, or raises `Failed` with the first thing that an agent could stumble over.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Final, Self

import httpx

CHAT: Final = "/v1/chat/completions"
FINISHES: Final = ("stop", "length", "tool_calls", "content_filter")
_ID = re.compile(r"[a-zA-Z0-9]{9}")


class Failed(Exception):
    """Something is not as it has to be."""


class Skipped(Exception):
    """It cannot be seen here: why."""


def expect(condition: object, message: str) -> None:
    """Raise Failed with the message unless the condition holds."""
    if not condition:
        raise Failed(message)


@dataclass
class Answer:
    """One answer, streamed or not: its message, as an agent keeps it, and what stood around it."""

    status: int
    headers: httpx.Headers
    message: dict[str, Any] = field(default_factory=dict)
    finish: str = ""
    usage: dict[str, Any] | None = None
    error: dict[str, Any] | None = None

    @property
    def calls(self) -> list[dict[str, Any]]:
        calls: list[dict[str, Any]] = self.message.get("tool_calls") or []
        return calls

    @property
    def rewrites(self) -> set[str]:
        """Names of the rewrites that the proxy tells."""
        told = self.headers.get("x-devstral-rewrites", "")
        return {entry.partition("=")[0] for entry in told.split(",") if entry}

    def accepted(self) -> Self:
        """Itself; raises Failed for an error."""
        said = "" if self.error is None else f": {self.error.get('message')}"
        expect(self.status == 200, f"status {self.status}{said}")
        return self


class Api:
    """One server. A context manager."""

    def __init__(self, base: str, key: str | None = None) -> None:
        """`key`: the API key to show."""
        self.base = base.rstrip("/").removesuffix("/v1").rstrip("/")
        self.key = key
        self._http = httpx.Client(
            base_url=self.base,
            trust_env=False,
            timeout=httpx.Timeout(120, connect=5),
            headers={} if key is None else {"authorization": f"Bearer {key}"},
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._http.close()

    def request(self, method: str, path: str, body: Any = None, **more: Any) -> httpx.Response:
        """Any request; `body` goes as JSON. Raises Failed when there is no HTTP answer."""
        given = {} if body is None else {"json": body}
        try:
            return self._http.request(method, path, **given, **more)
        except httpx.HTTPError as error:
            raise Failed(f"no answer from {self.base}: {type(error).__name__}") from None

    def chat(self, body: Any) -> Answer:
        """A chat completion. Raises Failed for an answer of 200 that is not what it should be."""
        response = self.request("POST", CHAT, body)
        answer = Answer(response.status_code, response.headers)
        if response.status_code != 200:
            answer.error = error_of(response)
        elif isinstance(body, dict) and body.get("stream"):
            expect(response.headers.get("content-type", "").startswith("text/event-stream"), "it is no event stream")
            read_stream(response.content, answer)
        else:
            _read_whole(response, answer)
        return answer


def error_of(response: httpx.Response) -> dict[str, Any]:
    """The error object of an answer. Raises Failed where it is not in OpenAI's shape."""
    try:
        error = response.json()["error"]
    except (ValueError, KeyError, TypeError):
        raise Failed(f"status {response.status_code} without an error object: {response.text[:200]!r}") from None
    expect(isinstance(error, dict) and {"message", "type", "param", "code"} <= error.keys(), f"wrong error: {error}")
    expect(isinstance(error["message"], str) and error["message"], "the error has no message")
    found: dict[str, Any] = error
    return found


def _read_whole(response: httpx.Response, answer: Answer) -> None:
    body = response.json()
    expect(body.get("object") == "chat.completion", f"object is {body.get('object')!r}")
    choices = body.get("choices")
    expect(isinstance(choices, list) and choices, "there are no choices")
    answer.message, answer.finish, answer.usage = choices[0]["message"], choices[0]["finish_reason"], body.get("usage")
    expect(answer.message.get("role") == "assistant", "the message's role is not assistant")
    expect(answer.usage is not None, "there is no usage")
    _check_end(answer)


def read_stream(data: bytes, answer: Answer) -> None:
    """Read a whole stream into the answer. Raises Failed."""
    message: dict[str, Any] = {"content": ""}
    calls: list[dict[str, Any]] = []
    identity: set[str] = set()
    for chunk in _chunks(data):
        expect("error" not in chunk, f"an error event: {chunk.get('error')}")
        expect(chunk.get("object") == "chat.completion.chunk", f"a chunk's object is {chunk.get('object')!r}")
        identity.add(str(chunk.get("id")))
        expect(answer.usage is None, "a chunk after the usage")
        if not chunk["choices"]:
            expect(answer.finish, "the usage comes before the finish reason")
            answer.usage = chunk["usage"]
            continue
        choice = chunk["choices"][0]
        expect(not answer.finish, "a delta after the finish reason")
        delta = choice["delta"]
        expect(("role" in delta) == ("role" not in message), "the first delta, and only that, tells the role")
        message.setdefault("role", delta.get("role"))
        message["content"] += delta.get("content") or ""
        for key in ("reasoning", "reasoning_content"):
            if delta.get(key):
                message[key] = message.get(key, "") + delta[key]
        expect(delta.get("tool_calls") != [], "an empty list of tool calls")
        for piece in delta.get("tool_calls") or ():
            _add_call(calls, piece)
        answer.finish = choice.get("finish_reason") or ""
        expect(not answer.finish or not _says(delta), "the finish reason comes with the last piece of the answer")
    expect(len(identity) == 1, f"the chunks have {len(identity)} ids")
    if calls:
        message["tool_calls"] = calls
    answer.message = message
    _check_end(answer)


def _says(delta: dict[str, Any]) -> bool:
    return any(delta.get(key) for key in ("content", "reasoning", "reasoning_content", "tool_calls"))


def _chunks(data: bytes) -> Iterator[dict[str, Any]]:
    """The events; `[DONE]` has to be the last, and every line has to hold `": "` (a strict reader splits there)."""
    expect(b"\r" not in data, "a carriage return")
    expect(data.endswith(b"data: [DONE]\n\n") and data.count(b"data: [DONE]") == 1, "no [DONE] at the end, or two")
    for event in data.split(b"\n\n")[:-2]:
        if event.startswith(b": "):
            continue
        expect(event.startswith(b"data: ") and b"\n" not in event, f"a line that is no event: {event[:80]!r}")
        try:
            chunk = json.loads(event[6:])
        except ValueError:
            raise Failed(f"an event that is no JSON: {event[:80]!r}") from None
        expect(isinstance(chunk, dict), "an event that is no object")
        yield chunk


def _add_call(calls: list[dict[str, Any]], piece: dict[str, Any]) -> None:
    index = piece.get("index")
    expect(isinstance(index, int) and 0 <= index <= len(calls), f"a tool delta with the index {index!r}")
    kind, text = ("custom", "input") if "custom" in piece else ("function", "arguments")
    if index == len(calls):
        expect(piece.get("id") and piece.get("type") == kind, "a call begins without id or type")
        expect(piece[kind].get("name"), "a call begins without a name")
        calls.append({"id": piece["id"], "type": kind, kind: {"name": piece[kind]["name"], text: ""}})
    else:
        expect(index == len(calls) - 1, "a tool delta for a call before the last one")
        expect(not piece[kind].get("name"), "a call's name comes twice")
    calls[-1][kind][text] += piece[kind].get(text) or ""


def _check_end(answer: Answer) -> None:
    expect(answer.finish in FINISHES, f"the finish reason is {answer.finish!r}")
    expect(bool(answer.calls) == (answer.finish == "tool_calls") or answer.finish == "length", "calls, but no finish")
    ids = [call["id"] for call in answer.calls]
    expect(len(set(ids)) == len(ids), "two calls with one id")
    for call in answer.calls:
        expect(_ID.fullmatch(call["id"]), f"the id {call['id']!r} is not nine alphanumeric characters")
        if call["type"] == "function" and answer.finish != "length":
            try:
                arguments = json.loads(call["function"]["arguments"])
            except ValueError:
                arguments = None
            expect(isinstance(arguments, dict), "a call's arguments are no JSON object")
