"""Indexes as Tensorus 0.1 had them: names for what the catalogue does anyway, which indexes every field of every record."""

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
"""As they are asked for, and as statistics call them."""

_ALWAYS = {
    "record_id": "HashIndex",
    "timestamp_utc": "RangeIndex",
    "dtype": "HashIndex",
    "version": "RangeIndex",
    "tensor_shape": "TensorPropertyIndex",
    "tensor_ndim": "TensorPropertyIndex",
    "tensor_dtype": "TensorPropertyIndex",
}
"""What every record has and the catalogue finds, by the names and types of Tensorus 0.1."""


@dataclass(frozen=True)
class Index:
    """A named index."""

    field_name: str
    index_type: str


class Indexes:
    """The indexes that were named in this object. Safe in many threads."""

    def __init__(self) -> None:
        """None."""
        self._indexes: dict[str, dict[str, Index]] = {}
        self._lock = threading.Lock()

    def create(self, dataset: str, index_name: str, field_name: str, index_type: str) -> bool:
        """Return whether there is now an index of this name: not where another one has it.

        Raises:
            ValueError: there is no such type.
            TypeError: a name is no text.
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
        """Forget those of a dataset that is deleted."""
        with self._lock:
            self._indexes.pop(dataset, None)


class IndexedStorage(ReadingStorage):
    """Indexes of a storage."""

    _indexes: Indexes
    """Those that were named."""

    def create_index(self, dataset_name: str, index_name: str, field_name: str, index_type: str = "hash") -> bool:
        """Name an index, and return whether it has the name: not where another index has.

        The store indexes every field of every record anyway, so that this makes no query faster. Names are this object's.

        Args:
            index_type: "hash" or "range"; `ValueError` for another.
        """
        return self._indexes.create(self._existing(dataset_name), index_name, field_name, index_type)

    def rebuild_indexes(self, dataset_name: str) -> bool:
        """Return True: the store's indexes are never out of date."""
        self._existing(dataset_name)
        return True

    def get_index_stats(self, dataset_name: str) -> dict[str, Any]:
        """Return, by name, a dict of each index: `type` ("HashIndex" and so on), `size` (records with the field), `name`.

        There are those of what every record has, such as `record_id`, and those that were created. Beside them are
        `indexing_enabled`, which is True, and `dataset_name`. Reads metadata only for an index on a field of the user's.
        `Any`: these kinds.
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
    # Without a filter: to those a dict exists as its keys, and an empty list not at all.
    return sum(field in info.metadata for info in records.infos(dataset))
