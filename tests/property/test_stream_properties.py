"""The promises of the stream repair, for any answer, any cut, any damage and any bytes."""

from __future__ import annotations

import gc
import json
import tracemalloc
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st

from devstral_proxy.errors import ProxyError, UpstreamTimeout
from devstral_proxy.mistral.fold import fold, unfold
from devstral_proxy.mistral.response import repair_response
from devstral_proxy.mistral.rewrites import RewriteLog
from devstral_proxy.mistral.stream import StreamRepair
from devstral_proxy.upstream.sse import Event, Parser
from tests.streams import DONE, END, TOOLS, call, chunk, context, finish, piece, raw, repair, role, text
from tests.strict_reader import StrictAnswer, read_events

PUNCTUATION = [*'[]{}":,1\\\n', "é🥳", "null", "name", "arguments", "Hello", " world"]
MARKERS = ["[TOOL_CALLS]", "[ARGS]", "[CALL_ID]", "TOOL_CALLS", '{"city": "Paris"}', '{"path": "']
CONTENT = st.lists(st.sampled_from([*PUNCTUATION, *MARKERS, *TOOLS, "rm"]), max_size=10).map("".join)
ARGUMENTS = st.sampled_from(
    [
        "{}",
        '{"city": "Paris"}',
        '{"city": "P\\u00e4ris \\"x\\" {"}',
        '{"paths": ["a", "b"], "options": {"a": [1, 2]}}',
        '{"paths": "[\\"a\\"]"}',
        '{"city": "Par',
        '{"city":',
        '{"a": tru',
        '{"city": "x"}{"city": "x"}',
        '{"city": "x"} text',
        "hello",
        "",
        "null",
        '"{}"',
        '{"city": "x"}read_file{"path": "y"}',
        "{'city': 'x',}",
        '{"city": "[TOOL_CALLS]rm{}"}',
    ]
)
NAMES = st.sampled_from([*TOOLS, "rm", "[", "get_weather[ARGS]"])
IDS = st.sampled_from(["abcDEF123", "123abcDEF", "chatcmpl-tool-0123456789abcdef", "call_1", "null", ""])
CALLS = st.lists(st.tuples(NAMES, IDS, ARGUMENTS), max_size=3)
REASONS = st.sampled_from(["stop", "length", "tool_calls"])


def pieces(whole: str, size: int) -> list[str]:
    return [whole[start : start + size] for start in range(0, len(whole), size)]


def streamed(content: str, calls: list[tuple[str, str, str]], reason: str, size: int, split: bool) -> bytes:
    """A stream as vLLM would write it, in tokens of `size` characters."""
    parts = [role(), *(text(part) for part in pieces(content, size))]
    for at, (name, id, arguments) in enumerate(calls):
        first, *rest = pieces(arguments, size) or [""]
        parts.append(call(first, name, id, at=at))
        parts += [call(part, at=at) for part in rest]
    if split or len(parts) == 1:
        return b"".join(parts) + finish(reason) + END
    last = json.loads(parts[-1][6:])
    last["choices"][0]["finish_reason"] = reason
    return b"".join(parts[:-1]) + b"data: " + json.dumps(last).encode() + b"\n\n" + END


def whole(content: str, calls: list[tuple[str, str, str]], reason: str) -> dict[str, Any]:
    """The same answer without streaming."""
    entries = [
        {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}
        for name, id, arguments in calls
    ]
    message = {"role": "assistant", "content": content or None, "tool_calls": entries}
    return {"id": "chatcmpl-1", "choices": [{"index": 0, "message": message, "finish_reason": reason}]}


def summary(answer: StrictAnswer) -> dict[str, Any]:
    assert answer.error is None
    return answer.choices[0].summary(ids=True)


