"""Why a backup was not made or not restored."""

from __future__ import annotations

import errno
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

import apsw

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["BackupError", "as_backup_errors"]


class BackupError(ValueError):
    """A backup cannot be made, used or restored; the message says why and what to do."""


@contextmanager
def as_backup_errors(what: str, folder: Path) -> Iterator[None]:
    """Raise what the system and SQLite raise in the block as `BackupError`.

    Args:
        what: what the block was to do, for the message.
        folder: where it writes.
    """
    try:
        yield
    except (OSError, apsw.Error) as error:
        code = error.errno if isinstance(error, OSError) else None
        if code in {errno.ENOSPC, errno.EDQUOT} or isinstance(error, apsw.FullError):
            raise BackupError(
                f"could not {what}: the disk of {folder} is full. Free space there and run the command again; it continues "
                "with what is there"
            ) from error
        reason = os.strerror(code) if code else str(error)
        named = f" ({error.filename})" if isinstance(error, OSError) and error.filename else ""
        raise BackupError(f"could not {what}: {reason}{named}") from error
