"""Deletes past tensors that no snapshot and no retention needs any more, in batches, so that others can write in between.

A past tensor is needed if a snapshot was made while it was visible, or if it was replaced or deleted less than the dataset's
retention ago. Two things end a need: time passes, and a snapshot is dropped or a retention shortened. Past tensors are looked
at in the order in which they were replaced or deleted. So a place in that order says how far a dataset is pruned, and only what
comes after it is looked at later. The place is in memory; if a process begins, it starts at the first one.

A drop sets `history.prune` to 1, which starts the dataset from the beginning. Meanwhile it is a number that the process has
drawn, and 0 at the end, unless there was another drop. So a process that is killed leaves its number, and another one begins
again, also if it had come further.
"""

from __future__ import annotations

import logging
import secrets
import threading
import time
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

from tensorus_protos.rules import to_json
from tensorus_server.catalogue.sql.deletion import DELETED_COLUMNS, free
from tensorus_server.catalogue.sql.snapshot_rows import intact_generations
from tensorus_server.catalogue.sql.statements import now_us, select
from tensorus_server.errors import DataCorruptError
from tensorus_server.limits import BATCH_S

if TYPE_CHECKING:
    from collections.abc import Callable

    from tensorus_server.catalogue.sql.connection import Connection
    from tensorus_server.catalogue.sql.transactions import Transactions

__all__ = ["Pruner"]

_LOCK_FILE = "prune.lock"

_POLL_S = 0.05

_LOOKED_AT = 2000
"""Rows that one statement looks at. They take a few milliseconds."""

_ROWS_AT_ONCE = 16
"""Tensors between two checks of the time. With the largest metadata and inline payloads they take about as long as a batch."""

_DATASETS = """
SELECT dataset.ds, dataset.name, coalesce(history.prune, 0) FROM dataset LEFT JOIN history USING (ds)
WHERE dataset.deleted_us IS NULL AND (dataset.retention_us > 0 OR history.prune <> 0)
"""

_NEXT = """
SELECT until_generation, seq,
  (SELECT retention_us = 0 OR t.until_us <= ?4 - retention_us FROM dataset WHERE ds = ?1),
  EXISTS (SELECT 1 FROM snapshot WHERE ds = ?1 AND generation >= t.seq AND generation < t.until_generation)
FROM past_tensor AS t INDEXED BY past_tensor_until
WHERE ds = ?1 AND (until_generation, seq) > (?2, ?3) ORDER BY until_generation, seq LIMIT ?5
"""

_DELETE = f"""
DELETE FROM past_tensor WHERE seq IN (SELECT CAST(value AS BIGINT) FROM json_each(?2))
  AND (SELECT retention_us = 0 OR past_tensor.until_us <= ?3 - retention_us FROM dataset WHERE ds = ?1)
  AND NOT EXISTS (
    SELECT 1 FROM snapshot WHERE ds = ?1 AND generation >= past_tensor.seq AND generation < past_tensor.until_generation
  )
RETURNING {DELETED_COLUMNS}
"""

_Place: TypeAlias = "tuple[int, int]"
"""The end of a past tensor's visibility, and its generation."""

_FIRST = (-1, -1)

_log = logging.getLogger(__name__)


