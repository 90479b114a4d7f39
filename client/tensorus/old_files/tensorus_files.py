"""Reads the dataset files of Tensorus 0.1: `<folder>/<dataset>.pt`, one `torch.save` of a dict each.

    generation 1   "tensors", "metadata": lists, a record being what has the same place in both
    generation 2   also "schema": a dict, or None
    generation 3   also "compression_config": a dict, or None; an item of "tensors" may be bytes: see `record_values`

Opening a file reads its directory and its pickle, and so finds what makes the file as a whole unreadable. Records are then
read one at a time, in order, and one that cannot be read does not stop the others. The file is opened for reading alone, and
nothing in it is run.

Memory: the pickle without its long texts, a few KiB per record, and the record at hand.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from tensorus.old_files.compressors import INFLATED_BYTES_MAX
from tensorus.old_files.errors import OldDataError, OldFileError, OldRecordError
from tensorus.old_files.metadata import DroppedValue, converted_metadata
from tensorus.old_files.pt_container import PtContainer
from tensorus.old_files.pt_pickle import read_pickle
from tensorus.old_files.pt_values import LongText, Mark, PickledBytes, PickledTensor, Storage, kind_of
from tensorus.old_files.record_ids import unique_ids
from tensorus.old_files.record_values import restored
from tensorus.old_files.report import RecordOutcome
from tensorus.old_files.schema import converted_schema

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tensorus.old_files.pt_tensors import Array
    from tensorus.old_files.record_ids import RecordId
    from tensorus.old_files.report import Status
    from tensorus.old_files.schema import OldSchema

__all__ = ["OldDataset", "OldRecord"]

_KEYS = ("tensors", "metadata", "schema", "compression_config")
"""Of the dict, as far as the generations know it."""

RECORDS_MAX = 1_000_000
"""Of one file: an id and an outcome are held for each. An insert of the original took 0.08 ms for every record that was there,
measured, so that a million of them would have taken more than a year."""


@dataclass(frozen=True)
class OldRecord:
    """One record: what is known of it, and its values where it has any."""

    outcome: RecordOutcome
    """"imported", "repaired" or "lossy" is what the record will be when it is stored; "failed": it has no values."""
    array: Array | None
    """Dense, row-major, little-endian; None: it failed."""
    metadata: dict[str, Any]
    """What a store can keep of it, the system keys of the original included; `record_id` is the record's id.

    `compression_metadata` also says what the values are worth: `import_status`, "imported", "repaired" or "lossy", and
    `saturated_count`, where that is not 0. A record that is lossy has it, even where the original had lost it.
    """
    file_bytes: int
    """What of the file it took, about: all records together take the file's bytes."""


