"""/v1/responses and /v1/messages: whole and streamed, with calls and their results, what is stored, and errors."""

from __future__ import annotations

import json
from functools import partial
from typing import Any, Final

import httpx

from qa.client import CHAT, Skipped, error_of, expect
from qa.readers import check_message, check_response, prompt_tokens, read_message, read_response
from qa.suites.check import Check, World

RESPONSES: Final = "/v1/responses"
MESSAGES: Final = "/v1/messages"
COUNT: Final = "/v1/messages/count_tokens"
_MOST: Final = 300_000
"""Longest context that is worth overflowing."""
# One path only: a model that calls as a grammar tells it has nothing to choose.
_SCHEMA: Final = {"type": "object", "properties": {"path": {"type": "string", "enum": ["README.md"]}}}
_PARAMETERS: Final = {**_SCHEMA, "required": ["path"], "additionalProperties": False}
_FUNCTION: Final = {"name": "workspace.read", "description": "Reads a file.", "parameters": _PARAMETERS}
_OUTPUT: Final = "The file says: forty-two."


# ---------------------------------------------------------------- asking


def _respond(world: World, stream: bool = False, **body: Any) -> dict[str, Any]:
    """The response to a body, read strictly."""
    asked = {"model": world.model, "max_output_tokens": 60, "stream": stream, **body}
    answer = _ok(world.api.request("POST", RESPONSES, asked))
    if stream:
        response = read_response(answer.content)
    else:
        response = answer.json()
        check_response(response)
    expect(response["model"] == world.model, f"its model is {response['model']!r}")
    return response


def _message(world: World, stream: bool = False, **body: Any) -> dict[str, Any]:
    """The message to a body, read strictly."""
    asked = {"model": world.model, "max_tokens": 60, "stream": stream, **body}
    answer = _ok(world.api.request("POST", MESSAGES + "?beta=true", asked))
    if stream:
        message = read_message(answer.content)
    else:
        message = answer.json()
        check_message(message)
    expect(answer.headers.get("request-id"), "no request-id")
    return message


def _ok(answer: httpx.Response) -> httpx.Response:
    expect(answer.status_code == 200, f"status {answer.status_code}: {answer.text[:200]}")
    return answer


def _refused(answer: httpx.Response, status: int, kind: str) -> str:
    """The text of an error in Anthropic's shape."""
    expect(answer.status_code == status, f"status {answer.status_code}: {answer.text[:200]}")
    body = answer.json()
    expect(body["type"] == "error" and body["error"]["type"] == kind, f"the error is {body}")
    expect(answer.headers.get("request-id"), "no request-id")
    return str(body["error"]["message"])


# ---------------------------------------------------------------- /v1/responses


def _response_text(world: World, stream: bool) -> None:
    response = _respond(world, stream, input="Say something.", instructions="Be brief.", metadata={"a": "b"})
    expect(any(item["type"] == "message" for item in response["output"]), "no message")
    expect(response["metadata"] == {"a": "b"} and response["instructions"] == "Be brief.", "the request is not echoed")


def _response_tools(world: World, stream: bool, chained: bool) -> None:
    """A call, and its result: sent with all that was said, or after the stored response."""
    tools = [{"type": "function", **_FUNCTION}]
    said = {"role": "user", "content": "Read the file."}
    first = _respond(world, stream, input=[said], tools=tools, tool_choice="required", parallel_tool_calls=False)
    calls = [item for item in first["output"] if item["type"] == "function_call"]
    expect(calls, f"no call among {[item['type'] for item in first['output']]}")
    expect(calls[0]["name"] == _FUNCTION["name"], f"the name is {calls[0]['name']!r}")
    expect(json.loads(calls[0]["arguments"]) == {"path": "README.md"}, f"arguments {calls[0]['arguments']!r}")
    results = [{"type": "function_call_output", "call_id": call["call_id"], "output": _OUTPUT} for call in calls]
    if chained:
        _stored(world, first["id"])
        second = _respond(world, stream, input=results, tools=tools, previous_response_id=first["id"])
        expect(second["previous_response_id"] == first["id"], "previous_response_id is not echoed")
    else:
        second = _respond(world, stream, input=[said, *first["output"], *results], tools=tools, store=False)
    expect(second["usage"]["input_tokens"] > first["usage"]["input_tokens"], "the second prompt is no longer")
    if world.upstream is not None:
        roles = [message["role"] for message in world.told()["last"]["body"]["messages"]]
        expect(roles == ["user", "assistant", *["tool"] * len(calls)], f"what arrived: {roles}")


