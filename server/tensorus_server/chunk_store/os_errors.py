"""Converts errors of the operating system to errors of the engine, since a chunk store must not raise `OSError`."""

from __future__ import annotations

import errno
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

from tensorus_server.errors import StorageFullError, StoreUnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["as_store_errors"]


@contextmanager
def as_store_errors(what: str) -> Iterator[None]:
    """Convert every `OSError` that the block raises; `what` says what the block was to do, for the message."""
    try:
        yield
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise StorageFullError(f"no space is left on the disk to {what}") from error
        raise StoreUnavailableError(f"could not {what}: {os.strerror(error.errno or 0)}") from error
