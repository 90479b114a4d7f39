"""Defines the columns of the table `tensor`, and where their values are in a `StoredTensor` and in a `Tensor`.

`rows.py` makes rows and tensors from this table. A path is a chain of attributes, such as "storage.lossy".
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from tensorus_protos.rules import to_json
from tensorus_server.model import EncodingShare

if TYPE_CHECKING:
    from collections.abc import Callable

    from tensorus_codecs.policy import StoragePolicy

__all__ = ["COLUMNS", "TensorColumn"]

_SAME = "="

_Kind: TypeAlias = Literal["q", "d", "t"]


@dataclass(frozen=True)
class TensorColumn:
    """A column of the table `tensor`."""

    name: str
    kind: _Kind
    """Its type as in `row_checksum`: INTEGER, REAL, or TEXT and BLOB."""
    tensor: str | None
    """Path in a `Tensor`; None: it has no such field. Columns with the same path form one value."""
    stored: str | None
    """Path in a `StoredTensor`; None: the commit decides the value."""
    shared: bool
    """Whether small tensors that are inserted one after the other often have the same value."""
    encode: Callable[[Any], Any] | None
    """Makes the column from the value of a `StoredTensor`; None: they are equal."""
    decode: Callable[[Any], Any] | None
    """Makes the value of a `StorageReport` from the column; None: they are equal, or `rows.py` decodes it."""


def _own(
    name: str,
    kind: _Kind,
    tensor: str | None,
    *,
    stored: str | None = _SAME,
    shared: bool = False,
    encode: Callable[[Any], Any] | None = None,
    decode: Callable[[Any], Any] | None = None,
) -> TensorColumn:
    """Return a column; unless `stored` is given, its path is the same in a `StoredTensor` and in a `Tensor`."""
    return TensorColumn(name, kind, tensor, tensor if stored == _SAME else stored, shared, encode, decode)


_shared = partial(_own, shared=True)


def _shape_to_json(shape: tuple[int, ...]) -> str:
    """Return the shape as filters see it: "[3, 224, 224]"."""
    return str(list(shape))


def _shares_to_json(shares: tuple[EncodingShare, ...]) -> str:
    """Return the encodings in use: [[encoding, chunks, canonical bytes, stored bytes], ...]."""
    return to_json(
        [[list(share.encoding), share.chunks, share.canonical_bytes, share.stored_bytes] for share in shares]
    )


@lru_cache(maxsize=1024)
def _shares_from_json(encodings: str) -> tuple[EncodingShare, ...]:
    return tuple(
        EncodingShare(tuple(encoding), chunks, canonical_bytes, stored_bytes)
        for encoding, chunks, canonical_bytes, stored_bytes in json.loads(encodings)
    )


def _policy_to_json(policy: StoragePolicy | None) -> str | None:
    return None if policy is None else to_json(policy.to_json())


COLUMNS = (
    # Columns that consecutive tensors often share.
    _shared("dtype_number", "q", "spec", stored="new.spec.dtype.number"),
    _shared("element_bytes", "q", "spec", stored="new.spec.dtype.element_bytes"),
    _shared("shape", "t", "spec", stored="new.spec.shape", encode=_shape_to_json),
    _shared("nbytes", "q", "storage.canonical_bytes", stored="new.spec.canonical_bytes"),
    _shared("quantized_bytes", "q", "storage.quantized_bytes"),
    _shared("stored_bytes", "q", "storage.stored_bytes"),
    _shared("relative_error", "d", "storage.relative_error"),
    _shared("max_absolute_error", "d", "storage.max_absolute_error"),
    _shared("lossy", "q", "storage.lossy", encode=int, decode=bool),
    _shared("encodings", "t", "storage.encodings", encode=_shares_to_json, decode=_shares_from_json),
    _shared("fallback_reason", "t", "storage.fallback_reason"),
    _shared("chunk_bytes", "q", "chunk_bytes"),
    _shared("policy", "t", "policy", stored="new.policy", encode=_policy_to_json),
    _shared("source_algorithm", "t", "source_checksum.algorithm"),
    _shared("value_algorithm", "t", "value_checksum.algorithm"),
    _shared("inline", "q", None, stored="is_inline", encode=int),
    _shared("offset", "q", "locator.offset"),
    _shared("length", "q", "locator.length"),
    _shared("index_length", "q", "locator.index_length"),
    _shared("dtype", "t", None, stored="new.spec.dtype.name"),
    _shared("rank", "q", None, stored="new.spec.shape", encode=len),
    _shared("ds", "q", None, stored="dataset.number"),
    # Numbers of each tensor.
    _own("seq", "q", "generation", stored=None),
    _own("ordinal", "q", "ordinal", stored=None),
    _own("created_us", "q", "created_us", stored=None),
    _own("index_crc", "q", "locator.index_crc32c"),
    _own("source_crc", "q", None, stored="source_crc32c"),
    _own("min", "d", "values.minimum"),
    _own("max", "d", "values.maximum"),
    _own("mean", "d", "values.mean"),
    _own("standard_deviation", "d", "values.standard_deviation"),
    _own("l2_norm", "d", "values.l2_norm"),
    _own("zero_count", "q", "values.zero_count"),
    _own("nan_count", "q", "values.nan_count"),
    _own("infinity_count", "q", "values.infinity_count"),
    # Texts and blobs of each tensor.
    _own("id", "t", "id", stored="new.id"),
    _own("metadata", "t", "metadata", stored="new.metadata_json"),
    _own("source_checksum", "t", "source_checksum.value"),
    _own("value_checksum", "t", "value_checksum.value"),
    _own("key", "t", "locator.key"),
)
"""All columns except the row's checksum, in the order in which the checksum covers them.

Of the numbers of each tensor, those that the commit decides come first, and those of the summary come last. Inline payloads are
in another table.
"""
