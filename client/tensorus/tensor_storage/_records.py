"""Reads records: as they are stored, and with the uncommitted changes of a transaction.

Methods yield records one at a time, to keep memory small. Names of datasets are those in the store.
"""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING, Protocol

import numpy as np

from tensorus import errors
from tensorus._arrays.canonical import as_numpy, default_kind, from_canonical
from tensorus.tensor_storage._errors import TensorNotFoundError, TransactionError, as_storage_errors
from tensorus.tensor_storage._names import shown_name
from tensorus.types import Record

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from tensorus._where import Where
    from tensorus.tensor_storage._changes import Changes
    from tensorus.tensor_storage._places import Place
    from tensorus.types import TensorInfo

__all__ = ["ChangedRecords", "Records", "StoredRecords"]

_IDS_PER_READ = 256
"""Ids per read of named records: few enough to hold in memory, enough to fill a stream."""


class Records(Protocol):
    """A source of records. Methods raise the errors of `TensorStorage`, most of them at the first record."""

    def count(self, dataset: str) -> int:
        """Return the number of records."""

    def infos(self, dataset: str, where: str | None = None) -> Iterator[TensorInfo]:
        """Yield descriptions of records, in order of insertion.

        Args:
            dataset: name of the dataset.
            where: a filter, as a hint; records that do not match may be yielded too.
        """

    def records(self, dataset: str, where: str | None = None) -> Iterator[Record]:
        """Yield records, in order of insertion. Arguments as for `infos`."""

    def matching(self, dataset: str, where: Where | None) -> Iterator[Record]:
        """Yield exactly the records that match a filter, in order of insertion.

        Raises:
            TransactionError: the dataset has uncommitted changes, which a filter does not see.
        """

    def named(self, dataset: str, ids: Iterable[str]) -> Iterator[Record]:
        """Yield the records with these ids, in this order; ids that do not exist are skipped."""

    def sample(self, dataset: str, count: int, seed: int) -> Iterator[Record]:
        """Yield `count` random records in random order; the same seed gives the same records."""

    def info(self, dataset: str, record_id: str) -> TensorInfo:
        """Return the description of a record."""

    def record(self, dataset: str, record_id: str) -> Record:
        """Return a record."""


class StoredRecords:
    """The records in a client's store."""

    def __init__(self, place: Place) -> None:
        """Read from `place`. Holding it keeps it open."""
        self._place = place
        self._client = place.client

    def count(self, dataset: str) -> int:
        """See `Records`."""
        with as_storage_errors():
            return self._client.stats(dataset).tensors

    def infos(self, dataset: str, where: str | None = None) -> Iterator[TensorInfo]:
        """See `Records`."""
        with as_storage_errors():
            yield from self._client.list(dataset, where)

    def records(self, dataset: str, where: str | None = None) -> Iterator[Record]:
        """See `Records`."""
        return self.matching(dataset, where)

    def matching(self, dataset: str, where: Where | None) -> Iterator[Record]:
        """See `Records`."""
        with as_storage_errors():
            yield from self._client.query(dataset, where)

    def named(self, dataset: str, ids: Iterable[str]) -> Iterator[Record]:
        """See `Records`."""
        remaining = iter(ids)
        while batch := list(islice(remaining, _IDS_PER_READ)):
            with as_storage_errors():
                yield from self._existing(dataset, batch)

    def sample(self, dataset: str, count: int, seed: int) -> Iterator[Record]:
        """See `Records`."""
        with as_storage_errors():
            yield from self._client.query(dataset, sample=count, seed=seed)

    def info(self, dataset: str, record_id: str) -> TensorInfo:
        """See `Records`."""
        with as_storage_errors():
            return self._client.info(dataset, record_id)

    def record(self, dataset: str, record_id: str) -> Record:
        """See `Records`."""
        with as_storage_errors():
            return next(self._client.get_many(dataset, [record_id]))

    def _existing(self, dataset: str, ids: list[str]) -> Iterator[Record]:
        """Yield the records that still exist: some may have been deleted since they were listed."""
        position = 0
        while position < len(ids):
            try:
                for record in self._client.get_many(dataset, ids[position:]):
                    position += 1
                    yield record
            except errors.TensorNotFoundError:
                position += 1


