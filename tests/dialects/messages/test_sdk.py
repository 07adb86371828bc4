"""The official library reads every answer: whole, streamed, with its tool runner, and the errors."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import anthropic
import httpx2
import orjson
import pytest
from anthropic import beta_tool

from devstral_proxy.dialects.messages import COUNT_HEADER, ESTIMATED, Messages, attempts, counted, estimate
from devstral_proxy.errors import ProxyError, RateLimited, Unauthorized, UpstreamRefused
from devstral_proxy.mistral.fold import fold
from devstral_proxy.mistral.profiles import Profiles
from devstral_proxy.mistral.translator import Translator
from devstral_proxy.upstream.sse import Event
from tests.dialects.messages.material import call, stream_of

TEXT = stream_of({"reasoning_content": "hm", "reasoning": "hm"}, {"content": "Hel"}, {"content": "lo"})
CALLS = stream_of(
    {"content": "Let me see."},
    call(0, "weather", '{"city": "Par'),
    call(0, "", 'is"}'),
    call(1, "weather", '{"city": "Rom"}'),
    finish="tool_calls",
)


class Proxy:
    """What the server makes of the dialect, without a server: the answers to give, and what arrived."""

    def __init__(self, *answers: list[Event] | ProxyError) -> None:
        self.answers = list(answers)
        self.arrived: list[dict[str, Any]] = []

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        body = orjson.loads(request.content)
        dialect = Messages(f"seed {len(self.arrived)}")
        translator = Translator(Profiles().find("devstral-small-2"))
        if request.url.path.endswith("/count_tokens"):
            chat = dialect.count_request(body)
            assert attempts(translator.request(chat))
            return httpx2.Response(200, json=counted(estimate(chat)), headers={COUNT_HEADER: ESTIMATED})
        try:
            self.arrived.append(translator.request(dialect.request(body)))
            answer = self.answers.pop(0)
            if isinstance(answer, ProxyError):
                raise answer
        except ProxyError as error:
            headers = {"content-type": "application/json", "x-should-retry": "false"}
            return httpx2.Response(error.status, content=orjson.dumps(dialect.error(error)), headers=headers)
        if not dialect.stream:
            return httpx2.Response(200, json=dialect.body(fold(answer)))
        events = [*dialect.opening(), *dialect.events(answer)]
        stream = b"".join(event.raw for event in events)
        return httpx2.Response(200, content=stream, headers={"content-type": "text/event-stream"})


@pytest.fixture
def client_of() -> Iterator[Callable[[Proxy], anthropic.Anthropic]]:
    clients: list[anthropic.Anthropic] = []

    def client(proxy: Proxy) -> anthropic.Anthropic:
        http = httpx2.Client(transport=httpx2.MockTransport(proxy))
        clients.append(
            anthropic.Anthropic(
                api_key="k",
                base_url="http://proxy",
                http_client=http,
                max_retries=0,
                _strict_response_validation=True,
            )
        )
        return clients[-1]

    yield client
    for one in clients:
        one.close()


Clients = Callable[[Proxy], anthropic.Anthropic]
ASK: dict[str, Any] = {
    "model": "claude-x",
    "max_tokens": 100,
    "messages": [{"role": "user", "content": "Hi"}],
}


def test_create(client_of: Clients) -> None:
    message = client_of(Proxy(TEXT)).messages.create(**ASK)
    assert [block.type for block in message.content] == ["thinking", "text"]
    assert message.content[1].text == "Hello"
    assert message.model == "claude-x"
    assert (message.usage.input_tokens, message.usage.cache_read_input_tokens) == (20, 30)


def test_stream(client_of: Clients) -> None:
    proxy = Proxy(CALLS, CALLS)
    client = client_of(proxy)
    tools: list[Any] = [
        {"name": "weather", "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}}}
    ]
    with client.messages.stream(**ASK, tools=tools) as stream:
        texts = list(stream.text_stream)
        streamed = stream.get_final_message()
    whole = client.messages.create(**ASK, tools=tools)
    assert "".join(texts) == "Let me see."
    assert streamed.stop_reason == "tool_use"
    assert [block.input for block in streamed.content[1:]] == [{"city": "Paris"}, {"city": "Rom"}]  # type: ignore[union-attr]
    ids = {"id"}
    assert streamed.model_dump(exclude=ids, exclude_none=True) == whole.model_dump(exclude=ids, exclude_none=True)


def test_raw_stream(client_of: Clients) -> None:
    with client_of(Proxy(TEXT)).messages.create(**ASK, stream=True) as stream:
        kinds = [event.type for event in stream]
    assert kinds[0] == "message_start"
    assert kinds[-2:] == ["message_delta", "message_stop"]


@pytest.mark.parametrize("stream", [False, True])
def test_tool_runner(client_of: Clients, stream: bool) -> None:
    cities: list[str] = []

    @beta_tool
    def weather(city: str) -> str:
        """The weather in a city."""
        cities.append(city)
        if city == "Rom":
            raise ValueError("no such city")
        return f"sun in {city}"

    proxy = Proxy(CALLS, TEXT)
    runner = client_of(proxy).beta.messages.tool_runner(**ASK, tools=[weather], stream=stream)
    last = runner.until_done()
    assert cities == ["Paris", "Rom"]
    assert last.content[-1].text == "Hello"  # type: ignore[union-attr]
    roles = [message["role"] for message in proxy.arrived[1]["messages"]]
    assert roles == ["user", "assistant", "tool", "tool"]
    results = [message["content"] for message in proxy.arrived[1]["messages"][2:]]
    assert results[0] == "sun in Paris"
    assert "error" in results[1].lower()
    asked = [entry["function"]["arguments"] for entry in proxy.arrived[1]["messages"][1]["tool_calls"]]
    assert asked == ['{"city": "Paris"}', '{"city": "Rom"}']


def test_a_thought_comes_back(client_of: Clients) -> None:
    proxy = Proxy(TEXT, TEXT)
    client = client_of(proxy)
    first = client.messages.create(**ASK)
    history: list[Any] = [*ASK["messages"], first.to_param(), {"role": "user", "content": "And?"}]
    client.messages.create(**{**ASK, "messages": history})
    assert proxy.arrived[1]["messages"][1] == {"role": "assistant", "content": "Hello"}


def test_structured_output(client_of: Clients) -> None:
    proxy = Proxy(stream_of({"content": '{"a": 1}'}))
    form: Any = {"format": {"type": "json_schema", "schema": {"type": "object"}}}
    message = client_of(proxy).messages.create(**ASK, output_config=form)
    assert json.loads(message.content[0].text) == {"a": 1}
    assert proxy.arrived[0]["response_format"]["json_schema"]["schema"] == {"type": "object"}


def _overflow() -> UpstreamRefused:
    message = (
        b"This model's maximum context length is 200000 tokens. However, your prompt contains at least 210000 input"
    )
    return Translator(Profiles().find("devstral")).error(400, orjson.dumps({"error": {"message": message.decode()}}))


@pytest.mark.parametrize(
    ("error", "raised", "says"),
    [
        (Unauthorized("No key."), anthropic.AuthenticationError, "No key."),
        (RateLimited("Too many."), anthropic.RateLimitError, "Too many."),
        (_overflow(), anthropic.BadRequestError, "prompt is too long: 210000 tokens > 200000 maximum"),
    ],
)
def test_errors(client_of: Clients, error: ProxyError, raised: type[Exception], says: str) -> None:
    with pytest.raises(raised, match=says):
        client_of(Proxy(error)).messages.create(**ASK)


def test_an_error_in_the_stream(client_of: Clients) -> None:
    broken = [*TEXT[:2], Event(b'{"error":{"message":"gone","code":null}}', b"")]
    with (
        client_of(Proxy(broken)).messages.stream(**ASK) as stream,
        pytest.raises(anthropic.APIStatusError, match="gone"),
    ):
        stream.get_final_message()


def test_count_tokens(client_of: Clients) -> None:
    ask = {key: value for key, value in ASK.items() if key != "max_tokens"}
    client = client_of(Proxy())
    assert client.messages.count_tokens(**ask).input_tokens > 0
    assert client.beta.messages.count_tokens(**ask).input_tokens > 0
