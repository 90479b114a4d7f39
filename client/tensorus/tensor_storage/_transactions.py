"""Transactions: changes to some datasets that are committed together, or not at all if one fails."""

from __future__ import annotations

import logging
import threading
import uuid
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

from tensorus import errors
from tensorus._arrays.canonical import as_numpy
from tensorus.tensor_storage._changes import Changes, Inserted, commit
from tensorus.tensor_storage._errors import TensorNotFoundError, TransactionError, as_storage_errors, taken_error
from tensorus.tensor_storage._metadata import replaced_metadata
from tensorus.tensor_storage._records import ChangedRecords
from tensorus.types import NewTensor

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from tensorus.tensor_storage._places import Place
    from tensorus.tensor_storage._records import Records

__all__ = ["Transaction", "Transactions", "failing_as_transaction"]

_log = logging.getLogger(__name__)


class Transaction:
    """Uncommitted changes of one thread to some datasets."""

    def __init__(self, place: Place, stored: Records) -> None:
        """Start without changes and datasets."""
        self._place = place
        self._client = place.client
        self._changes: dict[str, Changes] = {}
        self._created: list[str] = []
        self.records = ChangedRecords(stored, self._changes)
        """The stored records with the changes so far."""

    def has(self, dataset: str) -> bool:
        """Return whether this dataset takes part."""
        return dataset in self._changes

    def insert(self, dataset: str, new: NewTensor) -> None:
        """Insert a record with a new id; the tensor is copied.

        Raises:
            NameTakenError: the id is taken.
            SchemaValidationError: the record does not fit the schema. Other errors of an insert are raised too.
        """
        record_id = new.id or ""
        try:
            self.records.info(dataset, record_id)
        except TensorNotFoundError:
            pass
        else:
            raise taken_error(dataset, record_id)
        values = np.array(as_numpy(new.tensor), order="C", copy=True)
        own = NewTensor(values, record_id, new.metadata, new.policy)
        replaced = self._changes[dataset].deleted.get(record_id)
        with as_storage_errors():
            info = self._client.insert(
                dataset,
                values,
                id=record_id,
                metadata=own.metadata,
                policy=own.policy,
                if_generation_match=None if replaced is None else replaced.generation,
                validate_only=True,
            )
        self._changes[dataset].insert(Inserted(own, info))

    def update(self, dataset: str, record_id: str, metadata: object) -> None:
        """Replace the user's metadata of a record."""
        info = self.records.info(dataset, record_id)
        self._changes[dataset].update(info, replaced_metadata(info.metadata, metadata))

    def delete(self, dataset: str, record_id: str) -> None:
        """Delete a record."""
        self._changes[dataset].delete(self.records.info(dataset, record_id))

    def created(self, dataset: str) -> None:
        """Remember that the block has created a dataset."""
        self._created.append(dataset)

    def deleted(self, dataset: str) -> None:
        """Drop the changes to a dataset that the block has deleted; a later one with the same name is another dataset."""
        self._changes[dataset] = Changes()
        self._created = [name for name in self._created if name != dataset]

    @contextmanager
    def part(self, datasets: Collection[str]) -> Iterator[None]:
        """Let datasets take part from now on. If the block raises, drop its changes to them.

        Changes to datasets that join within the block are dropped too, and datasets that it created are removed.
        """
        known, created = set(self._changes), set(self._created)
        before = {dataset: self._changes[dataset].copy() for dataset in datasets if dataset in known}
        for dataset in datasets:
            self._changes.setdefault(dataset, Changes())
        try:
            yield
        except BaseException:
            new = [name for name in self._created if name not in created and (name in before or name not in known)]
            for dataset in new:
                self._created.remove(dataset)
                self._remove(dataset)
            for dataset in self._changes.keys() - known:
                del self._changes[dataset]
            self._changes.update(before)
            raise

    def _remove(self, dataset: str) -> None:
        """Delete a dataset that the block has created, unless others have stored records in it meanwhile."""
        try:
            if self._client.stats(dataset).tensors:
                _log.warning("dataset %r of a transaction that failed stays: it has records of others", dataset)
            else:
                self._client.delete_dataset(dataset)
        except errors.TensorusError:
            # Only log it: the caller raises the error that made this necessary.
            _log.exception("dataset %r of a transaction that failed could not be removed", dataset)

    def commit(self) -> None:
        """Store the changes. Afterwards, `records` shows the stored records only."""
        with as_storage_errors():
            self._place.require_there()
            commit(self._client, self._changes)
        self._changes.clear()


class Transactions:
    """The current transaction of each thread."""

    def __init__(self) -> None:
        """Start without transactions."""
        self._local = threading.local()

    @property
    def current(self) -> Transaction | None:
        """The transaction of this thread, or None."""
        found: Transaction | None = getattr(self._local, "current", None)
        return found

    @contextmanager
    def opened(
        self, place: Place, stored: Records, datasets: Collection[str], transaction_id: str | None
    ) -> Iterator[str]:
        """Open a transaction in this thread for the block, then commit it. Yields its id. A nested one joins the outer one.

        Raises:
            TransactionError: something failed. Nothing is stored, and an outer transaction is unchanged.
        """
        opened_id = transaction_id or str(uuid.uuid4())
        outer = self.current
        transaction = outer or Transaction(place, stored)
        with failing_as_transaction(f"Transaction {opened_id}"), transaction.part(datasets):
            self._local.current = transaction
            try:
                yield opened_id
            finally:
                self._local.current = outer
            if outer is None:
                transaction.commit()


@contextmanager
def failing_as_transaction(what: str) -> Iterator[None]:
    """Convert any exception to a `TransactionError`.

    Args:
        what: the subject of the message, such as "The batch".
    """
    try:
        yield
    except TransactionError:
        raise
    except Exception as error:
        raise TransactionError(f"{what} failed: {error} (nothing of it is stored)") from error
