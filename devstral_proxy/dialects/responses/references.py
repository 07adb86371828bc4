"""Items that a request names by id instead of sending them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from devstral_proxy.dialects.responses.ids import response_of
from devstral_proxy.errors import NotFound
from devstral_proxy.mistral.rewrites import RewriteLog

Item = dict[str, Any]


def is_reference(item: Any) -> bool:
    """An item_reference; its `type` may be null or missing."""
    if not isinstance(item, dict):
        return False
    kind = item.get("type")
    return kind == "item_reference" or (
        kind is None and isinstance(item.get("id"), str) and item.keys() <= {"id", "type"}
    )


def references(body: dict[str, Any]) -> list[str]:
    """Ids of the stored responses that a request's item references point into, each once; [] for most requests."""
    given = body.get("input")
    if not isinstance(given, list):
        return []
    ids = (item.get("id") for item in given if is_reference(item))
    found = (response_of(id) for id in ids if isinstance(id, str))
    return list(dict.fromkeys(id for id in found if id is not None))


def resolved(given: list[Any], known: Iterable[Item], log: RewriteLog) -> list[Any]:
    """The input with the items themselves in the place of references; the given list where there are none.

    A reference to reasoning that is not there any more is left out: the answer does without. Raises NotFound for
    anything else that is not there.
    """
    if not any(map(is_reference, given)):
        return given
    by_id = {item["id"]: item for item in known if isinstance(item.get("id"), str)}
    items: list[Any] = []
    for index, item in enumerate(given):
        if not is_reference(item):
            items.append(item)
            continue
        id = item.get("id")
        found = by_id.get(id) if isinstance(id, str) else None
        if found is not None:
            items.append(found)
        elif isinstance(id, str) and id.startswith("rs_"):
            log.add("item_dropped", f"input[{index}]")
        else:
            raise NotFound(
                "No item is stored under this id. Items are not kept when 'store' is false: send the item itself.",
                param=f"input[{index}].id",
                code="item_not_found",
            )
    return items
