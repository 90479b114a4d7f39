"""The index API of Tensorus 0.1. The catalogue indexes every field of every record, so these indexes are only names."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tensorus.tensor_storage._metadata import SYSTEM_KEYS
from tensorus.tensor_storage._reading import ReadingStorage

if TYPE_CHECKING:
    from tensorus.tensor_storage._records import Records

__all__ = ["IndexedStorage", "Indexes"]

_TYPES = {"hash": "HashIndex", "range": "RangeIndex"}
"""Types as arguments name them, and as statistics name them."""

_ALWAYS = {
    "record_id": "HashIndex",
    "timestamp_utc": "RangeIndex",
    "dtype": "HashIndex",
    "version": "RangeIndex",
    "tensor_shape": "TensorPropertyIndex",
    "tensor_ndim": "TensorPropertyIndex",
    "tensor_dtype": "TensorPropertyIndex",
}
"""Indexes on the fields that every record has, by their names and types in Tensorus 0.1."""


@dataclass(frozen=True)
class Index:
    """A named index."""

    field_name: str
    index_type: str


class Indexes:
    """The named indexes of one storage object. Thread-safe."""

    def __init__(self) -> None:
        """Create no index yet."""
        self._indexes: dict[str, dict[str, Index]] = {}
        self._lock = threading.Lock()

    def create(self, dataset: str, index_name: str, field_name: str, index_type: str) -> bool:
        """Create an index, and return True; False if a different index has this name.

        Raises:
            ValueError: the type is unknown.
            TypeError: a name is not a str.
        """
        if index_type not in _TYPES:
            raise ValueError(f"Unknown index type: {index_type}; it must be one of {', '.join(_TYPES)}")
        for what, name in (("index_name", index_name), ("field_name", field_name)):
            if not isinstance(name, str):
                raise TypeError(f"{what} is a {type(name).__name__}, must be a str")
        index = Index(field_name, index_type)
        with self._lock:
            return self._indexes.setdefault(dataset, {}).setdefault(index_name, index) == index

    def of(self, dataset: str) -> dict[str, Index]:
        """Return a dataset's indexes by name."""
        with self._lock:
            return dict(self._indexes.get(dataset, {}))

    def drop(self, dataset: str) -> None:
        """Forget the indexes of a deleted dataset."""
        with self._lock:
            self._indexes.pop(dataset, None)


class IndexedStorage(ReadingStorage):
    """The index methods of a storage."""

    _indexes: Indexes
    """The named indexes."""

    def create_index(self, dataset_name: str, index_name: str, field_name: str, index_type: str = "hash") -> bool:
        """Create a named index, and return True; False if a different index has this name.

        The store indexes every field of every record anyway, so this makes no query faster. Names belong to this object.

        Args:
            dataset_name: name of the dataset.
            index_name: name of the index.
            field_name: the field.
            index_type: "hash" or "range"; any other raises `ValueError`.
        """
        return self._indexes.create(self._existing(dataset_name), index_name, field_name, index_type)

    def rebuild_indexes(self, dataset_name: str) -> bool:
        """Return True: the store's indexes are never out of date."""
        self._existing(dataset_name)
        return True

    def get_index_stats(self, dataset_name: str) -> dict[str, Any]:
        """Return a dict for each index by name: `type` ("HashIndex" and so on), `size` (records with the field), `name`.

        It covers the fields that every record has, such as `record_id`, and the created indexes. Two more entries are
        `indexing_enabled`, which is True, and `dataset_name`. Metadata are read only for an index on a user's field.
        """
        dataset, records = self._existing(dataset_name), self._records
        count = records.count(dataset)
        found: dict[str, Any] = {
            name: {"type": index_type, "size": count, "name": name} for name, index_type in _ALWAYS.items()
        }
        for name, index in self._indexes.of(dataset).items():
            size = count if index.field_name in SYSTEM_KEYS else _with_field(records, dataset, index.field_name)
            found[name] = {"type": _TYPES[index.index_type], "size": size, "name": name}
        return found | {"indexing_enabled": True, "dataset_name": dataset_name}


def _with_field(records: Records, dataset: str, field: str) -> int:
    # Not by a filter: for filters, a dict exists only as its keys, and an empty list does not exist.
    return sum(field in info.metadata for info in records.infos(dataset))
