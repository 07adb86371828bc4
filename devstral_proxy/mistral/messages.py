"""The conversation: any order of OpenAI messages becomes one that Mistral's strictest tokenizer takes.

The form that comes out: system messages first and nowhere else; then user and assistant in turn; after an assistant
message with calls exactly one tool message for each, in the order of the calls; after those an assistant message
(before mistral-common 1.11.1 nothing else may follow a result, F02 to F06).

The walk takes one exchange after the other: a run of assistant messages and all that follows it up to the next run.
What it makes of an exchange depends on this exchange and the ones before it, never on a later one. So the translation
of a conversation's first turns is a prefix of the translation of the whole, and the server's prefix cache stays warm.
"""

from __future__ import annotations

from collections.abc import Container
from typing import Any, Final, NoReturn

import orjson

from devstral_proxy.errors import BadRequest
from devstral_proxy.mistral.calls import NO_RESULT, Call, CallTranslator, Result, pair
from devstral_proxy.mistral.content import JOIN, Allowed, as_text, joined, says_anything, thinking_text, translate_parts
from devstral_proxy.mistral.names import ToolNames, is_valid
from devstral_proxy.mistral.profiles import ModelProfile
from devstral_proxy.mistral.quick_exchange import is_plain, plain_end, quickly
from devstral_proxy.mistral.rewrites import RewriteLog
from devstral_proxy.mistral.roles import check_roles

Message = dict[str, Any]

BRIDGE: Final = "Done."
"""The assistant message that stands between a tool's result and a user message."""
USER_BRIDGE: Final = "Continue."
"""The user message that stands between an assistant's text and its calls under tokenizer v3 (F22)."""

_BEFORE_USER: Final = ("system", "assistant")
"""Roles after which a user message stays as it is."""
_PLAIN_KEYS: Final = frozenset(("role", "content"))
_TOOL_KEYS: Final = frozenset(("role", "content", "tool_call_id", "name"))
_ASSISTANT_KEYS: Final = frozenset(("role", "content", "tool_calls"))
# Read by the translation itself, so their disappearance has a name of its own.
_REASONING_KEYS: Final = ("reasoning_content", "reasoning", "reasoning_details", "thinking")
_READ_KEYS: Final = frozenset((*_ASSISTANT_KEYS, *_REASONING_KEYS))


class _Turn:
    """One run of assistant messages: the one message that it comes to, its calls, and their ids."""

    __slots__ = ("calls", "ids", "messages")

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.calls: list[Call] = []
        self.ids: dict[str, int] = {}

    def message(self) -> Message:
        """The one message: a sole one is itself, neighbours are joined."""
        if len(self.messages) == 1:
            return self.messages[0]
        merged: Message = {"role": "assistant", "content": joined([m.get("content") for m in self.messages])}
        if self.calls:
            merged["tool_calls"] = [call for m in self.messages for call in m.get("tool_calls", ())]
        return merged


