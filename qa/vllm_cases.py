"""Requests that a real vLLM takes or refuses: every row of "what is refused", one thing wrong at a time.

A case is a name (`category/what`),
and either the members of a chat completion (put over BASE) or a raw body with headers.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from qa.vllm_requests import BASE, PIXEL, SHORT, Case, assistant, call, result, system, text, tool, user, without
from qa.vllm_tools import grammar_requests, tool_requests

__all__ = ["Case", "cases"]


def _conversations() -> Iterator[tuple[str, list[Any]]]:
    image = {"type": "image_url", "image_url": {"url": PIXEL}}
    turn = [user(), assistant("", call()), result()]
    two = [user(), assistant("", call("abcdefgh1"), call("abcdefgh2"))]
    yield "roles/plain", [user()]
    yield "roles/system first", [system(), user()]
    yield "roles/two systems", [system(), system("More."), user()]
    yield "roles/two users", [user("a"), user("b")]
    yield "roles/two assistants", [user(), assistant("a"), assistant("b"), user()]
    yield "roles/developer", [{"role": "developer", "content": "x"}, user()]
    yield "roles/unknown", [{"role": "critic", "content": "x"}, user()]
    yield "roles/function", [user(), {"role": "function", "name": "f", "content": "x"}]
    yield "roles/null", [{"role": None, "content": "x"}]
    yield "roles/missing", [{"content": "x"}]
    yield "roles/system after assistant", [user(), assistant(), system(), user()]
    yield "roles/system after tool", [*turn, system()]
    yield "roles/system after user", [user(), system()]
    yield "roles/system between users", [user("a"), system(), user("b")]
    yield "roles/user after tool", [*turn, user()]
    yield "roles/assistant first", [assistant(), user()]
    yield "roles/only system", [system()]
    yield "messages/empty", []
    yield "messages/not objects", ["hi"]
    yield "messages/null in list", [None]
    yield "end/assistant last", [user(), assistant("partial ")]
    yield "end/assistant with calls last", [user(), assistant("", call())]
    yield "end/system last after assistant", [user(), assistant(), system()]
    yield "assistant/empty content", [user(), assistant(""), user()]
    yield "assistant/null content", [user(), assistant(None), user()]
    yield "assistant/missing content", [user(), {"role": "assistant"}, user()]
    yield "assistant/empty list", [user(), assistant([]), user()]
    yield "assistant/missing content with calls", [user(), without(assistant("", call()), "content"), result()]
    yield "assistant/null content with calls", [user(), assistant(None, call()), result()]
    yield "assistant/text with calls", [user(), assistant("Let me look.", call()), result()]
    yield "assistant/empty list with calls", [user(), assistant([], call()), result()]
    yield "assistant/tool_calls null", [user(), assistant("ok", tool_calls=None), user()]
    yield "assistant/tool_calls empty", [user(), assistant("ok", tool_calls=[]), user()]
    yield "assistant/tool_calls object", [user(), assistant("ok", tool_calls={}), user()]
    yield "assistant/tool_calls number", [user(), assistant("ok", tool_calls=3), user()]
    yield "assistant/text parts", [user(), assistant([text("a"), text("b")]), user()]
    yield "assistant/refusal part", [user(), assistant([{"type": "refusal", "refusal": "no"}]), user()]
    yield "assistant/refusal null", [user(), assistant("ok", refusal=None), user()]
    yield "assistant/refusal text", [user(), assistant("ok", refusal="no"), user()]
    yield "assistant/function_call null", [user(), assistant("ok", function_call=None), user()]
    yield "assistant/audio null", [user(), assistant("ok", audio=None), user()]
    yield "assistant/name", [user(), assistant("ok", name="bot"), user()]
    yield "assistant/reasoning", [user(), assistant("ok", reasoning="hm"), user()]
    yield "assistant/reasoning_content", [user(), assistant("ok", reasoning_content="hm"), user()]
    yield "assistant/reasoning list", [user(), assistant("ok", reasoning=[{"type": "text", "text": "hm"}]), user()]
    yield "assistant/reasoning differs", [user(), assistant("ok", reasoning="hm", reasoning_content="ah"), user()]
    yield "assistant/reasoning empty", [user(), assistant("ok", reasoning=""), user()]
    yield "assistant/reasoning_details", [user(), assistant("ok", reasoning_details=[{"text": "hm"}]), user()]
    yield "assistant/prefix key", [user(), assistant("ok", prefix=True), user()]
    yield "assistant/unknown key", [user(), assistant("ok", provider_specific_fields={}), user()]
    thinking = {"type": "thinking", "thinking": [text("hm")]}
    yield "assistant/thinking part list", [user(), assistant([thinking, text("ok")]), user()]
    plain_thought = {"type": "thinking", "thinking": "hm", "closed": True}
    yield "assistant/thinking part text", [user(), assistant([plain_thought, text("ok")]), user()]
    yield "assistant/output_text part", [user(), assistant([{"type": "output_text", "text": "ok"}]), user()]
    yield "user/null content", [user(None)]
    yield "user/missing content", [{"role": "user"}]
    yield "user/empty content", [user("")]
    yield "user/empty list", [user([])]
    yield "user/number", [user(3)]
    yield "user/object", [user({"type": "text", "text": "x"})]
    yield "user/text parts", [user([text("a"), text("b")])]
    yield "user/bare strings", [user(["a", "b"])]
    yield "user/string among parts", [user([text("a"), "b"])]
    yield "user/null part", [user([None])]
    yield "user/image", [user([text("a"), image])]
    yield "user/image without type", [user([{"image_url": PIXEL}])]
    yield "user/input_image", [user([{"type": "input_image", "image_url": PIXEL}])]
    yield "user/image as text url", [user([{"type": "image_url", "image_url": PIXEL}])]
    yield "user/input_audio", [user([{"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}])]
    yield "user/video", [user([{"type": "video_url", "video_url": {"url": "data:video/mp4;base64,AAAA"}}])]
    yield "user/file", [user([{"type": "file", "file": {"file_data": "data:;base64,AAAA", "filename": "a"}}])]
    yield "user/input_text", [user([{"type": "input_text", "text": "a"}])]
    yield "user/unknown part", [user([{"type": "blob", "blob": "a"}])]
    yield "user/part type null", [user([{"type": None, "text": "a"}])]
    yield "user/part without type", [user([{"text": "a"}])]
    yield "user/text part without text", [user([{"type": "text"}])]
    yield "user/text part null", [user([{"type": "text", "text": None}])]
    yield "user/empty text part", [user([text("")])]
    yield "user/thinking part", [user([plain_thought])]
    yield "user/refusal part", [user([{"type": "refusal", "refusal": "no"}])]
    yield "user/cache_control in part", [user([text("a", cache_control={"type": "ephemeral"})])]
    yield "user/cache_control", [user("a", cache_control={"type": "ephemeral"})]
    yield "user/name", [user("a", name="bob")]
    yield "user/id", [user("a", id="m1")]
    yield "user/control token text", [user("[INST] </s> [TOOL_CALLS] x")]
    yield "system/null content", [system(None), user()]
    yield "system/empty content", [system(""), user()]
    yield "system/parts", [system([text("a"), text("b")]), user()]
    yield "system/cache_control in part", [system([text("a", cache_control={"type": "ephemeral"})]), user()]
    yield "system/empty list", [system([]), user()]
    yield "system/image", [system([image]), user()]
    yield "system/name", [system("a", name="x"), user()]
    yield "tool/plain", turn
    yield "tool/no id", [*turn[:2], without(result(), "tool_call_id")]
    yield "tool/empty id", [*turn[:2], result("")]
    yield "tool/null id", [*turn[:2], result(None)]
    yield "tool/number id", [*turn[:2], result(3)]
    yield "tool/null content", [*turn[:2], result(content=None)]
    yield "tool/missing content", [*turn[:2], without(result(), "content")]
    yield "tool/empty content", [*turn[:2], result(content="")]
    yield "tool/empty list", [*turn[:2], result(content=[])]
    yield "tool/object content", [*turn[:2], result(content={"a": 1})]
    yield "tool/text parts", [*turn[:2], result(content=[text("a"), text("b")])]
    yield "tool/image", [*turn[:2], result(content=[text("a"), image])]
    yield "tool/name", [*turn[:2], result(name="read")]
    yield "tool/empty name", [*turn[:2], result(name="")]
    yield "tool/null name", [*turn[:2], result(name=None)]
    yield "tool/unknown key", [*turn[:2], result(status="ok")]
    yield "tool/is_error", [*turn[:2], result(is_error=True)]
    yield "tool/orphan", [user(), result()]
    yield "tool/orphan after assistant", [user(), assistant(), result()]
    yield "tool/first", [result(), user()]
    yield "tool/mismatched", [*turn[:2], result("zzzzzzzz9")]
    yield "tool/duplicate", [*turn, result()]
    yield "tool/user in between", [*two, result("abcdefgh1"), user(), result("abcdefgh2")]
    yield "tool/other order", [*two, result("abcdefgh2"), result("abcdefgh1")]
    yield "tool/both", [*two, result("abcdefgh1"), result("abcdefgh2")]
    yield "missing results/assistant follows", [*two, result("abcdefgh1"), assistant(), user()]
    yield "missing results/user follows", [*two, result("abcdefgh1"), user()]
    yield "missing results/nothing follows", [*two, result("abcdefgh1")]
    yield "missing results/none, user follows", [user(), assistant("", call()), user()]
    yield "missing results/none, assistant follows", [user(), assistant("", call()), assistant(), user()]
    yield "missing results/too many", [*turn[:2], result(), result("abcdefgh2")]
    for name, number in {
        "9 alphanumeric": "aB3dE6gH9", "long": "call_abcdefgh123456789",
        "long with dash at the end": "call_abc-def-ghi",
        "short": "call_1", "uuid": "3e2f8d3e-6f3c-4a53-9b1f-0a2c1e9d7f55", "toolu": "toolu_01A09q90qw90lq917835lq9",
        "dotted": "functions.Read:0", "underscore": "turn1_0", "empty": "", "text null": "null",
        "accents": "éééééééé1",
    }.items():  # fmt: skip
        yield f"call ids/{name}", [user(), assistant("", call(number)), result(number)]
    yield "call ids/null", [user(), assistant("", call(None)), result()]
    yield "call ids/missing", [user(), assistant("", without(call(), "id")), result()]
    ends = ["one_abcdefghi", "two_abcdefghi"]
    yield "call ids/equal ends", [user(), assistant("", *map(call, ends)), *map(result, ends)]
    yield "call ids/same twice", [user(), assistant("", call(), call()), result(), result()]
    yield "call ids/same in two turns", [*turn, assistant("", call()), result()]
    for name, one in {
        "type missing": without(call(), "type"), "type null": call(type=None), "type custom": call(type="custom"),
        "custom": {"id": "abcdefgh1", "type": "custom", "custom": {"name": "read", "input": "x"}},
        "index": call(index=0), "extra key": call(extra_content={"a": 1}), "function null": call(function=None),
        "function missing": without(call(), "function"), "arguments null": call(arguments=None),
        "arguments object": call(arguments={"path": "a"}), "arguments empty": call(arguments=""),
        "arguments invalid": call(arguments='{"path": '), "arguments array": call(arguments="[1]"),
        "arguments number": call(arguments="3"), "arguments string": call(arguments='"x"'),
        "arguments twice": call(arguments='"{\\"path\\": \\"a\\"}"'), "arguments empty object": call(arguments="{}"),
        "arguments null text": call(arguments="null"), "arguments spaced": call(arguments='{ "path" : "a" }'),
        "arguments unicode": call(arguments='{"path": "é🎉"}'),
        "arguments escaped": call(arguments='{"path": "\\u00e9"}'),
        "arguments missing": {"id": "abcdefgh1", "type": "function", "function": {"name": "read"}},
        "name dot": call(name="a.b"), "name slash": call(name="a/b"), "name space": call(name="a b"),
        "name long": call(name="x" * 65), "name 64": call(name="x" * 64), "name empty": call(name=""),
        "name null": call(name=None), "name dash": call(name="a-b_c"), "name accents": call(name="é"),
        "string": "read",
        "null": None,
    }.items():  # fmt: skip
        yield f"call shape/{name}", [user(), {"role": "assistant", "content": "", "tool_calls": [one]}, result()]


def _fields() -> Iterator[tuple[str, dict[str, Any]]]:
    schema = {"type": "object", "properties": {"a": {"type": "string"}}}
    long_prompt = [user("word " * 4600)]
    near = [user("word " * 4000)]
    fields: dict[str, dict[str, Any]] = {
        "max_tokens 0": {"max_tokens": 0}, "max_tokens negative": {"max_tokens": -1}, "max_tokens null": {
            "max_tokens": None, "max_completion_tokens": 1}, "max_tokens text": {"max_tokens": "x"},
        "max_tokens numeric text": {"max_tokens": "1"}, "max_tokens 1.0": {"max_tokens": 1.0},
        "max_tokens 1.5": {"max_tokens": 1.5}, "max_tokens over the context": {"max_tokens": 5000, **SHORT},
        "max_completion_tokens 0": {"max_completion_tokens": 0},
        "max_completion_tokens over": {"max_completion_tokens": 5000, **SHORT},
        "max_completion_tokens negative": {"max_completion_tokens": -5},
        "n 0": {"n": 0}, "n negative": {"n": -1}, "n null": {"n": None}, "n 2 greedy": {"n": 2},
        "n 2": {"n": 2, "temperature": 1}, "n text": {"n": "x"},
        "temperature negative": {"temperature": -1}, "temperature 2": {"temperature": 2}, "temperature 2.5": {
            "temperature": 2.5}, "temperature null": {"temperature": None}, "temperature text": {"temperature": "hot"},
        "top_p 0": {"top_p": 0}, "top_p 1": {"top_p": 1}, "top_p 1.1": {"top_p": 1.1},
        "top_p negative": {"top_p": -0.1},
        "top_p null": {"top_p": None}, "top_k -1": {"top_k": -1}, "top_k -2": {"top_k": -2}, "top_k 0": {"top_k": 0},
        "min_p 2": {"min_p": 2}, "presence_penalty 3": {"presence_penalty": 3}, "frequency_penalty -3": {
            "frequency_penalty": -3}, "presence_penalty null": {"presence_penalty": None},
        "frequency_penalty null": {"frequency_penalty": None}, "repetition_penalty 0": {"repetition_penalty": 0},
        "min_tokens negative": {"min_tokens": -1}, "min_tokens over max": {"min_tokens": 5}, "min_tokens null": {
            "min_tokens": None}, "stop text": {"stop": "x"}, "stop empty": {"stop": ""}, "stop null": {"stop": None},
        "stop list": {"stop": ["a", "b"]}, "stop empty list": {"stop": []}, "stop list with empty": {"stop": ["a",
        ""]},
        "stop 4": {"stop": list("abcd")}, "stop 5": {"stop": list("abcde")}, "stop number": {"stop": 3},
        "seed": {"seed": 7}, "seed null": {"seed": None}, "seed text": {"seed": "x"}, "seed huge": {"seed": 2**64},
        "logit_bias": {"logit_bias": {"5": 1}}, "logit_bias text key": {"logit_bias": {"x": 1}},
        "logit_bias out of range": {
            "logit_bias": {"999999": 1}}, "logit_bias negative": {"logit_bias": {"-1": 1}}, "logit_bias null": {
            "logit_bias": None}, "logprobs": {"logprobs": True}, "logprobs with top": {"logprobs": True,
            "top_logprobs": 2},
        "bad_words": {"bad_words": [""]}, "use_beam_search": {"use_beam_search": False},
    }  # fmt: skip
    for name, change in fields.items():
        yield f"sampling/{name}", change
    others: dict[str, dict[str, Any]] = {
        "top_logprobs without logprobs": {"top_logprobs": 2}, "top_logprobs 0": {"top_logprobs": 0},
        "top_logprobs null": {
            "top_logprobs": None}, "top_logprobs 21": {"logprobs": True, "top_logprobs": 21},
            "top_logprobs negative": {
            "logprobs": True, "top_logprobs": -2}, "top_logprobs text": {"logprobs": True, "top_logprobs": "x"},
        "prompt_logprobs negative": {"prompt_logprobs": -3}, "prompt_logprobs streamed": {
            "prompt_logprobs": 1, "stream": True}, "logprobs number": {"logprobs": 1}, "logprobs 5": {"logprobs": 5},
        "chat_template": {"chat_template": "x"}, "chat_template null": {"chat_template": None},
        "chat_template_kwargs": {"chat_template_kwargs": {"enable_thinking": False}},
        "chat_template_kwargs empty": {"chat_template_kwargs": {}}, "chat_template_kwargs null": {
            "chat_template_kwargs": None},
            "stream_options without stream": {"stream_options": {"include_usage": True}},
        "stream_options null": {"stream_options": None}, "stream_options empty": {"stream_options": {}},
        "stream_options, stream false": {"stream": False, "stream_options": {"include_usage": True}},
        "stream_options text": {"stream": True, "stream_options": "x"}, "stream null": {"stream": None},
        "stream text": {"stream": "maybe"}, "store": {"store": True}, "metadata": {"metadata": {"a": "b"}},
        "service_tier": {"service_tier": "auto"}, "verbosity": {"verbosity": "low"}, "prompt_cache_key": {
            "prompt_cache_key": "k"}, "user": {"user": "bob"}, "user number": {"user": 3},
            "safe_prompt": {"safe_prompt": True},
        "unknown": {"a_new_field": [1]}, "model missing": {"model": None}, "model empty": {"model": ""},
        "model unknown": {
            "model": "gpt-4o"}, "model number": {"model": 3}, "priority": {"priority": 0},
            "priority text": {"priority": "x"},
        "echo": {"echo": True}, "add_special_tokens": {"add_special_tokens": True},
        "documents": {"documents": [{"a": "b"}]},
        "modalities": {"modalities": ["text"]}, "prediction": {"prediction": {"type": "content", "content": "x"}},
        "web_search_options": {"web_search_options": {}}, "reasoning object": {"reasoning": {"effort": "high"}},
        "thinking object": {"thinking": {"type": "enabled"}}, "include_reasoning": {"include_reasoning": False},
        "skip_special_tokens false": {"skip_special_tokens": False}, "truncate_prompt_tokens -1": {
            "truncate_prompt_tokens": -1}, "truncate_prompt_tokens -2": {"truncate_prompt_tokens": -2},
        "cache_salt": {"cache_salt": "x"}, "cache_salt empty": {"cache_salt": ""},
        "cache_salt slash": {"cache_salt": "a/b"},
        "continue without prefix": {"continue_final_message": True, "add_generation_prompt": False},
        "both prompts": {"continue_final_message": True, "add_generation_prompt": True},
        "no generation prompt": {"add_generation_prompt": False}, "messages missing": {"messages": None},
        "messages text": {"messages": "x"}, "messages object": {"messages": {}}, "messages number": {"messages": 3},
        "context overflow": {"messages": long_prompt}, "context overflow streamed": {"messages": long_prompt,
        "stream": True},
        "context with max_tokens": {"messages": near, "max_tokens": 200, "stop": "e",
        **SHORT},
        "json_object": {"response_format": {"type": "json_object"}},
        "format text": {"response_format": {"type": "text"}},
        "format null": {"response_format": None}, "format unknown": {"response_format": {"type": "xml"}},
        "format text value": {"response_format": "json"}, "json_schema": {"response_format": {
            "type": "json_schema", "json_schema": {"name": "a", "schema": schema}}},
        "json_schema missing": {"response_format": {"type": "json_schema"}}, "json_schema without name": {
            "response_format": {"type": "json_schema", "json_schema": {"schema": schema}}},
        "json_schema without schema": {"response_format": {"type": "json_schema", "json_schema": {"name": "a"}}},
        "json_schema with tools": {"tools": [tool()], "response_format": {
            "type": "json_schema", "json_schema": {"name": "a", "schema": schema}}},
        "structured_outputs": {"structured_outputs": {"json": schema}}, "structured_outputs two": {
            "structured_outputs": {"json": schema, "regex": "a"}},
            "structured_outputs empty": {"structured_outputs": {}},
        "guided_json": {"guided_json": schema}, "vllm_xargs object": {"vllm_xargs": {"a": {"b": 1}}},
        "refused and streamed": {"messages": [user(None)], "stream": True},
    }  # fmt: skip
    for name, change in others.items():
        yield f"other fields/{name}", change
    for effort in ("none", "minimal", "low", "medium", "high", "xhigh", "max", "extreme", "", 3):
        yield f"other fields/reasoning_effort {effort!r}", {"reasoning_effort": effort}
    yield "other fields/reasoning_effort null", {"reasoning_effort": None}
    prefix = {"continue_final_message": True, "add_generation_prompt": False}
    yield "end/prefix", {"messages": [user(), assistant("partial ")], **prefix}
    yield "end/prefix with calls", {"messages": [user(), assistant("", call())], **prefix}
    yield "end/prefix empty", {"messages": [user(), assistant("")], **prefix}
    yield "end/assistant, no generation prompt", {"messages": [user(), assistant("x")], "add_generation_prompt": False}
    yield "end/prefix key", {"messages": [user(), assistant("x", prefix=True)], "add_generation_prompt": False}
    yield "end/tool, no generation prompt", {
        "messages": [user(), assistant("", call()), result()], "add_generation_prompt": False}  # fmt: skip
    yield "sampling/beam search", {"use_beam_search": True, "n": 2}
    yield "sampling/allowed_token_ids empty", {"allowed_token_ids": []}
    yield "other fields/truncate_prompt_tokens 2", {"truncate_prompt_tokens": 2}
    yield "other fields/truncate_prompt_tokens 0", {"truncate_prompt_tokens": 0}
    yield "other fields/truncate_prompt_tokens over", {"truncate_prompt_tokens": 99999}
    yield "other fields/mm_processor_kwargs", {"mm_processor_kwargs": {"a": 1}}


def _transport() -> Iterator[Case]:
    good = json.dumps({**BASE, "messages": [user()]})
    as_json = {"content-type": "application/json"}
    yield Case("transport/plain", raw=good)
    yield Case("transport/charset", raw=good, headers={"content-type": "application/json; charset=utf-8"})
    yield Case("transport/no JSON", raw="hello")
    yield Case("transport/half JSON", raw=good[:-5])
    yield Case("transport/empty body", raw="")
    yield Case("transport/null", raw="null")
    yield Case("transport/number too long", raw='{"messages": [], "seed": ' + "9" * 5000 + "}")
    yield Case("transport/array", raw="[]")
    yield Case("transport/string", raw='"x"')
    yield Case("transport/number", raw="3")
    yield Case("transport/empty object", raw="{}")
    yield Case("transport/no content type", raw=good, headers={"content-type": ""})
    yield Case("transport/text", raw=good, headers={"content-type": "text/plain"})
    yield Case("transport/form", raw=good, headers={"content-type": "application/x-www-form-urlencoded"})
    yield Case("transport/json suffix", raw=good, headers={"content-type": "application/vnd.api+json"})
    yield Case("transport/NaN temperature", raw=good.replace('"temperature": 0', '"temperature": NaN'), headers=as_json)
    yield Case("transport/NaN top_p", raw=good.replace('"temperature": 0', '"top_p": NaN'), headers=as_json)
    yield Case(
        "transport/NaN penalty", raw=good.replace('"temperature": 0', '"presence_penalty": NaN'), headers=as_json
    )
    yield Case("transport/Infinity", raw=good.replace('"temperature": 0', '"temperature": Infinity'), headers=as_json)
    yield Case("transport/double key", raw=good[:-1] + ', "temperature": 1}', headers=as_json)


def cases() -> list[Case]:
    """All of them; names are unique."""
    made = [Case(name, {"messages": messages}) for name, messages in _conversations()]
    made += [
        Case(name, {"messages": [user()], **body}) for name, body in (*tool_requests(), *grammar_requests(), *_fields())
    ]
    made += _transport()
    names = [case.name for case in made]
    assert len(set(names)) == len(names), sorted(name for name in names if names.count(name) > 1)
    return made
