"""What an insert or batch is to store: tensors with ids that are free.

Metadata with all the keys that every record has are those of a record that was read: the insert is a copy of it. Its id is kept
where it is free, and where it is not, the copy gets one of its own. A user's own metadata have no such keys.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import TYPE_CHECKING

from tensorus._arrays import as_numpy
from tensorus.tensor_storage._errors import TensorNotFoundError, taken_error
from tensorus.tensor_storage._metadata import new_metadata
from tensorus.types import NewTensor

if TYPE_CHECKING:
    from tensorus.compression import CompressionConfig
    from tensorus.tensor_storage._records import Records

__all__ = ["NewRecords"]

_KEYS_OF_A_RECORD = frozenset({"record_id", "timestamp_utc", "shape", "dtype", "version"})


class NewRecords:
    """Of one insert or batch into one dataset."""

    def __init__(self, records: Records, dataset: str, config: CompressionConfig | None) -> None:
        """Begin without any.

        Args:
            records: what has ids that are not free.
            config: how tensors are stored; None: as the dataset says.
        """
        self._records = records
        self._dataset = dataset
        self._config = config
        self._policy = None if config is None else config.to_policy()
        self._ids: set[str] = set()

    def add(self, tensor: object, metadata: object) -> NewTensor:
        """Return a tensor as it is inserted, with an id.

        Raises:
            TypeError: it is no tensor, or a value that metadata does not hold.
            NameTakenError: the id that was given is taken, or another of these has it.
        """
        array = as_numpy(tensor)
        record_id, given, stored = new_metadata(metadata, self._config)
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


def _is_of_a_record(metadata: object) -> bool:
    return isinstance(metadata, Mapping) and metadata.keys() >= _KEYS_OF_A_RECORD
