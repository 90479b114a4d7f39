"""Local stores that are quick to make, with few folders for payloads, and their removal while they are open."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

from tensorus_server.chunk_store import local

__all__ = ["few_shards", "remove_open_store"]


@contextmanager
def few_shards(count: int = 4) -> Iterator[None]:
    """Give stores that this process opens here `count` shards, not 256: making 256 folders takes longer than most tests.

    Such a store lists no payloads of other shards, so a store that another process has filled must be opened outside.
    """
    with mock.patch.object(local, "SHARDS", local.SHARDS[:count]):
        yield


def remove_open_store(folder: Path) -> None:
    """Remove the folder of a store that is open: under another name, so that no thread of the store adds a file meanwhile."""
    removed = folder.rename(folder.with_name(f"{folder.name}-removed"))
    shutil.rmtree(removed)
