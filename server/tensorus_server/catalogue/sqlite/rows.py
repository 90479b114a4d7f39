"""Rows of the tensor table, and the values they stand for."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any

from tensorus_codecs.checksum import crc32c
from tensorus_codecs.dtypes import dtype_by_number, opaque_dtype
from tensorus_codecs.policy import StoragePolicy
from tensorus_codecs.summary import ValueSummary
from tensorus_server.errors import DataCorruptError
from tensorus_server.model import (
    Checksum,
    Dataset,
    EncodingShare,
    Locator,
    Schema,
    StorageReport,
    Tensor,
    TensorSpec,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tensorus_codecs.dtypes import DType
    from tensorus_server.catalogue.abc import StoredTensor

__all__ = [
    "TENSOR_COLUMNS",
    "WRITTEN_COLUMNS",
    "RowWriter",
    "dataset_from_row",
    "schema_to_json",
    "spec_from_columns",
    "tensor_from_row",
    "to_json",
]

_OWN_COLUMNS = (
    "seq",
    "id",
    "ordinal",
    "created_us",
    "metadata",
    "source_checksum",
    "value_checksum",
    "key",
    "index_crc",
    "row_crc",
    "min",
    "max",
    "mean",
    "standard_deviation",
    "l2_norm",
    "zero_count",
    "nan_count",
    "infinity_count",
)
"""What differs from tensor to tensor; `seq` is the generation."""

_ALIKE_COLUMNS = (
    "dtype_number",
    "element_bytes",
    "shape",
    "nbytes",
    "quantized_bytes",
    "stored_bytes",
    "relative_error",
    "max_absolute_error",
    "lossy",
    "encodings",
    "fallback_reason",
    "chunk_bytes",
    "policy",
    "source_algorithm",
    "value_algorithm",
    "inline",
    "offset",
    "length",
    "index_length",
)
"""What small tensors of one kind have in common."""

TENSOR_COLUMNS = _OWN_COLUMNS + _ALIKE_COLUMNS
"""In the order of `tensor_from_row`."""

WRITTEN_COLUMNS = (*TENSOR_COLUMNS, "dtype", "rank", "ds", "source_crc")
"""In the order of `RowWriter.row`."""

_OWN = len(_OWN_COLUMNS)
_SUMMARY = _OWN_COLUMNS.index("min")

_NO_VALUES = (None,) * 8
"""The columns from "min" to "infinity_count" of a dtype without a summary."""


_encode_json = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False).encode


def to_json(value: object) -> str:
    """Return compact JSON; NaN and infinities in Python's notation, which Python reads back."""
    return _encode_json(value)


def shape_text(shape: tuple[int, ...]) -> str:
    """Return the shape as filters see it: "[3, 224, 224]"."""
    return str(list(shape))


def dataset_from_row(row: tuple[Any, ...]) -> Dataset:
    """Return the dataset of a row (ds, name, policy, schema, created_us)."""
    number, name, policy, schema, created_us = row
    fields = json.loads(schema)
    shape = fields.get("shape")
    return Dataset(
        number=number,
        name=name,
        policy=StoragePolicy.from_json(json.loads(policy)),
        schema=Schema(fields.get("dtype"), None if shape is None else tuple(shape), fields.get("metadata", {})),
        created_us=created_us,
    )


def schema_to_json(schema: Schema) -> str:
    """Return the schema's set fields as JSON."""
    fields = {"dtype": schema.dtype, "shape": schema.shape, "metadata": dict(schema.metadata) or None}
    return to_json({name: value for name, value in fields.items() if value is not None})


@lru_cache(maxsize=1024)
def spec_from_columns(dtype_number: int, element_bytes: int, shape: str) -> TensorSpec:
    """Return the spec; `shape` is JSON."""
    return TensorSpec(_dtype(dtype_number, element_bytes), tuple(json.loads(shape)))


class RowWriter:
    """Makes rows of new tensors. What one has in common with the one before is worked out once."""

    def __init__(self) -> None:
        """Start with none before."""
        self._last: StoredTensor | None = None
        self._columns: tuple[Any, ...] = ()
        self._of_filters: tuple[str, int] = ("", 0)
        self._texts = ("", "", "")

    def row(self, stored: StoredTensor, generation: int, ordinal: int, created_us: int) -> tuple[Any, ...]:
        """Return the columns of a new tensor, in the order of `WRITTEN_COLUMNS`."""
        new, locator, value = stored.new, stored.locator, stored.value_checksum
        last, self._last = self._last, stored
        if last is None or not _are_alike(last, stored):
            self._columns = _alike_columns(stored)
            self._of_filters = (new.spec.dtype.name, len(new.spec.shape))
            self._texts = _row_crc_texts(self._columns)
        return (
            generation,
            new.id,
            ordinal,
            created_us,
            to_json(new.metadata) if new.metadata else "{}",
            stored.source_checksum.value,
            value.value,
            locator.key,
            locator.index_crc32c,
            _row_crc(new.id, locator.key, locator.index_crc32c, value.value, self._texts),
            *(_NO_VALUES if stored.values is None else _summary_columns(stored.values)),
            *self._columns,
            *self._of_filters,
            stored.dataset.number,
            stored.source_crc32c,
        )


