"""The reading half of `TensorStorage`. Each method that returns a list has an iterator variant, for results beyond memory."""

from __future__ import annotations

import random
import warnings
from abc import ABC, abstractmethod
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeAlias

from tensorus.tensor_storage._equality import field_filter, shape_filter
from tensorus.tensor_storage._errors import record_missing
from tensorus.tensor_storage._metadata import plain_value, record_metadata
from tensorus.tensor_storage._names import stored_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from tensorus._where import Where
    from tensorus.tensor_storage._records import Records
    from tensorus.types import Record, TensorInfo

__all__ = ["ReadingStorage", "StoredRecord"]

StoredRecord: TypeAlias = "dict[str, Any]"
"""A dict with `tensor` and `metadata`, a dict. `Any`: torch need not be installed."""


class ReadingStorage(ABC):
    """Retrieval of records.

    Tensors are new, row-major, and on the CPU: torch tensors if torch is installed, else NumPy arrays. Metadata are new dicts.
    Lists are in order of insertion. An iterator raises the errors of its list variant when its first record is requested.

    Every method raises `DatasetNotFoundError` if the dataset does not exist, and `DamagedRecordError` if a record is damaged.
    """

    @property
    @abstractmethod
    def _records(self) -> Records:
        """The records as this thread sees them, including changes of its transaction."""

    @property
    @abstractmethod
    def _filters(self) -> bool:
        """Whether the catalogue knows all records that this thread sees, so that filters can be used."""

    @abstractmethod
    def _existing(self, name: str) -> str:
        """Return the dataset's name in the store; raise `DatasetNotFoundError` if it does not exist."""

    def get_dataset(self, name: str) -> list[Any]:
        """Return all tensors."""
        return list(self.iter_dataset(name))

    def iter_dataset(self, name: str) -> Iterator[Any]:
        """Yield all tensors."""
        return (record.tensor for record in self._records.records(stored_name(name)))

    def get_dataset_with_metadata(self, name: str) -> list[StoredRecord]:
        """Return all records."""
        return list(self.iter_dataset_with_metadata(name))

    def iter_dataset_with_metadata(self, name: str) -> Iterator[StoredRecord]:
        """Yield all records."""
        return map(_shown, self._records.records(stored_name(name)))

    def get_tensor_by_id(self, name: str, record_id: str) -> StoredRecord:
        """Return a record.

        Raises:
            TensorNotFoundError: no record has this id.
        """
        return _shown(self._records.record(stored_name(name), self._id(name, record_id)))

    def query(self, name: str, query_fn: Callable[[Any, dict[str, Any]], Any]) -> list[StoredRecord]:
        """Return the records for which `query_fn(tensor, metadata)` is true. Reads the whole dataset, one record at a time.

        Records for which `query_fn` raises are left out; a `RuntimeWarning` tells how many, and shows the first error.

        Raises:
            TypeError: `query_fn` is not callable.
            RuntimeError: it raised for every record; the first error is the cause.
        """
        return list(self.iter_query(name, query_fn))

    def iter_query(self, name: str, query_fn: Callable[[Any, dict[str, Any]], Any]) -> Iterator[StoredRecord]:
        """Yield the records for which `query_fn(tensor, metadata)` is true. As `query`, but warns at the end."""
        if not callable(query_fn):
            raise TypeError(f"query_fn is a {type(query_fn).__name__}, must be callable")
        return self._matching(name, query_fn)

    def query_where(self, name: str, where: Where | None) -> list[StoredRecord]:
        """Return the records that match a filter. The catalogue evaluates it, and only matching records are read.

        Args:
            name: name of the dataset.
            where: a filter as text, such as `layer >= 1 AND kind = "attention"`, or a dict from fields to required values (a
                list means any of its values); None: all records. Fields are those of the user, and `timestamp_utc`; a dot goes
                into a dict. Properties of the tensor are `@id`, `@dtype` ("float32"), `@shape`, `@rank`, `@nbytes`, `@min`,
                `@max`, `@mean` and others; see the section on filters in docs/PROTOCOL.md.

        Raises:
            InvalidFilterError: the filter does not parse; the message names the position. Also a ValueError.
            TransactionError: this thread's transaction has changed the dataset; a filter does not see such changes.
        """
        return list(self.iter_query_where(name, where))

    def iter_query_where(self, name: str, where: Where | None) -> Iterator[StoredRecord]:
        """Yield the records that match a filter. As `query_where`."""
        return map(_shown, self._records.matching(stored_name(name), where))

    def query_by_metadata(self, dataset_name: str, field: str, value: Any) -> list[StoredRecord]:
        """Return the records whose `field`, a user's or a system's, equals `value`.

        If a filter can express this, the catalogue finds the records, and only those are read.
        """
        return list(self.iter_query_by_metadata(dataset_name, field, value))

    def iter_query_by_metadata(self, dataset_name: str, field: str, value: Any) -> Iterator[StoredRecord]:
        """Yield the records whose `field` equals `value`."""
        wanted = tuple(value) if field == "shape" and isinstance(value, (list, tuple)) else plain_value(value)

        def equals(info: TensorInfo) -> bool:
            metadata = record_metadata(info)
            return field in metadata and bool(metadata[field] == wanted)

        return self._equal(dataset_name, field_filter(field, value), equals)

    def query_by_tensor_shape(self, dataset_name: str, shape: Sequence[int]) -> list[StoredRecord]:
        """Return the records whose tensors have this shape. The catalogue finds them."""
        return list(self.iter_query_by_tensor_shape(dataset_name, shape))

    def iter_query_by_tensor_shape(self, dataset_name: str, shape: Sequence[int]) -> Iterator[StoredRecord]:
        """Yield the records whose tensors have this shape."""
        wanted = tuple(shape)
        return self._equal(dataset_name, shape_filter(wanted), lambda info: info.shape == wanted)

    def sample_dataset(self, name: str, n_samples: int, *, seed: int | None = None) -> list[StoredRecord]:
        """Return `n_samples` random records in random order, without duplicates; all records if there are fewer.

        Reads only those records.

        Args:
            name: name of the dataset.
            n_samples: number of records, at most a million; 0 or less: none.
            seed: makes the sample reproducible; None: a seed from the module `random`, so that `random.seed` determines it.
        """
        return list(self.iter_sample(name, n_samples, seed=seed))

    def iter_sample(self, name: str, n_samples: int, *, seed: int | None = None) -> Iterator[StoredRecord]:
        """Yield `n_samples` random records. Arguments as for `sample_dataset`."""
        chosen_seed = random.getrandbits(62) if seed is None else seed
        return map(_shown, self._records.sample(stored_name(name), max(0, n_samples), chosen_seed))

    def get_records_paginated(self, name: str, offset: int = 0, limit: int | None = 100) -> list[StoredRecord]:
        """Return a page of records.

        Args:
            name: name of the dataset.
            offset: number of records before the page; past the end, the page is empty.
            limit: maximum number of records; None: all remaining ones.

        Raises:
            ValueError: `offset` or `limit` is negative.
        """
        return list(self.iter_records(name, offset, limit))

    def iter_records(self, name: str, offset: int = 0, limit: int | None = None) -> Iterator[StoredRecord]:
        """Yield the records from `offset` on. Arguments as for `get_records_paginated`."""
        for what, number in (("offset", offset), ("limit", limit)):
            if number is not None and number < 0:
                raise ValueError(f"{what} is {number}, must not be negative")
        dataset, records = stored_name(name), self._records
        # Only the catalogue rows of the records before the page are read, not their tensors.
        page = islice(records.infos(dataset), offset, None if limit is None else offset + limit)
        return map(_shown, records.named(dataset, (info.id for info in page)))

    def count(self, dataset_name: str) -> int:
        """Return the number of records."""
        return self._records.count(stored_name(dataset_name))

    def get_compression_stats(self, dataset_name: str) -> dict[str, Any]:
        """Return statistics of compression. `Any`: numbers, and lists of names.

        Returns:
            total_tensors               number of records
            compressed_tensors          records stored with a configuration; the next six cover only these:
            total_original_size         canonical bytes
            total_compressed_size       bytes on disk, including all framing
            average_compression_ratio   the former divided by the latter; 1.0 if there are none
            compression_algorithms      sorted names, such as "gzip-6"
            quantization_algorithms     sorted names, such as "int8"
            fallbacks                   records with chunks that are not encoded as requested
            stored_bytes                bytes on disk of all records
            ratio                       canonical bytes divided by bytes on disk, for all records
        """
        stats: dict[str, Any] = dict.fromkeys(
            ("total_tensors", "compressed_tensors", "total_original_size", "total_compressed_size", "fallbacks"), 0
        )
        names: dict[str, set[str]] = {"compression": set(), "quantization": set()}
        canonical_bytes = stored_bytes = 0
        for info in self._records.infos(stored_name(dataset_name)):
            stats["total_tensors"] += 1
            canonical_bytes += info.canonical_bytes
            stored_bytes += info.stored_bytes
            compressed = record_metadata(info).get("compression_metadata")
            if compressed is None:
                continue
            stats["compressed_tensors"] += 1
            stats["total_original_size"] += info.canonical_bytes
            stats["total_compressed_size"] += info.stored_bytes
            stats["fallbacks"] += compressed["fallback"] is not None
            for kind, found in names.items():
                found.add(compressed[kind])
        return stats | {
            "average_compression_ratio": _ratio(stats["total_original_size"], stats["total_compressed_size"]),
            "compression_algorithms": sorted(names["compression"]),
            "quantization_algorithms": sorted(names["quantization"]),
            "stored_bytes": stored_bytes,
            "ratio": _ratio(canonical_bytes, stored_bytes),
        }

    def _id(self, name: str, record_id: object) -> str:
        """Return the id; raise `TensorNotFoundError` if it is not a str, since no record can have it."""
        if not isinstance(record_id, str):
            raise record_missing(self._existing(name), record_id)
        return record_id

    def _matching(self, name: str, query_fn: Callable[[Any, dict[str, Any]], Any]) -> Iterator[StoredRecord]:
        count = failed = 0
        first: Exception | None = None
        for record in self._records.records(stored_name(name)):
            count += 1
            shown = _shown(record)
            try:
                matches = bool(query_fn(shown["tensor"], shown["metadata"]))
            except Exception as error:  # noqa: BLE001 - whatever the user's function raises
                failed += 1
                first = first or error
            else:
                if matches:
                    yield shown
        if first is None:
            return
        message = (
            f"query_fn raised for {failed} of {count} records of {name!r}; the first: {type(first).__name__}: {first}"
        )
        if failed == count:
            raise RuntimeError(message) from first
        warnings.warn(f"{message}; they are left out", RuntimeWarning, stacklevel=3)

    def _equal(self, name: str, where: str | None, equals: Callable[[TensorInfo], bool]) -> Iterator[StoredRecord]:
        """Yield the records whose descriptions satisfy `equals`.

        Args:
            where: a filter that matches all of these records, perhaps more; None: check the descriptions of all records.
        """
        dataset, records = stored_name(name), self._records
        if where is None or not self._filters:
            ids = (info.id for info in records.infos(dataset) if equals(info))
            return map(_shown, records.named(dataset, ids))
        return (_shown(record) for record in records.records(dataset, where) if equals(record.info))


def _shown(record: Record) -> StoredRecord:
    return {"tensor": record.tensor, "metadata": record_metadata(record.info)}


def _ratio(before_bytes: int, after_bytes: int) -> float:
    return before_bytes / after_bytes if before_bytes and after_bytes else 1.0
