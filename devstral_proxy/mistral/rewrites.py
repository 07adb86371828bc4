"""The named rewrites: every change that the translation or the repair may make, one row each.

`explain`, the debug log, the metrics and the response header `x-devstral-rewrites` speak of changes by these names.
A change without a name here is a defect: `RewriteLog.add` refuses it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple


class Rewrite(NamedTuple):
    """One row: `modes` are ids of docs/failure-modes.md, `says` is what `explain` prints."""

    modes: str
    says: str


REQUEST: dict[str, Rewrite] = {
    "tool_call_id": Rewrite(
        "F07 F08 F09 F10 F11 F12 F13",
        "the id is not nine alphanumeric characters (or none at all): mapped to nine, the same on every turn",
    ),
    "tool_call_id_repeated": Rewrite("F15", "two calls of one turn share an id: the later one is renamed"),
    "key_dropped": Rewrite("F01 F26 F27 F28", "a key that Mistral's message format does not have was dropped"),
    "null_dropped": Rewrite("F38 F39", "null means the same as not there, and older servers refuse it"),
    "call_completed": Rewrite("F21", "a tool call's `type` was missing: it is `function`"),
    "custom_call": Rewrite("F53", "a custom tool's free text became the one argument of a function"),
    "legacy_function": Rewrite(
        "", "`function_call` and the role `function` are the older names of tool calls and results"
    ),
    "result_paired": Rewrite(
        "F12", "a result names no call of its turn by id: paired by the id's tail, the tool's name or position"
    ),
    "result_moved": Rewrite("F17", "a result stood apart from its call, or out of order: moved next to it"),
    "results_merged": Rewrite("F14", "several results for one call: their texts became one"),
    "result_filled": Rewrite("F16", "a call without a result got a placeholder: the tokenizer demands one"),
    "result_as_text": Rewrite("F17", "a result without its call became user text"),
    "bridge_added": Rewrite("F02 F03 F04 F05 F06", "a short message stands between two that may not be neighbours"),
    "messages_merged": Rewrite("F19", "neighbours of one role became one message, as the tokenizer itself would do"),
    "empty_dropped": Rewrite("F20", "a message without content and calls was dropped"),
    "content_filled": Rewrite("F21 F32", "content was missing, null or an empty list: it became the empty string"),
    "content_flattened": Rewrite("F29", "a tool result has to be one string"),
    "part_flattened": Rewrite("F30", "a content part of another form became plain text or a plain image"),
    "text_before_calls": Rewrite("", "text after a call goes before it: Mistral's format has no other place for it"),
    "text_split": Rewrite("F22", "tokenizer v3 takes no text beside calls: the text went into a message of its own"),
    "reasoning_dropped": Rewrite(
        "F23 F24 F25",
        "replayed reasoning was dropped: this model has no place for it, it was empty, or the thought stands beside it",
    ),
    "reasoning_converted": Rewrite("F25 F84", "replayed reasoning became thinking parts, which every server reads"),
    "image_moved": Rewrite(
        "F31", "no tokenizer takes images in tool results on every server: moved to a user message after them"
    ),
    "image_omitted": Rewrite("", "the model sees no images, or there was nothing to show: a note stands in its place"),
    "attachment_omitted": Rewrite("", "the model takes no audio or files: a note stands in its place"),
    "system_in_place": Rewrite(
        "F51", "a system or developer message in the middle became user text, in its place, marked as what it is"
    ),
    "developer_role": Rewrite("F51", "`developer` is called `system` here"),
    "assistant_continued": Rewrite(
        "F18", "the history ends with an assistant message: the model is asked to continue it"
    ),
    "user_added": Rewrite(
        "", "tools are written into the first user message: there was none, so an empty one was added"
    ),
    "arguments_filled": Rewrite("F49", "arguments were missing or empty: they became {}"),
    "arguments_serialized": Rewrite("F49", "arguments came as an object instead of text"),
    "arguments_repaired": Rewrite("F49", "arguments were cut, doubled or encoded twice: made whole again"),
    "arguments_wrapped": Rewrite("F50", "arguments were no JSON object: kept as the one member of an object"),
    "tool_name": Rewrite(
        "F42", "the name has characters or a length that Mistral does not take: mapped, and mapped back in the answer"
    ),
    "tool_key_dropped": Rewrite("F35 F36", "a key that Mistral's tool format does not have was dropped"),
    "tool_flattened": Rewrite("F53", "a tool of another form became a function"),
    "tool_dropped": Rewrite("F53", "a tool of a type that nobody serves here was dropped"),
    "tools_omitted": Rewrite("F37", "an empty list of tools was dropped"),
    "parameters_filled": Rewrite("F36", "a function without parameters got an empty schema"),
    "schema": Rewrite("F43 F44", "a tool's schema was brought to JSON Schema draft 7"),
    "schema_reference": Rewrite("F45", "a `$ref` leads nowhere: kept as `x-ref`"),
    "legacy_functions": Rewrite("", "`functions` and `function_call` are the older names of `tools` and `tool_choice`"),
    "tool_choice": Rewrite("F40", "tool_choice in another API's words"),
    "tool_choice_omitted": Rewrite("F38", "tool_choice without tools was dropped"),
    "max_tokens_renamed": Rewrite("F33", "`max_completion_tokens` became `max_tokens`, which every vLLM takes"),
    "max_tokens_clamped": Rewrite(
        "F55", "max_tokens did not fit into the context: the model may use what the prompt leaves"
    ),
    "max_tokens_default": Rewrite("", "the profile's max_tokens, since the client named none"),
    "sampling_default": Rewrite("", "the profile's sampling, since the client named none"),
    "sampling_adjusted": Rewrite("", "a value that OpenAI takes and vLLM does not: the nearest that it takes"),
    "stop_cleaned": Rewrite("", "empty stop strings were dropped"),
    "reasoning_effort": Rewrite("F47", "tokenizers before v15 take no effort, v15 takes none and high"),
    "usage_asked": Rewrite("F75", "usage is always asked for; the client gets it where it asked itself"),
    "asked_as_stream": Rewrite("F57", "this vLLM tells all only in a stream: asked so, and put together here"),
    "asked_whole": Rewrite("F57", "this vLLM tells all only without streaming: asked so, and streamed on from here"),
    "asked_token_ids": Rewrite("F57", "this vLLM may lose a part of the answer: the token ids tell"),
    "asked_again": Rewrite("F57", "a part of the answer was lost on the way: asked for again, in the other way"),
    "asked_raw_text": Rewrite("F57", "this vLLM's parser loses calls: the model's own text is asked for and read here"),
    "billing_header": Rewrite(
        "", "Claude Code's billing header changes with each request, and would make all of the prompt new: dropped"
    ),
    "server_tool_as_text": Rewrite("", "a tool that the client's own API runs: its earlier calls and results are text"),
    "block_dropped": Rewrite("", "a content block that says nothing to a model was dropped"),
    "result_error": Rewrite("", "a failed call's result did not say so: its text begins with `Error`"),
    "item_dropped": Rewrite("", "an input item of a kind that nobody serves here, or that is gone, was dropped"),
    "reasoning_opaque": Rewrite("", "reasoning that only the service which wrote it can read was dropped"),
    "field_dropped": Rewrite("F46 F48", "a field that vLLM ignores or, with a Mistral tokenizer, refuses"),
}

RESPONSE: dict[str, Rewrite] = {
    "calls_from_text": Rewrite("F57 F58 F59 F60 F61 F62", "a tool call stood in the text: made a call again"),
    "call_cut_in_name": Rewrite("F61 F67", "a call has no name, or not the arguments that its tool requires: left out"),
    "calls_over_limit": Rewrite(
        "F81", "more calls than the client, or the profile, allows: the later ones are left out"
    ),
    "tool_name_unknown": Rewrite(
        "F79", "the model called a tool that the request does not have: passed on, and counted"
    ),
    "answer_id": Rewrite("F10 F11 F72", "a call's id was missing or not nine alphanumeric characters"),
    "answer_id_repeated": Rewrite("F15", "two calls of one answer had the same id: the later one is renamed"),
    "call_form": Rewrite("F11 F76", "a call's index, id, name or type was missing, null, repeated or misplaced"),
    "arguments_closed": Rewrite("F64 F66 F67", "a call's arguments ended too early: the object was closed"),
    "arguments_doubled": Rewrite("F64", "brackets, or a second object, stood behind a call's arguments: left out"),
    "arguments_mended": Rewrite("F64", "a call's arguments were no valid JSON: mended"),
    "arguments_unwrapped": Rewrite("F50", "a call's arguments were encoded twice: decoded once"),
    "arguments_invalid": Rewrite("F64", "a call's arguments are no JSON object, and nothing can be made of them"),
    "argument_decoded": Rewrite("F78", "an array or object came as a string: decoded, as the tool's schema wants it"),
    "text_after_arguments": Rewrite("F62", "text, or another call, stood within a call's arguments: taken out"),
    "empty_calls_dropped": Rewrite("F73", "an empty list of tool calls was left out"),
    "reasoning_named": Rewrite("F77", "reasoning stands under both names that clients read"),
    "content_joined": Rewrite("", "content came in parts: joined"),
    "role_completed": Rewrite("", "a choice's first delta, and only that, tells the role"),
    "chunk_completed": Rewrite("", "a chunk lacked something of OpenAI's form: filled in"),
    "chunk_after_finish": Rewrite("", "something came after a choice's end: left out"),
    "finish_reason": Rewrite("F67 F68 F70", "the finish reason was missing or wrong"),
    "done_added": Rewrite("F69", "the stream ended after every finish reason, but without `[DONE]`: added"),
    "finish_split": Rewrite("F71", "the last piece of an answer and its finish reason came in one chunk: split in two"),
    "token_ids_hidden": Rewrite("", "token ids that the proxy had asked for were taken out again"),
    "usage_hidden": Rewrite("F74", "usage that the proxy had asked for was taken out again"),
}

REWRITES: dict[str, Rewrite] = {**REQUEST, **RESPONSE}


def counts(entries: Iterable[tuple[str, str]]) -> dict[str, int]:
    """How often each rewrite was made, in the order of the first time."""
    found: dict[str, int] = {}
    last, run = "", 0  # of a long history the same name comes hundreds of times, one after the other
    for name, _ in entries:
        if name is last:
            run += 1
            continue
        if run:
            found[last] = found.get(last, 0) + run
        last, run = name, 1
    if run:
        found[last] = found.get(last, 0) + run
    return found


def counted(entries: Iterable[tuple[str, str]]) -> str:
    """`tool_call_id=2,key_dropped=1`: how often each was made, in the order of the first time."""
    return ",".join([f"{name}={count}" for name, count in counts(entries).items()])


class RewriteLog:
    """What was changed in one exchange: a list of (name, where), in the order of the changes.

    `where` is the path of the field in the client's request (`messages[2].tool_calls[0].id`) or in the answer
    (`choices[0]`). No content is kept.
    """

    __slots__ = ("entries",)

    def __init__(self) -> None:
        self.entries: list[tuple[str, str]] = []

    def add(self, name: str, where: str = "") -> None:
        """Note one change. Raises KeyError for a name that is not in the table."""
        REWRITES[name]
        self.entries.append((name, where))

    def counts(self) -> dict[str, int]:
        """How often each rewrite was made, in the order of the first time."""
        return counts(self.entries)

    def header(self) -> str:
        """The value of `x-devstral-rewrites`: `tool_call_id=2,key_dropped=1`; empty when nothing was changed."""
        return counted(self.entries)

    def __bool__(self) -> bool:
        return bool(self.entries)
