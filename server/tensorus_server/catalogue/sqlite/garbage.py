"""Payloads that nothing refers to."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tensorus_server.catalogue.abc import GarbageTable
from tensorus_server.catalogue.sqlite.database import now_us, select

if TYPE_CHECKING:
    from collections.abc import Collection

    from tensorus_server.catalogue.sqlite.database import Database

__all__ = ["SqliteGarbageTable"]


class SqliteGarbageTable(GarbageTable):
    """See `GarbageTable`."""

    def __init__(self, database: Database) -> None:
        """Use `database`."""
        self._database = database

    def due(self, limit: int) -> list[str]:
        """See `GarbageTable`."""
        statement = "SELECT key FROM tombstone WHERE delete_after_us <= ? ORDER BY delete_after_us LIMIT ?"
        with self._database.read() as connection:
            return [key for (key,) in select(connection, statement, (now_us(), limit))]

    def forget(self, keys: Collection[str]) -> None:
        """See `GarbageTable`."""
        if not keys:
            return
        with self._database.write() as connection:
            connection.executemany("DELETE FROM tombstone WHERE key = ?", ((key,) for key in keys))

    def unknown(self, keys: Collection[str]) -> set[str]:
        """See `GarbageTable`."""
        statement = (
            "SELECT EXISTS (SELECT 1 FROM tensor WHERE key = ?1 AND inline = 0) "
            "OR EXISTS (SELECT 1 FROM tombstone WHERE key = ?1)"
        )
        with self._database.read() as connection:
            return {key for key in keys if select(connection, statement, (key,)) == [(0,)]}
