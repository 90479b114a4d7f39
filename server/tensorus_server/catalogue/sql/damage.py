"""Converts errors of a database that show damage to errors of the engine."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from tensorus_server.errors import DataCorruptError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tensorus_server.catalogue.sql.connection import Connection

__all__ = ["as_damage"]


@contextmanager
def as_damage(connection: Connection, dataset: str | None = None, tensor_id: str | None = None) -> Iterator[None]:
    """Convert the errors that a connection raises for a damaged page to `DataCorruptError`."""
    try:
        yield
    except connection.unreadable as error:
        raise DataCorruptError(
            f"a page of the catalogue is damaged: {error}", dataset=dataset, tensor=tensor_id
        ) from error
