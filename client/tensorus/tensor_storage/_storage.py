"""`TensorStorage` of Tensorus 0.1, over a store of today: a folder, a server, or memory."""

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
    """Datasets of tensors with metadata. Safe in many threads; a context manager, which closes it.

    What a method has done is durable when it returns, in a folder or on a server. Several objects, in several processes, may
    have the same folder open, and see at once what the others do.

    Errors are listed in `tensorus.tensor_storage`; metadata in `_metadata.py`.
    """

    def __init__(
        self,
        storage_path: str | os.PathLike[str] | None = "tensor_data",
        compression_config: CompressionConfig | None = None,
        compression_preset: str | None = None,
    ) -> None:
        """Open the place, and make the folder if it is not there.

        A folder that cannot be used raises nothing: a `RuntimeWarning` says why, so does `fallback_reason`, and all is kept in
        memory. Dataset files of Tensorus 0.1 in the folder are imported; see `import_report`.

        Args:
            storage_path: a folder; "grpc://host:port", a server; None: memory, until it is closed or the process ends.
            compression_config: how tensors are stored that this object inserts.
            compression_preset: the same by a name of `COMPRESSION_PRESETS`; takes precedence. None of both, or empty ones: as
                the dataset says, which means as they are, for datasets that were created here.

        Raises:
            ValueError: there is no such preset.
            TypeError: the configuration is none.
            NotImplementedError: another kind of place, such as "s3://".
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
        """Close it."""
        self.close()

    def close(self) -> None:
        """End all use. What was in memory is gone; of a folder or server nothing is lost without it. Idempotent."""
        self._place.close()

    @property
    def storage_path(self) -> Path | str | None:
        """The folder, or the address of a server as it was given; None: memory."""
        return self._place.path

    @property
    def fallback_reason(self) -> str | None:
        """Why all is kept in memory, though a folder was asked for; None where it is not so."""
        return self._place.fallback_reason

    @property
    def import_report(self) -> tuple[FileReport, ...]:
        """What became of each file of Tensorus 0.1 that was imported, or could not be, when this object was made.

        The files stay as they are. The name of one that could not be imported stays taken.
        """
        return self._place.import_report

    @property
    def datasets(self) -> Datasets:
        """Datasets by name, each with `tensors`, `metadata` and `schema`; read-only, and read when it is asked for."""
        return Datasets(self)

    @property
    def compression_config(self) -> CompressionConfig:
        """How this object's inserts are stored; none/none where nothing was said."""
        return self._config or CompressionConfig()

    @property
    def tensor_compression(self) -> TensorCompression:
        """What compresses a tensor so without a store."""
        return self.compression_config.create_tensor_compression()

    def set_compression_config(self, config: CompressionConfig | None) -> None:
        """Have later inserts of this object stored so; None: as the dataset says. What is stored stays as it is."""
        if not isinstance(config, (CompressionConfig, type(None))):
            raise TypeError(f"a {type(config).__name__} is no CompressionConfig")
        self._config = config

    def set_compression_preset(self, preset: str) -> None:
        """Have later inserts of this object stored so, by a name of `COMPRESSION_PRESETS`; `ValueError` for another."""
        self._config = get_compression_preset(preset)

    def create_dataset(self, name: str, schema: Mapping[str, Any] | None = None) -> None:
        """Create a dataset, at once, also in a transaction.

        Of a transaction that it takes part in, it is removed again where that fails, unless others have stored something in it.

        Args:
            name: any text of 1 to 255 bytes without NUL; never a path.
            schema: what its records must be, a dict of any of `shape`, `dtype` ("torch.float32") and `metadata`, whose keys
                are the fields that have to be there, and whose values are their types: "int", "float", "str", "bool",
                "list", "dict"; any other: any type. Other keys are ignored, and a `UserWarning` names them. `Any`: checked.

        Raises:
            NameTakenError: there is one of this name, or a file of Tensorus 0.1 that could not be imported.
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
        """Return whether a dataset of this name exists; False for what cannot be a name."""
        try:
            self.get_schema(name)
        except (TypeError, ValueError):
            return False
        return True

    def get_schema(self, name: str) -> dict[str, Any] | None:
        """Return what is checked of a dataset's records, as `create_dataset` takes it; None where nothing is."""
        with as_storage_errors():
            return schema_from(self._client.dataset(stored_name(name)))

    def delete_dataset(self, name: str) -> bool:
        """Delete a dataset with all its records, and return True.

        At once, also in a transaction, which drops its changes to the dataset and does not bring it back where it fails.
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
        """Store a tensor, and return its record's id.

        A record is copied by `insert(name, record["tensor"], record["metadata"])`: with its id where that is free, and else
        with a new one.

        Args:
            name: the dataset's.
            tensor: a torch tensor, or a NumPy array.
            metadata: None, bool, int of 64 bits, float, str, and lists and dicts of these; NumPy scalars, dates, times, sets
                and tuples become such, see `tensorus_protos.plain`. `record_id` and `timestamp_utc` are taken over; other
                keys of the system are ignored.

        Raises:
            TypeError: it is no tensor, or a value that metadata does not hold; names its key.
            ValueError: `timestamp_utc` is text, and no time in ISO 8601.
            SchemaValidationError: it does not fit the dataset's schema.
            NameTakenError: there is a record with this id, and the metadata are not a record's.
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
        """Replace all of a record's metadata but the system's keys, and return True.

        Raises:
            TensorNotFoundError: there is none with this id.
            SchemaValidationError: they do not fit the dataset's schema.
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
            TensorNotFoundError: there is none with this id.
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
        """Store many tensors, all or none, and return their records' ids, in order. Much faster than one by one.

        At most 4096 become visible at once; see `transaction` for more.

        Raises:
            TransactionError: one of them cannot be stored, or there is no such dataset; the cause is what `insert` would raise.
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
            TransactionError: one of them cannot be, or there is no such dataset; the cause says why.
        """
        with self._batch(dataset_name) as (transaction, dataset):
            for record_id, new_metadata in updates:
                transaction.update(dataset, self._id(dataset_name, record_id), new_metadata)
        return True

    def batch_delete_tensors(self, dataset_name: str, record_ids: Iterable[str]) -> bool:
        """Delete many records, all or none, and return True.

        Raises:
            TransactionError: one of them is not there, or cannot be deleted, or there is no such dataset; the cause says why.
        """
        with self._batch(dataset_name) as (transaction, dataset):
            for record_id in record_ids:
                transaction.delete(dataset, self._id(dataset_name, record_id))
        return True

    @contextmanager
    def transaction(self, dataset_names: Iterable[str], transaction_id: str | None = None) -> Iterator[str]:
        """Hold back what this thread does to these datasets until the block ends, then store all of it; give the id.

        What the block reads has its changes in it, with values as they were given, and `version` 0. Nobody else sees them, and
        they are kept in memory. Where anything fails, nothing of them is stored. They become visible dataset by dataset, and
        inserts before updates of metadata before deletes; if the process is killed between two of these, the earlier ones stay.

        Datasets themselves are created and deleted at once: see `create_dataset` and `delete_dataset`.

        A transaction within one of the same thread joins it: its datasets take part from then on, and the outer one commits.
        Where the inner block fails, its changes are undone; the outer one goes on if the error is caught, or fails with it.

        Args:
            dataset_names: those that take part; changes to others are stored as they are made. One that is not there may be
                created in the block.
            transaction_id: names it in messages; None: a random one.

        Raises:
            TransactionError: anything failed, in the block or at its end; the cause says what.
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
        """Return the transaction that changes to a dataset are part of."""
        transaction = self._transactions.current
        return transaction if transaction is not None and transaction.has(dataset) else None

    @contextmanager
    def _batch(self, name: str) -> Iterator[tuple[Transaction, str]]:
        """Give a transaction for one batch, and the dataset: the one that is open, or one that is committed at the end."""
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
        """Raise errors of this package for what the block writes, and do not begin where it would be lost."""
        with as_storage_errors():
            self._place.require_there()
            yield

    def _existing(self, name: str) -> str:
        self.get_schema(name)
        return stored_name(name)

    def _generation(self, dataset_name: str, record_id: str) -> int | None:
        # A record that is not stored yet has none.
        return self._records.info(stored_name(dataset_name), self._id(dataset_name, record_id)).generation or None

    def _new_records(self, dataset: str) -> NewRecords:
        return NewRecords(self._records, dataset, self._config)
