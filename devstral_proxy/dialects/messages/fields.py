"""A whole Messages request as a chat completion request: messages, tools, and the other top-level fields.

Fields that have a chat counterpart are checked as Anthropic's API checks them and renamed. All others (`metadata`,
`context_management`, `mcp_servers`, `container`, `service_tier`, `betas`, …) are for Anthropic's own service: dropped
by name, so that a client that sends new ones goes on working.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from devstral_proxy.dialects.messages import checks
from devstral_proxy.dialects.messages.conversation import Conversation
from devstral_proxy.dialects.messages.tools import Tools
from devstral_proxy.errors import BadRequest
from devstral_proxy.mistral.rewrites import RewriteLog

_READ: Final = frozenset((
    "model", "messages", "system", "max_tokens", "tools", "tool_choice", "stop_sequences", "temperature", "top_p",
    "top_k", "thinking", "output_config", "output_format", "stream",
))  # fmt: skip
NO_THREADS: Final = "thread_unsupported_request"
"""The code by which SDKs know that they have to send the whole conversation with each request."""
_THINKING: Final = ("enabled", "disabled", "adaptive", "between_tools")
_EFFORTS: Final = ("low", "medium", "high", "xhigh", "max")
SCHEMA_NAME: Final = "output"
"""The name that chat completions demand for a schema, and Messages has none of."""


class Asked(NamedTuple):
    """A translated request: `chat`, and for each of its messages and tools the path of what it was made from."""

    chat: dict[str, Any]
    messages: list[str]
    tools: list[str]


def translate(body: dict[str, Any], log: RewriteLog, counting: bool) -> Asked:
    """The chat completion request that says the same. Raises BadRequest naming Anthropic's field.

    `counting`: it is a request to count tokens, which has no `max_tokens` and no stream.
    """
    if body.get("thread") is not None:
        # What it stands for is in no other field: to drop it would be to lose the conversation.
        says = "Threads are not kept here: send the whole conversation without `thread`"
        raise BadRequest(says, param="thread", code=NO_THREADS)
    conversation = Conversation(log)
    chat: dict[str, Any] = {"model": checks.name(body.get("model"), "model"), "messages": conversation.messages}
    if not counting:
        chat["max_tokens"] = checks.integer(body.get("max_tokens"), "max_tokens", 1)
    conversation.add_system(body.get("system"))
    conversation.add_all(body.get("messages"))
    tools = _tools(body, chat, log)
    _sampling(body, chat, log)
    _thinking(body, chat, log)
    if body.get("stream") is not None and checks.boolean(body["stream"], "stream") and not counting:
        chat["stream"] = True
        chat["stream_options"] = {"include_usage": True}
    for field in body:
        if field not in _READ:
            log.add("null_dropped" if body[field] is None else "field_dropped", field)
    return Asked(chat, conversation.origins, tools)


def _tools(body: dict[str, Any], chat: dict[str, Any], log: RewriteLog) -> list[str]:
    if body.get("tools") is None:
        if body.get("tool_choice") is not None:
            log.add("tool_choice_omitted", "tool_choice")
        return []
    tools = Tools(body["tools"], log)
    if tools.tools:
        chat["tools"] = tools.tools
    elif not body["tools"]:
        log.add("tools_omitted", "tools")
    if body.get("tool_choice") is not None:
        choice, parallel = tools.choice(body["tool_choice"])
        if not tools.tools:
            log.add("tool_choice_omitted", "tool_choice")
            return []
        if choice is not None:
            chat["tool_choice"] = choice
        if parallel is not None:
            chat["parallel_tool_calls"] = parallel
    return tools.origins


def _sampling(body: dict[str, Any], chat: dict[str, Any], log: RewriteLog) -> None:
    if body.get("temperature") is not None:
        chat["temperature"] = checks.number(body["temperature"], "temperature", 0, 1)
    if body.get("top_p") is not None:
        chat["top_p"] = checks.number(body["top_p"], "top_p", 0, 1)
    if body.get("top_k") is not None:
        top_k = checks.integer(body["top_k"], "top_k", 0)
        if top_k:
            chat["top_k"] = top_k
        else:  # older servers refuse 0 for "all of them", which is what they do unasked
            log.add("field_dropped", "top_k")
    if body.get("stop_sequences") is not None:
        stops = checks.array(body["stop_sequences"], "stop_sequences")
        for place, stop in enumerate(stops):
            checks.text(stop, f"stop_sequences.{place}")
        if stops:
            chat["stop"] = stops


def _thinking(body: dict[str, Any], chat: dict[str, Any], log: RewriteLog) -> None:
    """`thinking` and `output_config`: how hard to think, and the form of the answer."""
    config = {} if body.get("output_config") is None else checks.mapping(body["output_config"], "output_config")
    effort = config.get("effort")
    if effort is not None:
        checks.one_of(effort, "output_config.effort", _EFFORTS)
    thinking = body.get("thinking")
    if thinking is not None:
        kind = checks.one_of(checks.mapping(thinking, "thinking").get("type"), "thinking.type", _THINKING)
        chat["reasoning_effort"] = "none" if kind == "disabled" else effort or "high"
        if kind != "disabled":
            effort = None
        if thinking.get("budget_tokens") is not None:
            checks.integer(thinking["budget_tokens"], f"thinking.{kind}.budget_tokens", 1)
        for key in thinking:
            if key != "type":
                log.add("field_dropped", f"thinking.{key}")
    if effort is not None:  # without thinking it says how much to write, which Mistral's models have no measure of
        log.add("field_dropped", "output_config.effort")
    for key in config:
        if key not in ("effort", "format"):
            log.add("field_dropped", f"output_config.{key}")
    if config.get("format") is not None:
        chat["response_format"] = _format(config["format"], "output_config.format")
    elif body.get("output_format") is not None:  # its name while it was a beta
        chat["response_format"] = _format(body["output_format"], "output_format")


def _format(given: Any, where: str) -> dict[str, Any]:
    form = checks.mapping(given, where)
    if form.get("type") != "json_schema":
        checks.wrong(f"{where}.type", "Field required" if form.get("type") is None else "Input should be 'json_schema'")
    schema = checks.mapping(form.get("schema"), f"{where}.schema")
    return {"type": "json_schema", "json_schema": {"name": SCHEMA_NAME, "schema": schema, "strict": True}}