class OldDataset:
    """One file, opened for reading; a context manager. Not for several threads at once."""

    def __init__(self, path: str | os.PathLike[str], *, inflated_bytes_max: int = INFLATED_BYTES_MAX) -> None:
        """Read everything but the records.

        Args:
            inflated_bytes_max: what the container of a compressed record may have.

        Raises:
            OldFileError: it is damaged, torn, or no dataset of Tensorus.
            OSError: it cannot be opened.
        """
        self.path = Path(path)
        self.name = self.path.stem
        """The dataset's."""
        self._inflated_bytes_max = inflated_bytes_max
        self._file = self.path.open("rb")
        try:
            self._read()
        except BaseException:
            self._file.close()
            raise

    def _read(self) -> None:
        self.file_bytes: int = self._file.seek(0, os.SEEK_END)
        self._container = PtContainer(self._file)
        pickled = read_pickle(self._container)
        tensors = pickled.get("tensors") if isinstance(pickled, dict) else None
        metadata = pickled.get("metadata") if isinstance(pickled, dict) else None
        if not isinstance(pickled, dict) or not isinstance(tensors, list) or not isinstance(metadata, list):
            raise OldFileError(
                f"it is no dataset of Tensorus, but a {kind_of(pickled)}; must be a dict with lists 'tensors' and 'metadata'"
            )
        if max(len(tensors), len(metadata)) > RECORDS_MAX:
            raise OldFileError(f"it has {max(len(tensors), len(metadata))} records, limit is {RECORDS_MAX}")
        self._tensors: list[object] = tensors
        self._metadata: list[object] = metadata
        self.generation: int = 3 if "compression_config" in pickled else 2 if "schema" in pickled else 1
        """1 to 3."""
        self.schema: OldSchema
        self.schema, left_out = converted_schema(pickled.get("schema"))
        self.record_ids: tuple[RecordId, ...] = tuple(unique_ids(self._container, metadata, len(self)))
        """Of all records, in order."""
        self.notes: tuple[str, ...] = tuple(_notes(len(tensors), len(metadata)))
        """What is to be said of the file as a whole."""
        self.left_out: tuple[str, ...] = (*_unknown_parts(pickled), *left_out)
        """What of it, beside its records, cannot be kept."""

    def __enter__(self) -> Self:
        """Return the dataset."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the file."""
        self.close()

    def close(self) -> None:
        """Close the file. Idempotent."""
        self._file.close()

    def __len__(self) -> int:
        """Return how many records there are, those that cannot be read included."""
        return max(len(self._tensors), len(self._metadata))

    def records(self) -> Iterator[OldRecord]:
        """Yield the records in order, one at a time: what it yielded before is not held.

        Raises:
            ImportError: a record needs a library that is not installed; names the extra that brings it.
            OSError: the file cannot be read.
        """
        for position, record_id in enumerate(self.record_ids):
            yield self._record(position, record_id)

    def _record(self, position: int, record_id: RecordId) -> OldRecord:
        item = self._tensors[position] if position < len(self._tensors) else None
        pickled = self._metadata[position] if position < len(self._metadata) else {}
        array, worth, reason, saturated_count = self._values(position, item, pickled)
        told = _told(pickled, worth, saturated_count)
        named = {**pickled, "record_id": record_id.id, **told} if isinstance(pickled, dict) else pickled
        metadata, dropped = converted_metadata(self._container, named)
        if worth == "failed" and isinstance(item, Mark):
            dropped.append(DroppedValue(item.name, "(the tensor)"))
        outcome = RecordOutcome(
            position,
            record_id.id,
            worth,
            "; ".join(filter(None, (record_id.reason, reason))),
            saturated_count,
            record_id.renamed_from,
            tuple(dropped),
        )
        kept = metadata if isinstance(pickled, dict) else told
        return OldRecord(outcome, array, {"record_id": record_id.id, **kept}, self._file_bytes_of(item))

    def _values(self, position: int, item: object, pickled: object) -> tuple[Array | None, Status, str, int]:
        """Return what becomes of a record's values, and why."""
        try:
            if position >= len(self._tensors):
                raise OldRecordError("the file has its metadata, but no tensor")
            codec = pickled.get("compression_metadata") if isinstance(pickled, dict) else None
            values = restored(self._container, item, codec, inflated_bytes_max=self._inflated_bytes_max)
        except OldDataError as error:
            return None, "failed", str(error), 0
        return values.array, values.worth, values.reason, values.saturated_count

    def _file_bytes_of(self, item: object) -> int:
        if isinstance(item, PickledBytes):
            return item.text.length if isinstance(item.text, LongText) else len(item.text)
        if isinstance(item, PickledTensor) and isinstance(item.storage, Storage):
            try:
                return self._container.length(f"data/{item.storage.key}")
            except OldFileError:
                return 0
        return 0


def _told(pickled: object, worth: Status, saturated_count: int) -> dict[str, Any]:
    """Return the description of how a record was compressed, with what its values are worth; nothing where it has none."""
    codec = pickled.get("compression_metadata") if isinstance(pickled, dict) else None
    if worth == "failed":
        return {}
    if isinstance(codec, dict):
        described = codec
    elif worth == "lossy":
        # An update of its metadata removed the description, and only half precision is recognized without.
        described = {"quantization": "fp16"}
    else:
        return {}
    counted = {"saturated_count": saturated_count} if saturated_count else {}
    return {"compression_metadata": {**described, "import_status": worth, **counted}}


def _notes(tensor_count: int, metadata_count: int) -> Iterator[str]:
    if tensor_count > metadata_count:
        yield f"{tensor_count} tensors have {metadata_count} metadata: those at the end are imported without"
    if metadata_count > tensor_count:
        yield f"{metadata_count} metadata have {tensor_count} tensors: those at the end fail"


def _unknown_parts(pickled: dict[object, object]) -> Iterator[str]:
    unknown = [key if isinstance(key, str) else kind_of(key) for key in pickled if key not in _KEYS]
    if unknown:
        yield f"{len(unknown)} parts are left out, which no version of the original wrote: {', '.join(unknown)[:200]}"
