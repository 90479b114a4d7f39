"""The engine's values as users hear them. Used by `embedded.py` alone."""

from __future__ import annotations

from dataclasses import fields
from datetime import UTC, datetime, timedelta
from functools import partial
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from tensorus._tensor_info import described, measured
from tensorus.types import DatasetInfo, EncodingShare, Policy, Schema, ValueSummary
from tensorus_server import model

if TYPE_CHECKING:
    from tensorus.types import TensorInfo
    from tensorus_codecs.policy import StoragePolicy
    from tensorus_codecs.summary import ValueSummary as EngineValueSummary

__all__ = ["dataset_info", "encoding_share", "policy_info", "tensor_info"]

_SCHEMA_TYPES: dict[str, type | None] = {
    "any": None,
    "boolean": bool,
    "integer": int,
    "number": float,
    "text": str,
    "list": list,
    "map": dict,
}

_STORED = frozenset({model.Outcome.INSERTED, model.Outcome.REPLACED})

_ENGINE_NAMES = {"min": "minimum", "max": "maximum"}
_summary_of = attrgetter(*(_ENGINE_NAMES.get(field.name, field.name) for field in fields(ValueSummary)))
"""Takes the arguments of a `ValueSummary` from the engine's."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def policy_info(policy: StoragePolicy) -> Policy:
    """Return a policy."""
    return Policy(
        preset=policy.preset,
        encoding=None if policy.encoding is None else policy.encoding.to_json(),
        max_relative_error=policy.max_relative_error,
        max_absolute_error=policy.max_absolute_error,
        chunk_bytes=policy.chunk_bytes,
    )


def dataset_info(dataset: model.Dataset) -> DatasetInfo:
    """Return a dataset."""
    schema = dataset.schema
    return DatasetInfo(
        name=dataset.name,
        policy=policy_info(dataset.policy),
        schema=Schema(
            dtype=schema.dtype,
            shape=None if schema.shape is None else tuple(None if size < 0 else size for size in schema.shape),
            metadata={key: _SCHEMA_TYPES[kind] for key, kind in schema.metadata.items()},
        ),
        created=_time(dataset.created_us),
    )


def tensor_info(tensor: model.Tensor) -> TensorInfo:
    """Return what is known of a tensor; most of it is only worked out when it is asked for."""
    # Not the tensor itself, which may have its payload.
    checksums = tensor.source_checksum.value, tensor.value_checksum.value
    return described(
        tensor,
        dtype=tensor.spec.dtype.name,
        shape=tensor.spec.shape,
        metadata=tensor.metadata,
        inserted=tensor.outcome in _STORED,
        rest=partial(_measured, tensor.storage, tensor.values, *checksums, tensor.created_us),
    )


def _measured(
    storage: model.StorageReport,
    values: EngineValueSummary | None,
    source_checksum: bytes,
    value_checksum: bytes,
    created_us: int,
) -> dict[str, Any]:
    return measured(
        storage,
        None if values is None else ValueSummary(*_summary_of(values)),
        source_checksum=source_checksum,
        value_checksum=value_checksum,
        created=_time(created_us),
        share_from=encoding_share,
    )


def encoding_share(share: model.EncodingShare) -> EncodingShare:
    """Return how many chunks got one encoding."""
    codecs = tuple(step["id"] for step in share.encoding)
    return EncodingShare(codecs, share.chunks, share.canonical_bytes, share.stored_bytes)


def _time(time_us: int) -> datetime:
    return _EPOCH + timedelta(microseconds=time_us)