def _response_format(world: World) -> None:
    properties = {"answer": {"enum": ["yes", "no"]}}
    schema = {"type": "object", "properties": properties, "required": ["answer"], "additionalProperties": False}
    form = {"type": "json_schema", "name": "verdict", "schema": schema, "strict": True}
    response = _respond(world, input="Is it?", text={"format": form})
    text = "".join(part["text"] for item in response["output"] for part in item.get("content", ()))
    expect(json.loads(text)["answer"] in ("yes", "no"), f"the text is {text!r}")


def _stored(world: World, id: str) -> dict[str, Any]:
    """What is stored under an id. Raises Skipped where nothing ever is."""
    answer = world.api.request("GET", f"{RESPONSES}/{id}")
    if answer.status_code == 404 and world.upstream is None:
        raise Skipped("nothing is stored there (RESPONSES_STORE=none?)")
    found: dict[str, Any] = _ok(answer).json()
    return found


def _response_stored(world: World) -> None:
    response = _respond(world, input="Say something.")
    path = f"{RESPONSES}/{response['id']}"
    expect(_stored(world, response["id"]) == response, "another response comes back")
    items = _ok(world.api.request("GET", path + "/input_items")).json()
    expect([item["content"][0]["text"] for item in items["data"]] == ["Say something."], f"its input is {items}")
    expect(world.api.request("POST", path + "/cancel").status_code == 400, "it was cancelled")
    expect(_ok(world.api.request("DELETE", path)).json()["deleted"] is True, "it is not deleted")
    for method, rest in (("GET", ""), ("DELETE", ""), ("POST", "/cancel"), ("GET", "/input_items")):
        answer = world.api.request(method, path + rest)
        expect(answer.status_code == 404, f"{method} {rest} afterwards: status {answer.status_code}")
        expect(error_of(answer)["code"] == "response_not_found", "another code afterwards")


def _response_not_stored(world: World) -> None:
    response = _respond(world, input="Say something.", store=False)
    answer = world.api.request("GET", f"{RESPONSES}/{response['id']}")
    expect(answer.status_code == 404, f"status {answer.status_code}")


def _response_refused(world: World, body: dict[str, Any], status: int, param: str | None, code: str | None) -> None:
    answer = world.api.request("POST", RESPONSES, {"model": world.model, "input": "hi", **body})
    expect(answer.status_code == status, f"status {answer.status_code}")
    error = error_of(answer)
    expect(param is None or error["param"] == param, f"it names {error['param']!r}")
    expect(code is None or error["code"] == code, f"the code is {error['code']!r}")


# ---------------------------------------------------------------- /v1/messages


def _message_text(world: World, stream: bool) -> None:
    system = [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}]
    _message(world, stream, system=system, messages=[{"role": "user", "content": "Say something."}])


