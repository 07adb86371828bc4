"""No storage: RESPONSES_STORE=none."""

from __future__ import annotations

from devstral_proxy.stores.base import Record


class NoStore:
    """Keeps nothing and finds nothing."""

    async def put(self, record: Record) -> None:
        """The record is not kept."""

    async def get(self, id: str, owner: str) -> Record | None:
        """Nothing is ever there."""
        return None

    async def chain(self, id: str, owner: str) -> list[Record] | None:
        """Nothing is ever there."""
        return None

    async def delete(self, id: str, owner: str) -> bool:
        """There was nothing."""
        return False

    async def aclose(self) -> None:
        """Nothing is open."""
