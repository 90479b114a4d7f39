"""Local stores that are quick to make: few folders for payloads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

from tensorus_server.chunk_store import local

__all__ = ["few_shards"]


@contextmanager
def few_shards(count: int = 4) -> Iterator[None]:
    """Give stores that this process opens here `count` shards, not 256: making 256 folders takes longer than most tests.

    Such a store lists no payloads of other shards, so a store that another process has filled must be opened outside.
    """
    with mock.patch.object(local, "SHARDS", local.SHARDS[:count]):
        yield