def _are_alike(one: StoredTensor, other: StoredTensor) -> bool:
    """Whether `_alike_columns` returns the same of both; False where that takes longer to see than to do."""
    return (
        one.new.spec is other.new.spec
        and one.storage is other.storage
        and one.new.policy is other.new.policy
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
    )


def tensor_from_row(row: tuple[Any, ...], dataset: str) -> Tensor:
    """Return the tensor of a row: `TENSOR_COLUMNS`, and the inline payload or NULL after them.

    Raises:
        DataCorruptError: what locates and describes the payload is not what was written.
    """
    # Unpacked by position, and what repeats from row to row worked out once: a Get of small tensors spends its time here.
    generation, tensor_id, ordinal, created_us, metadata, source, value, key, index_crc, row_crc = row[:_SUMMARY]
    summary = row[_SUMMARY:_OWN]
    alike = _alike(row[_OWN:-1])
    found = _row_crc(tensor_id, key, index_crc, value, alike.row_crc_texts)
    if found != row_crc:
        raise DataCorruptError(
            f"CRC32C of the catalogue row is {found:#010x}, expected {row_crc:#010x}", dataset=dataset, tensor=tensor_id
        )
    return Tensor(
        dataset=dataset,
        id=tensor_id,
        generation=generation,
        ordinal=ordinal,
        spec=alike.spec,
        metadata=json.loads(metadata) if metadata != "{}" else {},
        policy=alike.policy,
        chunk_bytes=alike.chunk_bytes,
        source_checksum=Checksum(alike.source_algorithm, source),
        value_checksum=Checksum(alike.value_algorithm, value),
        storage=alike.storage,
        # A dtype without a summary has no count of zeros, either.
        values=None if summary[5] is None else ValueSummary(*summary),
        created_us=created_us,
        locator=Locator(key, alike.offset, alike.length, alike.index_length, index_crc),
        inline_payload=row[-1],
    )


@dataclass(frozen=True)
class _Alike:
    """What `_ALIKE_COLUMNS` say. What needs decoding is decoded when the row's CRC has been checked."""

    columns: tuple[Any, ...]
    row_crc_texts: tuple[str, str, str]
    chunk_bytes: int
    source_algorithm: str
    value_algorithm: str
    offset: int
    length: int
    index_length: int

    @cached_property
    def spec(self) -> TensorSpec:
        return spec_from_columns(*self.columns[:3])

    @cached_property
    def storage(self) -> StorageReport:
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
        policy = self.columns[12]
        return None if policy is None else json.loads(policy)


@lru_cache(maxsize=1024)
def _alike(columns: tuple[Any, ...]) -> _Alike:
    chunk_bytes, _, source_algorithm, value_algorithm, _, *place = columns[11:]
    return _Alike(columns, _row_crc_texts(columns), chunk_bytes, source_algorithm, value_algorithm, *place)


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
    return (
        values.minimum,
        values.maximum,
        values.mean,
        values.standard_deviation,
        values.l2_norm,
        values.zero_count,
        values.nan_count,
        values.infinity_count,
    )


def _dtype(number: int, element_bytes: int) -> DType:
    return dtype_by_number(number) or opaque_dtype(number, 8 * element_bytes)


def _row_crc_texts(columns: tuple[Any, ...]) -> tuple[str, str, str]:
    """Return what `_row_crc` takes of `_ALIKE_COLUMNS`: what follows the id, the key, and the index's CRC32C."""
    dtype_number, element_bytes, shape = columns[:3]
    chunk_bytes, _, _, value_algorithm, inline, offset, length, index_length = columns[11:]
    return (
        f"\0{dtype_number}\0{element_bytes}\0{shape}\0{chunk_bytes}\0{inline}\0",
        f"\0{offset}\0{length}\0{index_length}\0",
        f"\0{value_algorithm}\0",
    )


def _row_crc(tensor_id: str, key: str, index_crc: int, value_checksum: bytes, texts: tuple[str, str, str]) -> int:
    """Return the CRC32C over what reading the payload relies on: its columns as text, with a NUL between them.

    id, dtype_number, element_bytes, shape, chunk_bytes, inline, key, offset, length, index_length, index_crc,
    value_algorithm, and value_checksum as hex digits.
    """
    after_id, after_key, after_index_crc = texts
    text = f"{tensor_id}{after_id}{key}{after_key}{index_crc}{after_index_crc}{value_checksum.hex()}"
    return crc32c(text.encode())
