"""Rows of the tensor table, and the values they stand for."""

from __future__ import annotations

import json
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
"""In the order of `tensor_from_row`; `seq` is the generation and comes from SQLite."""

WRITTEN_COLUMNS = ("ds", *TENSOR_COLUMNS[1:], "source_crc")
"""Of `tensor_to_row`."""


def to_json(value: object) -> str:
    """Return compact JSON; NaN and infinities in Python's notation, which Python reads back."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


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


def spec_from_columns(dtype_number: int, element_bytes: int, shape: str) -> TensorSpec:
    """Return the spec; `shape` is JSON."""
    return TensorSpec(_dtype(dtype_number, element_bytes), tuple(json.loads(shape)))


def tensor_to_row(stored: StoredTensor, ordinal: int, created_us: int) -> dict[str, Any]:
    """Return the columns of a new tensor, all but `seq`; `ds` included."""
    spec, storage, values, locator = stored.new.spec, stored.storage, stored.values, stored.locator
    policy = stored.new.policy
    row: dict[str, Any] = {
        "ds": stored.dataset.number,
        "id": stored.new.id,
        "dtype_number": spec.dtype.number,
        "element_bytes": spec.dtype.element_bytes,
        "dtype": spec.dtype.name,
        "shape": shape_text(spec.shape),
        "rank": len(spec.shape),
        "nbytes": spec.canonical_bytes,
        "quantized_bytes": storage.quantized_bytes,
        "stored_bytes": storage.stored_bytes,
        "relative_error": storage.relative_error,
        "max_absolute_error": storage.max_absolute_error,
        "lossy": int(storage.lossy),
        "encodings": to_json(
            [
                [list(share.encoding), share.chunks, share.canonical_bytes, share.stored_bytes]
                for share in storage.encodings
            ]
        ),
        "fallback_reason": storage.fallback_reason,
        "chunk_bytes": stored.chunk_bytes,
        "created_us": created_us,
        "min": values.minimum if values else None,
        "max": values.maximum if values else None,
        "mean": values.mean if values else None,
        "standard_deviation": values.standard_deviation if values else None,
        "l2_norm": values.l2_norm if values else None,
        "zero_count": values.zero_count if values else None,
        "nan_count": values.nan_count if values else None,
        "infinity_count": values.infinity_count if values else None,
        "policy": None if policy is None else to_json(policy.to_json()),
        "source_algorithm": stored.source_checksum.algorithm,
        "source_checksum": stored.source_checksum.value,
        "value_algorithm": stored.value_checksum.algorithm,
        "value_checksum": stored.value_checksum.value,
        "inline": int(stored.inline_payload is not None),
        "key": locator.key,
        "offset": locator.offset,
        "length": locator.length,
        "index_length": locator.index_length,
        "index_crc": locator.index_crc32c,
        "source_crc": stored.source_crc32c,
        "metadata": to_json(stored.new.metadata),
        "ordinal": ordinal,
    }
    row["row_crc"] = _row_crc(row)
    return row


def tensor_from_row(row: tuple[Any, ...], dataset: str) -> Tensor:
    """Return the tensor of a row: `TENSOR_COLUMNS`, and the inline payload or NULL after them.

    Raises:
        DataCorruptError: what locates and describes the payload is not what was written.
    """
    column = dict(zip(TENSOR_COLUMNS, row, strict=False))
    found = _row_crc(column)
    if found != column["row_crc"]:
        raise DataCorruptError(
            f"CRC32C of the catalogue row is {found:#010x}, expected {column['row_crc']:#010x}",
            dataset=dataset,
            tensor=column["id"],
        )
    policy = column["policy"]
    return Tensor(
        dataset=dataset,
        id=column["id"],
        generation=column["seq"],
        ordinal=column["ordinal"],
        spec=spec_from_columns(column["dtype_number"], column["element_bytes"], column["shape"]),
        metadata=json.loads(column["metadata"]),
        policy=None if policy is None else json.loads(policy),
        chunk_bytes=column["chunk_bytes"],
        source_checksum=Checksum(column["source_algorithm"], column["source_checksum"]),
        value_checksum=Checksum(column["value_algorithm"], column["value_checksum"]),
        storage=_storage(column),
        values=_values(column),
        created_us=column["created_us"],
        locator=Locator(column["key"], column["offset"], column["length"], column["index_length"], column["index_crc"]),
        inline_payload=row[len(TENSOR_COLUMNS)],
    )


def _storage(column: dict[str, Any]) -> StorageReport:
    return StorageReport(
        canonical_bytes=column["nbytes"],
        quantized_bytes=column["quantized_bytes"],
        stored_bytes=column["stored_bytes"],
        relative_error=column["relative_error"],
        max_absolute_error=column["max_absolute_error"],
        lossy=bool(column["lossy"]),
        encodings=tuple(
            EncodingShare(tuple(encoding), chunks, canonical_bytes, stored_bytes)
            for encoding, chunks, canonical_bytes, stored_bytes in json.loads(column["encodings"])
        ),
        fallback_reason=column["fallback_reason"],
    )


def _values(column: dict[str, Any]) -> ValueSummary | None:
    if column["zero_count"] is None:
        return None
    return ValueSummary(
        minimum=column["min"],
        maximum=column["max"],
        mean=column["mean"],
        standard_deviation=column["standard_deviation"],
        l2_norm=column["l2_norm"],
        zero_count=column["zero_count"],
        nan_count=column["nan_count"],
        infinity_count=column["infinity_count"],
    )


def _dtype(number: int, element_bytes: int) -> DType:
    return dtype_by_number(number) or opaque_dtype(number, 8 * element_bytes)


def _row_crc(column: dict[str, Any]) -> int:
    """Return the CRC32C over what reading the payload relies on."""
    parts = (
        column["id"],
        column["dtype_number"],
        column["element_bytes"],
        column["shape"],
        column["chunk_bytes"],
        column["inline"],
        column["key"],
        column["offset"],
        column["length"],
        column["index_length"],
        column["index_crc"],
        column["value_algorithm"],
        column["value_checksum"].hex(),
    )
    return crc32c("\0".join(map(str, parts)).encode())
