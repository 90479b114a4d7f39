"""`TensorInfo` of a message or of the engine's tensor, which name most of their fields alike.

What a `StorageReport` of the contract has, `TensorInfo` and `PolicyExplanation` have by the same names.
"""

from __future__ import annotations

from functools import partial
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from tensorus.types import TensorInfo
from tensorus_protos.digest import TENSOR_DIGEST, ChunkedDigest
from tensorus_protos.v1 import tensorus_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from tensorus.types import EncodingShare, Metadata, ValueSummary

__all__ = ["checksum_fields", "described", "measured", "storage_fields"]

_STORAGE = [field.name for field in pb.StorageReport.DESCRIPTOR.fields if field.name != "encodings"]
_storage_of = attrgetter(*_STORAGE)

# `Any`, below: a message or a value of the engine, with the same attributes.


def described(
    tensor: Any,
    *,
    dtype: str,
    shape: tuple[int, ...],
    metadata: Metadata,
    inserted: bool,
    coarse_error: float,
    rest: Callable[[], dict[str, Any]],
) -> TensorInfo:
    """Return what is known of a tensor; `rest` returns what `measured` does."""
    known = {
        "dataset": tensor.dataset,
        "id": tensor.id,
        "dtype": dtype,
        "shape": shape,
        "metadata": metadata,
        "chunk_bytes": tensor.chunk_bytes,
        "generation": tensor.generation,
        "ordinal": tensor.ordinal,
        "inserted": inserted,
        "coarse_error": coarse_error,
    }
    return TensorInfo.lazily(known, rest)


def measured(
    storage: Any,
    values: ValueSummary | None,
    *,
    source_checksum: bytes,
    value_checksum: bytes,
    created: datetime,
    share_from: Callable[[Any], EncodingShare],
) -> dict[str, Any]:
    """Return the fields of a `TensorInfo` that storing the tensor made."""
    fields = storage_fields(storage, share_from)
    fields["values"] = values
    fields["source_checksum"] = source_checksum.hex()
    fields["value_checksum"] = value_checksum.hex()
    fields["created"] = created
    return fields


def storage_fields(storage: Any, share_from: Callable[[Any], EncodingShare]) -> dict[str, Any]:
    """Return the fields of a storage report, for a `TensorInfo` or a `PolicyExplanation`."""
    fields = dict(zip(_STORAGE, _storage_of(storage), strict=True))
    fields["encodings"] = tuple(map(share_from, storage.encodings))
    return fields


def checksum_fields(tensor: Any, dtype_number: int, element_bits: int) -> dict[str, Any]:
    """Return the fields `checksum` and `digest` of `Began`, for a tensor that is read as a whole."""
    checksum = tensor.value_checksum
    if checksum.algorithm != TENSOR_DIGEST:
        return {"checksum": checksum.value}
    digest = partial(ChunkedDigest, dtype_number, element_bits, tuple(tensor.spec.shape), tensor.chunk_bytes)
    return {"checksum": checksum.value, "digest": digest}
