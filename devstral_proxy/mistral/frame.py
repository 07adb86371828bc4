"""The frame of a request: what stands around its messages, translated, and what the way back has to know of it.

None of it depends on the messages, so an agent's frame is the same from turn to turn, and is kept (`tool_memo`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from devstral_proxy.mistral.context import AnswerContext
from devstral_proxy.mistral.fields import translate_fields
from devstral_proxy.mistral.names import ToolNames
from devstral_proxy.mistral.profiles import ModelProfile
from devstral_proxy.mistral.rewrites import RewriteLog
from devstral_proxy.mistral.tool_markup import Names
from devstral_proxy.mistral.tools import ToolSet, tool_choice
from devstral_proxy.upstream.capabilities import Capabilities, plan

AddTools = Callable[[ToolSet, Any], Names | None]
"""Translates `tools` into an empty set, and gives its names made ready for `tool_markup`, where they are known."""

_GENERATION: Final = {"continue_final_message": False, "add_generation_prompt": True}


@dataclass(slots=True)
class Frame:
    """Many requests may share one: nothing in it is ever changed."""

    profile: ModelProfile
    capabilities: Capabilities
    body: dict[str, Any]
    """The request as it goes upstream; `messages` has its place in it, and no value."""
    context: AnswerContext
    legacy: bool
    """The client sent the legacy `functions`."""
    before: list[tuple[str, str]]
    """What was changed, as it is told before the messages' own changes."""
    after: list[tuple[str, str]]
    """What is told after them."""


def frame_of(
    given: dict[str, Any],
    profile: ModelProfile,
    capabilities: Capabilities,
    max_model_len: int | None,
    add_tools: AddTools,
    log: RewriteLog,
    continued: bool = False,
) -> Frame:
    """The frame of a client's request. `log` gets what `before` has; `continued`: the messages that go upstream end
    with the assistant's.

    Raises BadRequest for what OpenAI's API refuses too.
    """
    start = len(log.entries)
    names = ToolNames()
    tools = ToolSet(names, log)
    body = translate_fields(given, profile, max_model_len, log)
    markup, choice = _add_tools(given, tools, add_tools, profile, log)
    before = log.entries[start:]
    later = RewriteLog()
    _set_generation(body, continued, later)
    body["messages"] = None
    if tools.tools:
        body["tools"] = tools.tools
        if choice is not None:
            body["tool_choice"] = choice
    elif body.pop("parallel_tool_calls", None) is not None:
        later.add("field_dropped", "parallel_tool_calls")
    ordered = {key: body.pop(key) for key in given if key in body}
    ordered.update(body)
    planned = plan(ordered, capabilities)
    if planned is not ordered:
        _note_plan(ordered, planned, later)
    legacy = _is_legacy(given)
    choice = ordered.get("tool_choice", "auto")
    single = not profile.parallel_tool_calls or ordered.get("parallel_tool_calls") is False or legacy
    context = AnswerContext(
        tools=tools.schemas,
        names=names.back,
        custom=frozenset(tools.custom),
        tool_choice="named" if isinstance(choice, dict) else "required" if choice == "any" else choice,
        max_calls=1 if single else profile.max_tool_calls,
        choices=ordered.get("n", 1),
        stream=ordered.get("stream") is True,
        include_usage="stream_options" in ordered and bool(ordered["stream_options"].get("include_usage")),
        raw_text=planned.get("tool_choice") == "none" != choice,
        token_ids=planned.get("return_token_ids") is True is not ordered.get("return_token_ids"),
        markup=markup,
        lossy=capabilities.token_ids and bool(tools.tools) and choice == "auto",
    )
    return Frame(profile, capabilities, planned, context, legacy, before, later.entries)


def _is_legacy(given: dict[str, Any]) -> bool:
    return not given.get("tools") and given.get("functions") is not None


def _add_tools(
    given: dict[str, Any], tools: ToolSet, add_tools: AddTools, profile: ModelProfile, log: RewriteLog
) -> tuple[Names | None, Any]:
    """Translate the tools, and the choice among them."""
    defined, choice, markup = given.get("tools"), given.get("tool_choice"), None
    legacy = _is_legacy(given)
    if legacy:
        log.add("legacy_functions", "functions")
        tools.add_functions(given["functions"])
        named = given.get("function_call")
        choice = {"type": "function", "function": named} if isinstance(named, dict) else named
    elif defined is not None:
        markup = add_tools(tools, defined)
        if not defined:
            log.add("tools_omitted", "tools")
    elif "tools" in given:
        log.add("null_dropped", "tools")
    for key in ("functions", "function_call"):
        if key in given and not legacy:
            log.add("field_dropped", key)
    if choice is None:
        if "tool_choice" in given:
            log.add("null_dropped", "tool_choice")
        return markup, None
    if not tools.tools:
        log.add("tool_choice_omitted", "tool_choice")
        return markup, None
    return markup, tool_choice(choice, tools, profile.required, log, "function_call" if legacy else "tool_choice")


def _set_generation(body: dict[str, Any], continued: bool, log: RewriteLog) -> None:
    """A history that ends with the assistant is continued; vLLM refuses it otherwise (F18)."""
    wanted = {"continue_final_message": True, "add_generation_prompt": False} if continued else {}
    if any(body.get(key, default) != wanted.get(key, default) for key, default in _GENERATION.items()):
        log.add("assistant_continued" if continued else "field_dropped", "messages")
        for key in _GENERATION:
            body.pop(key, None)
        body.update(wanted)


def _note_plan(body: dict[str, Any], planned: dict[str, Any], log: RewriteLog) -> None:
    stream = bool(body.get("stream"))
    if bool(planned.get("stream")) != stream:
        log.add("asked_whole" if stream else "asked_as_stream", "stream")
    elif stream and planned.get("stream_options") != body.get("stream_options"):
        log.add("usage_asked", "stream_options")
    if planned.get("tool_choice") != body.get("tool_choice"):
        log.add("asked_raw_text", "tool_choice")
    elif planned.get("return_token_ids") != body.get("return_token_ids"):
        log.add("asked_token_ids", "return_token_ids")
