"""A cache of payloads on local disk, before a store that is far away. See `payloads.py`."""

from __future__ import annotations

from tensorus_server.chunk_store.cache.block_cache import CacheStatistics
from tensorus_server.chunk_store.cache.payloads import CachedPayloads

__all__ = ["CacheStatistics", "CachedPayloads"]
