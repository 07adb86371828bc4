"""The body of a chat completion as vLLM's pydantic models take it, new (0.32.0) and old (0.12.0).

`parse(body, old)` gives the request or raises what vLLM would answer. Fields that only matter to a GPU are left out:
like every unknown field they pass unchecked.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    ValidationError,
    model_validator,
)

from devstral_proxy.simulator.errors import InvalidBody, InvalidField
from devstral_proxy.simulator.messages import ChatMessage

_INT64_MIN, _INT64_MAX = -(2**63), 2**63 - 1
_MAX_STOP_STRINGS = 4


class Open(BaseModel):
    """vLLM takes and ignores unknown fields."""

    model_config = ConfigDict(extra="allow", protected_namespaces=())

    @model_validator(mode="wrap")
    @classmethod
    def __log_extra_fields__(cls, data: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        # vLLM logs here. With a wrapper, pydantic names a union's member by it, and `place` drops that name.
        return handler(data)


class StreamOptions(Open):
    include_usage: bool | None = False
    continuous_usage_stats: bool | None = False


class OldStreamOptions(Open):
    include_usage: bool | None = True
    continuous_usage_stats: bool | None = False


class FunctionDefinition(Open):
    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None
    defer_loading: bool | None = None


class OldFunctionDefinition(Open):
    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None


class ChatCompletionToolsParam(Open):
    type: Literal["function"] = "function"
    function: FunctionDefinition
    defer_loading: bool | None = None

    def dump(self) -> dict[str, Any]:
        """As mistral-common gets it: unknown keys are gone, `strict` is there only where the client said it."""
        function = self.function.model_dump(include=set(FunctionDefinition.model_fields))
        for key in ("strict", "defer_loading"):
            if function[key] is None:
                del function[key]
        return {"type": self.type, "function": function}


class OldChatCompletionToolsParam(Open):
    type: Literal["function"] = "function"
    function: OldFunctionDefinition

    def dump(self) -> dict[str, Any]:
        return self.model_dump()


class ChatCompletionNamedFunction(Open):
    name: str


class ChatCompletionNamedToolChoiceParam(Open):
    function: ChatCompletionNamedFunction
    type: Literal["function"] = "function"


class JsonSchemaResponseFormat(Open):
    name: str
    description: str | None = None
    json_schema: dict[str, Any] | None = Field(default=None, alias="schema")
    strict: bool | None = None


class ResponseFormat(Open):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchemaResponseFormat | None = None


class StructuralTagResponseFormat(Open):
    type: Literal["structural_tag"]
    format: Any


class LegacyStructuralTagResponseFormat(Open):
    type: Literal["structural_tag"]
    structures: list[dict[str, Any]]
    triggers: list[str]


class StructuredOutputsParams(Open):
    json_: str | dict[str, Any] | None = Field(default=None, alias="json")
    regex: str | None = None
    choice: list[str] | None = None
    grammar: str | None = None
    json_object: bool | None = None
    structural_tag: str | None = None

    @model_validator(mode="after")
    def _one(self) -> StructuredOutputsParams:
        kinds = (self.json_, self.regex, self.choice, self.grammar, self.json_object, self.structural_tag)
        count = sum(kind is not None for kind in kinds)
        if count != 1:
            # vLLM's own error passes through pydantic; in old none at all is fine (OldChatRequest).
            how = "multiple are" if count else "none are"
            must = "You can only" if count else "You must"
            raise InvalidField(f"{must} use one kind of structured outputs constraint but {how} specified: {{}}")
        return self


class OldStructuredOutputsParams(Open):
    json_: str | dict[str, Any] | None = Field(default=None, alias="json")


ChatNamed = ChatCompletionNamedToolChoiceParam
Named = Literal["none"] | Literal["auto"] | Literal["required"] | ChatCompletionNamedToolChoiceParam | None
Format = ResponseFormat | StructuralTagResponseFormat | LegacyStructuralTagResponseFormat | None
NullIsZero = Annotated[int, BeforeValidator(lambda value: 0 if value is None else value)]
Scalar = str | int | float


class ChatRequest(Open):
    """vLLM 0.32.0's ChatCompletionRequest."""

    messages: list[ChatMessage]
    model: str | None = None
    frequency_penalty: float | None = None
    logit_bias: dict[str, float] | None = None
    logprobs: bool | None = False
    top_logprobs: NullIsZero = 0
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    n: int | None = 1
    presence_penalty: float | None = None
    response_format: Format = None
    seed: int | None = Field(None, ge=_INT64_MIN, le=_INT64_MAX)
    stop: str | Annotated[list[str], Field(max_length=_MAX_STOP_STRINGS)] | None = []
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    temperature: float | None = None
    top_p: float | None = None
    tools: list[ChatCompletionToolsParam] | None = None
    tool_choice: Named = "none"
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None = None
    include_reasoning: bool = True
    parallel_tool_calls: bool | None = True
    user: str | None = None
    use_beam_search: bool = False
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    length_penalty: float = 1.0
    stop_token_ids: list[int] | None = []
    include_stop_str_in_output: bool = False
    ignore_eos: bool = False
    min_tokens: int = 0
    skip_special_tokens: bool = True
    spaces_between_special_tokens: bool = True
    truncate_prompt_tokens: Annotated[int, Field(ge=-1, le=_INT64_MAX)] | None = None
    truncation_side: Literal["left", "right"] | None = None
    prompt_logprobs: int | None = None
    allowed_token_ids: list[int] | None = None
    bad_words: list[str] = Field(default_factory=list)
    echo: bool = False
    add_generation_prompt: bool = True
    continue_final_message: bool = False
    add_special_tokens: bool = False
    documents: list[dict[str, str]] | None = None
    chat_template: str | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    mm_processor_kwargs: dict[str, Any] | None = None
    media_io_kwargs: dict[str, dict[str, Any]] | None = None
    structured_outputs: StructuredOutputsParams | None = None
    priority: int = Field(default=0, ge=_INT64_MIN, le=_INT64_MAX)
    request_id: str | None = None
    return_tokens_as_token_ids: bool | None = None
    return_token_ids: bool | None = None
    return_prompt_text: bool | None = None
    cache_salt: str | None = None
    kv_transfer_params: dict[str, Any] | None = None
    vllm_xargs: dict[str, Scalar | list[Scalar]] | None = None
    stream_interval: Annotated[int, Field(ge=1)] | None = None

    @model_validator(mode="after")
    def _lists(self) -> ChatRequest:
        # pydantic validates an Iterable while it is read: it is here that a malformed call is found.
        for message in self.messages:
            if isinstance(message, dict):
                calls: Any = message.get("tool_calls")
                if calls is not None and not isinstance(calls, list):
                    message["tool_calls"] = list(calls)  # type: ignore[typeddict-unknown-key]
        return self


