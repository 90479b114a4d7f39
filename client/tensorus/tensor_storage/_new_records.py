"""Prepares the records of an insert or batch, and gives them free ids.

Metadata with all keys that every record has are those of a record that was read, so the insert copies this record. The copy
keeps the id if it is free, and otherwise gets a new one. Metadata that users write themselves do not have all these keys.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING

from tensorus._arrays.canonical import as_numpy
from tensorus.tensor_storage._errors import TensorNotFoundError, taken_error
from tensorus.tensor_storage._metadata import new_metadata
from tensorus.types import NewTensor

if TYPE_CHECKING:
    from tensorus.compression import CompressionConfig
    from tensorus.tensor_storage._records import Records
    from tensorus.types import Metadata, Policy

__all__ = ["NewRecords"]

_KEYS_OF_A_RECORD = frozenset({"record_id", "timestamp_utc", "shape", "dtype", "version"})


class NewRecords:
    """The new records of one insert or batch into one dataset."""

    def __init__(self, records: Records, dataset: str, config: CompressionConfig | None) -> None:
        """Start without records.

        Args:
            records: the existing records, whose ids are taken.
            dataset: its name in the store.
            config: how tensors are stored; None: the dataset's policy.
        """
        self._records = records
        self._dataset = dataset
        self._policy: Policy | None = None
        self._algorithms: Metadata | None = None
        if config is not None:
            self._policy, self._algorithms = _stored_as(config)
        self._ids: set[str] = set()

    def add(self, tensor: object, metadata: object) -> NewTensor:
        """Return a tensor to insert, with an id.

        Raises:
            TypeError: `tensor` is not a tensor, or metadata cannot hold a value.
            NameTakenError: the given id is taken, by a stored record or another new one.
        """
        array = as_numpy(tensor)
        record_id, given, stored = new_metadata(metadata, self._algorithms)
        if given and self._is_taken(record_id):
            if not _is_of_a_record(metadata):
                raise taken_error(self._dataset, record_id)
            record_id = str(uuid.uuid4())
        self._ids.add(record_id)
        return NewTensor(array, record_id, stored, self._policy)

    def _is_taken(self, record_id: str) -> bool:
        if record_id in self._ids:
            return True
        try:
            self._records.info(self._dataset, record_id)
        except TensorNotFoundError:
            return False
        return True


@lru_cache(maxsize=16)
def _stored_as(config: CompressionConfig) -> tuple[Policy, Metadata | None]:
    """Return the policy of a configuration, and the names of its algorithms; no names for none/none.

    Cached, because creating the algorithms takes as long as an insert.
    """
    compression = config.create_tensor_compression()
    if (config.compression, config.quantization) == ("none", "none"):
        return compression.policy, None
    return compression.policy, {
        "compression": compression.compression_algorithm.name,
        "quantization": compression.quantization_algorithm.name,
    }


def _is_of_a_record(metadata: object) -> bool:
    return isinstance(metadata, Mapping) and metadata.keys() >= _KEYS_OF_A_RECORD
