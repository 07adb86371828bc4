"""From a body to an accepted exchange: all of vLLM's checks in its order, then what the model says."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from devstral_proxy.simulator import script, tokenizers
from devstral_proxy.simulator.answer import Exchange
from devstral_proxy.simulator.checks import check_body, check_sampling, stops
from devstral_proxy.simulator.errors import InvalidField, Refused
from devstral_proxy.simulator.generate import Step, merged, steps
from devstral_proxy.simulator.options import Call, SimulatorOptions, Turn
from devstral_proxy.simulator.protocol import ChatRequest, parse
from devstral_proxy.simulator.render import prompt_of


@dataclass(frozen=True, slots=True)
class Record:
    """An accepted request: the body as it came, the prompt's ids, and the prompt as text with its control tokens."""

    body: dict[str, Any]
    prompt_tokens: list[int]
    prompt: str


class Simulator:
    """The state of a simulated vLLM.

    requests    the last accepted requests, the newest last
    running     answers that are being given right now
    aborted     answers that a client did not wait for
    """

    def __init__(self, options: SimulatorOptions) -> None:
        self.options = options
        self.tokenizer = tokenizers.load(options.tokenizer, options.images)
        self.old = is_old(options.version)
        self._script = options.script or (script.unguided_turn if is_old(options.version) else script.turn)
        self.requests: deque[Record] = deque(maxlen=options.keep)
        self.running = self.aborted = 0
        self.shown = frozenset(["[TOOL_CALLS]"] if self.old else ["[TOOL_CALLS]", "[ARGS]", "[THINK]", "[/THINK]"])
        self.fingerprint = None if self.old else f"vllm-{options.version}-51e1a7ed"
        self._tokenized: deque[tuple[list[int], Any]] = deque(maxlen=options.keep)

    def accept(self, body: Any, raw: Any, request_id: str | None = None) -> Exchange:
        """Check a chat completion and make ready to answer it.

        `body` is changed on the way, `raw` is the same JSON untouched. Raises Refused.
        """
        request = self.check(body)
        prompt = self.prompt(request)
        max_tokens = self._max_tokens(request, len(prompt))
        check_sampling(request, max_tokens, self.old)
        ids, finish = self._says(raw, request)
        self.requests.append(Record(raw, prompt, self.tokenizer.text(prompt)))

        def choice(index: int) -> Iterator[Step]:
            source = steps(
                ids,
                self.tokenizer,
                shown=self.shown,
                max_tokens=max_tokens,
                stops=stops(request),
                keep_stop=request.include_stop_str_in_output,
                finish=finish,
            )
            size = self.options.merge
            if request.stream_interval and size and not self.old:
                size = max(size, request.stream_interval)
            return merged(source, size) if request.stream and size != 1 else source

        return Exchange(
            request=request,
            prompt=prompt,
            tokenizer=self.tokenizer,
            choices=choice,
            model=self.options.model,
            fingerprint=self.fingerprint,
            old=self.old,
            reasoning=self.options.reasoning,
            request_id=request_id,
        )

    def check(self, body: Any) -> ChatRequest:
        """The request of a body: what vLLM refuses before it renders the prompt. Raises Refused."""
        check_body(body, self.old)
        request = parse(body, self.old)
        self.check_model(request.model)
        return request

    def check_model(self, model: str | None) -> None:
        if model and model != self.options.model:
            raise Refused(
                f"The model `{model}` does not exist." + ("" if self.old else f" Valid aliases: {self.options.model}."),
                status=404,
                type="NotFoundError",
                param=None if self.old else "model",
            )

    def prompt(self, request: ChatRequest) -> list[int]:
        """The prompt's ids, its length checked. Raises Refused."""
        if not self.old:
            self._check_output(request)
        for field in () if self.old else ("mm_processor_kwargs", "media_io_kwargs"):
            if getattr(request, field):
                raise InvalidField(f"Per-request {field} are disabled by default.", field)
        prompt = self.render(request)
        if request.truncate_prompt_tokens is not None:
            prompt = self._truncated(prompt, request.truncate_prompt_tokens, request.truncation_side)
        self.check_length(len(prompt))
        return prompt

    def _truncated(self, prompt: list[int], size: int, side: str | None) -> list[int]:
        """vLLM's `truncate_prompt_tokens`: old checks it, and leaves a chat's prompt as it is. Raises Refused."""
        limit = self.options.max_model_len
        if self.old:
            if size == 0:
                raise Refused(f"truncate_prompt_tokens must be an integer >= 1 or -1, got {size}")
            if size > limit:
                raise Refused(
                    f"truncate_prompt_tokens value ({size}) is greater than max_model_len ({limit}). "
                    "Please, select a smaller truncation size."
                )
            return prompt
        if size > limit:
            raise InvalidField(
                f"truncate_prompt_tokens={size} cannot be greater than max_model_len = {limit}. "
                "Please request a smaller truncation size.",
                "truncate_prompt_tokens",
                size,
            )
        if size == 0:
            raise Refused("The decoder prompt cannot be empty")
        size = limit if size < 0 else size
        return prompt[:size] if side == "right" else prompt[-size:]

    def render(self, request: ChatRequest) -> list[int]:
        """The prompt's ids, whatever their number. Raises Refused."""
        return prompt_of(request, self.tokenizer, old=self.old, images=self.options.images)

    def check_length(self, count: int) -> None:
        limit = self.options.max_model_len
        if not self.old and count > limit:
            told = "at least " if count == limit + 1 else ""
            raise InvalidField(
                f"This model's maximum context length is {limit} tokens. However, your prompt contains {told}{count} "
                "input tokens, which exceeds this limit even without any output tokens. "
                "Please reduce the length of the input prompt.",
                "input_tokens",
                count,
            )

    def _check_output(self, request: ChatRequest) -> None:
        completion = request.max_completion_tokens is not None
        name = "max_completion_tokens" if completion else "max_tokens"
        asked, limit = getattr(request, name) or 0, self.options.max_model_len
        if asked > limit:
            raise InvalidField(
                f"{name}={asked} cannot be greater than max_model_len={limit}. Please request fewer output tokens.",
                name,
                asked,
            )

    def _max_tokens(self, request: ChatRequest, prompt: int) -> int:
        rest = self.options.max_model_len - prompt
        asked = request.max_completion_tokens
        if asked is None or (self.old and not asked):
            asked = request.max_tokens
        return rest if asked is None else min(rest, asked)

    def remember(self, ids: list[int], body: Any) -> None:
        """A conversation that /tokenize rendered: what /v1/completions is asked next may be its continuation."""
        self._tokenized.append((ids, body))

    def continues(self, prompt: list[int], xargs: Mapping[str, Any] | None) -> list[int]:
        """What the model says after a bare prompt: the turn of the conversation it was rendered from, where known."""
        dictated = self._dictated(xargs)
        if dictated is not None:
            return dictated
        body = next((body for ids, body in self._tokenized if ids == prompt), None)
        turn = self._script(body) if body is not None else Turn("This is simulated text.")
        return self.tokenizer.split(self._raw(turn))

    def _says(self, raw: dict[str, Any], request: ChatRequest) -> tuple[list[int], str | None]:
        """The output's ids: dictated by the request, or the script's turn."""
        dictated = self._dictated(request.vllm_xargs)
        if dictated is not None:
            return dictated, None
        turn = self._script(raw)
        return self.tokenizer.split(self._raw(turn, request.tool_choice)), turn.finish_reason

    def _dictated(self, xargs: Mapping[str, Any] | None) -> list[int] | None:
        """`vllm_xargs`: `say` (see Turn.raw) or `force_ids` (numbers with commas between)."""
        say, ids = (xargs or {}).get("say"), (xargs or {}).get("force_ids")
        if ids is not None:
            return [int(number) for number in str(ids).split(",")]
        if say is None:
            return None
        if isinstance(say, list):
            return self.tokenizer.split([piece if isinstance(piece, int) else str(piece) for piece in say])
        return self.tokenizer.split(str(say))

    def _raw(self, turn: Turn, choice: Any = "auto") -> str | Sequence[str | int]:
        """The turn as the model of this tokenizer, and the grammar of this vLLM, would put it."""
        if turn.raw is not None:
            return turn.raw
        forced = choice not in (None, "none", "auto")
        thinks = turn.reasoning and self.tokenizer.number >= 13
        pieces: list[str | int] = ["[THINK]", turn.reasoning, "[/THINK]"] if thinks else []
        pieces.append(turn.text)
        if turn.calls and self.old and forced:
            if choice != "required":
                return [_arguments(turn.calls[0])]
            return [_array(turn.calls, "parameters")]
        if turn.calls and self.tokenizer.number < 11:
            return [*([] if forced else [*pieces, "[TOOL_CALLS]"]), _array(turn.calls, "arguments")]
        for call in turn.calls:
            pieces += ["[TOOL_CALLS]", call.name, "[ARGS]", _arguments(call)]
        return pieces


def is_old(version: str) -> bool:
    """Whether a vLLM release behaves like 0.12.0 rather than like 0.32.0: those up to 0.12 lose streamed calls."""
    numbers = [int(part) for part in version.lstrip("v").split(".")[:2] if part.isdigit()]
    return numbers < [0, 13]


def _array(calls: Sequence[Call], key: str) -> str:
    return "[" + ", ".join(f'{{"name": {_json(call.name)}, "{key}": {_arguments(call)}}}' for call in calls) + "]"


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _arguments(call: Call) -> str:
    return call.arguments if isinstance(call.arguments, str) else _json(dict(call.arguments))