class Conversation:
    """Translates one request's `messages`. One instance a request; `translate` is called once.

    `names`: what the tools' names were mapped from, as `ToolNames.back`; afterwards with those of the calls, in another
    dict if there are any to add.
    """

    def __init__(self, profile: ModelProfile, names: dict[str, str], valid: Container[str], log: RewriteLog) -> None:
        """`valid`: names that are known to be so."""
        self.names = names
        self._profile = profile
        self._valid = valid
        self._log = log
        self._calls: CallTranslator | None = None
        self._thinks = profile.reasoning and profile.tokenizer in ("v13", "v15")
        self._out: list[Message] = []
        self._turn_ended = False  # an empty assistant message stood here
        self._users: list[Any] = []  # contents of neighbours that become one, the last message of _out
        self._earlier: set[str] = set()  # ids of the calls of all exchanges so far
        self._ids: list[str] = []  # those of exchanges that needed no walk

    def translate(self, messages: Any) -> list[Message]:
        """The messages in Mistral's form; messages that need no change are the client's own objects.

        Raises BadRequest, naming the field, for what is no conversation: no messages, an unknown role, content that
        is neither text nor parts.
        """
        if not isinstance(messages, list):
            raise BadRequest("'messages' must be an array.", param="messages")
        if not messages:
            raise BadRequest("'messages' must not be empty.", param="messages")
        check_roles(messages)
        index = self._leading_systems(messages)
        splits_text = self._profile.tokenizer == "v3"
        valid, log, out, ids = self._valid, self._log, self._out, self._ids
        size = len(messages)
        while index < size:
            end, assistant = index, messages[index]["role"] == "assistant"
            if assistant:
                if self._users:
                    self._join_users()
                end = quickly(messages, index, splits_text, valid, log, out, ids)
            if end == index:
                end = plain_end(messages, index)
                if assistant or not out or out[-1]["role"] in _BEFORE_USER:
                    out += messages[index:end]
                elif end > index:
                    self._user(messages[index])
            if end > index:
                self._turn_ended = False
                index = end
            else:
                index = self._exchange(messages, index)
        if self._users:
            self._join_users()
        if self._calls is not None:
            self.names = self._calls.names.back
        return self._out

    # -- exchanges

    def _leading_systems(self, messages: list[Message]) -> int:
        index = 0
        for message in messages:
            role = message["role"]
            if role == "system" and is_plain(message):
                self._out.append(message)
            elif role == "system" or role == "developer":
                self._leading_system(message, f"messages[{index}]")
            else:
                break
            index += 1
        return index

    def _leading_system(self, message: Message, where: str) -> None:
        # Magistral's system prompts hold thinking parts, and only v13 takes them there.
        keeps = self._thinks and self._profile.tokenizer == "v13"
        content = self._content(message, Allowed(thinking="keep" if keeps else "text"), where)
        if content is not None:
            self._out.append(self._system(message, content, where))
        else:
            self._log.add("empty_dropped", where)

    def _exchange(self, messages: list[Message], start: int) -> int:
        """Translate from `start` up to the next run of assistant messages; returns where that begins."""
        end = start
        turn = _Turn()
        while end < len(messages) and messages[end]["role"] == "assistant":
            self._assistant(messages[end], f"messages[{end}]", turn)
            end += 1
        if end > start and not turn.messages:
            self._turn_ended = True
        results: list[Result] = []
        after: list[tuple[int, Result | None]] = []
        while end < len(messages) and messages[end]["role"] != "assistant":
            if messages[end]["role"] in ("tool", "function"):
                results.append(self._result(messages[end], f"messages[{end}]"))
                after.append((end, results[-1]))
            else:
                after.append((end, None))
            end += 1
        calls = turn.calls
        free = pair(calls, results, self._earlier, self._log) if calls else results
        orphans = {id(result) for result in free}
        self._earlier.update(call.given for call in calls if call.given is not None)
        if len(calls) > 1 or orphans or len(after) > len(results):
            self._note_moves(calls, after)
        images = self._emit(turn)
        for image in images:
            self._user(image)
        for index, result in after:
            if result is None:
                self._user(self._user_message(messages[index], f"messages[{index}]"))
            elif id(result) in orphans:
                self._user(self._orphan(result))
                for image in self._moved_images(result):
                    self._user(image)
        return end

    def _emit(self, turn: _Turn) -> list[Message]:
        """The assistant message and the results of its calls; returns the images that came in results."""
        if not turn.messages:
            return []
        message = turn.message()
        if turn.calls and says_anything(message.get("content")) and self._profile.tokenizer == "v3":
            # v3 refuses text beside calls, and joins neighbours before it looks (F22)
            self._log.add("text_split")
            self._assistant_out({"role": "assistant", "content": message["content"]})
            self._out.append({"role": "user", "content": USER_BRIDGE})
            message = {"role": "assistant", "content": "", "tool_calls": message["tool_calls"]}
        self._assistant_out(message)
        images: list[Message] = []
        for call in turn.calls:
            self._out.append(self._tool(call))
            for result in call.results:
                images.extend(self._moved_images(result))
        return images

    def _note_moves(self, calls: list[Call], after: list[tuple[int, Result | None]]) -> None:
        """Name the results that do not stand where the client put them: right after the calls, in their order."""
        place = {id(result): index for index, call in enumerate(calls) for result in call.results}
        next_place = 0
        between = False
        for _, result in after:
            if result is None or id(result) not in place:
                between = True
            elif between or place[id(result)] < next_place:
                self._log.add("result_moved", result.where)
            else:
                next_place = place[id(result)]

    # -- one message each

    def _content(self, message: Message, allowed: Allowed, where: str) -> str | list[dict[str, Any]] | None:
        """Content in Mistral's form: the string, a list that is not empty, or None where there is none."""
        content = message.get("content")
        if content is None or isinstance(content, str):
            return content
        if not isinstance(content, list):
            self._no_content(where)
        parts = translate_parts(content, allowed, where + ".content", self._log).parts
        return parts or ""

    def _no_content(self, where: str) -> NoReturn:
        raise BadRequest("A message's content must be a string or an array of parts.", param=where + ".content")

    def _system(self, message: Message, content: str | list[dict[str, Any]], where: str) -> Message:
        if message["role"] == "developer":
            self._log.add("developer_role", where)
        return self._plain(message, "system", content, where)

    def _plain(self, message: Message, role: str, content: str | list[dict[str, Any]], where: str) -> Message:
        if not message.keys() <= _PLAIN_KEYS:
            self._log.add("key_dropped", where)
        elif message["role"] == role and message.get("content") is content:
            return message
        return {"role": role, "content": content}

    def _user_message(self, message: Message, where: str) -> Message:
        role = message["role"]
        content = self._content(message, Allowed(images=role == "user" and self._profile.images), where)
        if role == "user":
            if content is None or content == "" != message.get("content"):
                self._log.add("content_filled", where)
            return self._plain(message, "user", content or "", where)
        # A system message in the middle keeps its place, so that the prefix before it stays the same; no tokenizer
        # takes the role there after an assistant or a tool (F51, "system after tool or assistant").
        self._log.add("system_in_place", where)
        text = content if isinstance(content, str) else as_text(content or [])
        if not message.keys() <= _PLAIN_KEYS:
            self._log.add("key_dropped", where)
        return {"role": "user", "content": f"[{role} message]\n{text}\n[end of {role} message]"}

    def _assistant(self, message: Message, where: str, turn: _Turn) -> None:
        """Translate one assistant message and join it to its turn."""
        content = self._content(message, Allowed(thinking="keep" if self._thinks else "drop"), where)
        content = self._reasoning(message, content, where)
        given = message.get("tool_calls")
        legacy = message.get("function_call")
        read = _READ_KEYS
        if not given and isinstance(legacy, dict):
            read = _READ_KEYS | {"function_call"}
            self._log.add("legacy_function", where)
            given = [{"id": None, "type": "function", "function": legacy}]
        tool_calls: list[dict[str, Any]] | None = None
        calls: list[Call] = []
        if given:
            tool_calls, calls = self._all_calls().translate(given, where + ".tool_calls", turn.ids)
        refusal = message.get("refusal")
        if isinstance(refusal, str) and refusal and not says_anything(content):
            self._log.add("part_flattened", where + ".refusal")  # what the model said instead of content
            content = refusal
            read = read | {"refusal"}
        if not message.keys() <= read:
            self._log.add("key_dropped", where)
        if not calls and not says_anything(content):
            self._log.add("empty_dropped", where)  # F20
            return
        if content is None and "content" not in message:
            self._log.add("content_filled", where)  # F21
            content = ""
        elif isinstance(message.get("content"), list) and not says_anything(content):
            self._log.add("content_filled", where)  # F32
            content = ""
        new: Message = {"role": "assistant", "content": content}
        if tool_calls:
            new["tool_calls"] = tool_calls
        elif "tool_calls" in message:
            self._log.add("null_dropped", where + ".tool_calls")
        if new == message:
            new = message
        self._join(turn, new, calls, where)

    def _all_calls(self) -> CallTranslator:
        """The calls so far, those of exchanges that needed no walk included."""
        calls, ids = self._calls, self._ids
        if calls is None:
            calls = self._calls = CallTranslator(ToolNames(self.names), self._log)
        if ids:
            calls.count += len(ids)
            self._earlier.update(ids)
            ids.clear()
        return calls

    def _join(self, turn: _Turn, message: Message, calls: list[Call], where: str) -> None:
        """Neighbours are one message (F19): mistral-common joins them too, once results stand between their calls."""
        if turn.messages:
            self._log.add("messages_merged", where)
            if turn.calls and message.get("content"):
                self._log.add("text_before_calls", where)
        turn.messages.append(message)
        turn.calls += calls

    def _reasoning(self, message: Message, content: Any, where: str) -> Any:
        """Replayed reasoning: thinking parts where the model reasons, else dropped (F23 to F25, F84)."""
        found = [key for key in _REASONING_KEYS if key in message]
        if not found:
            return content
        texts = list(dict.fromkeys(text for key in found if (text := thinking_text(message[key]))))
        text = texts[0] if texts else ""
        if not text or not self._thinks:
            self._log.add("reasoning_dropped" if text else "key_dropped", where)
            return content
        parts = content if isinstance(content, list) else [{"type": "text", "text": content}] if content else []
        if any(part["type"] == "thinking" for part in parts):
            self._log.add("reasoning_dropped", where)  # the same thought twice
            return content
        if len(texts) > 1:
            self._log.add("reasoning_dropped", where)  # two fields that differ: vLLM would refuse them
        self._log.add("reasoning_converted", where)
        return [{"type": "thinking", "thinking": text}, *parts]

    # -- results

    def _result(self, message: Message, where: str) -> Result:
        content = message.get("content")
        images: list[dict[str, Any]] = []
        if isinstance(content, str):
            text = content
        elif isinstance(content, list):
            parts = translate_parts(content, Allowed(images=self._profile.images), where + ".content", self._log)
            self._log.add("content_flattened", where)  # F29
            text = as_text(parts.parts)
            if parts.images:
                self._log.add("image_moved", where)  # F31
                images = [part for part in parts.parts if part["type"] == "image_url"]
        elif content is None:
            self._log.add("content_filled", where)
            text = ""
        else:
            self._log.add("content_flattened", where)
            text = orjson.dumps(content).decode()
        return Result(message, text, images, where)

    def _tool(self, call: Call) -> Message:
        if not call.results:
            self._log.add("result_filled")  # F16
            return {"role": "tool", "tool_call_id": call.id, "content": NO_RESULT}
        first = call.results[0]
        message = first.message
        name = message.get("name")
        keep_name = isinstance(name, str) and is_valid(name)
        content = first.content if len(call.results) == 1 else JOIN.join(r.content for r in call.results if r.content)
        if (
            message["role"] == "tool"
            and message.get("tool_call_id") == call.id
            and message.get("content") is content
            and message.keys() <= _TOOL_KEYS
            and ("name" not in message or keep_name)
        ):
            return message
        if any(not r.message.keys() <= _TOOL_KEYS for r in call.results) or ("name" in message and not keep_name):
            self._log.add("key_dropped", first.where)
        if message["role"] == "function":
            self._log.add("legacy_function", first.where)
        elif message.get("tool_call_id") != call.id:
            self._log.add("tool_call_id", first.where + ".tool_call_id")
        new: Message = {"role": "tool", "tool_call_id": call.id, "content": content}
        if keep_name:
            new["name"] = name
        return new

    def _orphan(self, result: Result) -> Message:
        """A result whose call is not (or no longer) there: the model still gets to read it (F17)."""
        self._log.add("result_as_text", result.where)
        of = f" of {result.name}" if result.name else ""
        return {"role": "user", "content": f"[result{of}, whose call is not part of this turn]\n{result.content}"}

    @staticmethod
    def _moved_images(result: Result) -> list[Message]:
        return [{"role": "user", "content": result.images}] if result.images else []

    # -- the end of the list

    def _assistant_out(self, message: Message) -> None:
        """Append an assistant message."""
        if self._users:
            self._join_users()
        self._out.append(message)
        self._turn_ended = False

    def _user(self, message: Message) -> None:
        """Append a user message: merged with one before it, bridged after a result or an ended turn."""
        out = self._out
        last = out[-1]["role"] if out else None
        if last == "user" and not self._turn_ended:
            self._log.add("messages_merged")
            if not self._users:
                self._users.append(out[-1]["content"])
            self._users.append(message["content"])
            return
        if self._users:
            self._join_users()
        if last == "user" or (last == "tool" and not self._profile.user_after_tool):
            self._log.add("bridge_added")
            out.append({"role": "assistant", "content": BRIDGE})
        self._turn_ended = False
        out.append(message)

    def _join_users(self) -> None:
        """Make one message of the neighbouring user messages that were held."""
        self._out[-1] = {"role": "user", "content": joined(self._users)}
        self._users = []
