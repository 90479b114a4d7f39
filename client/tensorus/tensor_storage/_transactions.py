"""Transactions: changes to some datasets that become visible together, and of which nothing is left where one fails."""

from __future__ import annotations

import threading
import uuid
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

from tensorus._arrays import as_numpy
from tensorus.tensor_storage._changes import Changes, Inserted, commit
from tensorus.tensor_storage._errors import TensorNotFoundError, TransactionError, as_storage_errors, taken_error
from tensorus.tensor_storage._metadata import replaced_metadata
from tensorus.tensor_storage._records import ChangedRecords
from tensorus.types import NewTensor

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from tensorus.tensor_storage._places import Place
    from tensorus.tensor_storage._records import Records

__all__ = ["Transaction", "Transactions", "failing_as_transaction"]


class Transaction:
    """Changes to some datasets. Of one thread."""

    def __init__(self, place: Place, stored: Records, datasets: Iterable[str], transaction_id: str) -> None:
        """Begin without changes."""
        self.id = transaction_id
        self._place = place
        self._client = place.client
        self._changes = {dataset: Changes() for dataset in datasets}
        self.records = ChangedRecords(stored, self._changes)
        """What is stored, with the changes so far."""

    def has(self, dataset: str) -> bool:
        """Return whether changes to this dataset are part of it."""
        return dataset in self._changes

    def insert(self, dataset: str, new: NewTensor) -> None:
        """Insert a record with a new id; the tensor is copied.

        Raises:
            NameTakenError: the id is taken.
            SchemaValidationError: and whatever else an insert raises.
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
        """Replace a record's metadata, as far as it is the user's."""
        info = self.records.info(dataset, record_id)
        self._changes[dataset].update(info, replaced_metadata(info.metadata, metadata))

    def delete(self, dataset: str, record_id: str) -> None:
        """Delete a record."""
        self._changes[dataset].delete(self.records.info(dataset, record_id))

    @contextmanager
    def part(self, dataset: str) -> Iterator[None]:
        """Drop what the block changes in a dataset, where it raises."""
        before = self._changes[dataset].copy()
        try:
            yield
        except BaseException:
            self._changes[dataset] = before
            raise

    def commit(self) -> None:
        """Store the changes; what is read by way of this from now on is what is stored."""
        with as_storage_errors():
            self._place.require_there()
            commit(self._client, self._changes)
        self._changes.clear()


class Transactions:
    """Which transaction each thread is in."""

    def __init__(self) -> None:
        """None is open."""
        self._local = threading.local()

    @property
    def current(self) -> Transaction | None:
        """That of this thread."""
        found: Transaction | None = getattr(self._local, "current", None)
        return found

    @contextmanager
    def opened(
        self, place: Place, stored: Records, datasets: Iterable[str], transaction_id: str | None
    ) -> Iterator[Transaction]:
        """Hold a transaction in this thread while the block runs, then commit it.

        Raises:
            TransactionError: one is open in this thread, or anything failed; then nothing is stored.
        """
        if self.current is not None:
            raise TransactionError(f"transaction {self.current.id} is open in this thread; end it first")
        transaction = Transaction(place, stored, datasets, transaction_id or str(uuid.uuid4()))
        with failing_as_transaction(f"transaction {transaction.id}"):
            self._local.current = transaction
            try:
                yield transaction
            finally:
                self._local.current = None
            transaction.commit()


@contextmanager
def failing_as_transaction(what: str) -> Iterator[None]:
    """Turn any failure into a `TransactionError`.

    Args:
        what: names what failed, for the message.
    """
    try:
        yield
    except TransactionError:
        raise
    except Exception as error:
        raise TransactionError(f"{what} failed, and nothing of it is stored: {error}") from error
