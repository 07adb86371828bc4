"""What clients do that are slow, broken or hostile: each has its right end too."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Final

from qa.soak.asks import PATHS, Ask, made
from qa.soak.directive import RAW, Order
from qa.soak.load import choose, simple
from qa.soak.session import Session
from qa.soak.stack import BODY_LIMIT, PATIENCE, SETTINGS
from qa.soak.verdict import Outcome, judge, status_error
from qa.soak.wire import SMALL_WINDOW, Client, Cut, Malformed, Reply, request

_CHAT: Final = PATHS["chat"]


class _Left(Exception):
    """The client has had enough."""


async def leaves(session: Session) -> None:
    """Goes away after some time, or after some of the answer."""
    random = session.random
    ask = choose(session, words=60)
    after, pieces = random.random() * 0.4, random.randrange(1, 12)
    if random.random() < 0.3:  # of one that says nothing, or stops in the middle
        order = Order(ask.order.nonce, "text", 60, random.choice(("silent", "stall")), "c")
        ask = Ask(ask.api, ask.stream, order, ask.key, RAW)
    ask = made(ask, random)
    kind = f"leaves, {'stream' if ask.stream else 'whole'}"

    async def piece(reply: Reply) -> None:
        nonlocal pieces
        pieces -= 1
        if not pieces:
            raise _Left

    since = time.monotonic()
    session.mark(ask.order, ask.model)
    async with session.client() as client:
        try:
            if random.random() < 0.5:
                async with asyncio.timeout(after):
                    reply = await session.exchange(client, session.request(ask))
            else:
                reply = await session.exchange(client, session.request(ask), piece)
        except (_Left, TimeoutError):
            client.leave()
            session.note(kind, Outcome("left"))
            return
    session.note(kind, session.judged(ask, reply, since))


async def reads_slowly(session: Session) -> None:
    """Takes its stream in small pieces, with pauses, and all of it."""
    ask = choose(session, words=300)
    ask = made(Ask(ask.api, True, ask.order, ask.key, ask.model), session.random)

    async def pause(reply: Reply) -> None:
        await asyncio.sleep(0.02)

    async with session.client(SMALL_WINDOW) as client:
        await session.ask(ask, client, "reads slowly", pause)


async def reads_nothing(session: Session) -> None:
    """Asks for megabytes and takes none of them: it is dropped."""
    order = Order(session.nonce(), "text", 250_000)
    ask = made(Ask("chat", True, order, "alice", RAW), session.random)
    since = time.monotonic()
    async with session.client(SMALL_WINDOW) as client:
        await client.send(session.request(ask))
        await asyncio.sleep(SETTINGS["send_timeout"] * 2 + 3)
        try:
            async with asyncio.timeout(PATIENCE):
                reply = await client.reply()
        except Cut:
            session.note("reads nothing", Outcome("dropped"))
        except TimeoutError:
            session.note("reads nothing", Outcome("wrong", "it was neither answered nor dropped"))
        else:
            session.note("reads nothing", judge(ask, reply, session.around(RAW, since)))


async def half_head(session: Session) -> None:
    """Begins a request and says no more."""
    data = session.request(made(choose(session), session.random))
    await _unfinished(session, "half a head", data[: session.random.randrange(5, 40)])


async def half_body(session: Session) -> None:
    """The same within the body; sometimes it then goes away."""
    data = session.request(made(choose(session), session.random))
    head = data.index(b"\r\n\r\n") + 4
    data = data[: session.random.randrange(head, len(data) - 1)]
    if session.random.random() < 0.5:
        async with session.client() as client:
            await client.send(data)
            await asyncio.sleep(session.random.random() * 0.2)
        session.note("half a body", Outcome("left"))
        return
    await _unfinished(session, "half a body", data)


async def _unfinished(session: Session, kind: str, data: bytes) -> None:
    async with session.client() as client:
        try:
            await _refusal(session, client, kind, data, 408)
        except Cut:
            dropped = Outcome("dropped") if session.renewing else Outcome("wrong", "it was closed without a word")
            session.note(kind, dropped)


async def _refusal(session: Session, client: Client, kind: str, data: bytes, status: int) -> None:
    """What has to be refused with this status, in OpenAI's shape or, for messages, in Anthropic's. Raises Cut."""
    try:
        async with asyncio.timeout(PATIENCE):
            sending = asyncio.create_task(client.send(data))
            reply = await client.reply()
            sending.cancel()
    except (TimeoutError, Malformed) as error:
        session.note(kind, Outcome("wrong", f"no refusal: {type(error).__name__} {error}"))
        return
    try:
        anthropic = json.loads(reply.body).get("type") == "error"
        code = status_error("messages" if anthropic else "chat", reply)
        right = reply.status == status
        said = "" if right else f"status {reply.status} ({code}), not {status}"
    except Exception as error:
        said = f"status {reply.status}: {error}"
    session.note(kind, Outcome("wrong" if said else f"error {status}", said))


async def bad_json(session: Session) -> None:
    """What is no JSON, or no object, or nested without end."""
    body = session.random.choice((b'{"model": ', b"\xff\xfe", b"[1]", b'{"a": NaN}', b"[" * 100_000, b'"x"', b"{} {}"))
    async with session.client() as client:
        data = request("POST", _CHAT, session.key("alice"), body)
        await _refusal(session, client, "bad JSON", data, 400)


async def oversize(session: Session) -> None:
    """A body over the limit, told by its length or in chunks."""
    size = BODY_LIMIT + session.random.randrange(1, 1_000_000)
    async with session.client() as client:
        if session.random.random() < 0.5:
            data = request("POST", _CHAT, session.key("bob"), b"x" * size)
        else:
            more = "transfer-encoding: chunked\r\ncontent-type: application/json\r\n"
            data = request("POST", _CHAT, session.key("bob"), more=more) + b"%x\r\n%b\r\n0\r\n\r\n" % (
                size,
                b"x" * size,
            )
        await _refusal(session, client, "oversize body", data, 413)


async def wrong_key(session: Session) -> None:
    """No key, or another."""
    ask = made(choose(session), session.random)
    key = session.random.choice(("", "sk-nobody", session.stack.keys["alice"][:-1], session.stack.keys["bob"] + "x"))
    async with session.client() as client:
        await _refusal(session, client, "wrong key", request("POST", ask.path, key, ask.body), 401)


async def nowhere(session: Session) -> None:
    """Models, paths and methods that are not there, fields that are wrong."""
    say = {"messages": [{"role": "user", "content": "x"}]}
    method, path, body, status = session.random.choice(
        (
            ("POST", _CHAT, {"model": f"nobody-{session.nonce()}", **say}, 404),
            ("POST", _CHAT, {"model": RAW, "messages": "x"}, 400),
            ("POST", PATHS["responses"], {"model": RAW, "input": "x", "previous_response_id": "resp_none"}, 400),
            ("POST", "/v1/audio/speech", {}, 404),
            ("GET", "/v1/models/nobody", None, 404),
            ("PUT", _CHAT, say, 405),
        )
    )
    # A model whose servers are left alone is refused before the request's fields are looked at.
    await simple(session, "not there", method, path, "carol", body, status=status, model=RAW)


async def two_lengths(session: Session) -> None:
    """Framing that two servers could read in two ways."""
    more = session.random.choice(
        (
            "transfer-encoding: chunked\r\ncontent-length: 4\r\n",
            "content-length: 4\r\ncontent-length: 5\r\n",
            "transfer-encoding: gzip, chunked, x\r\n",
        )
    )
    async with session.client() as client:
        data = request("POST", _CHAT, session.key("bob"), more=more) + b"0\r\n\r\nGET / HTTP/1.1\r\n\r\n"
        await _refusal(session, client, "two lengths", data, 400)


async def compressed(session: Session) -> None:
    """A body in a content coding."""
    async with session.client() as client:
        data = request("POST", _CHAT, session.key("bob"), b"\x1f\x8b", more="content-encoding: gzip\r\n")
        await _refusal(session, client, "compressed body", data, 415)
