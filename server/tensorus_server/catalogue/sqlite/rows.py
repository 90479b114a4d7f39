"""Rows of the tensor table, and the values they stand for.

A row has a checksum over all of its columns (`row_checksum.py`), which is verified whenever the row is read.
"""

from __future__ import annotations

import json
import math
import struct
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import product
from typing import TYPE_CHECKING, Any

from tensorus_codecs.checksum import crc32c
from tensorus_codecs.dtypes import dtype_by_number, opaque_dtype
from tensorus_codecs.summary import ValueSummary
from tensorus_server.catalogue.sqlite.row_checksum import MALFORMED, row_checksum
from tensorus_server.compact_json import to_json
from tensorus_server.model import Checksum, EncodingShare, Locator, StorageReport, Tensor, TensorSpec

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from tensorus_codecs.dtypes import DType
    from tensorus_server.catalogue.abc import StoredTensor

__all__ = [
    "ROW_CHECKSUM_COLUMNS",
    "TENSOR_COLUMNS",
    "Alike",
    "RowDamageError",
    "RowWriter",
    "checksum_of_row",
    "spec_from_columns",
    "tensor_from_row",
    "verified",
]

_ALIKE_COLUMNS = {
    "dtype_number": "q",
    "element_bytes": "q",
    "shape": "t",
    "nbytes": "q",
    "quantized_bytes": "q",
    "stored_bytes": "q",
    "relative_error": "d",
    "max_absolute_error": "d",
    "lossy": "q",
    "encodings": "t",
    "fallback_reason": "t",
    "chunk_bytes": "q",
    "policy": "t",
    "source_algorithm": "t",
    "value_algorithm": "t",
    "inline": "q",
    "offset": "q",
    "length": "q",
    "index_length": "q",
    "dtype": "t",
    "rank": "q",
    "ds": "q",
}
"""What small tensors of one kind have in common, with the types of `row_checksum`."""

_OWN_NUMBERS = {
    "seq": "q",
    "ordinal": "q",
    "created_us": "q",
    "index_crc": "q",
    "source_crc": "q",
    "min": "d",
    "max": "d",
    "mean": "d",
    "standard_deviation": "d",
    "l2_norm": "d",
    "zero_count": "q",
    "nan_count": "q",
    "infinity_count": "q",
}
"""Numbers that differ from tensor to tensor; `seq` is the generation."""

_OWN_TEXTS = ("id", "metadata", "source_checksum", "value_checksum", "key")
"""Texts and blobs that differ from tensor to tensor."""

ROW_CHECKSUM_COLUMNS = (*_ALIKE_COLUMNS, *_OWN_NUMBERS, *_OWN_TEXTS)
"""What a row's checksum is over, in its order."""

TENSOR_COLUMNS = (*_OWN_NUMBERS, *_OWN_TEXTS, "row_checksum", *_ALIKE_COLUMNS)
"""Of the table, in the order of `tensor_from_row` and `RowWriter.row`."""

_ALIKE_TYPES = "".join(_ALIKE_COLUMNS.values())
_OWN_TYPES = "".join(_OWN_NUMBERS.values()) + "t" * len(_OWN_TEXTS)

_NUMBERS = len(_OWN_NUMBERS)
_SUMMARY = list(_OWN_NUMBERS).index("min")
_ZERO_COUNT = list(_OWN_NUMBERS).index("zero_count")
_ROW_CHECKSUM = TENSOR_COLUMNS.index("row_checksum")
_ALIKE = TENSOR_COLUMNS.index("dtype_number")

_pack_own = struct.Struct("<" + _OWN_TYPES.replace("t", "q")).pack

_NO_VALUES = (None,) * 8
"""The columns from "min" to "infinity_count" of a dtype without a summary."""


def shape_text(shape: tuple[int, ...]) -> str:
    """Return the shape as filters see it: "[3, 224, 224]"."""
    return str(list(shape))


@lru_cache(maxsize=1024)
def spec_from_columns(dtype_number: int, element_bytes: int, shape: str) -> TensorSpec:
    """Return the spec; `shape` is JSON."""
    return TensorSpec(_dtype(dtype_number, element_bytes), tuple(json.loads(shape)))


class RowDamageError(Exception):
    """A row is not what was written; says in what."""


class RowWriter:
    """Makes rows of new tensors, one at a time. What one has in common with the one before is worked out once."""

    def __init__(self) -> None:
        """Start with none before."""
        self._last: StoredTensor | None = None
        self._columns: tuple[Any, ...] = ()
        self._start = 0

    def row(self, stored: StoredTensor, generation: int, ordinal: int, created_us: int) -> tuple[Any, ...]:
        """Return the columns of a new tensor, in the order of `TENSOR_COLUMNS`."""
        new, locator = stored.new, stored.locator
        if self._last is None or not _are_alike(self._last, stored):
            columns = _alike_columns(stored)
            self._start, self._columns = row_checksum(_ALIKE_TYPES, columns), columns
        self._last = stored
        numbers = (
            generation,
            ordinal,
            created_us,
            locator.index_crc32c,
            stored.source_crc32c,
            *(_NO_VALUES if stored.values is None else _summary_columns(stored.values)),
        )
        metadata = new.metadata_json
        source, value, key = stored.source_checksum.value, stored.value_checksum.value, locator.key
        text, json_text, key_text = new.id.encode(), metadata.encode(), key.encode()
        lengths = len(text), len(json_text), len(source), len(value), len(key_text)
        packed = _packed(numbers, lengths)
        checksum = crc32c(b"".join((packed, text, json_text, source, value, key_text)), self._start)
        return (*numbers, new.id, metadata, source, value, key, checksum, *self._columns)


