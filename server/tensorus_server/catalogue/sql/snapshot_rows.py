"""Rows of the tables `snapshot` and `history`, within a transaction."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tensorus_server.catalogue.sql.numbers import latest_generation, next_generation
from tensorus_server.catalogue.sql.row_checksum import MALFORMED, require_no_blobs, snapshot_checksum
from tensorus_server.catalogue.sql.statements import now_us, select
from tensorus_server.errors import AlreadyExistsError, DataCorruptError, SnapshotNotFoundError
from tensorus_server.model import Snapshot

if TYPE_CHECKING:
    from tensorus_server.catalogue.sql.connection import Connection
__all__ = [
    "create_snapshot",
    "drop_all_snapshots",
    "drop_snapshot",
    "end_states",
    "end_states_if_lost",
    "find_snapshot",
    "has_damaged_snapshots",
    "intact_generations",
    "need_pruning",
    "page_of_snapshots",
]

_COLUMNS = "ds, name, generation, created_us, row_checksum"

_NAMED_MAX = 5
"""Snapshots that a message names."""

_NEED_PRUNING = """
INSERT INTO history (ds, complete_from, prune) VALUES (?, 0, 1) ON CONFLICT (ds) DO UPDATE SET prune = 1
"""

_END_STATES = """
INSERT INTO history (ds, complete_from, complete_us) VALUES (?, ?, ?)
ON CONFLICT (ds) DO UPDATE SET complete_from = excluded.complete_from, complete_us = excluded.complete_us
"""


def create_snapshot(connection: Connection, dataset: tuple[int, str], name: str) -> Snapshot:
    """Create a snapshot of a dataset (number, name), with a generation of its own.

    Raises:
        AlreadyExistsError: the dataset has a snapshot with this name.
    """
    ds = dataset[0]
    if select(connection, "SELECT 1 FROM snapshot WHERE ds = ? AND name = ?", (ds, name)):
        raise AlreadyExistsError(f"a snapshot of the name {name!r} exists already", dataset=dataset[1], snapshot=name)
    snapshot = Snapshot(dataset[1], name, next_generation(connection), now_us(connection))
    columns = (ds, name, snapshot.generation, snapshot.created_us)
    statement = f"INSERT INTO snapshot ({_COLUMNS}) VALUES (?, ?, ?, ?, ?)"
    connection.execute(statement, (*columns, snapshot_checksum(columns)))
    return snapshot


def find_snapshot(connection: Connection, dataset: tuple[int, str], name: str) -> Snapshot:
    """Return the snapshot with this name.

    Raises:
        SnapshotNotFoundError: the dataset has none.
        DataCorruptError: its row is damaged.
    """
    try:
        rows = select(connection, f"SELECT {_COLUMNS} FROM snapshot WHERE ds = ? AND name = ?", (dataset[0], name))
    except connection.unreadable as error:
        raise _damage(dataset[1], name, f"its row cannot be read: {type(error).__name__}") from error
    if not rows:
        raise _not_found(connection, dataset, name)
    found = _from_row(rows[0], dataset)
    if isinstance(found, DataCorruptError):
        raise found
    return found


def page_of_snapshots(
    connection: Connection, dataset: tuple[int, str], after: int, size: int
) -> list[tuple[int, Snapshot | DataCorruptError]]:
    """Return up to `size` snapshots with generations above `after`, each with its generation, in ascending order.

    Raises:
        DataCorruptError: the table cannot be read.
    """
    statement = f"SELECT {_COLUMNS} FROM snapshot WHERE ds = ? AND generation > ? ORDER BY generation LIMIT ?"
    try:
        rows = select(connection, statement, (dataset[0], after, size))
    except connection.unreadable as error:
        raise DataCorruptError(f"the table of snapshots cannot be read: {error}", dataset=dataset[1]) from error
    return [(row[2], _from_row(row, dataset)) for row in rows]


def intact_generations(connection: Connection, dataset: tuple[int, str]) -> list[int]:
    """Return the generations of all snapshots of a dataset, in ascending order.

    Raises:
        DataCorruptError: a snapshot is damaged, so it is not known which tensors it needs.
    """
    found = page_of_snapshots(connection, dataset, -1, 2**63 - 1)
    for _, snapshot in found:
        if isinstance(snapshot, DataCorruptError):
            raise snapshot
    return [generation for generation, _ in found]


def has_damaged_snapshots(connection: Connection) -> bool:
    """Whether a snapshot of any dataset is damaged."""
    rows = select(connection, f"SELECT {_COLUMNS} FROM snapshot")
    return any(isinstance(_from_row(row, (row[0], "")), DataCorruptError) for row in rows)


def drop_snapshot(connection: Connection, dataset: tuple[int, str], name: str) -> None:
    """Delete a snapshot's row, damaged or not, and let what only it needed be pruned.

    Raises:
        SnapshotNotFoundError: the dataset has none with this name.
    """
    connection.execute("DELETE FROM snapshot WHERE ds = ? AND name = ?", (dataset[0], name))
    if not connection.changes():
        raise _not_found(connection, dataset, name)
    need_pruning(connection, dataset[0])


def drop_all_snapshots(connection: Connection, ds: int) -> int:
    """Delete all snapshots of a dataset that is being deleted, and return their number."""
    connection.execute("DELETE FROM snapshot WHERE ds = ?", (ds,))
    return connection.changes()


def need_pruning(connection: Connection, ds: int) -> None:
    """Note that past rows of a dataset may no longer be needed."""
    connection.execute(_NEED_PRUNING, (ds,))


def end_states(connection: Connection, ds: int) -> None:
    """Give the current state of a dataset a generation of its own, from which on states are complete: earlier ones are lost."""
    connection.execute(_END_STATES, (ds, next_generation(connection), now_us(connection)))


def end_states_if_lost(connection: Connection, ds: int) -> None:
    """Do what `end_states` does if rows were deleted that nothing keeps, and no row was inserted after them.

    The trigger can only note that states are complete from the next generation on. Without this, the current state could not be
    read by time before there is one.
    """
    found = select(connection, "SELECT complete_from FROM history WHERE ds = ?", (ds,))
    if found and found[0][0] > latest_generation(connection):
        end_states(connection, ds)


def _from_row(row: tuple[Any, ...], dataset: tuple[int, str]) -> Snapshot | DataCorruptError:
    *columns, checksum = row
    ds, name, generation, created_us = columns
    try:
        require_no_blobs(row)
        found = snapshot_checksum(columns)
    except MALFORMED as error:
        return _damage(dataset[1], name, f"a value of the row cannot be read: {type(error).__name__}")
    if found != checksum or ds != dataset[0]:
        return _damage(dataset[1], name, f"the row's checksum is {found:#010x}, expected {checksum:#010x}")
    return Snapshot(dataset[1], name, generation, created_us)


def _not_found(connection: Connection, dataset: tuple[int, str], name: str) -> SnapshotNotFoundError:
    """Return the error, which names the newest snapshots that there are."""
    statement = "SELECT name FROM snapshot WHERE ds = ? ORDER BY generation DESC LIMIT ?"
    try:
        names = [repr(found) for (found,) in select(connection, statement, (dataset[0], _NAMED_MAX + 1))]
    except connection.unreadable:
        names = []
    others = ""
    if names:
        which = "the newest ones are" if len(names) > _NAMED_MAX else "the dataset has"
        others = f"; {which} {', '.join(reversed(names[:_NAMED_MAX]))}"
    return SnapshotNotFoundError(
        f"there is no snapshot of the name {name!r}{others}", dataset=dataset[1], snapshot=name
    )


def _damage(dataset: str, name: object, what: str) -> DataCorruptError:
    return DataCorruptError(
        f"the catalogue is damaged at snapshot {name!r}: {what}", dataset=dataset, snapshot=str(name)
    )
