"""POST /v1/messages/count_tokens: the prompt's length, as vLLM's own tokenizer has it where it can be asked."""

from __future__ import annotations

import time
from typing import Any

import orjson
from starlette.types import Receive, Scope, Send

from devstral_proxy.dialects.messages import (
    COUNT_HEADER,
    ESTIMATED,
    Messages,
    attempts,
    counted,
    estimate,
    tokens_told,
)
from devstral_proxy.errors import Overloaded, UpstreamError, UpstreamRefused
from devstral_proxy.mistral.translator import Translator
from devstral_proxy.server.body import parse_object, read_body
from devstral_proxy.server.chat import admitted, served_name
from devstral_proxy.server.exchange import new_id, of
from devstral_proxy.server.services import Services
from devstral_proxy.server.shape import check_images, check_shape
from devstral_proxy.server.watch import Watch
from devstral_proxy.upstream.affinity import affinity_of
from devstral_proxy.upstream.attempts import Attempt
from devstral_proxy.upstream.attempts import send as send_upstream
from devstral_proxy.upstream.capabilities import for_version
from devstral_proxy.upstream.target import Target

TIMEOUT = 30.0
"""Seconds for one question to vLLM: counting takes no GPU, only its tokenizer."""
MISSING_FOR = 600.0
"""Seconds for which a path that was not there is not asked again."""
_ANSWER_LIMIT = 64 * 1024 * 1024
_UNKNOWN = (403, 404, 405, 501)
"""How a server says that it does not have a path, or does not let it be used."""


class CountTokens:
    """An ASGI application. Where vLLM cannot tell, it answers with an estimate, and a header that says so; only for a
    model that vLLM does not have it answers with vLLM's 404."""

    def __init__(self, services: Services) -> None:
        self._services = services
        # Server, its version, a path that it does not have; and when it is worth asking again.
        self._missing: dict[tuple[str, str | None, str], float] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        services, exchange = self._services, of(scope)
        exchange.dialect = "messages"
        body = parse_object(await read_body(scope, receive, services.settings.body_limit))
        check_shape(body, services.settings)
        dialect = Messages(new_id())
        exchange.render = dialect.error
        with Watch(scope, receive) as watch:
            chat = dialect.count_request(body)
            exchange.model = chat["model"]
            route = await admitted(services, exchange)
            affinity = affinity_of(chat, exchange.key) if services.fleet.models else b""

            async def once(attempt: Attempt) -> tuple[int, bool]:
                exchange.attempts += 1
                exchange.upstream = attempt.target.name
                exchange.served = attempt.model or served_name(services, route, exchange.model)
                return await self._count(attempt, chat, exchange.model)

            try:
                tokens, exact = await send_upstream(services.fleet, route, affinity, once)
            except UpstreamRefused:
                raise
            except (UpstreamError, Overloaded):  # nobody to ask
                tokens, exact = estimate(chat), False
            if not exact:
                exchange.header(COUNT_HEADER.encode(), ESTIMATED)
            watch.over()
            await exchange.reply_json(200, counted(tokens))

    async def _count(self, attempt: Attempt, chat: dict[str, Any], model: str) -> tuple[int, bool]:
        services, target = self._services, attempt.target
        sent = attempt.model or model
        facts = await target.facts.facts()
        known = facts.models.get(sent)
        profile = services.profiles.find(attempt.name or sent, known.root if known else attempt.model or None)
        translator = Translator(profile, capabilities=for_version(facts.version), memo=services.tools)
        translated = translator.request({**chat, "model": sent})
        if services.images is not None:
            check_images(translated["messages"], services.images)
        for question in attempts(translated):
            key = (target.name, facts.version, question.path)
            if self._missing.get(key, 0.0) > time.monotonic():
                continue
            status, answer = await _ask(target, question.path, question.body)
            attempt.answered(200 if status < 500 else status)
            if status == 404 and isinstance(answer, dict) and "error" in answer:
                raise translator.error(status, orjson.dumps(answer))  # the path is there, the model is not
            if status in _UNKNOWN:
                self._missing[key] = time.monotonic() + MISSING_FOR
            tokens = tokens_told(answer) if status == 200 else None
            if tokens is not None:
                return tokens + question.extra, question.exact
        return estimate(chat), False


async def _ask(target: Target, path: str, body: dict[str, Any]) -> tuple[int, Any]:
    """The status, and the answer's JSON; None for what is none. Raises UpstreamError where there is no answer."""
    async with target.client.open("POST", path, orjson.dumps(body), first_byte=TIMEOUT) as answer:
        data = await answer.read(_ANSWER_LIMIT)
        try:
            return answer.status, orjson.loads(data)
        except orjson.JSONDecodeError:
            return answer.status, None
