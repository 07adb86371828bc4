"""POST /v1/responses, and the endpoints about responses that are stored."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any

from starlette.datastructures import QueryParams
from starlette.types import Receive, Scope, Send

from devstral_proxy.dialects.base import Dialect
from devstral_proxy.dialects.responses import Responses, references
from devstral_proxy.dialects.responses import stored as answers
from devstral_proxy.errors import BadRequest
from devstral_proxy.server.body import read_body
from devstral_proxy.server.chat import ChatCompletions, Keep
from devstral_proxy.server.exchange import Exchange, new_id, of
from devstral_proxy.server.services import Services
from devstral_proxy.stores import Record, Store, StoreError

_log = logging.getLogger("devstral_proxy.server")


MAX_REFERENCED = 100
"""Stored responses whose items one request may refer to: each is looked up."""


class ResponsesApi(ChatCompletions):
    """POST /v1/responses, with the responses that it follows from the store."""

    name = "responses"
    translates = True

    async def _dialect(self, request: dict[str, Any], exchange: Exchange) -> tuple[Dialect, Keep | None]:
        store, key = self._services.store, exchange.key
        previous = None
        followed = request.get("previous_response_id")
        if isinstance(followed, str):
            chain = await store.chain(followed, key)
            if chain is not None:
                previous = answers.chain_items(map(_told, chain))
        meant = references(request)
        if len(meant) > MAX_REFERENCED:
            message = f"The items that 'input' refers to belong to more than {MAX_REFERENCED} responses."
            raise BadRequest(message, param="input")
        found = [record for id in meant if (record := await store.get(id, key)) is not None]
        items = answers.chain_items(map(_told, found))
        dialect = Responses(int(time.time()), new_id(), previous, items, lambda: int(time.time()))

        async def keep() -> None:
            if not dialect.store or dialect.result is None or dialect.result["status"] == "failed":
                return  # half an answer is nothing to go on with
            told = dialect.record
            record = Record(told["id"], key, told["created"], told["previous"], told["response"], told["input_items"])
            # A client that leaves now has all of its answer: what it was told is kept.
            putting = asyncio.create_task(_put(store, record))
            self._services.storing.add(putting)
            putting.add_done_callback(self._services.storing.discard)
            if (error := await asyncio.shield(putting)) is not None:
                exchange.note = "the response could not be stored"
                _log.error("request %s: %s (%s)", exchange.id, exchange.note, error.code)

        return dialect, keep


async def _put(store: Store, record: Record) -> StoreError | None:
    """Store it; what went wrong is the result, so that nobody has to fetch an exception."""
    try:
        await store.put(record)
    except StoreError as error:
        return error
    return None


class StoredResponse:
    """GET and DELETE of /v1/responses/{id}, and what stands under it: `what` is "cancel" or "input_items"."""

    def __init__(self, services: Services, what: str = "") -> None:
        self._services = services
        self._what = what

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange, store = of(scope), self._services.store
        exchange.dialect = ResponsesApi.name
        if self._services.limits is not None:
            exchange.headers += await self._services.limits.admit(exchange.key, "")
        exchange.path = _PATH + (f"/{self._what}" if self._what else "")
        await read_body(scope, receive, self._services.settings.body_limit)
        id: str = scope["path_params"]["id"]
        if exchange.method == "DELETE":
            if not await store.delete(id, exchange.key):
                raise answers.missing(id)
            await exchange.reply_json(200, answers.deleted(id))
            return
        record = await store.get(id, exchange.key)
        if record is None:
            raise answers.missing(id)
        told = _told(record)
        query = QueryParams(scope["query_string"])
        if self._what == "input_items":
            await exchange.reply_json(200, answers.input_list(told["input_items"], query))
        elif self._what == "cancel":
            await exchange.reply_json(200, answers.cancelled(told))
        else:
            await exchange.reply_json(200, answers.retrieved(told, query))


_PATH = "/v1/responses/{id}"


def _told(record: Record) -> answers.Record:
    """A record as the dialect reads it."""
    return {
        "id": record.id,
        "response": record.response,
        "input_items": record.input_items,
        "previous": record.previous,
        "created": int(record.created),
    }
