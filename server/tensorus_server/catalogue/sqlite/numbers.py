"""Assigns generations and ordinals to new tensors, within a transaction."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tensorus_server.catalogue.sqlite.database import now_us, select
from tensorus_server.catalogue.sqlite.dataset_rows import datasets_where
from tensorus_server.errors import DataCorruptError
from tensorus_server.model import Outcome

if TYPE_CHECKING:
    from collections.abc import Mapping

    import apsw

    from tensorus_server.catalogue.abc import StoredTensor
    from tensorus_server.catalogue.sqlite.dataset_rows import DatasetRow
    from tensorus_server.model import Dataset, Tensor

__all__ = ["Numbers", "latest_generation"]


class Numbers:
    """Assigns generations and ordinals to the tensors of one commit, in order."""

    def __init__(self, connection: apsw.Connection, datasets: Mapping[int, Dataset], *, current: bool) -> None:
        """Continue after the last numbers of these datasets, which are given by number; deleted datasets get none.

        Args:
            current: whether datasets that have changed get none, either.
        """
        self.ordinals: dict[int, int] = {}
        """The last ordinal of each dataset."""
        self.damaged: dict[int, DataCorruptError] = {}
        """The errors of datasets whose rows are damaged."""
        self._rows: dict[int, DatasetRow] = {}
        for ds, dataset in datasets.items():
            for row in datasets_where(connection, "ds = ?", ds, named=dataset.name):
                if isinstance(row, DataCorruptError):
                    self.damaged[ds] = row
                elif not current or row.dataset == dataset:
                    self._rows[ds], self.ordinals[ds] = row, row.last_ordinal
        self._before = dict(self.ordinals)
        self._generation = latest_generation(connection)
        self._created_us = now_us()

    def give(self, stored: StoredTensor, outcome: Outcome = Outcome.INSERTED) -> Tensor:
        """Return the tensor with the next generation and ordinal."""
        ds = stored.dataset.number
        self._generation += 1
        self.ordinals[ds] += 1
        return stored.committed(self._generation, self.ordinals[ds], stored.created_us or self._created_us, outcome)

    def take_back(self, stored: StoredTensor) -> None:
        """Return the numbers that were assigned last, so that the next tensor gets them."""
        self._generation -= 1
        self.ordinals[stored.dataset.number] -= 1

    def save(self, connection: apsw.Connection) -> None:
        """Store the last ordinals of the datasets that got new tensors."""
        counted = [
            (ordinal, self._rows[ds].checksum(ordinal), ds)
            for ds, ordinal in self.ordinals.items()
            if ordinal != self._before[ds]
        ]
        for columns in counted:
            connection.execute("UPDATE dataset SET last_ordinal = ?, row_checksum = ? WHERE ds = ?", columns)


def latest_generation(connection: apsw.Connection) -> int:
    """Return the largest generation that was assigned or exists; SQLite's counter alone might be damaged."""
    rows = select(
        connection, "SELECT seq FROM sqlite_sequence WHERE name = 'tensor' UNION ALL SELECT max(seq) FROM tensor"
    )
    return max((seq for (seq,) in rows if isinstance(seq, int)), default=0)
