"""Stored responses: what is kept of an exchange, and what the endpoints about it answer. Pure: dicts in, dicts out.

A record is `{"id", "response", "input_items", "previous", "created"}`: the response as it ended, the request's own
input items, and the id of the response that it followed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final, TypedDict

from devstral_proxy.dialects.responses.ids import Ids
from devstral_proxy.dialects.responses.items import type_of
from devstral_proxy.errors import BadRequest, NotFound

Item = dict[str, Any]
DEFAULT_LIMIT: Final = 20
MAX_LIMIT: Final = 100


class Record(TypedDict):
    """One stored exchange."""

    id: str
    response: dict[str, Any]
    input_items: list[Item]
    previous: str | None
    created: int


def chain_items(records: Iterable[Record]) -> list[Item]:
    """The items of a conversation: `records` of its responses, the oldest first."""
    items: list[Item] = []
    for record in records:
        items += record["input_items"]
        items += record["response"]["output"]
    return items


def retrieved(record: Record, query: Mapping[str, str]) -> dict[str, Any]:
    """`GET /v1/responses/{id}`. Raises BadRequest for `stream`: only a response in the background can be streamed."""
    if query.get("stream") in ("true", "1"):
        raise BadRequest("A stored response cannot be streamed: it was not made in the background.", param="stream")
    return record["response"]


def deleted(id: str) -> dict[str, Any]:
    """`DELETE /v1/responses/{id}`."""
    return {"id": id, "object": "response", "deleted": True}


def cancelled(record: Record) -> dict[str, Any]:
    """`POST /v1/responses/{id}/cancel`. Raises BadRequest: no response here is made in the background."""
    raise BadRequest("Only a response that is made in the background can be cancelled.", param="id")


def missing(id: str) -> NotFound:
    """The error for an id that nothing is stored under."""
    return NotFound(f"Response with id '{id[:80]}' not found.", param="id", code="response_not_found")


def input_list(items: list[Item], query: Mapping[str, str]) -> dict[str, Any]:
    """`GET /v1/responses/{id}/input_items`: a page of them, the newest first unless `order` is `asc`.

    `query`: `limit` (1 to 100), `order`, `after` (an item's id); `include` adds nothing here. Raises BadRequest that
    names the parameter.
    """
    limit = _limit(query.get("limit"))
    order = query.get("order", "desc")
    if order not in ("asc", "desc"):
        raise BadRequest("'order' must be 'asc' or 'desc'.", param="order")
    ordered = items if order == "asc" else items[::-1]
    after = query.get("after")
    if after:
        place = next((index for index, item in enumerate(ordered) if item["id"] == after), None)
        if place is None:
            raise BadRequest("'after' names no item of this response.", param="after")
        ordered = ordered[place + 1 :]
    page = ordered[:limit]
    return {
        "object": "list",
        "data": page,
        "first_id": page[0]["id"] if page else None,
        "last_id": page[-1]["id"] if page else None,
        "has_more": len(ordered) > limit,
    }


def _limit(given: str | None) -> int:
    if given is None:
        return DEFAULT_LIMIT
    if not (given.isascii() and given.isdecimal() and len(given) <= 3 and 1 <= int(given) <= MAX_LIMIT):
        raise BadRequest(f"'limit' must be a number from 1 to {MAX_LIMIT}.", param="limit")
    return int(given)


# -- what is kept of the input

_WITH_STATUS: Final = frozenset(
    ("message", "function_call", "function_call_output", "custom_tool_call", "custom_tool_call_output")
)


def normalized(items: list[Any], ids: Ids) -> list[Item]:
    """Input items as they are stored and listed: type, id and status filled in, a message's text as a part."""
    return [_normalized(item, number, ids) for number, item in enumerate(items)]


def _normalized(given: Item, number: int, ids: Ids) -> Item:
    kind = type_of(given)
    item = {**given, "type": kind}
    id = item.get("id")
    if not isinstance(id, str) or not id:
        item["id"] = ids.input(kind, number)
    if kind in _WITH_STATUS and item.get("status") is None:
        item["status"] = "completed"
    if kind == "message":
        item["content"] = _parts(item)
    elif kind == "reasoning" and item.get("summary") is None:
        item["summary"] = []
    elif kind in ("function_call_output", "custom_tool_call_output") and isinstance(item["output"], list):
        item["output"] = [_part(part, False) for part in item["output"]]
    return item


def _parts(item: Item) -> list[Any]:
    said = item.get("content")
    own = item["role"] == "assistant"
    if isinstance(said, list):
        return [_part(part, own) for part in said]
    text = said or ""
    return [{"type": "output_text", "text": text, "annotations": []} if own else {"type": "input_text", "text": text}]


def _part(part: Item, own: bool) -> Item:
    """A part with the members that the API's readers expect."""
    if part["type"] == "output_text" or (own and part["type"] in ("text", "input_text")):
        return {"annotations": [], **part, "type": "output_text"}
    if part["type"] == "text":
        return {**part, "type": "input_text"}
    if part["type"] == "input_image" and part.get("detail") is None:
        return {**part, "detail": "auto"}
    return part
