"""The translator: one instance an exchange, with a hook for each thing that passes through the proxy."""

from __future__ import annotations

from typing import Any

from devstral_proxy.errors import BadRequest, UpstreamRefused
from devstral_proxy.mistral import refusals
from devstral_proxy.mistral.content import keep_last_images
from devstral_proxy.mistral.context import AnswerContext
from devstral_proxy.mistral.fields import translate_fields
from devstral_proxy.mistral.json_text import MAX_DEPTH, deep_path
from devstral_proxy.mistral.messages import Conversation, Message
from devstral_proxy.mistral.names import ToolNames
from devstral_proxy.mistral.profiles import ModelProfile
from devstral_proxy.mistral.response import repair_response
from devstral_proxy.mistral.rewrites import RewriteLog
from devstral_proxy.mistral.stream import StreamRepair
from devstral_proxy.mistral.tool_markup import Names
from devstral_proxy.mistral.tool_memo import ToolMemo
from devstral_proxy.mistral.tools import ToolSet, tool_choice
from devstral_proxy.upstream.capabilities import Capabilities, for_version, plan


class Translator:
    """Translates one request to Mistral's form and its answer, or error, back.

    `request` is called first, once; then one of `response`, `stream` and `error`. `rewrites` says what was changed.
    """

    def __init__(
        self,
        profile: ModelProfile,
        *,
        capabilities: Capabilities | None = None,
        max_model_len: int | None = None,
        memo: ToolMemo | None = None,
    ) -> None:
        """`capabilities`: how this vLLM is asked (as the client asks); `max_model_len`: its context, in tokens;
        `memo`: tools translated before, to be shared by the translators of one thread."""
        self.profile = profile
        self.capabilities = capabilities if capabilities is not None else for_version(None)
        self.max_model_len = max_model_len
        self._memo = memo
        self._markup: Names | None = None
        self.rewrites = RewriteLog()
        self.context = AnswerContext()
        self.legacy = False
        """The client sent the legacy `functions`, and reads the answer in those words (see `legacy`)."""
        self.streamed = False
        """vLLM is asked for a stream."""

    def request(self, body: dict[str, Any]) -> dict[str, Any]:
        """An OpenAI chat completion request, as it is sent to vLLM.

        The client's dict is not changed; parts that need no change are shared with it. Raises BadRequest, naming the
        field, for what OpenAI's own API refuses too.
        """
        try:
            return self._request(body)
        except (RecursionError, TypeError):
            path = deep_path(body)
            if path is None:
                raise
            raise BadRequest(f"The request is nested over {MAX_DEPTH} levels deep.", param=path) from None

    def _request(self, given: dict[str, Any]) -> dict[str, Any]:
        log = self.rewrites
        names = ToolNames()
        body = translate_fields(given, self.profile, self.max_model_len, log)
        tools, choice = self._tools(given, names)
        if "messages" not in given:
            raise BadRequest("'messages' is required.", param="messages")
        messages = Conversation(self.profile, names, log).translate(given["messages"])
        self._first_user(messages, bool(tools.tools))
        self._last_assistant(messages, body)
        body["messages"] = messages
        if tools.tools:
            body["tools"] = tools.tools
            if choice is not None:
                body["tool_choice"] = choice
        elif body.pop("parallel_tool_calls", None) is not None:
            log.add("field_dropped", "parallel_tool_calls")
        ordered = {key: body.pop(key) for key in given if key in body}
        ordered.update(body)
        planned = plan(ordered, self.capabilities)
        if planned is not ordered:
            self._note_plan(ordered, planned)
        self._fill_context(ordered, planned, tools, names)
        self.streamed = planned.get("stream") is True
        return planned

    def _note_plan(self, body: dict[str, Any], planned: dict[str, Any]) -> None:
        stream = bool(body.get("stream"))
        if bool(planned.get("stream")) != stream:
            self.rewrites.add("asked_whole" if stream else "asked_as_stream", "stream")
        elif stream and planned.get("stream_options") != body.get("stream_options"):
            self.rewrites.add("usage_asked", "stream_options")
        if planned.get("tool_choice") != body.get("tool_choice"):
            self.rewrites.add("asked_raw_text", "tool_choice")
        elif planned.get("return_token_ids") != body.get("return_token_ids"):
            self.rewrites.add("asked_token_ids", "return_token_ids")

    def _tools(self, given: dict[str, Any], names: ToolNames) -> tuple[ToolSet, Any]:
        log = self.rewrites
        tools = ToolSet(names, log)
        defined, choice = given.get("tools"), given.get("tool_choice")
        if not defined and given.get("functions") is not None:
            log.add("legacy_functions", "functions")
            self.legacy = True
            tools.add_functions(given["functions"])
            legacy = given.get("function_call")
            choice = {"type": "function", "function": legacy} if isinstance(legacy, dict) else legacy
        elif defined is not None:
            if self._memo is not None:
                self._markup = self._memo.add_all(tools, defined)
            else:
                tools.add_all(defined, "tools")
            if not defined:
                log.add("tools_omitted", "tools")
        elif "tools" in given:
            log.add("null_dropped", "tools")
        where = "function_call" if self.legacy else "tool_choice"
        for key in ("functions", "function_call"):
            if key in given and not self.legacy:
                log.add("field_dropped", key)
        if choice is None:
            if "tool_choice" in given:
                log.add("null_dropped", "tool_choice")
            return tools, None
        if not tools.tools:
            log.add("tool_choice_omitted", "tool_choice")
            return tools, None
        return tools, tool_choice(choice, tools, self.profile.required, log, where)

    def _first_user(self, messages: list[Message], has_tools: bool) -> None:
        """An empty user message where one has to be.

        v13 and later write the tools into the first user message: without one they would be lost. And no validator
        sees the calls of a message that is the very first.
        """
        first, size = 0, len(messages)
        while first < size and messages[first]["role"] == "system":
            first += 1
        if (has_tools or first == 0) and (first == size or messages[first]["role"] != "user"):
            self.rewrites.add("user_added", f"messages[{first}]")
            messages.insert(first, {"role": "user", "content": ""})

    def _last_assistant(self, messages: list[Message], body: dict[str, Any]) -> None:
        """A history that ends with the assistant is continued; vLLM refuses it otherwise (F18)."""
        continued = messages[-1]["role"] == "assistant"
        if not continued and "continue_final_message" not in body and "add_generation_prompt" not in body:
            return
        wanted = {"continue_final_message": True, "add_generation_prompt": False} if continued else {}
        if any(body.get(key, default) != wanted.get(key, default) for key, default in _GENERATION.items()):
            self.rewrites.add("assistant_continued" if continued else "field_dropped", "messages")
            for key in _GENERATION:
                body.pop(key, None)
            body.update(wanted)

    def _fill_context(self, body: dict[str, Any], planned: dict[str, Any], tools: ToolSet, names: ToolNames) -> None:
        choice = body.get("tool_choice", "auto")
        single = not self.profile.parallel_tool_calls or body.get("parallel_tool_calls") is False or self.legacy
        context = self.context
        context.tools = tools.schemas
        context.names = names.back
        context.custom = frozenset(tools.custom)
        context.tool_choice = "named" if isinstance(choice, dict) else "required" if choice == "any" else choice
        context.max_calls = 1 if single else self.profile.max_tool_calls
        context.choices = body.get("n", 1)
        context.stream = body.get("stream") is True
        context.include_usage = "stream_options" in body and bool(body["stream_options"].get("include_usage"))
        context.raw_text = planned.get("tool_choice") == "none" != choice
        context.token_ids = planned.get("return_token_ids") is True is not body.get("return_token_ids")
        context.markup = self._markup
        context.lossy = self.capabilities.token_ids and bool(tools.tools) and choice == "auto"

    def response(self, body: dict[str, Any]) -> dict[str, Any]:
        """vLLM's whole answer, repaired and in the client's own names."""
        return repair_response(body, self.context, self.rewrites)

    def stream(self) -> StreamRepair:
        """The repair of vLLM's streamed answer."""
        return StreamRepair(self.context, self.rewrites)

    def error(self, status: int, body: bytes) -> UpstreamRefused:
        """vLLM's error answer in OpenAI's shape: status and text kept, context overflow by the code agents look for."""
        return refusals.translated(status, body, self.max_model_len)

    def retry(self, upstream: dict[str, Any], error: UpstreamRefused) -> dict[str, Any] | None:
        """A second request worth sending after this refusal, or None.

        There are two such cases: max_tokens left no room, and vLLM told how much there is (F55); the server takes
        fewer images than there are, or none at all, whatever the model's name promises.
        """
        room = refusals.room_for_answer(error)
        if room is not None and upstream.get("max_tokens", 0) > room:
            self.rewrites.add("max_tokens_clamped", "max_tokens")
            return {**upstream, "max_tokens": room}
        images = refusals.images_taken(error)
        if images is not None:
            messages = keep_last_images(upstream["messages"], images)
            if messages is not upstream["messages"]:
                self.rewrites.add("image_omitted", "messages")
                return {**upstream, "messages": messages}
        return None


_GENERATION = {"continue_final_message": False, "add_generation_prompt": True}