class Pruner:
    """See the module's description. Thread-safe."""

    def __init__(self, database: Transactions, *, delete_grace_us: int) -> None:
        """Use `database`; see `SqliteCatalogue` for the grace."""
        self._database = database
        self._delete_grace_us = delete_grace_us
        self._turn = threading.Lock()
        self._done: dict[int, _Place] = {}
        """Up to where each dataset is pruned."""
        self._mark = 2 + secrets.randbits(60)
        """The value of `history.prune` while this process looks through a dataset."""

    def prune(self, pause: Callable[[float], bool], *, wait_s: float) -> int:
        """See `SnapshotTable.prune`."""
        give_up_s = time.monotonic() + wait_s
        while True:
            # The file's lock is for other processes, and the thread's for those of this one.
            if self._turn.acquire(timeout=max(give_up_s - time.monotonic(), 0.0)):
                try:
                    with self._database.lock_file_if_free(_LOCK_FILE) as is_free:
                        if is_free:
                            return self._prune(pause)
                finally:
                    self._turn.release()
            if time.monotonic() >= give_up_s or pause(_POLL_S):
                return 0

    def _prune(self, pause: Callable[[float], bool]) -> int:
        with self._database.read() as connection:
            datasets = select(connection, _DATASETS)
        pruned = 0
        for ds, name, prune in datasets:
            try:
                deleted, is_stopped = self._prune_dataset((ds, name), prune, pause)
            except DataCorruptError as damage:
                _log.error("past tensors stay, because it is not known which are needed: %s", damage)
                continue
            pruned += deleted
            if is_stopped:
                break
        return pruned

    def _prune_dataset(self, dataset: tuple[int, str], prune: int, pause: Callable[[float], bool]) -> tuple[int, bool]:
        """Prune one dataset, and return how many rows were deleted, and whether to stop."""
        ds = dataset[0]
        with self._database.read() as connection:
            intact_generations(connection, dataset)
        if prune not in {0, self._mark}:
            self._done.pop(ds, None)
            self._set_state(ds, prune, self._mark)
        pruned = 0
        unneeded: list[int] = []
        is_end = False
        while unneeded or not is_end:
            begun_s = time.monotonic()
            if not unneeded:
                place, unneeded, is_end = self._look(ds)
            if unneeded:
                done, deleted = self._database.write_on_full_disk(partial(self._delete_batch, ds, unneeded))
                del unneeded[:done]
                pruned += deleted
                self._database.checkpoint(idle=False)
            if not unneeded:
                self._done[ds] = place
            # Pause for as long as the batch took, so that other writers get half of the time.
            if (unneeded or not is_end) and pause(time.monotonic() - begun_s):
                return pruned, True
        if prune:
            self._set_state(ds, self._mark, 0)
        return pruned, False

    def _look(self, ds: int) -> tuple[_Place, list[int], bool]:
        """Look at the next rows; return the place after them, which of them nothing needs, and whether they are the last."""
        place = self._done.get(ds, _FIRST)
        unneeded: list[int] = []
        with self._database.read() as connection:
            try:
                rows = select(connection, _NEXT, (ds, *place, now_us(connection), _LOOKED_AT))
            except connection.unreadable as error:
                raise DataCorruptError(f"the table of past tensors cannot be read: {error}") from error
        for until, seq, is_over, has_snapshot in rows:
            if not is_over:
                return place, unneeded, True
            place = (until, seq)
            if not has_snapshot:
                unneeded.append(seq)
        return place, unneeded, len(rows) < _LOOKED_AT

    def _delete_batch(self, ds: int, seqs: list[int], connection: Connection) -> tuple[int, int]:
        """Delete rows for `BATCH_S`, unless they are needed by now; return how many were tried, and how many were deleted."""
        ends_s = time.monotonic() + BATCH_S
        done = deleted = 0
        while done < len(seqs) and time.monotonic() < ends_s:
            part = seqs[done : done + _ROWS_AT_ONCE]
            try:
                rows = select(connection, _DELETE, (ds, to_json(part), now_us(connection)))
                free(
                    connection, rows, f"past tensors of dataset number {ds}", now_us(connection) + self._delete_grace_us
                )
            except connection.unreadable as error:
                raise DataCorruptError(f"the table of past tensors cannot be changed: {error}") from error
            done += len(part)
            deleted += len(rows)
        return done, deleted

    def _set_state(self, ds: int, before: int, after: int) -> None:
        def update(connection: Connection) -> None:
            connection.execute("UPDATE history SET prune = ?3 WHERE ds = ?1 AND prune = ?2", (ds, before, after))

        self._database.write_on_full_disk(update)
