"""What a store is, what it keeps, and how a record becomes bytes.

Every store keeps a record's content as bytes: its size is known, whoever handed it in may change it afterwards, and
characters that a database would refuse (NUL, halves of surrogate pairs) are escapes of JSON in it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import orjson

from devstral_proxy.stores.errors import ChainTooLong, StoreError

MAX_CHAIN: Final = 2000
"""Most responses of one chain."""
MAX_CHAIN_BYTES: Final = 256 * 1024 * 1024
"""Most bytes of one chain: a client may not make the proxy load all that it ever stored for one request."""


@dataclass(slots=True)
class Record:
    """A response as it was answered, and the input items that led to it.

    `owner` is the name of the API key: no owner sees another's records, and two may use the same id. `created` is in
    seconds since 1970, `previous` the id of the response that this one continues.
    """

    id: str
    owner: str
    created: float
    previous: str | None
    response: dict[str, Any]
    input_items: list[Any]


class Store(Protocol):
    """Storage for responses. Every method but `aclose` may raise StoreError."""

    async def put(self, record: Record) -> None:
        """Keep a record; one with the same owner and id is replaced."""

    async def get(self, id: str, owner: str) -> Record | None:
        """The record; None when it is not there (any more)."""

    async def chain(self, id: str, owner: str) -> list[Record] | None:
        """The record and everything before it by `previous`, oldest first; None when one of them is missing.

        Raises ChainTooLong above MAX_CHAIN responses or MAX_CHAIN_BYTES bytes.
        """

    async def delete(self, id: str, owner: str) -> bool:
        """Forget a record; False when there was none."""

    async def aclose(self) -> None:
        """Let go of files and connections."""


def pack(record: Record) -> bytes:
    """The content of a record as JSON. A leading space marks what orjson would not read back as it was.

    Raises StoreError for what is nested too deeply.
    """
    content = [record.response, record.input_items]
    try:
        return orjson.dumps(content)
    except TypeError:  # half of a surrogate pair, an integer of more than 64 bits
        pass
    try:
        return b" " + json.dumps(content, separators=(",", ":")).encode("ascii")
    except RecursionError:
        raise StoreError from None


def unpack(id: str, owner: str, created: float, previous: str | None, body: bytes) -> Record:
    """The record that `pack` made `body` of. Raises ValueError for anything else."""
    response, input_items = json.loads(body) if body[:1] == b" " else orjson.loads(body)
    return Record(id, owner, created, previous, response, input_items)


def check_chain(sizes: Iterable[int]) -> None:
    """Raise ChainTooLong when so many records of these sizes are more than one request may load."""
    total = 0
    for number, size in enumerate(sizes, 1):
        total += size
        if number > MAX_CHAIN:
            raise ChainTooLong(f"{MAX_CHAIN} responses")
        if total > MAX_CHAIN_BYTES:
            raise ChainTooLong(f"{MAX_CHAIN_BYTES} bytes")


def key_text(text: str) -> str:
    """An id or an owner's name as ASCII that every database takes; the usual ones stay as they are, no two meet."""
    return text.encode("unicode_escape").decode("ascii")


def to_row(record: Record) -> tuple[str, str, float, str | None, bytes]:
    """What a database keeps of a record: owner, id, created, previous, body. Raises StoreError as `pack` does."""
    previous = key_text(record.previous) if record.previous is not None else None
    return key_text(record.owner), key_text(record.id), record.created, previous, pack(record)


def from_row(row: Sequence[Any]) -> Record:
    """The record of a row of `to_row`. Raises ValueError for what is none."""
    owner, id, created, previous, body = row
    previous = _plain_text(previous) if previous is not None else None
    return unpack(_plain_text(id), _plain_text(owner), created, previous, body)


def _plain_text(key: str) -> str:
    return key.encode("ascii").decode("unicode_escape")
