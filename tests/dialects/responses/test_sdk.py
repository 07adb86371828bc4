"""The official SDK reads every answer: created, streamed and parsed, over a transport that is the dialect."""

from __future__ import annotations

import json
from typing import Any

import httpx
import openai
import pytest
from pydantic import BaseModel

from devstral_proxy.dialects.responses import Responses
from devstral_proxy.dialects.responses.stored import Record, cancelled, deleted, input_list, missing, retrieved
from devstral_proxy.errors import ProxyError, UpstreamProtocolError
from devstral_proxy.mistral.fold import fold
from devstral_proxy.upstream.sse import Event
from tests.dialects.responses.help import PATCH, READ_FILE, SPACE, begun, custom, custom_input, stream

MODEL = "devstral-small-2"


class Weather(BaseModel):
    """A format, and a tool's arguments."""

    city: str
    degrees: int


class Server:
    """Answers with prepared chat streams, one a request, and keeps the responses."""

    def __init__(self, *answers: list[Event]) -> None:
        self.answers = list(answers)
        self.chats: list[dict[str, Any]] = []
        self.records: dict[str, Record] = {}
        self.fails: ProxyError | None = None

    def client(self) -> openai.OpenAI:
        """The SDK, talking to it."""
        http: Any = httpx.Client(transport=httpx.MockTransport(self.handle))
        return openai.OpenAI(api_key="x", base_url="http://proxy/v1", http_client=http, max_retries=0)

    def handle(self, request: httpx.Request) -> httpx.Response:
        """One exchange."""
        path = request.url.path.removeprefix("/v1/responses").strip("/")
        if not path:
            return self.create(json.loads(request.content))
        id, _, rest = path.partition("/")
        record = self.records.get(id)
        try:
            if record is None:
                raise missing(id)
            if request.method == "DELETE":
                del self.records[id]
                return httpx.Response(200, json=deleted(id))
            if rest == "cancel":
                return httpx.Response(200, json=cancelled(record))
            if rest == "input_items":
                return httpx.Response(200, json=input_list(record["input_items"], dict(request.url.params)))
            return httpx.Response(200, json=retrieved(record, dict(request.url.params)))
        except ProxyError as error:
            return httpx.Response(error.status, json=Responses(0, "").error(error))

    def create(self, body: dict[str, Any]) -> httpx.Response:
        """POST /v1/responses."""
        previous = None
        if "previous_response_id" in body:
            record = self.records[body["previous_response_id"]]
            previous = [*record["input_items"], *record["response"]["output"]]
        made = Responses(1_700_000_000, f"seed{len(self.chats)}", previous=previous)
        try:
            self.chats.append(made.request(body))
        except ProxyError as error:
            return httpx.Response(error.status, json=made.error(error))
        answer = self.answers.pop(0)
        if made.stream:
            events = made.opening() + made.events(answer)
            if self.fails is not None:
                events += made.broken(self.fails)
            content = b"".join(event.raw for event in events)
            reply = httpx.Response(200, content=content, headers={"content-type": "text/event-stream"})
        else:
            reply = httpx.Response(200, json=made.body(fold(answer)))
        if made.store and made.result:
            self.records[made.id] = made.record
        return reply


def test_create() -> None:
    server = Server(stream({"reasoning_content": "hm"}, {"content": "Hello"}))
    response = server.client().responses.create(model=MODEL, input="hi", instructions="Be brief.")
    assert response.output_text == "Hello"
    assert response.status == "completed"
    assert response.usage is not None
    assert response.usage.input_tokens_details.cached_tokens == 4
    assert [item.type for item in response.output] == ["reasoning", "message"]
    assert server.chats[0]["messages"][0] == {"role": "system", "content": "Be brief."}


