"""ChatAnswer: vLLM's answer in either form, cut anywhere."""

from __future__ import annotations

import json

import pytest

from devstral_proxy.dialects.chat import ChatAnswer, error_events
from devstral_proxy.errors import InternalError, UpstreamProtocolError, UpstreamRefused
from devstral_proxy.mistral.profiles import Profiles
from devstral_proxy.mistral.translator import Translator
from devstral_proxy.upstream.sse import EventTooLarge
from tests.server.upstreams import COMPLETION, DONE, STREAM, chunk, request


def answer(max_event_bytes: int = 10_000, **more: object) -> ChatAnswer:
    translator = Translator(Profiles().find("devstral-small-2"))
    translator.request(request(stream=True, **more))
    return ChatAnswer(translator, max_event_bytes)


def test_any_cut_gives_the_same_events() -> None:
    for form in (STREAM, STREAM.replace(b"\n", b"\r\n")):
        for cut in range(len(form)):
            one = answer()
            events = one.feed([form[:cut]])
            events += one.feed([form[cut:]])
            assert one.done
            assert b"".join(event.raw for event in events + one.finish()) == STREAM


def test_what_follows_done_is_nothing() -> None:
    one = answer()
    events = one.feed([STREAM + chunk({"content": "more"}) + DONE])
    assert b"".join(event.raw for event in events + one.finish()) == STREAM


def test_a_last_event_without_its_blank_line_counts() -> None:
    one = answer()
    events = one.feed([STREAM[:-2]])
    assert not one.done
    events += one.eof()
    assert b"".join(event.raw for event in events + one.finish()) == STREAM


def test_no_event_at_all_is_an_error() -> None:
    one = answer()
    assert one.feed([b": comment\n\n", b"\n\n"]) == []
    with pytest.raises(UpstreamProtocolError):
        one.eof()


ERROR = b'data: {"error": {"message": "no", "type": "x", "param": null, "code": %s}}\n\n'


@pytest.mark.parametrize(
    ("code", "status"), [(b"400", 400), (b"503", 503), (b"null", 500), (b'"x"', 500), (b"200", 500), (b"true", 500)]
)
def test_an_error_event_is_a_status_while_it_may_be(code: bytes, status: int) -> None:
    with pytest.raises(UpstreamRefused) as caught:
        answer().feed([ERROR % code])
    assert caught.value.status == status
    one = answer()
    one.committed = True
    events = one.feed([ERROR % code])
    assert "error" in json.loads((events + one.finish())[0].data)


def test_an_event_over_the_limit_comes_after_what_came_before() -> None:
    big = chunk({"content": "x" * 3000})
    one = answer(2000)
    head = chunk({"role": "assistant", "content": ""}) + chunk({"content": "a"})
    assert b'"a"' in b"".join(event.raw for event in one.feed([head, big]))
    with pytest.raises(EventTooLarge):
        one.feed([b"x"])
    with pytest.raises(EventTooLarge):
        one.eof()
    with pytest.raises(EventTooLarge):
        answer(2000).feed([big])


def test_both_forms_are_one_answer() -> None:
    streamed = answer()
    folded = streamed.folded(streamed.feed([STREAM]) + streamed.finish())
    whole = answer().whole(json.dumps(COMPLETION).encode(), "application/json")
    assert folded["choices"][0]["message"]["content"] == whole["choices"][0]["message"]["content"] == "Hello."
    events = answer(stream_options={"include_usage": True}).unfolded(whole)
    assert json.loads(events[-2].data)["usage"]["total_tokens"] == 2
    assert events[-1].data == b"[DONE]"


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b"{}", b'{"choices": null}', b'{"choices": {}}', b"\xff"])
def test_what_is_no_completion(body: bytes) -> None:
    with pytest.raises(UpstreamProtocolError, match="text/html"):
        answer().whole(body, "text/html; charset=utf-8")


def test_the_last_resort() -> None:
    events = error_events(InternalError("no"))
    assert json.loads(events[0].data)["error"]["message"] == "no"
    assert events[1].data == b"[DONE]"
