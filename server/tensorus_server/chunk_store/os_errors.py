"""The operating system's errors as the engine's: a chunk store lets no `OSError` out."""

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
    """Turn the operating system's errors into the engine's."""
    try:
        yield
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise StorageFullError(f"no space is left on the disk to {what}") from error
        raise StoreUnavailableError(f"could not {what}: {os.strerror(error.errno or 0)}") from error
