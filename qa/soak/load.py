"""What well-behaved clients do: questions to every API, conversations that are stored, lists, counts, health."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any, Final

from qa.soak.answers import Wrong, expect, read
from qa.soak.asks import PATHS, Ask, made
from qa.soak.directive import MODEL, RAW, SIMULATORS, Order
from qa.soak.session import Session
from qa.soak.stack import CLIENTS, CROWDS
from qa.soak.verdict import FAULTS, Outcome, status_error
from qa.soak.wire import Reply, request

APIS: Final = ("chat", "messages", "responses")
EVERYWHERE: Final = (
    "400", "500", "html", "half-json", "empty", "redirect", "cut", "error-event", "no-done", "stall", "slow-first",
)  # fmt: skip
"""Faults that every server may show to one request."""
_CROWD: Final = 56


def choose(session: Session, *, api: str = "", model: str = MODEL, words: int = 0, key: str = "") -> Ask:
    """A request without a fault."""
    random = session.random
    api = api or random.choice(APIS)
    act = random.choices(("text", "tool", "tools"), (6, 2, 2))[0]
    if api == "completions" or words:
        act = "text"
    order = Order(session.nonce(), act, words or random.randrange(1, 40))
    return Ask(api, random.random() < 0.6, order, key or random.choice(CLIENTS), model)


async def plain(session: Session) -> None:
    """One question."""
    await session.ask(made(choose(session), session.random))


async def faulty(session: Session) -> None:
    """One question of which an upstream makes something else."""
    random = session.random
    ask = choose(session)
    model, at, fault = RAW, "c", random.choice(list(FAULTS))
    kind = random.random()
    if kind < 0.3:
        model, at, fault = MODEL, "*", random.choice(EVERYWHERE)
    elif kind < 0.6:
        model, at = MODEL, random.choice("abc")
    order = Order(ask.order.nonce, ask.order.act, ask.order.words, fault, at)
    await session.ask(made(Ask(ask.api, ask.stream, order, ask.key, model), random))


async def large(session: Session) -> None:
    """A history of 600 KB."""
    model = RAW if session.random.random() < 0.7 else MODEL
    ask = made(choose(session, model=model), session.random, large=True)
    await session.ask(ask, kind=f"{ask.kind}, 600 KB")


async def completion(session: Session) -> None:
    """A text completion, which is passed on as it is."""
    model = RAW if session.random.random() < 0.5 else MODEL
    await session.ask(made(choose(session, api="completions", model=model), session.random))


async def kept_connection(session: Session) -> None:
    """Several questions over one connection, with pauses."""
    kind = "kept connection"
    async with session.client() as client:
        for number in range(session.random.randrange(2, 5)):
            ask = made(choose(session), session.random)
            since = time.monotonic()
            reply = await session.exchange(client, session.request(ask))
            outcome = session.judged(ask, reply, since)
            if number and not isinstance(reply, Reply) and session.renewing:
                session.note(kind, Outcome("dropped"))
                await session.ask(ask, kind=kind)
                return
            session.note(kind, outcome)
            if outcome.wrong:
                return
            await asyncio.sleep(session.random.random() * 0.5)


async def crowd(session: Session) -> None:
    """More requests at once than are admitted: of one key, which is over its own limit, or of two."""
    keys = CROWDS[: session.random.randrange(1, 3)]
    asks = [made(choose(session, words=40, key=keys[at % len(keys)]), session.random) for at in range(_CROWD)]
    await asyncio.gather(*(session.ask(ask, kind="crowd") for ask in asks))


# ---------------------------------------------------------------- stored conversations


async def conversation(session: Session) -> None:
    """Turns that follow each other by `previous_response_id`; then the stored response is read, and deleted."""
    random = session.random
    key = random.choice(CLIENTS)
    before: list[Order] = []
    previous: str | None = None
    last: Ask | None = None
    for _ in range(random.randrange(2, 5)):
        order = Order(session.nonce(), "text", random.randrange(1, 12))
        ask = Ask("responses", random.random() < 0.6, order, key, MODEL, tuple(before))
        ask = made(ask, random, previous=previous)
        ask.body["store"] = True
        outcome = await session.ask(ask, kind="conversation, turn")
        if outcome.label != "answer":
            return
        before.append(order)
        previous, last = outcome.id, ask
    if last is not None and previous is not None:
        await _stored(session, last, previous)


async def _stored(session: Session, ask: Ask, id: str) -> None:
    kind, path = "conversation, stored", f"{PATHS['responses']}/{id}"
    stranger = next(name for name in CLIENTS if name != ask.key)

    def same(reply: Reply) -> None:
        seen = read("responses", False, reply.body)
        expect(seen.text == ask.text and seen.id == id, "the stored response is another one")

    def items(reply: Reply) -> None:
        expect(str(ask.order) in reply.body.decode(), "the input items lack the question")

    await simple(session, kind, "GET", path, ask.key, check=same)
    await simple(session, kind, "GET", path + "/input_items", ask.key, check=items)
    await simple(session, kind, "GET", path, stranger, status=404)
    if session.random.random() < 0.5:
        await simple(session, kind, "DELETE", path, ask.key)
        await simple(session, kind, "GET", path, ask.key, status=404)


# ---------------------------------------------------------------- everything else that is served


async def simple(
    session: Session,
    kind: str,
    method: str,
    path: str,
    key: str,
    body: Any = None,
    *,
    status: int = 200,
    check: Any = None,
    model: str = MODEL,
    api: str = "chat",
) -> Reply | None:
    """A request with a known answer. The reply, when it has the status and passes the check."""
    since = time.monotonic()
    async with session.client() as client:
        data = request(method, path, session.key(key) if key else "", body)
        reply = await session.exchange(client, data)
    if isinstance(reply, Outcome):
        session.note(kind, Outcome("wrong", f"{method} {path}: {reply.wrong}"))
        return None
    try:
        if reply.status != 200:
            code = "not ready" if path == "/health/ready" else status_error(api, reply)
            around = session.around(model, since)
            excused = (reply.status in (502, 503) and around.down) or (
                reply.status == 502 and around.killed and model == RAW
            )
            expect(reply.status == status or excused, f"status {reply.status} ({code})")
        else:
            expect(status == 200, f"status 200, not {status}")
            if check is not None:
                check(reply)
    except (Wrong, KeyError, TypeError, ValueError) as wrong:
        session.note(kind, Outcome("wrong", f"{method} {path}: {wrong}"))
        return None
    session.note(kind, Outcome("answer" if reply.status == 200 else f"error {reply.status}"))
    return reply


async def count(session: Session) -> None:
    """count_tokens, which always answers."""
    body = {"model": MODEL, "messages": [{"role": "user", "content": f"count {session.nonce()}"}]}

    def positive(reply: Reply) -> None:
        expect(json.loads(reply.body)["input_tokens"] > 0, "no tokens")

    path = "/v1/messages/count_tokens"
    await simple(session, "count_tokens", "POST", path, "alice", body, check=positive, api="messages")


async def models(session: Session) -> None:
    """The list, and one entry."""

    def listed(reply: Reply) -> None:
        ids = {card["id"] for card in json.loads(reply.body)["data"]}
        expect({MODEL, SIMULATORS, RAW} <= ids, f"the models are {sorted(ids)}")

    def one(reply: Reply) -> None:
        expect(json.loads(reply.body)["id"] == MODEL, "another model")

    if session.random.random() < 0.5:
        await simple(session, "models", "GET", "/v1/models", "bob", check=listed)
    else:
        await simple(session, "models", "GET", f"/v1/models/{MODEL}", "bob", check=one)


async def health(session: Session) -> None:
    """The pages that need no key."""

    def ok(reply: Reply) -> None:
        expect(json.loads(reply.body)["status"] in ("ok", "ready"), "it is not well")

    path = session.random.choice(("/health", "/health/live", "/health/ready"))
    await simple(session, "health", "GET", path, "", check=ok)


async def tokenized(session: Session) -> None:
    """There and back."""
    text = f"There and back {session.nonce()}"
    body = {"model": SIMULATORS, "prompt": text, "add_special_tokens": False}
    reply = await simple(session, "tokenize", "POST", "/tokenize", "carol", body, model=SIMULATORS)
    if reply is None or reply.status != 200:
        return
    back = {"model": SIMULATORS, "tokens": json.loads(reply.body)["tokens"]}

    def same(reply: Reply) -> None:
        expect(json.loads(reply.body)["prompt"] == text, "another text came back")

    await simple(session, "detokenize", "POST", "/detokenize", "carol", back, check=same, model=SIMULATORS)


async def embedding(session: Session) -> None:
    """Passed on to the server that has it."""
    text = "x" * session.random.randrange(1, 500)

    def right(reply: Reply) -> None:
        expect(json.loads(reply.body)["data"][0]["embedding"][0] == len(text) / 2, "another embedding")

    body = {"model": RAW, "input": text}
    await simple(session, "embeddings", "POST", "/v1/embeddings", "alice", body, check=right, model=RAW)


async def pipelined(session: Session) -> None:
    """Questions in one write: the answers have to come in this order."""
    asks = [made(choose(session), session.random) for _ in range(session.random.randrange(2, 6))]
    since = time.monotonic()
    async with session.client() as client:
        await client.send(b"".join(map(session.request, asks)))
        for number, ask in enumerate(asks):
            reply = await session.exchange(client, b"")
            if number and not isinstance(reply, Reply) and session.renewing:
                session.note("pipelined", Outcome("dropped"))
                return
            session.note("pipelined", session.judged(ask, reply, since))
            if not isinstance(reply, Reply):
                return
