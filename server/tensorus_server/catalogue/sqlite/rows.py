"""Rows of the tensor table, and the values they stand for."""

from __future__ import annotations

import json
from functools import lru_cache
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
    from tensorus_codecs.dtypes import DType
    from tensorus_server.catalogue.abc import StoredTensor

__all__ = [
    "TENSOR_COLUMNS",
    "WRITTEN_COLUMNS",
    "dataset_from_row",
    "schema_to_json",
    "shares_to_json",
    "spec_from_columns",
    "tensor_from_row",
    "tensor_to_row",
    "to_json",
]

TENSOR_COLUMNS = (
    "seq",
    "id",
    "dtype_number",
    "element_bytes",
    "dtype",
    "shape",
    "rank",
    "nbytes",
    "quantized_bytes",
    "stored_bytes",
    "relative_error",
    "max_absolute_error",
    "lossy",
    "encodings",
    "fallback_reason",
    "chunk_bytes",
    "created_us",
    "min",
    "max",
    "mean",
    "standard_deviation",
    "l2_norm",
    "zero_count",
    "nan_count",
    "infinity_count",
    "policy",
    "source_algorithm",
    "source_checksum",
    "value_algorithm",
    "value_checksum",
    "inline",
    "key",
    "offset",
    "length",
    "index_length",
    "index_crc",
    "row_crc",
    "metadata",
    "ordinal",
)
"""In the order of `tensor_from_row`; `seq` is the generation."""

WRITTEN_COLUMNS = (*TENSOR_COLUMNS, "ds", "source_crc")
"""In the order of `tensor_to_row`."""

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


def tensor_to_row(
    stored: StoredTensor, generation: int, ordinal: int, *, created_us: int, encodings: str
) -> tuple[Any, ...]:
    """Return the columns of a new tensor, in the order of `WRITTEN_COLUMNS`.

    Args:
        encodings: of its storage report, as `shares_to_json` writes them.
    """
    spec, storage, values, locator = stored.new.spec, stored.storage, stored.values, stored.locator
    policy = stored.new.policy
    shape, inline = shape_text(spec.shape), int(stored.inline_payload is not None)
    spec_columns = (spec.dtype.number, spec.dtype.element_bytes, shape)
    return (
        generation,
        stored.new.id,
        spec.dtype.number,
        spec.dtype.element_bytes,
        spec.dtype.name,
        shape,
        len(spec.shape),
        spec.canonical_bytes,
        storage.quantized_bytes,
        storage.stored_bytes,
        storage.relative_error,
        storage.max_absolute_error,
        int(storage.lossy),
        encodings,
        storage.fallback_reason,
        stored.chunk_bytes,
        created_us,
        *(_NO_VALUES if values is None else _summary_columns(values)),
        None if policy is None else to_json(policy.to_json()),
        stored.source_checksum.algorithm,
        stored.source_checksum.value,
        stored.value_checksum.algorithm,
        stored.value_checksum.value,
        inline,
        locator.key,
        locator.offset,
        locator.length,
        locator.index_length,
        locator.index_crc32c,
        _row_crc(stored.new.id, spec_columns, stored.chunk_bytes, locator, stored.value_checksum, inline=inline),
        to_json(stored.new.metadata) if stored.new.metadata else "{}",
        ordinal,
        stored.dataset.number,
        stored.source_crc32c,
    )


def tensor_from_row(row: tuple[Any, ...], dataset: str) -> Tensor:
    """Return the tensor of a row: `TENSOR_COLUMNS`, and the inline payload or NULL after them.

    Raises:
        DataCorruptError: what locates and describes the payload is not what was written.
    """
    # Unpacked by position, and what repeats from row to row decoded once: a Get of small tensors spends its time here.
    generation, tensor_id, dtype_number, element_bytes, _, shape, _ = row[:7]
    sizes, errors = row[7:10], row[10:12]
    lossy, encodings, fallback_reason, chunk_bytes, created_us = row[12:17]
    summary = row[17:25]
    policy, source_algorithm, source_digest, value_algorithm, value_digest, inline = row[25:31]
    locator = Locator(*row[31:36])
    row_crc, metadata, ordinal, inline_payload = row[36:]
    value_checksum = Checksum(value_algorithm, value_digest)
    found = _row_crc(
        tensor_id, (dtype_number, element_bytes, shape), chunk_bytes, locator, value_checksum, inline=inline
    )
    if found != row_crc:
        raise DataCorruptError(
            f"CRC32C of the catalogue row is {found:#010x}, expected {row_crc:#010x}", dataset=dataset, tensor=tensor_id
        )
    return Tensor(
        dataset=dataset,
        id=tensor_id,
        generation=generation,
        ordinal=ordinal,
        spec=spec_from_columns(dtype_number, element_bytes, shape),
        metadata=json.loads(metadata) if metadata != "{}" else {},
        policy=None if policy is None else json.loads(policy),
        chunk_bytes=chunk_bytes,
        source_checksum=Checksum(source_algorithm, source_digest),
        value_checksum=value_checksum,
        storage=_storage(sizes, errors, encodings, fallback_reason, lossy=bool(lossy)),
        # A dtype without a summary has no count of zeros, either.
        values=None if summary[5] is None else ValueSummary(*summary),
        created_us=created_us,
        locator=locator,
        inline_payload=inline_payload,
    )


@lru_cache(maxsize=1024)
def _storage(
    sizes: tuple[int, int, int], errors: tuple[float, float], encodings: str, fallback_reason: str, *, lossy: bool
) -> StorageReport:
    """Return the report; tensors of one size that are stored as they are, or as one value, have the same."""
    return StorageReport(*sizes, *errors, lossy, _shares(encodings), fallback_reason)


@lru_cache(maxsize=1024)
def _shares(encodings: str) -> tuple[EncodingShare, ...]:
    return tuple(
        EncodingShare(tuple(encoding), chunks, canonical_bytes, stored_bytes)
        for encoding, chunks, canonical_bytes, stored_bytes in json.loads(encodings)
    )


def shares_to_json(shares: tuple[EncodingShare, ...]) -> str:
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


def _row_crc(
    tensor_id: str,
    spec_columns: tuple[int, int, str],
    chunk_bytes: int,
    locator: Locator,
    value_checksum: Checksum,
    *,
    inline: int,
) -> int:
    """Return the CRC32C over what reading the payload relies on: its columns as text, with a NUL between them."""
    dtype_number, element_bytes, shape = spec_columns
    text = (
        f"{tensor_id}\0{dtype_number}\0{element_bytes}\0{shape}\0{chunk_bytes}\0{inline}\0"
        f"{locator.key}\0{locator.offset}\0{locator.length}\0{locator.index_length}\0{locator.index_crc32c}\0"
        f"{value_checksum.algorithm}\0{value_checksum.value.hex()}"
    )
    return crc32c(text.encode())