def _are_alike(one: StoredTensor, other: StoredTensor) -> bool:
    """Whether `_alike_columns` returns the same of both; False where that takes longer to see than to do."""
    return (
        one.new.spec is other.new.spec
        and one.storage is other.storage
        and one.new.policy is other.new.policy
        and one.dataset.number == other.dataset.number
        and one.chunk_bytes == other.chunk_bytes
        and one.source_checksum.algorithm == other.source_checksum.algorithm
        and one.value_checksum.algorithm == other.value_checksum.algorithm
        and (one.inline_payload is None) == (other.inline_payload is None)
        and one.locator.offset == other.locator.offset
        and one.locator.length == other.locator.length
        and one.locator.index_length == other.locator.index_length
    )


def _alike_columns(stored: StoredTensor) -> tuple[Any, ...]:
    spec, storage, locator, policy = stored.new.spec, stored.storage, stored.locator, stored.new.policy
    return (
        spec.dtype.number,
        spec.dtype.element_bytes,
        shape_text(spec.shape),
        spec.canonical_bytes,
        storage.quantized_bytes,
        storage.stored_bytes,
        storage.relative_error,
        storage.max_absolute_error,
        int(storage.lossy),
        _shares_to_json(storage.encodings),
        storage.fallback_reason,
        stored.chunk_bytes,
        None if policy is None else to_json(policy.to_json()),
        stored.source_checksum.algorithm,
        stored.value_checksum.algorithm,
        int(stored.inline_payload is not None),
        locator.offset,
        locator.length,
        locator.index_length,
        spec.dtype.name,
        len(spec.shape),
        stored.dataset.number,
    )


def tensor_from_row(row: tuple[Any, ...], dataset: str, ds: int) -> Tensor:
    """Return the tensor of a row: `TENSOR_COLUMNS`, and the inline payload or NULL after them.

    Args:
        dataset: the dataset's name.
        ds: its number, which the row must have.

    Raises:
        RowDamageError: the row is not what was written.
    """
    # Unpacked by position, and what repeats from row to row worked out once: a Get of small tensors spends its time here.
    alike = verified(row, ds)
    numbers = row[:_NUMBERS]
    tensor_id, metadata, source, value, key = row[_NUMBERS:_ROW_CHECKSUM]
    try:
        return Tensor(
            dataset=dataset,
            id=tensor_id,
            generation=numbers[0],
            ordinal=numbers[1],
            spec=alike.spec,
            metadata=json.loads(metadata) if metadata != "{}" else {},
            policy=alike.policy,
            chunk_bytes=alike.chunk_bytes,
            source_checksum=Checksum(alike.source_algorithm, source),
            value_checksum=Checksum(alike.value_algorithm, value),
            storage=alike.storage,
            # A dtype without a summary has no count of zeros, either.
            values=None if numbers[_ZERO_COUNT] is None else ValueSummary(*numbers[_SUMMARY:]),
            created_us=numbers[2],
            locator=Locator(key, alike.offset, alike.length, alike.index_length, numbers[3]),
            inline_payload=row[-1],
        )
    except MALFORMED as error:
        raise RowDamageError(f"a value of the row cannot be read: {type(error).__name__}") from error


def verified(row: tuple[Any, ...], ds: int) -> Alike:
    """Return what a row has in common with others, after its checksum was verified. Arguments as of `tensor_from_row`.

    Raises:
        RowDamageError: the row is not what was written.
    """
    numbers = row[:_NUMBERS]
    tensor_id, metadata, source, value, key, checksum = row[_NUMBERS:_ALIKE]
    try:
        alike = _alike(row[_ALIKE:-1])
        text, json_text, key_text = tensor_id.encode(), metadata.encode(), key.encode()
        lengths = len(text), len(json_text), len(source), len(value), len(key_text)
        texts = text, json_text, source, value, key_text
        found = crc32c(b"".join((_packed(numbers, lengths), *texts)), alike.checksum)
        if found != checksum and not any(
            crc32c(b"".join((_packed(signed, lengths), *texts)), alike.checksum) == checksum
            for signed in _with_negative_zeros(numbers)
        ):
            raise RowDamageError(f"the row's checksum is {found:#010x}, expected {checksum:#010x}")
    except MALFORMED as error:
        raise RowDamageError(f"a value of the row cannot be read: {type(error).__name__}") from error
    if alike.ds != ds:
        raise RowDamageError(f"the row is of dataset number {alike.ds}, expected {ds}")
    return alike


