"""Assigns generations and ordinals to new tensors, within a transaction."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tensorus_server.catalogue.sql.dataset_rows import datasets_where
from tensorus_server.catalogue.sql.statements import now_us, select
from tensorus_server.errors import DataCorruptError
from tensorus_server.model import Outcome

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tensorus_server.catalogue.abc import StoredTensor
    from tensorus_server.catalogue.sql.connection import Connection
    from tensorus_server.catalogue.sql.dataset_rows import DatasetRow
    from tensorus_server.model import Dataset, Tensor

__all__ = ["Numbers", "is_counter_damaged", "latest_generation", "mend_counter", "next_generation"]


class Numbers:
    """Assigns generations and ordinals to the tensors of one commit, in order."""

    def __init__(self, connection: Connection, datasets: Mapping[int, Dataset], *, current: bool) -> None:
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
        self.created_us = now_us(connection)
        """The time of the commit."""

    def give(self, stored: StoredTensor, outcome: Outcome = Outcome.INSERTED) -> Tensor:
        """Return the tensor with the next generation and ordinal."""
        ds = stored.dataset.number
        self._generation += 1
        self.ordinals[ds] += 1
        return stored.committed(self._generation, self.ordinals[ds], stored.created_us or self.created_us, outcome)

    def take_back(self, stored: StoredTensor) -> None:
        """Return the numbers that were assigned last, so that the next tensor gets them."""
        self._generation -= 1
        self.ordinals[stored.dataset.number] -= 1

    def save(self, connection: Connection) -> None:
        """Store the last ordinals of the datasets that got new tensors."""
        counted = [
            (ordinal, self._rows[ds].checksum(ordinal), ds)
            for ds, ordinal in self.ordinals.items()
            if ordinal != self._before[ds]
        ]
        for columns in counted:
            connection.execute("UPDATE dataset SET last_ordinal = ?, row_checksum = ? WHERE ds = ?", columns)


_COUNTER = "SELECT seq FROM sqlite_sequence WHERE name = 'tensor'"

_LARGEST = """
SELECT max(seq) FROM tensor UNION ALL SELECT max(seq) FROM past_tensor UNION ALL SELECT max(generation) FROM snapshot
UNION ALL SELECT max((SELECT max(until_generation) FROM past_tensor WHERE ds = dataset.ds)) FROM dataset
UNION ALL SELECT max(complete_from) - 1 FROM history
"""
"""One look-up in an index for each dataset, however many rows it has."""


def latest_generation(connection: Connection) -> int:
    """Return the largest generation that was assigned or exists; SQLite's counter alone might be damaged."""
    rows = select(connection, f"{_COUNTER} UNION ALL SELECT max(seq) FROM tensor")
    found = [seq for (seq,) in rows if isinstance(seq, int)]
    if len(found) == 2 and found[0] >= found[1]:
        return int(found[0])
    # The counter is missing or too low, or there are no tensors.
    return max(*found, _largest(connection), 0)


def next_generation(connection: Connection) -> int:
    """Assign a generation that no tensor has, and return it."""
    generation = latest_generation(connection) + 1
    _set_counter(connection, generation)
    return generation


def is_counter_damaged(connection: Connection) -> bool:
    """Whether SQLite's counter is missing, or below a generation that exists."""
    largest, counter = _largest(connection), select(connection, _COUNTER)
    return largest > 0 and (len(counter) != 1 or not isinstance(counter[0][0], int) or counter[0][0] < largest)


def mend_counter(connection: Connection) -> None:
    """Raise the counter if it is damaged, so that neither SQLite nor a trigger assigns a generation again."""
    if is_counter_damaged(connection):
        _set_counter(connection, _largest(connection))


def _largest(connection: Connection) -> int:
    return max((seq for (seq,) in select(connection, _LARGEST) if isinstance(seq, int)), default=0)


def _set_counter(connection: Connection, generation: int) -> None:
    connection.execute("UPDATE sqlite_sequence SET seq = ? WHERE name = 'tensor'", (generation,))
    if not connection.changes():
        connection.execute("INSERT INTO sqlite_sequence (name, seq) VALUES ('tensor', ?)", (generation,))