class ChangedRecords:
    """The records of another source with uncommitted changes applied.

    Inserted records come last, with their values as given: a lossy configuration takes effect only when they are stored.
    """

    def __init__(self, stored: Records, changes: Mapping[str, Changes]) -> None:
        """Apply the changes, by dataset, to the stored records. The changes may grow later."""
        self._stored = stored
        self._changes = changes

    def count(self, dataset: str) -> int:
        """See `Records`."""
        changes = self._changes.get(dataset)
        if changes is None:
            return self._stored.count(dataset)
        return self._stored.count(dataset) - len(changes.deleted) + len(changes.inserted)

    def infos(self, dataset: str, where: str | None = None) -> Iterator[TensorInfo]:
        """See `Records`."""
        changes = self._changes.get(dataset)
        if changes is None:
            yield from self._stored.infos(dataset, where)
            return
        # Without the filter, which does not see the changes.
        for info in self._stored.infos(dataset):
            if info.id not in changes.deleted:
                yield changes.applied(info)
        for inserted in list(changes.inserted.values()):
            yield inserted.info

    def records(self, dataset: str, where: str | None = None) -> Iterator[Record]:
        """See `Records`."""
        changes = self._changes.get(dataset)
        if changes is None:
            yield from self._stored.records(dataset, where)
            return
        for record in self._stored.records(dataset):
            if record.info.id not in changes.deleted:
                yield replace(record, info=changes.applied(record.info))
        for record_id in list(changes.inserted):
            yield _inserted(changes, record_id)

    def matching(self, dataset: str, where: Where | None) -> Iterator[Record]:
        """See `Records`."""
        if self._changes.get(dataset):
            raise TransactionError(
                f"a filter does not see the changes of this transaction to dataset {shown_name(dataset)!r}: "
                "filter before or after it, or use query or query_by_metadata"
            )
        yield from self._stored.matching(dataset, where)

    def named(self, dataset: str, ids: Iterable[str]) -> Iterator[Record]:
        """See `Records`."""
        changes = self._changes.get(dataset)
        if changes is None:
            yield from self._stored.named(dataset, ids)
            return
        for record_id in ids:
            try:
                yield self.record(dataset, record_id)
            except TensorNotFoundError:
                continue

    def sample(self, dataset: str, count: int, seed: int) -> Iterator[Record]:
        """See `Records`."""
        if dataset not in self._changes:
            yield from self._stored.sample(dataset, count, seed)
            return
        ids = [info.id for info in self.infos(dataset)]
        chosen = random.Random(seed).sample(ids, min(count, len(ids)))  # noqa: S311 - no secret
        yield from self.named(dataset, chosen)

    def info(self, dataset: str, record_id: str) -> TensorInfo:
        """See `Records`."""
        changes = self._changes.get(dataset)
        if changes is None:
            return self._stored.info(dataset, record_id)
        if record_id in changes.inserted:
            return changes.inserted[record_id].info
        changes.require_not_deleted(dataset, record_id)
        return changes.applied(self._stored.info(dataset, record_id))

    def record(self, dataset: str, record_id: str) -> Record:
        """See `Records`."""
        changes = self._changes.get(dataset)
        if changes is None:
            return self._stored.record(dataset, record_id)
        if record_id in changes.inserted:
            return _inserted(changes, record_id)
        changes.require_not_deleted(dataset, record_id)
        record = self._stored.record(dataset, record_id)
        return replace(record, info=changes.applied(record.info))


def _inserted(changes: Changes, record_id: str) -> Record:
    """Return an inserted record with a copy of its values."""
    inserted = changes.inserted[record_id]
    values = np.array(as_numpy(inserted.new.tensor), order="C", copy=True)
    return Record(inserted.info, from_canonical(values, default_kind()))