def checksum_of_row(columns: tuple[Any, ...]) -> int:
    """Return the checksum of a row, the slow way: of `ROW_CHECKSUM_COLUMNS`.

    Raises:
        struct.error, TypeError: a value is not of its column's type.
    """
    alike, own = columns[: len(_ALIKE_COLUMNS)], columns[len(_ALIKE_COLUMNS) :]
    return row_checksum(_OWN_TYPES, own, row_checksum(_ALIKE_TYPES, alike))


def _with_negative_zeros(numbers: tuple[Any, ...]) -> Iterator[tuple[Any, ...]]:
    """Yield the numbers of a row with -0.0 in place of zeros of its summary, in every combination.

    SQLite stores 0.0 for -0.0. The first versions with row checksums computed them from -0.0; such rows are intact.
    """
    zeros = [place for place in range(_SUMMARY, _ZERO_COUNT) if numbers[place] == 0.0]
    for signs in product((1.0, -1.0), repeat=len(zeros)):
        signed = list(numbers)
        for place, sign in zip(zeros, signs, strict=True):
            signed[place] = sign * 0.0
        yield tuple(signed)


def _packed(numbers: tuple[Any, ...], lengths: tuple[int, ...]) -> bytes:
    try:
        return _pack_own(*numbers, *lengths)
    except struct.error:
        return _pack_with_nulls(numbers, *lengths)


def _pack_with_nulls(numbers: tuple[Any, ...], *lengths: int) -> bytes:
    """Return the numbers of a row as `row_checksum` packs them, where some of them are NULL.

    Raises:
        struct.error: a value is not of its column's type.
    """
    values, counts = numbers[_SUMMARY:_ZERO_COUNT], numbers[_ZERO_COUNT:]
    return _pack_own(
        *numbers[:_SUMMARY],
        *(math.nan if value is None else value for value in values),
        *(-1 if count is None else count for count in counts),
        *lengths,
    )


@dataclass(frozen=True)
class Alike:
    """What `_ALIKE_COLUMNS` say. What needs decoding is decoded when the row's checksum has been verified."""

    columns: tuple[Any, ...]
    checksum: int
    """Of these columns: where that of the row goes on."""
    chunk_bytes: int
    source_algorithm: str
    value_algorithm: str
    offset: int
    length: int
    index_length: int
    ds: int

    @cached_property
    def spec(self) -> TensorSpec:
        """Dtype and shape."""
        return spec_from_columns(*self.columns[:3])

    @cached_property
    def storage(self) -> StorageReport:
        """What storing did."""
        columns = self.columns
        return StorageReport(
            canonical_bytes=columns[3],
            quantized_bytes=columns[4],
            stored_bytes=columns[5],
            relative_error=columns[6],
            max_absolute_error=columns[7],
            lossy=bool(columns[8]),
            encodings=_shares(columns[9]),
            fallback_reason=columns[10],
        )

    @cached_property
    def policy(self) -> Mapping[str, Any] | None:
        """The insert's own policy, as JSON; None: it followed the dataset's."""
        policy = self.columns[12]
        return None if policy is None else json.loads(policy)


@lru_cache(maxsize=1024)
def _alike(columns: tuple[Any, ...]) -> Alike:
    # Equal columns are found in the cache: 0.0 for -0.0, which is no error that was ever measured, and must not take its place.
    columns = tuple(column + 0.0 if isinstance(column, float) else column for column in columns)
    chunk_bytes, _, source_algorithm, value_algorithm, _, offset, length, index_length, _, _, ds = columns[11:]
    checksum = row_checksum(_ALIKE_TYPES, columns)
    return Alike(columns, checksum, chunk_bytes, source_algorithm, value_algorithm, offset, length, index_length, ds)


@lru_cache(maxsize=1024)
def _shares(encodings: str) -> tuple[EncodingShare, ...]:
    return tuple(
        EncodingShare(tuple(encoding), chunks, canonical_bytes, stored_bytes)
        for encoding, chunks, canonical_bytes, stored_bytes in json.loads(encodings)
    )


def _shares_to_json(shares: tuple[EncodingShare, ...]) -> str:
    """Return what encodings there are: [[encoding, chunks, canonical bytes, stored bytes], ...]."""
    return to_json(
        [[list(share.encoding), share.chunks, share.canonical_bytes, share.stored_bytes] for share in shares]
    )


def _summary_columns(values: ValueSummary) -> tuple[float | int | None, ...]:
    numbers = values.minimum, values.maximum, values.mean, values.standard_deviation, values.l2_norm
    return (
        # SQLite keeps 0.0 for -0.0, and the row's checksum is of what it keeps.
        *[None if number is None else number + 0.0 for number in numbers],
        values.zero_count,
        values.nan_count,
        values.infinity_count,
    )


def _dtype(number: int, element_bytes: int) -> DType:
    return dtype_by_number(number) or opaque_dtype(number, 8 * element_bytes)
