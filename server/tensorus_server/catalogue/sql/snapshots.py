"""The table of snapshots, and which earlier states of a dataset are kept."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING

from tensorus_server.catalogue.abc import SnapshotPage, SnapshotTable
from tensorus_server.catalogue.sql.dataset_rows import dataset_number
from tensorus_server.catalogue.sql.pruning import Pruner
from tensorus_server.catalogue.sql.snapshot_rows import (
    create_snapshot,
    drop_snapshot,
    find_snapshot,
    page_of_snapshots,
)
from tensorus_server.catalogue.sql.statements import select
from tensorus_server.catalogue.sql.states import require_state
from tensorus_server.errors import InvalidRequestError, StateNotKeptError

if TYPE_CHECKING:
    from collections.abc import Callable

    from tensorus_server.catalogue.sql.connection import Connection
    from tensorus_server.catalogue.sql.transactions import Transactions
    from tensorus_server.model import At, Snapshot

__all__ = ["SqlSnapshotTable"]

_AT_TIME = (
    "SELECT seq FROM tensor WHERE ds = ?1 AND created_us <= ?2 ORDER BY seq DESC LIMIT 1",
    "SELECT seq FROM past_tensor WHERE ds = ?1 AND created_us <= ?2 ORDER BY seq DESC LIMIT 1",
    "SELECT until_generation FROM past_tensor WHERE ds = ?1 AND until_us <= ?2 ORDER BY until_generation DESC LIMIT 1",
    "SELECT max(generation) FROM snapshot WHERE ds = ?1 AND created_us <= ?2",
    "SELECT complete_from FROM history WHERE ds = ?1 AND complete_us <= ?2",
)
"""The changes of a dataset. The last one is the newest change of which the row was pruned."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class SqlSnapshotTable(SnapshotTable):
    """See `SnapshotTable`."""

    def __init__(self, database: Transactions, *, delete_grace_s: float) -> None:
        """Use `database`; see `SqliteCatalogue` for the grace."""
        self._database = database
        self._pruner = Pruner(database, delete_grace_us=int(delete_grace_s * 1e6))

    def create(self, dataset: str, name: str) -> Snapshot:
        """See `SnapshotTable`."""
        with self._database.write() as connection:
            return create_snapshot(connection, (dataset_number(connection, dataset), dataset), name)

    def find(self, dataset: str, name: str) -> Snapshot:
        """See `SnapshotTable`."""
        with self._database.read() as connection:
            return find_snapshot(connection, (dataset_number(connection, dataset), dataset), name)

    def page(self, dataset: str, after: int, size: int) -> SnapshotPage:
        """See `SnapshotTable`."""
        with self._database.read() as connection:
            found = page_of_snapshots(connection, (dataset_number(connection, dataset), dataset), after, size + 1)
        return SnapshotPage(found[:size], found[size - 1][0] if len(found) > size else None)

    def drop(self, dataset: str, name: str) -> None:
        """See `SnapshotTable`."""

        def drop(connection: Connection) -> None:
            drop_snapshot(connection, (dataset_number(connection, dataset), dataset), name)

        self._database.write_on_full_disk(drop)

    def resolve(self, dataset: str, at: At) -> int:
        """See `SnapshotTable`."""
        with self._database.read() as connection:
            place = dataset_number(connection, dataset), dataset
            if at.snapshot is not None:
                return find_snapshot(connection, place, at.snapshot).generation
            if at.generation is not None:
                require_state(connection, place, at.generation)
                return at.generation
            if at.time_us is None:
                raise InvalidRequestError("at has no field, must have one", dataset=dataset)
            return _at_time(connection, place, at.time_us)

    def prune(self, pause: Callable[[float], bool], *, wait_s: float = 0.0) -> int:
        """See `SnapshotTable`."""
        return self._pruner.prune(pause, wait_s=wait_s)


def _at_time(connection: Connection, dataset: tuple[int, str], time_us: int) -> int:
    """Return the generation of the state at a time.

    Raises:
        StateNotKeptError: it is not kept, or the dataset did not exist yet; names the time.
    """
    if select(connection, "SELECT 1 FROM dataset WHERE ds = ? AND created_us > ?", (dataset[0], time_us)):
        raise StateNotKeptError(
            f"the state at {_time_text(time_us)} is not kept: the dataset was created later", dataset=dataset[1]
        )
    found = map(partial(_value, connection, (dataset[0], time_us)), _AT_TIME)
    generation = max((value for value in found if value is not None), default=0)
    try:
        require_state(connection, dataset, generation)
    except StateNotKeptError as error:
        facts = {name: fact for name, fact in error.facts.items() if name != "dataset"}
        raise StateNotKeptError(
            f"the state at {_time_text(time_us)} is not kept: it is that of generation {generation}, and states are complete "
            f"from generation {facts.get('complete_from', 0)}, and at snapshots",
            dataset=dataset[1],
            **facts,
        ) from error
    return generation


def _time_text(time_us: int) -> str:
    try:
        return (_EPOCH + timedelta(microseconds=time_us)).isoformat()
    except OverflowError:
        # Neither Python nor the contract has such a time, but a caller within this process may.
        return f"{time_us} microseconds since 1970"


def _value(connection: Connection, parameters: tuple[int, int], statement: str) -> int | None:
    rows = select(connection, statement, parameters)
    return rows[0][0] if rows else None
