"""A copy of a catalogue, made while others write, and what it says about the payloads that it needs."""

from __future__ import annotations

import re
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

import apsw

from tensorus_server.backup.errors import BackupError
from tensorus_server.catalogue.sqlite.connection import connect, immutable_url
from tensorus_server.catalogue.sqlite.requirements import require_safe_sqlite
from tensorus_server.model import StoreIdentity
from tensorus_server.payload_keys import PackedKey, SegmentedKey, parse_key

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

__all__ = ["CatalogueCopy", "copy_catalogue"]

_STEP_PAGES = 2048
"""Pages that are copied between two reports of progress: 8 MiB."""

_KEY = re.compile(r"[0-9a-f]{2}/[0-9a-f]{32}")
"""The key of a payload in a folder; it becomes a path."""

_NEEDED = {
    "tensor": "INSERT INTO needed SELECT key, offset + length FROM tensor WHERE inline = 0",
    "past_tensor": "INSERT INTO needed SELECT key, offset + length FROM past_tensor WHERE inline = 0",
    "reference": "INSERT INTO needed SELECT key, 0 FROM reference WHERE true",
    "payload_base": "INSERT INTO needed SELECT base, 0 FROM payload_base WHERE true",
}
"""What needs payloads, by table. Older catalogues lack some of the tables."""

_MERGE = " ON CONFLICT (key) DO UPDATE SET bytes = max(bytes, excluded.bytes)"


def copy_catalogue(source: Path, target: Path, on_progress: Callable[[int], None]) -> None:
    """Copy a catalogue by SQLite's backup interface, in one state, to a file that does not exist.

    Others read and write the catalogue meanwhile. The log is left as it is, since emptying it is up to those who write.

    Args:
        on_progress: called with the bytes that were copied so far.
    """
    require_safe_sqlite()
    with closing(connect(source, create=False)) as reader, closing(apsw.Connection(str(target))) as writer:
        reader.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
        # A transaction fixes the state. Without one, each write of another process would make the copy start over.
        reader.execute("BEGIN")
        page_bytes = int(str(reader.execute("PRAGMA page_size").get))
        reader.execute("SELECT 1 FROM sqlite_schema LIMIT 1").fetchall()
        with writer.backup("main", reader, "main") as backup:
            while not backup.done:
                backup.step(_STEP_PAGES)
                on_progress((backup.page_count - backup.remaining) * page_bytes)
        reader.execute("ROLLBACK")


class CatalogueCopy:
    """A copy of a catalogue that nobody writes."""

    def __init__(self, connection: apsw.Connection) -> None:
        """Use a connection; `opened` makes it."""
        self._connection = connection
        connection.execute("PRAGMA temp_store = FILE").fetchall()
        connection.execute("CREATE TEMP TABLE needed (key TEXT PRIMARY KEY, bytes INTEGER NOT NULL) WITHOUT ROWID")
        for table, statement in _NEEDED.items():
            if self._has(table):
                connection.execute(statement + _MERGE)

    @classmethod
    @contextmanager
    def opened(cls, path: Path) -> Iterator[CatalogueCopy]:
        """Open a copy without writing anything next to it.

        Raises:
            BackupError: it is not a catalogue.
        """
        flags = apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI
        try:
            connection = apsw.Connection(immutable_url(path), flags=flags)
        except apsw.Error as error:
            raise BackupError(f"{path} cannot be opened: {error}") from error
        with closing(connection):
            try:
                yield cls(connection)
            except apsw.Error as error:
                raise BackupError(f"the catalogue is damaged: {error}") from error

    @property
    def identity(self) -> StoreIdentity:
        """The identity of the store."""
        if not self._has("store"):
            raise BackupError("the catalogue is of a version without identities: open the store once with this version")
        ((store_id, epoch),) = self._connection.execute("SELECT id, epoch FROM store").fetchall()
        return StoreIdentity(str(store_id), int(str(epoch)))

    @property
    def schema(self) -> int:
        """The version of the schema."""
        return self._number("SELECT coalesce(max(version), 0) FROM schema_version")

    def datasets(self) -> int:
        """Return the number of datasets that were not deleted."""
        return self._number("SELECT count(*) FROM dataset WHERE deleted_us IS NULL")

    def tensors(self) -> int:
        """Return the number of tensors in their current state."""
        return self._number("SELECT count(*) FROM tensor")

    def past_tensors(self) -> int:
        """Return the number of tensors of earlier states."""
        return self._number("SELECT count(*) FROM past_tensor") if self._has("past_tensor") else 0

    def needed_bytes(self) -> int:
        """Return about how many bytes the needed payloads have."""
        return self._number("SELECT coalesce(sum(bytes), 0) FROM needed")

    def needed(self) -> Iterator[tuple[str, int]]:
        """Yield the keys of all payloads that are needed, in order, each with the bytes that it must have at least.

        Raises:
            BackupError: a key is damaged, or the payloads are elsewhere.
        """
        for key, least_bytes in self._connection.execute("SELECT key, bytes FROM needed ORDER BY key"):
            if isinstance(key, str) and isinstance(parse_key(key), SegmentedKey | PackedKey):
                raise BackupError(
                    "the payloads of this store are in an object store, which this command does not back up; copy the tensors "
                    "into a folder with `tensorus copy`"
                )
            if not isinstance(key, str) or not _KEY.fullmatch(key):
                raise BackupError(f"the catalogue is damaged: a row has the payload key {key!r}")
            yield key, int(str(least_bytes))

    def is_needed(self, key: str) -> bool:
        """Return whether a payload is needed."""
        return bool(self._connection.execute("SELECT 1 FROM needed WHERE key = ?", (key,)).fetchall())

    def _has(self, table: str) -> bool:
        found = self._connection.execute("SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = ?", (table,))
        return bool(found.fetchall())

    def _number(self, statement: str) -> int:
        ((number,),) = self._connection.execute(statement).fetchall()
        return int(str(number))