def _message_tools(world: World, stream: bool) -> None:
    tools = [{"name": _FUNCTION["name"], "description": "Reads a file.", "input_schema": _PARAMETERS}]
    said: list[Any] = [{"role": "user", "content": "Read the file."}]
    choice = {"type": "any", "disable_parallel_tool_use": True}
    first = _message(world, stream, messages=said, tools=tools, tool_choice=choice)
    calls = [block for block in first["content"] if block["type"] == "tool_use"]
    expect(calls and calls[0]["name"] == _FUNCTION["name"], f"the content is {first['content']}")
    expect(calls[0]["input"] == {"path": "README.md"}, f"the input is {calls[0]['input']}")
    results = [{"type": "tool_result", "tool_use_id": call["id"], "content": _OUTPUT} for call in calls]
    said += [{"role": "assistant", "content": first["content"]}, {"role": "user", "content": results}]
    second = _message(world, stream, messages=said, tools=tools)
    expect(prompt_tokens(second) > prompt_tokens(first), "the second prompt is no longer")
    counted = _counted(world, {"messages": said, "tools": tools})
    expect(counted is None or counted == prompt_tokens(second), f"counted {counted}, used {prompt_tokens(second)}")


def _message_cut(world: World) -> None:
    message = _message(world, messages=[{"role": "user", "content": "Say something."}], max_tokens=1)
    expect(message["stop_reason"] == "max_tokens", f"the stop_reason is {message['stop_reason']!r}")


def _counted(world: World, body: dict[str, Any]) -> int | None:
    """The count; None where it is an estimate, which the answer has to say."""
    answer = _ok(world.api.request("POST", COUNT, {"model": world.model, **body}))
    tokens = int(answer.json()["input_tokens"])
    expect(tokens > 0, f"it counts {tokens}")
    return None if answer.headers.get("x-devstral-token-count") == "estimated" else tokens


def _count(world: World) -> None:
    body: dict[str, Any] = {"system": "Be brief.", "messages": [{"role": "user", "content": "Grüße, Welt!"}]}
    counted = _counted(world, body)
    if counted is None:
        raise Skipped("vLLM cannot be asked, the count is an estimate")
    used = prompt_tokens(_message(world, **body))
    expect(counted == used, f"counted {counted}, used {used}")


def _message_refused(world: World, body: dict[str, Any], status: int, kind: str, says: str) -> None:
    asked = {"model": world.model, "max_tokens": 5, "messages": [{"role": "user", "content": "hi"}], **body}
    for path in (MESSAGES, COUNT):
        message = _refused(world.api.request("POST", path, asked), status, kind)
        expect(says in message, f"{path} says {message!r}")


def _message_overflow(world: World) -> None:
    limit = world.models()[world.model].get("max_model_len")
    if not isinstance(limit, int) or limit > _MOST:
        raise Skipped(f"the context is {limit} tokens")
    for stream in (True, False):
        words = [{"role": "user", "content": " word" * (limit + 1000)}]
        asked = {"model": world.model, "max_tokens": 5, "messages": words, "stream": stream}
        message = _refused(world.api.request("POST", MESSAGES, asked), 400, "invalid_request_error")
        expect(message.startswith("prompt is too long: "), f"it says {message!r}")


# ---------------------------------------------------------------- all of them


def _same_prompt(world: World) -> None:
    """One conversation with a call and its result, in three tongues."""
    call = {"name": _FUNCTION["name"], "arguments": '{"path": "README.md"}'}
    use = {"type": "tool_use", "id": "toolu_1", "name": call["name"], "input": {"path": "README.md"}}
    result = {"type": "tool_result", "tool_use_id": "toolu_1", "content": _OUTPUT}
    told: list[tuple[str, dict[str, Any]]] = [
        (CHAT, {
            "messages": [
                {"role": "system", "content": "mark-system"},
                {"role": "user", "content": "mark-user"},
                {"role": "assistant", "tool_calls": [{"id": "toolu_1", "type": "function", "function": call}]},
                {"role": "tool", "tool_call_id": "toolu_1", "content": _OUTPUT},
            ],
            "tools": [{"type": "function", "function": _FUNCTION}],
        }),
        (RESPONSES, {
            "instructions": "mark-system",
            "input": [
                {"role": "user", "content": "mark-user"},
                {"type": "function_call", "call_id": "toolu_1", **call},
                {"type": "function_call_output", "call_id": "toolu_1", "output": _OUTPUT},
            ],
            "tools": [{"type": "function", **_FUNCTION}],
        }),
        (MESSAGES, {
            "system": "mark-system", "max_tokens": 60,
            "messages": [
                {"role": "user", "content": "mark-user"},
                {"role": "assistant", "content": [use]},
                {"role": "user", "content": [result]},
            ],
            "tools": [{"name": call["name"], "description": "Reads a file.", "input_schema": _PARAMETERS}],
        }),
    ]  # fmt: skip
    prompts = []
    for path, body in told:
        _ok(world.api.request("POST", path, {"model": world.model, **body}))
        prompts.append(world.told()["last"]["prompt_tokens"])
    expect(prompts[0] == prompts[1], "/v1/responses has another prompt than chat")
    expect(prompts[0] == prompts[2], "/v1/messages has another prompt than chat")