@given(CONTENT, CALLS, REASONS, st.integers(1, 12), st.booleans())
@example("[TOOL_CALLS]get_weather", [("read_file", "abcDEF123", "{}")], "tool_calls", 3, True)
@example('[TOOL_CALLS]write_file{"path": "', [("rm", "abcDEF123", "{}")], "tool_calls", 3, True)
def test_a_strict_reader_takes_it_and_two_ways_give_one_answer(
    content: str, calls: list[tuple[str, str, str]], reason: str, size: int, split: bool
) -> None:
    body = streamed(content, calls, reason, size, split)
    events = repair(body)
    expected = summary(read_events(events, objects=False))
    folded = fold(repair(body, context(stream=False)))
    repaired = repair_response(whole(content, calls, reason), context(), RewriteLog())
    for answer in (folded, repaired):
        assert summary(read_events(unfold(answer, include_usage=False), usage=False, objects=False)) == expected


@given(CONTENT, CALLS, REASONS, st.integers(1, 12), st.lists(st.integers(1, 60), max_size=30), st.booleans())
def test_any_cut_of_the_bytes_is_the_same(
    content: str, calls: list[tuple[str, str, str]], reason: str, size: int, cuts: list[int], crlf: bool
) -> None:
    body = streamed(content, calls, reason, size, split=True)
    expected = raw(repair(body))
    if crlf:
        body = body.replace(b"\n", b"\r\n")
    parser = Parser()
    stream = StreamRepair(context(), RewriteLog())
    out: list[Event] = []
    for cut in (*cuts, len(body)):
        for event in parser.feed(body[:cut]):
            out += stream.feed(event)
        body = body[cut:]
    assert raw(out + stream.finish()) == expected


@given(CONTENT, CALLS, st.sampled_from(["stop", "tool_calls"]), st.integers(1, 12), st.floats(0, 1))
def test_any_truncation_ends_in_an_error(
    content: str, calls: list[tuple[str, str, str]], reason: str, size: int, part: float
) -> None:
    body = streamed(content, calls, reason, size, split=True)
    cut = body[: int(part * (len(body) - 3))]  # all but `]` and the blank line
    answer = read_events(repair(cut), usage=b'"usage"' in cut, objects=False)
    assert answer.error is not None
    assert answer.error["code"] in ("upstream_stream_ended", "upstream_protocol_error")


DELTAS: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {},
    optional={
        "role": st.sampled_from(["assistant", "user", None, 5]),
        "content": st.one_of(CONTENT, st.none(), st.integers(), st.just([{"type": "text", "text": "a"}])),
        "reasoning": st.one_of(CONTENT, st.none(), st.just([])),
        "reasoning_content": st.one_of(CONTENT, st.none()),
        "tool_calls": st.one_of(
            st.none(),
            st.lists(
                st.one_of(
                    st.integers(),
                    st.fixed_dictionaries(
                        {},
                        optional={
                            "index": st.one_of(st.integers(-1, 3), st.none(), st.text(max_size=2), st.just([])),
                            "id": st.one_of(IDS, st.none(), st.integers()),
                            "type": st.sampled_from(["function", None, "x", 5]),
                            "function": st.one_of(
                                st.none(),
                                st.fixed_dictionaries(
                                    {},
                                    optional={
                                        "name": st.one_of(NAMES, st.none(), st.integers(), st.just("")),
                                        "arguments": st.one_of(ARGUMENTS, st.none(), st.just({"a": 1})),
                                    },
                                ),
                            ),
                        },
                    ),
                ),
                max_size=3,
            ),
        ),
        "refusal": st.none() | st.text(max_size=3),
    },
)
CHOICES = st.fixed_dictionaries(
    {"delta": st.one_of(DELTAS, st.none(), st.integers())},
    optional={
        "index": st.sampled_from([0, 0, 0, 1, None, -1, "x", 999]),
        "finish_reason": st.sampled_from([None, None, "", "stop", "length", "tool_calls", "abort", "x", 5]),
        "logprobs": st.sampled_from([None, {}, {"content": None}, {"content": [{"token": "a"}]}, 5]),
        "token_ids": st.one_of(st.none(), st.lists(st.sampled_from([2, 5, 9, 32, 9197]), max_size=5), st.integers()),
    },
)
JUNK = st.one_of(
    st.binary(max_size=30).map(lambda data: b"data: " + data.replace(b"\n", b"").replace(b"\r", b"") + b"\n\n"),
    st.sampled_from(
        [b"data: {}\n\n", b"data: []\n\n", b": x\n\n", DONE, b'data: {"error": {"message": "x"}}\n\n', END]
    ),
    st.sampled_from([chunk(), chunk(usage=5), chunk(object=5), chunk(id=5), chunk(created="x"), chunk(model=None)]),
)
CHUNKS = st.one_of(
    st.lists(CHOICES, min_size=1, max_size=2).map(lambda choices: chunk(*choices)),
    DELTAS.map(lambda delta: chunk(piece(delta))),
    CONTENT.map(lambda content: text(content)),
    st.tuples(NAMES, IDS, ARGUMENTS, st.integers(0, 2)).map(lambda it: call(it[2], it[0], it[1], at=it[3])),
    ARGUMENTS.map(lambda arguments: call(arguments)),
    REASONS.map(lambda reason: finish(reason)),
    JUNK,
)
CONTEXTS = st.sampled_from(
    [
        context(),
        context(tools={}),
        context(include_usage=False),
        context(raw_text=True),
        context(token_ids=True),
        context(max_calls=1),
        context(custom=frozenset(("get_weather",)), names={"rm": "a.b"}),
    ]
)


