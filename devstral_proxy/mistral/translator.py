"""The translator: one instance an exchange, with a hook for each thing that passes through the proxy."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from devstral_proxy.errors import BadRequest, UpstreamRefused
from devstral_proxy.mistral import refusals
from devstral_proxy.mistral.content import keep_last_images
from devstral_proxy.mistral.context import NOTHING_ASKED
from devstral_proxy.mistral.frame import Frame, frame_of
from devstral_proxy.mistral.json_text import MAX_DEPTH, deep_path
from devstral_proxy.mistral.messages import Conversation, Message
from devstral_proxy.mistral.profiles import ModelProfile
from devstral_proxy.mistral.response import repair_response
from devstral_proxy.mistral.rewrites import RewriteLog
from devstral_proxy.mistral.stream import StreamRepair
from devstral_proxy.mistral.tool_memo import ToolMemo
from devstral_proxy.mistral.tools import ToolSet
from devstral_proxy.upstream.capabilities import Capabilities, for_version


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
        self.rewrites = RewriteLog()
        self.context = NOTHING_ASKED
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
        if self._memo is not None:
            frame = self._memo.frame(given, self.profile, self.capabilities, self.max_model_len, log)
        else:
            frame = self._new_frame(given, log)
        if "messages" not in given:
            raise BadRequest("'messages' is required.", param="messages")
        context = frame.context
        conversation = Conversation(self.profile, context.names, context.tools, log)
        messages = conversation.translate(given["messages"])
        self._first_user(messages, bool(context.tools))
        if messages[-1]["role"] == "assistant":
            frame = self._new_frame(given, RewriteLog(), continued=True)
            context = frame.context
        log.entries += frame.after
        if conversation.names is not context.names:  # a call of the history has a name that no tool has
            context = replace(context, names=conversation.names)
        self.legacy, self.context = frame.legacy, context
        body = frame.body.copy()
        body["messages"] = messages
        self.streamed = body.get("stream") is True
        return body

    def _new_frame(self, given: dict[str, Any], log: RewriteLog, continued: bool = False) -> Frame:
        add_tools = self._memo.add_all if self._memo is not None else ToolSet.add_all
        return frame_of(given, self.profile, self.capabilities, self.max_model_len, add_tools, log, continued)

    def _first_user(self, messages: list[Message], has_tools: bool) -> None:
        """An empty user message where one has to be.

        v13 and later write the tools into the first user message: without one they would be lost. And no validator
        sees the calls of a message that is the very first.
        """
        first = 0
        for message in messages:
            role = message["role"]
            if role == "user":
                return
            if role != "system":
                break
            first += 1
        if has_tools or first == 0:
            self.rewrites.add("user_added", f"messages[{first}]")
            messages.insert(first, {"role": "user", "content": ""})

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