_WAYS: Final = (("streamed", True), ("whole", False))
_ITEM: Final = {"role": "user", "content": [{"type": "x"}]}
_RESPONSE_REFUSALS: Final[list[tuple[str, dict[str, Any], int, str | None, str | None]]] = [
    ("an unknown part", {"input": [_ITEM]}, 400, "input[0].content[0].type", None),
    ("an unknown response", {"previous_response_id": "resp_0"}, 400, "previous_response_id",
     "previous_response_not_found"),
    ("an unknown model", {"model": "nobody-knows-it"}, 404, None, None),  # vLLM 0.12 names no field
    ("in the background", {"background": True}, 400, "background", None),
]  # fmt: skip
_MESSAGE_REFUSALS: Final[list[tuple[str, dict[str, Any], int, str, str]]] = [
    ("no messages", {"messages": []}, 400, "invalid_request_error", "messages"),
    ("an unknown role", {"messages": [{"role": "x", "content": "a"}]}, 400, "invalid_request_error", "messages.0.role"),
    ("an unknown model", {"model": "nobody-knows-it"}, 404, "not_found_error", "nobody-knows-it"),
]
CHECKS: Final = [
    *(Check(f"responses/text {way}", "a message, every event in its place", partial(_response_text, stream=stream))
      for way, stream in _WAYS),
    *(Check(f"responses/tools {way}", "a call, its result, an answer", partial(_response_tools, stream=stream,
                                                                              chained=False))
      for way, stream in _WAYS),
    *(Check(f"responses/previous_response_id {way}", "the result alone is sent", partial(_response_tools, stream=stream,
                                                                                        chained=True))
      for way, stream in _WAYS),
    Check("responses/text.format", "JSON by a schema", _response_format),
    Check("responses/stored", "got back, its input listed, deleted", _response_stored),
    Check("responses/store false", "nothing is kept", _response_not_stored),
    *(Check(f"responses/refused: {name}", f"{status}, naming the field that is wrong",
            partial(_response_refused, body=body, status=status, param=param, code=code))
      for name, body, status, param, code in _RESPONSE_REFUSALS),
    *(Check(f"messages/text {way}", "a message, every event in its place", partial(_message_text, stream=stream))
      for way, stream in _WAYS),
    *(Check(f"messages/tools {way}", "a call, its result, an answer; counted as used",
            partial(_message_tools, stream=stream))
      for way, stream in _WAYS),
    Check("messages/max_tokens", "told as the reason of the end", _message_cut),
    Check("messages/count_tokens", "as many as the request then uses", _count),
    *(Check(f"messages/refused: {name}", f"{status} {kind}",
            partial(_message_refused, body=body, status=status, kind=kind, says=says))
      for name, body, status, kind, says in _MESSAGE_REFUSALS),
    Check("messages/context overflow", "the words by which Claude Code compacts", _message_overflow),
    Check("dialects/one prompt", "the same conversation in three dialects is one prompt, to the token", _same_prompt,
          "new"),
]  # fmt: skip
