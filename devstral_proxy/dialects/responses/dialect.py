"""The OpenAI Responses API as a dialect of chat completions.

`previous_response_id` continues a stored conversation: whoever makes the dialect passes in the items of the chain, and
keeps `record` afterwards. Instructions are never inherited, as in OpenAI's own API.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import orjson

from devstral_proxy.dialects.responses.fields import ENCRYPTED, chat_fields, response_head
from devstral_proxy.dialects.responses.ids import Ids
from devstral_proxy.dialects.responses.items import Messages, tools_of
from devstral_proxy.dialects.responses.references import resolved
from devstral_proxy.dialects.responses.stored import Record, normalized
from devstral_proxy.dialects.responses.tools import Tools
from devstral_proxy.dialects.responses.writer import Writer
from devstral_proxy.errors import BadRequest, ProxyError, UpstreamProtocolError, render
from devstral_proxy.mistral.rewrites import RewriteLog
from devstral_proxy.upstream import sse

# Codes of `response.error` that clients act on, and OpenAI's names for our own statuses.
_KNOWN_CODES: Final = frozenset(
    ("server_error", "rate_limit_exceeded", "invalid_prompt", "context_length_exceeded", "insufficient_quota")
)


class Responses:
    """One exchange; see `Dialect`. `previous`: the items, inputs and outputs, of the responses that this one follows;
    `referenced`: further items that an item_reference may mean; `clock`: gives `completed_at`, null without it."""

    name = "responses"

    def __init__(
        self,
        created: int,
        seed: str,
        previous: list[dict[str, Any]] | None = None,
        referenced: list[dict[str, Any]] | None = None,
        clock: Callable[[], int] | None = None,
    ) -> None:
        self._created = created
        self._clock = clock
        self._ids = Ids(seed)
        self._previous = previous
        self._referenced = referenced or []
        self._input: list[Any] = []
        self._usage: dict[str, Any] | None = None
        self._finish: str | None = None
        self._opened = False
        self.rewrites = RewriteLog()
        self.stream = False
        self.store = True
        """The client lets the response be kept."""
        self.previous_response_id: str | None = None
        self._tools = Tools(self.rewrites)
        self._messages = Messages(self._tools, self.rewrites)
        self._writer = Writer({}, self._ids, self._tools, False)  # until the request has been read

    @property
    def id(self) -> str:
        """The response's id."""
        return self._ids.response

    @property
    def result(self) -> dict[str, Any] | None:
        """The response as it ended; None until then."""
        return self._writer.result

    @property
    def input_items(self) -> list[dict[str, Any]]:
        """This request's own input, every item whole and with an id."""
        return normalized(self._input, self._ids)

    @property
    def record(self) -> Record:
        """What to keep of this exchange; there is one once `result` is there."""
        return {
            "id": self.id,
            "response": self.result or {},
            "input_items": self.input_items,
            "previous": self.previous_response_id,
            "created": self._created,
        }

    # -- the request

    def request(self, body: dict[str, Any]) -> dict[str, Any]:
        """The chat completion request that says the same. Raises BadRequest that names the field of this API, and
        NotFound for a reference to an item that is not there."""
        chat = chat_fields(body, self.rewrites)
        self.stream = bool(body.get("stream"))
        self.store = body.get("store") is not False
        self.previous_response_id = body.get("previous_response_id")
        self._input = self._given(body)
        previous = self._previous or []
        tools = self._tools
        if body.get("tools") is not None:
            tools.add(body["tools"], "tools")
        tools_of(previous, "previous_response_id", tools)
        tools_of(self._input, "input", tools)
        choice = tools.choice(body.get("tool_choice"))
        messages = self._messages
        if body.get("instructions"):
            messages.say("system", body["instructions"], "instructions")
        messages.add(previous, "previous_response_id")
        messages.add(self._input, "input")
        if not messages.chat:
            raise BadRequest("'input' must not be empty.", param="input")
        chat["messages"] = messages.chat
        if tools.chat:
            chat["tools"] = tools.chat
            if choice is not None:
                chat["tool_choice"] = choice
        else:
            chat.pop("parallel_tool_calls", None)
        encrypted = ENCRYPTED in (body.get("include") or ())
        self._writer = Writer(response_head(body, self.id, self._created), self._ids, tools, encrypted, self._clock)
        return chat

    def _given(self, body: dict[str, Any]) -> list[Any]:
        """The input as a list of items."""
        id, given = body.get("previous_response_id"), body.get("input")
        if id is not None and self._previous is None:
            raise BadRequest(
                "No response is stored under 'previous_response_id'.",
                param="previous_response_id",
                code="previous_response_not_found",
            )
        if given is None:
            if id is None:
                raise BadRequest("'input' is required.", param="input")
            return []
        if isinstance(given, str):
            return [{"type": "message", "role": "user", "content": given}]
        if not isinstance(given, list):
            raise BadRequest("'input' must be a string or an array of items.", param="input")
        return resolved(given, [*(self._previous or ()), *self._referenced], self.rewrites)

    # -- the answer

    def opening(self) -> list[sse.Event]:
        """`response.created` and `response.in_progress`, once."""
        if self._opened:
            return []
        self._opened = True
        return self._writer.opening()

    def events(self, events: list[sse.Event]) -> list[sse.Event]:
        """Repaired chat chunks as events of this API; nothing after the one that ends the response."""
        out = self.opening()
        writer = self._writer
        for event in events:
            if writer.result is not None:
                break
            if event.data == b"[DONE]":
                if self._finish is None:
                    self._fail(render(UpstreamProtocolError("vLLM's stream ended without a finish reason")), 502, out)
                else:
                    writer.finish(self._finish, self._usage, out)
                break
            chunk = orjson.loads(event.data)
            if chunk.get("usage") is not None:
                self._usage = chunk["usage"]
            choices = chunk.get("choices")
            if choices:
                self._choice(choices[0], out)
            elif "error" in chunk:
                self._fail(chunk, None, out)
        return out

    def _choice(self, choice: dict[str, Any], out: list[sse.Event]) -> None:
        delta = choice["delta"]
        writer = self._writer
        thought = delta.get("reasoning_content") or delta.get("reasoning")
        if thought:
            writer.reasoning(thought, out)
        text = delta.get("content") or delta.get("refusal")
        if text:
            logprobs = choice.get("logprobs")
            writer.text(text, logprobs["content"] if logprobs else None, out)
        for entry in delta.get("tool_calls") or ():
            writer.call(entry, entry["index"], out)
        if choice.get("finish_reason") is not None:
            self._finish = choice["finish_reason"]

    def body(self, completion: dict[str, Any]) -> dict[str, Any]:
        """A repaired chat completion as the whole response. Raises UpstreamProtocolError for one without a choice."""
        if not completion.get("choices"):
            raise UpstreamProtocolError("vLLM's answer has no choice")
        choice = completion["choices"][0]
        message = choice["message"]
        writer = self._writer
        out: list[sse.Event] = []  # told to nobody
        thought = message.get("reasoning_content") or message.get("reasoning")
        if thought:
            writer.reasoning(thought, out)
        text = message.get("content") or message.get("refusal")
        if text:
            writer.text(text, (choice.get("logprobs") or {}).get("content"), out)
        for index, call in enumerate(message.get("tool_calls") or ()):
            writer.call(call, index, out)
        return writer.finish(choice.get("finish_reason") or "stop", completion.get("usage"), out)

    # -- errors

    def error(self, error: ProxyError) -> dict[str, Any]:
        """OpenAI's error JSON; a path of the chat request that was made becomes the client's own."""
        body = render(error)
        param = body["error"].get("param")
        own = self._origin(param) if isinstance(param, str) else param
        return body if own == param else {**body, "error": {**body["error"], "param": own}}

    def _origin(self, param: str) -> str:
        """Where in the client's request this field of the chat request comes from."""
        if param in _FIELDS:
            return _FIELDS[param]
        for name, origins in (("messages", self._messages.origins), ("tools", self._tools.origins)):
            number, bracket, rest = param.removeprefix(name + "[").partition("]")
            if bracket and param.startswith(name + "[") and number.isdecimal() and int(number) < len(origins):
                return origins[int(number)] + (rest.removeprefix(".function") if name == "tools" else rest)
        return param

    def broken(self, error: ProxyError) -> list[sse.Event]:
        """`response.failed`, after `opening` if that has not gone out; nothing when the response has ended."""
        out = self.opening()
        if self._writer.result is None:
            self._fail(render(error), error.status, out)
        return out

    def _fail(self, body: dict[str, Any], status: int | None, out: list[sse.Event]) -> None:
        told = body["error"]
        code = told.get("code")
        if status is None:
            status = code if isinstance(code, int) else 502
        if not (isinstance(code, str) and code in _KNOWN_CODES):
            code = "rate_limit_exceeded" if status == 429 else "invalid_prompt" if status in _WRONG else "server_error"
        self._writer.fail(code, str(told.get("message") or "The answer broke off."), out)


_WRONG: Final = (400, 404, 413, 422)
_FIELDS: Final = {"messages": "input", "max_tokens": "max_output_tokens", "reasoning_effort": "reasoning.effort"}
