"""The parts of migrations that need Python: they run after the migration's SQL, in the same transaction, in bounded memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tensorus_codecs.checksum import crc32c
from tensorus_server.catalogue.sql.row_checksum import (
    MALFORMED,
    dataset_checksum,
    dataset_start,
    upload_checksum,
)
from tensorus_server.catalogue.sql.rows import ROW_CHECKSUM_COLUMNS, checksum_of_row
from tensorus_server.catalogue.sqlite.sqlite_errors import UNREADABLE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import apsw

__all__ = ["STEPS"]

_BATCH = 500

_OLD_COLUMNS = (
    *("id", "dtype_number", "element_bytes", "shape", "chunk_bytes", "inline", "key", "offset", "length"),
    *("index_length", "index_crc", "value_algorithm"),
)

_DATASET_COLUMNS = "ds, name, policy, schema, created_us, deleted_us, last_ordinal"

_UPLOAD_COLUMNS = (
    "request_id, item, ds, id, dtype_number, element_bytes, shape, policy, payload_key, committed_bytes, stored_bytes, "
    "chunk_count, state, announced, generation, outcome, expires_us"
)


def _sign_rows(connection: apsw.Connection) -> None:
    """Compute the checksum over all columns for every row (migration 0008). Damaged rows get none."""
    names = ", ".join(f'"{name}"' for name in ROW_CHECKSUM_COLUMNS)
    for rows in _batches(connection, f"SELECT {names}, row_checksum FROM tensor"):
        signed = [(checksum, seq) for row in rows for seq, checksum in (_signed(row),)]
        connection.executemany("UPDATE tensor SET row_checksum = ? WHERE seq = ?", signed)
    for *fixed, last_ordinal in _select(connection, f"SELECT {_DATASET_COLUMNS} FROM dataset"):
        checksum = dataset_checksum(dataset_start(fixed), last_ordinal)
        connection.execute("UPDATE dataset SET row_checksum = ? WHERE ds = ?", (checksum, fixed[0]))
    for row in _select(connection, f"SELECT {_UPLOAD_COLUMNS} FROM upload"):
        parameters = (upload_checksum(row), *row[:2])
        connection.execute("UPDATE upload SET row_checksum = ? WHERE request_id = ? AND item = ?", parameters)


STEPS: dict[int, Callable[[apsw.Connection], None]] = {8: _sign_rows}
"""Functions by the version of their migration."""


def _batches(connection: apsw.Connection, statement: str) -> Iterator[list[tuple[Any, ...]]]:
    """Yield the readable rows of the tensor table."""
    seqs = [0]
    while seqs:
        next_seqs = "SELECT seq FROM tensor WHERE seq > ? ORDER BY seq LIMIT ?"
        seqs = [seq for (seq,) in _select(connection, next_seqs, seqs[-1], _BATCH)]
        try:
            where = "WHERE seq BETWEEN ? AND ? ORDER BY seq"
            yield _select(connection, f"{statement} {where}", seqs[0], seqs[-1]) if seqs else []
        except UNREADABLE:
            for seq in seqs:
                yield _readable(connection, statement, seq)


def _readable(connection: apsw.Connection, statement: str, seq: int) -> list[tuple[Any, ...]]:
    try:
        return _select(connection, f"{statement} WHERE seq = ?", seq)
    except UNREADABLE:
        return []


def _select(connection: apsw.Connection, statement: str, *parameters: int) -> list[tuple[Any, ...]]:
    """Return all rows. `Any`: the types of the columns are known only to the schema."""
    return connection.execute(statement, parameters).fetchall()


def _signed(row: tuple[Any, ...]) -> tuple[int, int]:
    """Return generation and new checksum of a row; -1, which is never a checksum, if the row is damaged."""
    columns, old_checksum = dict(zip(ROW_CHECKSUM_COLUMNS, row[:-1], strict=True)), row[-1]
    try:
        texts = [str(columns[name]) for name in _OLD_COLUMNS]
        # The checksum of schema versions 1 to 7 covered these columns as text, joined by NUL characters.
        found = crc32c("\0".join([*texts, columns["value_checksum"].hex()]).encode())
        return columns["seq"], checksum_of_row(row[:-1]) if found == old_checksum else -1
    except MALFORMED:
        return columns["seq"], -1