@settings(max_examples=400)
@given(st.lists(CHUNKS, max_size=8), CONTEXTS, st.sampled_from([None, UpstreamTimeout("slow")]), st.booleans())
def test_any_events_lead_to_a_stream_that_strict_readers_take(
    chunks: list[bytes], given_context: Any, error: ProxyError | None, ends: bool
) -> None:
    body = b"".join([role(), *chunks]) if ends else b"".join(chunks)
    events = repair(body, given_context, error=error)
    answer = read_events(events, usage=b'"usage"' in raw(events), objects=False)
    assert answer.usage is None or given_context.include_usage
    assert raw(repair(body, given_context, cut=1, error=error)) == raw(events)


@given(st.binary(max_size=200), st.integers(1, 50))
def test_any_bytes(body: bytes, cut: int) -> None:
    """Before [DONE] there can only be an error."""
    answer = read_events(repair(body, cut=cut), usage=False)
    assert answer.error is not None
    assert not answer.choices


@given(st.text(max_size=60), st.integers(1, 9))
def test_text_without_tools_is_never_changed(content: str, size: int) -> None:
    body = streamed(content, [], "stop", size, split=True)
    assert raw(repair(body, context(tools={}))) == body


@given(CONTENT, st.integers(1, 9))
def test_what_is_not_taken_for_a_call_goes_on_as_it_came(content: str, size: int) -> None:
    body = streamed(content, [], "stop", size, split=True)
    log = RewriteLog()
    events = repair(body, log=log)
    if not log:
        assert raw(events) == body


def test_memory_does_not_grow_with_the_stream() -> None:
    """Text, arguments of every kind and reasoning go through; nothing of them is kept."""
    word = "x" * 1000
    kinds = [
        text(word),
        call(word),
        chunk(piece({"reasoning": word})),
        text("[" * 1000),
        call("{}" * 500),
    ]
    for kind in kinds:
        parser, stream = Parser(), StreamRepair(context(), RewriteLog())
        for part in (role(), call('{"city": "', "get_weather", "abcDEF123"), *[kind] * 20):
            for event in parser.feed(part):
                stream.feed(event)
        gc.collect()
        tracemalloc.start()
        try:
            for _ in range(300):
                for event in parser.feed(kind):
                    stream.feed(event)
            gc.collect()
            assert tracemalloc.get_traced_memory()[0] < 150_000
        finally:
            tracemalloc.stop()