def test_stream() -> None:
    server = Server(
        stream(
            {"reasoning_content": "hm"},
            {"content": "Hel"},
            {"content": "lo"},
            begun(0, "read_file", '{"path"'),
            {"tool_calls": [{"index": 0, "function": {"arguments": ': "a"}'}}]},
            begun(1, "agents__close", "{}"),
            custom(2, "apply_patch"),
            custom_input(2, "*** Begin"),
            finish="tool_calls",
        )
    )
    tools: Any = [READ_FILE, PATCH, SPACE]
    with server.client().responses.stream(model=MODEL, input="hi", tools=tools) as events:
        kinds = [event.type for event in events]
        response = events.get_final_response()
    assert kinds[0] == "response.created"
    assert kinds[-1] == "response.completed"
    assert response.output_text == "Hello"
    calls = [item for item in response.output if item.type == "function_call"]
    assert [(call.namespace, call.name, call.arguments) for call in calls] == [
        (None, "read_file", '{"path": "a"}'),
        ("agents", "close", "{}"),
    ]
    (patch,) = [item for item in response.output if item.type == "custom_tool_call"]
    assert patch.input == "*** Begin"


@pytest.mark.parametrize("streamed", [True, False])
def test_parse(streamed: bool) -> None:
    server = Server(stream({"content": '{"city": "Paris", "degrees": 20}'}))
    client = server.client()
    if streamed:
        with client.responses.stream(model=MODEL, input="hi", text_format=Weather) as events:
            response = events.get_final_response()
    else:
        response = client.responses.parse(model=MODEL, input="hi", text_format=Weather)
    assert response.output_parsed == Weather(city="Paris", degrees=20)
    form = server.chats[0]["response_format"]
    assert form["json_schema"]["name"] == "Weather"
    assert form["json_schema"]["strict"] is True


def test_parse_tool_arguments() -> None:
    server = Server(stream(begun(0, "Weather", '{"city": "Paris", "degrees": 20}'), finish="tool_calls"))
    tool = openai.pydantic_function_tool(Weather)
    response = server.client().responses.parse(model=MODEL, input="hi", tools=[tool])
    (call,) = response.output
    assert call.type == "function_call"
    assert call.parsed_arguments == Weather(city="Paris", degrees=20)


def test_incomplete() -> None:
    client = Server(stream({"content": "Hel"}, finish="length")).client()
    kinds = [event.type for event in client.responses.create(model=MODEL, input="hi", stream=True)]
    assert kinds[-1] == "response.incomplete"


def test_failed() -> None:
    server = Server(stream({"content": "Hel"})[:-3])
    server.fails = UpstreamProtocolError("engine died")
    *_, last = server.client().responses.create(model=MODEL, input="hi", stream=True)
    assert last.type == "response.failed"
    assert last.response.error is not None
    assert last.response.error.message == "engine died"


def test_refused() -> None:
    given: Any = [{"role": "user", "content": [{"type": "x"}]}]
    with pytest.raises(openai.BadRequestError) as raised:
        Server().client().responses.create(model=MODEL, input=given)
    assert raised.value.param == "input[0].content[0].type"


def test_a_stored_conversation() -> None:
    call = begun(0, "read_file", '{"path": "a"}')
    server = Server(stream(call, finish="tool_calls"), stream({"content": "Done."}))
    client = server.client()
    tools: Any = [READ_FILE]
    first = client.responses.create(model=MODEL, input="hi", instructions="once", tools=tools)
    output: Any = [{"type": "function_call_output", "call_id": "call00000", "output": "text"}]
    second = client.responses.create(model=MODEL, input=output, previous_response_id=first.id)
    assert second.previous_response_id == first.id
    assert [message["role"] for message in server.chats[1]["messages"]] == ["user", "assistant", "tool"]
    assert client.responses.retrieve(first.id).output == first.output
    items = client.responses.input_items.list(second.id).data
    assert [item.type for item in items] == ["function_call_output"]
    with pytest.raises(openai.BadRequestError):
        client.responses.cancel(first.id)
    client.responses.delete(first.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(first.id)


def test_pages_of_input_items() -> None:
    server = Server(stream({"content": "x"}))
    client = server.client()
    given: Any = [{"role": "user", "content": f"{number}"} for number in range(5)]
    response = client.responses.create(model=MODEL, input=given)
    for order, expected in (("asc", "01234"), ("desc", "43210")):
        pages: Any = client.responses.input_items.list(response.id, limit=2, extra_query={"order": order})
        assert "".join(item.content[0].text for item in pages) == expected
