"""The table of garbage: payloads that are due to be deleted, and the check for payloads that no row refers to."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tensorus_server.catalogue.abc import GarbageTable
from tensorus_server.catalogue.sql.bases import forget_bases
from tensorus_server.catalogue.sql.deletion import PAYLOAD_KEY
from tensorus_server.catalogue.sql.packs import mark_packs
from tensorus_server.catalogue.sql.rows import TENSOR_COLUMNS, RowDamageError, tensor_from_row
from tensorus_server.catalogue.sql.statements import now_us, select
from tensorus_server.errors import DataCorruptError
from tensorus_server.payload_keys import PackedKey, is_of_object_store, parse_key

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from tensorus_server.catalogue.sql.connection import Connection
    from tensorus_server.catalogue.sql.transactions import Transactions

__all__ = ["SqlGarbageTable", "is_orphan"]

_IS_ORPHAN = """
SELECT NOT EXISTS (SELECT 1 FROM tensor WHERE key = ?1 AND inline = 0)
  AND NOT EXISTS (SELECT 1 FROM past_tensor WHERE key = ?1 AND inline = 0)
  AND NOT EXISTS (SELECT 1 FROM reference JOIN tensor USING (seq) WHERE reference.key = ?1)
  AND NOT EXISTS (SELECT 1 FROM reference JOIN past_tensor USING (seq) WHERE reference.key = ?1)
  AND NOT EXISTS (SELECT 1 FROM payload_base WHERE base = ?1)
  AND NOT EXISTS (SELECT 1 FROM tombstone WHERE key = ?1)
  AND NOT EXISTS (SELECT 1 FROM upload WHERE 'uploads/' || payload_key = ?1)
"""

_KNOWN = (
    "SELECT CAST(key AS BLOB) FROM tensor NOT INDEXED",
    "SELECT CAST(key AS BLOB) FROM past_tensor NOT INDEXED",
    "SELECT CAST(key AS BLOB) FROM reference",
    "SELECT CAST(base AS BLOB) FROM payload_base",
    "SELECT CAST(key AS BLOB) FROM tombstone NOT INDEXED",
    "SELECT CAST('uploads/' || payload_key AS BLOB) FROM upload NOT INDEXED",
    "SELECT CAST(key AS BLOB) FROM begun",
    "SELECT CAST('pack/' || pack AS BLOB) FROM pack",
)
"""One statement per table, each a plain scan, because index look-ups in a damaged index would miss rows. Keys are read as BLOB,
because damaged ones may not be valid text."""

_COLUMNS = ", ".join(f't."{name}"' for name in TENSOR_COLUMNS)
_DS = TENSOR_COLUMNS.index("ds")
_ROWS = f"SELECT {_COLUMNS}, NULL, (SELECT name FROM dataset WHERE ds = t.ds) FROM {{}} t NOT INDEXED"


_TENSORS = ("tensor", "past_tensor")


def is_orphan(connection: Connection, key: str) -> bool:
    """Whether no row refers to a payload."""
    return select(connection, _IS_ORPHAN, (key,)) == [(1,)]


class SqlGarbageTable(GarbageTable):
    """See `GarbageTable`."""

    def __init__(self, database: Transactions, *, delete_grace_s: float) -> None:
        """Use `database`; see `SqliteCatalogue` for the time."""
        self._database = database
        self._delete_grace_us = int(delete_grace_s * 1e6)

    def due(self, limit: int, *, in_grace: bool = False) -> list[str]:
        """See `GarbageTable`."""
        statement = (
            "SELECT CAST(key AS BLOB) FROM tombstone WHERE delete_after_us <= ? "
            "AND NOT EXISTS (SELECT 1 FROM reference WHERE reference.key = tombstone.key) "
            "AND NOT EXISTS (SELECT 1 FROM tensor WHERE tensor.key = tombstone.key AND inline = 0) "
            "AND NOT EXISTS (SELECT 1 FROM past_tensor WHERE past_tensor.key = tombstone.key AND inline = 0) "
            "AND NOT EXISTS (SELECT 1 FROM payload_base WHERE base = tombstone.key) "
            "ORDER BY delete_after_us LIMIT ?"
        )
        with self._database.read() as connection:
            by_us = 2**63 - 1 if in_grace else now_us(connection)
            keys = [key for (key,) in select(connection, statement, (by_us, limit))]
        # Damaged keys are skipped: they name no payload, and must not stop the others from being deleted.
        return [key.decode() for key in keys if isinstance(key, bytes) and PAYLOAD_KEY.fullmatch(key)]

    def delete(self, keys: Collection[str]) -> None:
        """See `GarbageTable`."""

        def delete(connection: Connection) -> None:
            connection.executemany("DELETE FROM tombstone WHERE key = ?", [(key,) for key in keys])
            forget_bases(connection, keys, self._delete_grace_us)
            mark_packs(connection, {packed.pack for packed in map(parse_key, keys) if isinstance(packed, PackedKey)})

        if keys:
            self._database.write_on_full_disk(delete)

    def orphans(self, keys: Collection[str]) -> set[str]:
        """See `GarbageTable`."""
        with self._database.read() as connection:
            return {key for key in keys if is_orphan(connection, key) and not _is_written(connection, key)}

    def known(self) -> Iterator[bytes]:
        """See `GarbageTable`."""
        with self._database.read(timed=False) as connection:
            for statement in _KNOWN:
                for (key,) in connection.scan(statement):
                    yield key

    def require_intact(self) -> None:
        """See `GarbageTable`."""
        with self._database.read(timed=False) as connection:
            damaged: tuple[type[Exception], ...] = (*connection.unreadable, RowDamageError)
            for table in (*_TENSORS, "reference", "payload_base", "tombstone", "upload", "begun", "pack"):
                damage = connection.table_damage(table)
                if damage is not None:
                    raise DataCorruptError(f"the table {table} of the catalogue is damaged: {damage}")
            for table in _TENSORS:
                try:
                    for *row, dataset in connection.scan(_ROWS.format(table)):
                        tensor_from_row(tuple(row), dataset or "", row[_DS])
                except damaged as error:
                    raise DataCorruptError(f"a row of the table {table} is damaged: {error}") from error

    def claim_listing(self, every_s: float) -> bool:
        """See `GarbageTable`. If the clock was set back, a listing is due at once."""
        due = f"WHERE listed_us NOT BETWEEN ?1 - {int(every_s * 1e6)} + 1 AND ?1"
        with self._database.read() as connection:
            if not select(connection, f"SELECT 1 FROM store {due}", (now_us(connection),)):
                return False
        with self._database.write() as connection:
            return bool(select(connection, f"UPDATE store SET listed_us = ?1 {due} RETURNING 1", (now_us(connection),)))


def _is_written(connection: Connection, key: str) -> bool:
    """Return whether an object is being written, or is a pack that is in use; a local store has neither."""
    if not is_of_object_store(key):
        return False
    _, _, name = key.rpartition("/")
    statement = "SELECT 1 FROM begun WHERE key IN (?, ?) UNION ALL SELECT 1 FROM pack WHERE pack = ?"
    return bool(select(connection, statement, (name, f"pack/{name}", name)))
