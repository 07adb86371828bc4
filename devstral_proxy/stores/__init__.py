"""Stored responses: the only place where a conversation outlives its request. `open_store` is the way in."""

from devstral_proxy.stores.base import Record, Store
from devstral_proxy.stores.errors import StoreError
from devstral_proxy.stores.opening import open_store

__all__ = ["Record", "Store", "StoreError", "open_store"]
