"""`TensorStorage` of Tensorus 0.1, on top of the current store: a folder, a server, or memory."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Self

from tensorus.compression import CompressionConfig, get_compression_preset
from tensorus.tensor_storage._changes import insert_together
from tensorus.tensor_storage._datasets import Datasets
from tensorus.tensor_storage._errors import (
    NameTakenError,
    as_storage_errors,
    record_missing,
)
from tensorus.tensor_storage._indexes import IndexedStorage, Indexes
from tensorus.tensor_storage._metadata import record_metadata, replaced_metadata
from tensorus.tensor_storage._names import shown_name, stored_name
from tensorus.tensor_storage._new_records import NewRecords
from tensorus.tensor_storage._operations import TensorOperations
from tensorus.tensor_storage._places import open_place
from tensorus.tensor_storage._records import StoredRecords
from tensorus.tensor_storage._schemas import schema_from, schema_to
from tensorus.tensor_storage._transactions import Transaction, Transactions, failing_as_transaction
from tensorus.types import Policy

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    from tensorus.compression import TensorCompression
    from tensorus.old_files import FileReport
    from tensorus.tensor_storage._records import Records

__all__ = ["TensorStorage"]


class TensorStorage(TensorOperations, IndexedStorage):
    """Datasets of tensors with metadata. Thread-safe; a context manager, which closes the storage.

    In a folder or on a server, changes are durable when a method returns. Several objects, also in several processes, may open
    the same folder, and see each other's changes immediately.
    """

    def __init__(
        self,
        storage_path: str | os.PathLike[str] | None = "tensor_data",
        compression_config: CompressionConfig | None = None,
        compression_preset: str | None = None,
    ) -> None:
        """Open the storage, and create the folder if it does not exist.

        An unusable folder is not an error: a `RuntimeWarning` and `fallback_reason` say why, and everything is kept in memory.
        Dataset files of Tensorus 0.1 in the folder are imported; see `import_report`.

        Args:
            storage_path: a folder; "grpc://host:port" for a server; None for memory, until it is closed or the process ends.
            compression_config: how to store the tensors that this object inserts.
            compression_preset: the same, as a name in `COMPRESSION_PRESETS`; takes precedence. With neither (None or empty),
                the policy of the dataset applies: no compression, for datasets that were created through this API.

        Raises:
            ValueError: the preset is unknown.
            TypeError: the configuration is not a `CompressionConfig`.
            NotImplementedError: the scheme is not supported, such as "s3://".
            ConnectionError: the server cannot be reached, or the folder holds a store that cannot be opened.
        """
        self._config: CompressionConfig | None = None
        if compression_preset:
            self.set_compression_preset(compression_preset)
        else:
            self.set_compression_config(compression_config or None)
        self._place = open_place(storage_path)
        self._client = self._place.client
        self._stored = StoredRecords(self._place)
        self._transactions = Transactions()
        self._indexes = Indexes()
        self._not_imported = {
            report.dataset: f"{report.file} could not be imported: {report.error}"
            for report in self._place.import_report
            if report.error
        }

    def __enter__(self) -> Self:
        """Return the storage."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the storage."""
        self.close()

    def close(self) -> None:
        """Close the storage. A storage in memory loses its data; for a folder or server, closing is optional. Idempotent."""
        self._place.close()

    @property
    def storage_path(self) -> Path | str | None:
        """The folder, or the address of the server as given; None for memory."""
        return self._place.path

    @property
    def fallback_reason(self) -> str | None:
        """Why everything is kept in memory although a folder was requested; None otherwise."""
        return self._place.fallback_reason

    @property
    def import_report(self) -> tuple[FileReport, ...]:
        """The outcome of each file of Tensorus 0.1 whose import was tried when this object was created.

        The files do not change. If a file could not be imported, the name of its dataset stays taken.
        """
        return self._place.import_report

    @property
    def datasets(self) -> Datasets:
        """Datasets by name, each with `tensors`, `metadata` and `schema`. Read-only; reads from the store on access."""
        return Datasets(self)

    @property
    def compression_config(self) -> CompressionConfig:
        """How this object's inserts are stored; none/none by default."""
        return self._config or CompressionConfig()

    @property
    def tensor_compression(self) -> TensorCompression:
        """An object that compresses tensors in the same way without a store."""
        return self.compression_config.create_tensor_compression()

    def set_compression_config(self, config: CompressionConfig | None) -> None:
        """Set how later inserts of this object are stored; None: the dataset's policy. Stored tensors do not change."""
        if not isinstance(config, (CompressionConfig, type(None))):
            raise TypeError(f"a {type(config).__name__} is not a CompressionConfig")
        self._config = config

    def set_compression_preset(self, preset: str) -> None:
        """Set how later inserts of this object are stored, by a name in `COMPRESSION_PRESETS`; else raise `ValueError`."""
        self._config = get_compression_preset(preset)

    def create_dataset(self, name: str, schema: Mapping[str, Any] | None = None) -> None:
        """Create a dataset. It is created immediately, also within a transaction.

        If it is part of a transaction that fails, it is removed again, unless somebody else has stored records in it.

        Args:
            name: any text of 1 to 255 bytes without NUL; never treated as a path.
            schema: what records must satisfy: a dict with any of `shape`, `dtype` ("torch.float32") and `metadata`. `metadata`
                maps required fields to their types: "int", "float", "str", "bool", "list" or "dict"; any other value allows
                any type. Other keys of the schema are ignored, with a `UserWarning` that names them. `Any`: checked.

        Raises:
            NameTakenError: the dataset exists, or a file of Tensorus 0.1 with this name could not be imported.
        """
        dataset = stored_name(name)
        if name in self._not_imported:
            raise NameTakenError(
                f"the name is taken: {self._not_imported[name]} [dataset={name}]",
                reason="ALREADY_EXISTS",
                facts={"dataset": name},
            )
        with self._writing():
            self._client.create_dataset(dataset, policy=Policy(preset="none"), schema=schema_to(schema))
        transaction = self._transaction(dataset)
        if transaction is not None:
            transaction.created(dataset)

    def list_datasets(self) -> list[str]:
        """Return the names of all datasets, in order of creation."""
        with as_storage_errors():
            return [shown_name(dataset.name) for dataset in self._client.datasets()]

    def dataset_exists(self, name: str) -> bool:
        """Return whether a dataset of this name exists; False for an invalid name."""
        try:
            self.get_schema(name)
        except (TypeError, ValueError):
            return False
        return True

    def get_schema(self, name: str) -> dict[str, Any] | None:
        """Return a dataset's schema in the form that `create_dataset` takes; None if it has none."""
        with as_storage_errors():
            return schema_from(self._client.dataset(stored_name(name)))

    def delete_dataset(self, name: str) -> bool:
        """Delete a dataset with all its records, and return True.

        It is deleted immediately, also within a transaction. The transaction drops its changes to the dataset, and does not
        restore it on failure.
        """
        dataset = stored_name(name)
        with self._writing():
            self._client.delete_dataset(dataset)
        transaction = self._transaction(dataset)
        if transaction is not None:
            transaction.deleted(dataset)
        self._indexes.drop(dataset)
        return True

    def insert(self, name: str, tensor: Any, metadata: Mapping[str, Any] | None = None) -> str:
        """Store a tensor, and return the id of its record.

        `insert(name, record["tensor"], record["metadata"])` copies a record. The copy keeps the id if it is free, and otherwise
        gets a new one.

        Args:
            name: name of the dataset.
            tensor: a torch tensor or a NumPy array.
            metadata: a dict of None, bool, 64-bit int, float, str, and lists and dicts of these. NumPy scalars, dates, times,
                sets and tuples are converted; see `tensorus_protos.plain`. `record_id` and `timestamp_utc` are used; other
                system keys are ignored.

        Raises:
            TypeError: `tensor` is not a tensor, or metadata cannot hold a value; the message names its key.
            ValueError: `timestamp_utc` is text but not a time in ISO 8601.
            SchemaValidationError: the record does not fit the dataset's schema.
            NameTakenError: a record with this id exists, and the metadata are not those of a record.
        """
        dataset = stored_name(name)
        new = self._new_records(dataset).add(tensor, metadata)
        transaction = self._transaction(dataset)
        if transaction is not None:
            transaction.insert(dataset, new)
            return new.id or ""
        with self._writing():
            return self._client.insert(dataset, new.tensor, id=new.id, metadata=new.metadata, policy=new.policy).id

    def update_tensor_metadata(self, dataset_name: str, record_id: str, new_metadata: Mapping[str, Any]) -> bool:
        """Replace all metadata of a record except the system keys, and return True.

        Raises:
            TensorNotFoundError: no record has this id.
            SchemaValidationError: the metadata do not fit the dataset's schema.
        """
        dataset, record_id = stored_name(dataset_name), self._id(dataset_name, record_id)
        transaction = self._transaction(dataset)
        if transaction is not None:
            transaction.update(dataset, record_id, new_metadata)
            return True
        before = self._stored.info(dataset, record_id).metadata
        with self._writing():
            self._client.update_metadata(dataset, record_id, replaced_metadata(before, new_metadata))
        return True

    def delete_tensor(self, dataset_name: str, record_id: str) -> bool:
        """Delete a record, and return True.

        Raises:
            TensorNotFoundError: no record has this id.
        """
        dataset, record_id = stored_name(dataset_name), self._id(dataset_name, record_id)
        transaction = self._transaction(dataset)
        if transaction is not None:
            transaction.delete(dataset, record_id)
            return True
        with self._writing():
            deleted = self._client.delete(dataset, record_id)
        if not deleted:
            raise record_missing(dataset, record_id)
        return True

    def batch_insert(
        self, dataset_name: str, tensors_and_metadata: Iterable[tuple[Any, Mapping[str, Any] | None]]
    ) -> list[str]:
        """Store many tensors, all or none, and return the ids of their records in order. Much faster than single inserts.

        Up to 4096 tensors become visible in one step; see `transaction` for more.

        Raises:
            TransactionError: a tensor cannot be stored, or the dataset does not exist; the cause is the error of `insert`.
        """
        with failing_as_transaction("The batch"):
            dataset = self._existing(dataset_name)
            records = self._new_records(dataset)
            new = [records.add(tensor, metadata) for tensor, metadata in tensors_and_metadata]
            transaction = self._transaction(dataset)
            if transaction is not None:
                with transaction.part([dataset]):
                    for one in new:
                        transaction.insert(dataset, one)
            else:
                with self._writing():
                    insert_together(self._client, dataset, new)
        return [one.id or "" for one in new]

    def batch_update_metadata(self, dataset_name: str, updates: Iterable[tuple[str, Mapping[str, Any]]]) -> bool:
        """Replace the metadata of many records, all or none, as `update_tensor_metadata` does, and return True.

        Raises:
            TransactionError: an update failed, or the dataset does not exist; the cause says why.
        """
        with self._batch(dataset_name) as (transaction, dataset):
            for record_id, new_metadata in updates:
                transaction.update(dataset, self._id(dataset_name, record_id), new_metadata)
        return True

    def batch_delete_tensors(self, dataset_name: str, record_ids: Iterable[str]) -> bool:
        """Delete many records, all or none, and return True.

        Raises:
            TransactionError: a record or the dataset does not exist, or a deletion failed; the cause says why.
        """
        with self._batch(dataset_name) as (transaction, dataset):
            for record_id in record_ids:
                transaction.delete(dataset, self._id(dataset_name, record_id))
        return True

    @contextmanager
    def transaction(self, dataset_names: Iterable[str], transaction_id: str | None = None) -> Iterator[str]:
        """Hold this thread's changes to these datasets until the block ends, then store them all. Yields the transaction's id.

        Reads within the block see its changes, with the values as given and `version` 0. Nobody else sees them, and they are
        kept in memory. If anything fails, none of them is stored. At the end they become visible dataset by dataset, inserts
        first, then metadata updates, then deletes; if the process is killed between two of these steps, the earlier ones stay.

        Datasets themselves are created and deleted immediately; see `create_dataset` and `delete_dataset`.

        A nested transaction of the same thread joins the outer one: its datasets take part from then on, and the outer one
        commits. If the inner block fails, its changes are undone; the outer one continues if the error is caught.

        Args:
            dataset_names: datasets that take part; changes to others are stored immediately. A dataset that does not exist may
                be created in the block.
            transaction_id: names the transaction in messages; None: a random id.

        Raises:
            TransactionError: something failed in the block or at its end; the cause says what.
        """
        names = [dataset_names] if isinstance(dataset_names, str) else dataset_names
        datasets = [stored_name(name) for name in names]
        with self._transactions.opened(self._place, self._stored, datasets, transaction_id) as opened_id:
            yield opened_id

    def iter_metadata(self, name: str) -> Iterator[dict[str, Any]]:
        """Yield the metadata of all records, in order of insertion, without reading a tensor."""
        return map(record_metadata, self._records.infos(stored_name(name)))

    @property
    def _records(self) -> Records:
        transaction = self._transactions.current
        return self._stored if transaction is None else transaction.records

    @property
    def _filters(self) -> bool:
        return self._transactions.current is None

    def _transaction(self, dataset: str) -> Transaction | None:
        """Return the transaction in which the dataset takes part, or None."""
        transaction = self._transactions.current
        return transaction if transaction is not None and transaction.has(dataset) else None

    @contextmanager
    def _batch(self, name: str) -> Iterator[tuple[Transaction, str]]:
        """Yield a transaction for one batch, and the dataset: the open transaction, or a new one, committed at the end."""
        with failing_as_transaction("The batch"):
            dataset = self._existing(name)
            current = self._transaction(dataset)
            transaction = current or Transaction(self._place, self._stored)
            with transaction.part([dataset]):
                yield transaction, dataset
                if current is None:
                    transaction.commit()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Convert errors of the block to those of this package; refuse to write to a folder that was removed."""
        with as_storage_errors():
            self._place.require_there()
            yield

    def _existing(self, name: str) -> str:
        self.get_schema(name)
        return stored_name(name)

    def _generation(self, dataset_name: str, record_id: str) -> int | None:
        # A record that is not stored yet has no generation.
        return self._records.info(stored_name(dataset_name), self._id(dataset_name, record_id)).generation or None

    def _new_records(self, dataset: str) -> NewRecords:
        return NewRecords(self._records, dataset, self._config)
