"""Deletes the tensors of deleted datasets, with their past tensors, in batches, so that others can write in between.

A batch is one short transaction. If a process stops between two batches, another process, or the next start, continues. A lock
file ensures that only one process at a time does this.
"""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING

from tensorus_server.catalogue.sql.dataset_rows import deleted_dataset
from tensorus_server.catalogue.sql.deletion import DELETED_COLUMNS, free
from tensorus_server.catalogue.sql.statements import now_us, select
from tensorus_server.limits import BATCH_S

if TYPE_CHECKING:
    from collections.abc import Callable

    from tensorus_server.catalogue.sql.connection import Connection
    from tensorus_server.catalogue.sql.transactions import Transactions

__all__ = ["purge"]

_LOCK_FILE = "purge.lock"

_TABLES = {"tensor": "tensor_created", "past_tensor": "past_tensor_created"}
"""With their indexes of (ds, seq). Past tensors come last: the others would become some, if the dataset still had snapshots."""

_DELETE = f"DELETE FROM {{}} INDEXED BY {{}} WHERE ds = ? AND seq <= ? RETURNING {DELETED_COLUMNS}"

_ROWS_AT_ONCE = 16
"""Tensors between two checks of the time. With the largest metadata and inline payloads they take about as long as a batch."""


def purge(database: Transactions, pause: Callable[[float], bool], *, delete_grace_us: int) -> int:
    """Delete the tensors of deleted datasets, and return their number; see `DatasetTable.purge`."""
    purged = 0
    with database.lock_file_if_free(_LOCK_FILE) as is_free:
        while is_free:
            with database.read() as connection:
                if deleted_dataset(connection) is None:
                    break
            begun_s = time.monotonic()
            purged += database.write_on_full_disk(partial(_purge_batch, delete_grace_us=delete_grace_us))
            database.checkpoint(idle=False)
            # Pause for as long as the batch took, so that other writers get half of the time.
            if pause(time.monotonic() - begun_s):
                break
    return purged


def _purge_batch(connection: Connection, delete_grace_us: int) -> int:
    """Delete tensors of one deleted dataset for `BATCH_S`, in commit order; after the last one, delete what else it has.

    Returns:
        How many were deleted, without past ones.
    """
    ends_s = time.monotonic() + BATCH_S
    purged = 0
    ds = deleted_dataset(connection)
    while ds is not None:
        for table, index in _TABLES.items():
            last = _last_of_next(connection, table, ds)
            if last is not None:
                rows = select(connection, _DELETE.format(table, index), (ds, last))
                free(connection, rows, f"dataset number {ds}", now_us(connection) + delete_grace_us)
                purged += len(rows) if table == "tensor" else 0
                break
        else:
            for table in ("snapshot", "history", "dataset_owner", "dataset"):
                connection.execute(f"DELETE FROM {table} WHERE ds = ?", (ds,))
            break
        if time.monotonic() >= ends_s:
            break
    return purged


def _last_of_next(connection: Connection, table: str, ds: int) -> int | None:
    """Return the generation of the last tensor in the next batch to delete; None: no tensors are left."""
    statement = f"SELECT max(seq) FROM (SELECT seq FROM {table} WHERE ds = ? ORDER BY seq LIMIT ?) AS batch"
    ((last,),) = select(connection, statement, (ds, _ROWS_AT_ONCE))
    return None if last is None else int(last)