class OldChatRequest(ChatRequest):
    """vLLM 0.12.0's."""

    frequency_penalty: float | None = 0.0
    presence_penalty: float | None = 0.0
    top_logprobs: int | None = 0  # type: ignore[assignment]
    stop: str | list[str] | None = []
    stream_options: OldStreamOptions | None = None  # type: ignore[assignment]
    tools: list[OldChatCompletionToolsParam] | None = None  # type: ignore[assignment]
    reasoning_effort: Literal["low", "medium", "high"] | None = None
    truncate_prompt_tokens: Annotated[int, Field(ge=-1)] | None = None
    priority: int = 0
    structured_outputs: OldStructuredOutputsParams | None = None  # type: ignore[assignment]
    request_id: str = ""
    logits_processors: list[Any] | None = None

    @model_validator(mode="after")
    def _lists(self) -> OldChatRequest:
        return self  # 0.12.0 reads the calls later (render.py)


def parse(body: Any, old: bool) -> ChatRequest:
    """The request of a body whose raw form was already checked (checks.py). Raises InvalidBody."""
    model = OldChatRequest if old else ChatRequest
    try:
        return model.model_validate(body, from_attributes=True)
    except ValidationError as error:
        raise refusal(error.errors(include_url=False), old) from None


_INTERNAL = re.compile(r"[\[\]{}()]")
# fmt: off
_WRAPPERS = frozenset([
    "function-wrap", "function-after", "function-before", "function-plain", "json-or-python", "lax-or-strict",
    "chain", "default", "nullable", "tagged-union", "union", "call", "arguments", "is-instance", "is-subclass",
    "callable", "str", "int", "float", "bool", "bytes", "bytearray", "list", "tuple", "dict", "set", "frozenset",
    "complex", "none", "nonetype",
])
# fmt: on


def refusal(errors: Any, old: bool) -> InvalidBody:
    """pydantic's errors (and those of the body's form, without `loc`) as vLLM words them."""
    told = [{**error, "loc": ("body", *error["loc"])} if isinstance(error, Mapping) else error for error in errors]
    count = f"{len(told)} validation {'error' if len(told) == 1 else 'errors'}:\n"
    if old:
        return InvalidBody(count + "".join(f"  {error}\n" for error in told) + f"\n{told}")
    first = told[0]
    param = place(first["loc"]) if isinstance(first, dict) else None
    lines = "".join(f"  {_line(error)}\n" for error in told[:10])
    rest = f"  ...and {len(told) - 10} more errors\n" if len(told) > 10 else ""
    return InvalidBody((count + lines + rest).rstrip(), param)


def place(loc: tuple[Any, ...]) -> str:
    """pydantic's `loc` without the names of its own wrappers."""
    parts = [str(part) for part in loc if not (_INTERNAL.search(str(part)) or str(part).lower() in _WRAPPERS)]
    return ".".join(parts or map(str, loc))


def _line(error: Any) -> str:
    if isinstance(error, dict):
        error = dict(error)
        if "input" in error:
            error["input"] = _short(error["input"])
        error["loc"] = place(error["loc"])
    text = str(error)
    return text if len(text) <= 1000 else text[:1000] + "...[truncated]"


def _short(value: Any) -> Any:
    if isinstance(value, (list, tuple, dict)):
        return f"<{type(value).__name__} of {len(value)} items>"
    text = value if isinstance(value, str) else str(value)
    return text if len(text) <= 200 else text[:200] + "...[truncated]"
