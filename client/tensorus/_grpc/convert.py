"""The contract's messages into the client's values, and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from datetime import UTC, datetime, timedelta
from functools import lru_cache, partial
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from google.rpc import error_details_pb2

from tensorus._backend import Append, Part
from tensorus._grpc.tensor_info import described, measured, storage_fields
from tensorus.errors import (
    DataCorruptError,
    InternalError,
    InvalidMetadataError,
    InvalidNameError,
    InvalidPolicyError,
    InvalidShapeError,
    LimitExceededError,
    UnsupportedDTypeError,
    error_for,
)
from tensorus.types import (
    DatasetInfo,
    DatasetStats,
    DTypeShare,
    EncodingShare,
    Policy,
    PolicyExplanation,
    Schema,
    ValueSummary,
)
from tensorus_protos.v1 import tensorus_pb2 as pb
from tensorus_protos.values import from_value_map, to_value_map

if TYPE_CHECKING:
    from collections.abc import Iterable

    from google.protobuf import timestamp_pb2
    from google.rpc import status_pb2

    from tensorus._backend import Upload, Write
    from tensorus.errors import TensorusError
    from tensorus.types import Metadata, TensorInfo

__all__ = [
    "codec_steps",
    "damage_from",
    "dataset_from",
    "dtype_from",
    "dtype_to",
    "error_from",
    "error_of",
    "explanation_from",
    "inserted_from",
    "merged_shares",
    "metadata_to",
    "plain_metadata",
    "policy_to",
    "precision_to",
    "schema_to",
    "slices_to",
    "stats_from",
    "tensor_from",
    "time_from",
    "upload_to",
]

_DTYPE_PREFIX = "DATA_TYPE_"
# `Any`: the generated types demand a member of the enum where a number would do.
_DTYPE_NUMBERS: dict[str, Any] = {
    name.removeprefix(_DTYPE_PREFIX).lower(): number for name, number in pb.DataType.items() if number
}
_DTYPE_NAMES = {number: name for name, number in _DTYPE_NUMBERS.items()}

_METADATA_TYPES: dict[type | None, pb.MetadataType] = {
    None: pb.METADATA_TYPE_UNSPECIFIED,
    bool: pb.METADATA_TYPE_BOOLEAN,
    int: pb.METADATA_TYPE_INTEGER,
    float: pb.METADATA_TYPE_NUMBER,
    str: pb.METADATA_TYPE_TEXT,
    list: pb.METADATA_TYPE_LIST,
    dict: pb.METADATA_TYPE_MAP,
}
_METADATA_TYPES_BACK = {number: kind for kind, number in _METADATA_TYPES.items()}

_PRECISIONS: dict[str | None, pb.Precision] = {None: pb.PRECISION_UNSPECIFIED, "bf16": pb.PRECISION_BF16}

_METADATA_BYTES_MAX = 1024 * 1024
"""As messages, so that an announcement fits a message. A server takes 64 KiB as JSON, which are never that much as messages."""

_FLAT_KEYS_MAX, _FLAT_TEXT_MAX = 64, 1024
"""Of metadata that need no look at how large they are as messages: far less than `_METADATA_BYTES_MAX`."""

_FLAT_KINDS = frozenset({bool, float, type(None)})
"""Beside text and integers, which may be too long."""

_BOUND_MAX = 2**63 - 1
"""Of a slice on the wire; beyond every axis, as anything larger is."""

_SUMMARY = [field.name for field in fields(ValueSummary)]
_MAY_BE_ABSENT = [field.name for field in pb.ValueSummary.DESCRIPTOR.fields if field.has_presence]
_numbers_of = attrgetter(*_SUMMARY)

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def tensor_from(message: pb.Tensor, *, inserted: bool = False, coarse_error: float = 0.0) -> TensorInfo:
    """Return what a message says of a tensor; most of it is only taken out of the message when it is asked for.

    Args:
        inserted, coarse_error: see `TensorInfo`.

    Raises:
        InternalError: its metadata have something that this version cannot read.
    """
    spec = message.spec
    return described(
        message,
        dtype=_dtype_name(spec.dtype),
        shape=tuple(spec.shape[:]),
        metadata=_metadata_from(message.metadata),
        inserted=inserted,
        coarse_error=coarse_error,
        rest=partial(_measured_from, message),
    )


def inserted_from(status: pb.ItemStatus) -> TensorInfo:
    """Return what an item of an insert became. Raises as `tensor_from`."""
    return tensor_from(status.tensor, inserted=status.outcome != pb.INSERT_OUTCOME_ALREADY_STORED)


def _measured_from(message: pb.Tensor) -> dict[str, Any]:
    return measured(
        message.storage,
        _values_from(message.values) if message.HasField("values") else None,
        source_checksum=message.source_checksum.value,
        value_checksum=message.value_checksum.value,
        created=time_from(message.create_time),
        share_from=_share_from,
    )


def upload_to(upload: Upload) -> pb.Tensor:
    """Return how a first segment announces an upload.

    Raises:
        InvalidNameError, InvalidMetadataError, LimitExceededError, InvalidPolicyError: what the contract cannot carry.
    """
    spec = _spec_to(upload.dtype, upload.shape)
    policy = None if upload.policy is None else policy_to(upload.policy)
    metadata = metadata_to(upload.metadata)
    try:
        return pb.Tensor(
            id=upload.id,
            spec=spec,
            # None takes less time than no keys.
            metadata=metadata or None,
            policy=policy,
            if_generation_match=upload.if_generation_match,
            replace=upload.replace,
            edit=_edit_to(upload.edit),
        )
    except UnicodeEncodeError as error:
        raise InvalidNameError(
            f"id of a tensor is not Unicode text: {error.reason} at character {error.start}", reason="INVALID_NAME"
        ) from error


def _edit_to(edit: Append | Write | None) -> pb.Edit | None:
    if edit is None:
        return None
    if isinstance(edit, Append):
        return pb.Edit(append=pb.AppendEdit(axis=edit.axis))
    return pb.Edit(write=pb.WriteEdit(slices=slices_to(Part(edit.axes, edit.trailing_axes))))


@lru_cache(maxsize=1024)
def _spec_to(dtype: str, shape: tuple[int, ...]) -> pb.TensorSpec:
    return pb.TensorSpec(dtype=_DTYPE_NUMBERS[dtype], shape=shape)


def metadata_to(metadata: Mapping[str, Any]) -> dict[str, pb.Value]:
    """Return metadata as messages.

    Raises:
        InvalidMetadataError: it is no mapping, or something in it has no place in the contract.
        LimitExceededError: more than a message may have.
    """
    if not isinstance(metadata, Mapping):
        raise InvalidMetadataError(
            f"metadata is a {type(metadata).__name__}, must be a mapping of str", reason="INVALID_METADATA"
        )
    if not metadata:
        return {}
    try:
        values = to_value_map(metadata)
    except (TypeError, ValueError) as error:
        raise InvalidMetadataError(str(error), reason="INVALID_METADATA") from error
    size = sum(len(key) + value.ByteSize() for key, value in values.items())
    if size > _METADATA_BYTES_MAX:
        raise LimitExceededError(
            f"metadata is {size} bytes, limit is {_METADATA_BYTES_MAX} bytes before it is sent, and less at the store",
            reason="LIMIT_EXCEEDED",
            facts={"limit": str(_METADATA_BYTES_MAX)},
        )
    return values


def plain_metadata(metadata: Mapping[str, Any]) -> Metadata:
    """Return a copy of metadata as every store has them: what comes back from `metadata_to`. Raises as that does."""
    if type(metadata) is dict and len(metadata) <= _FLAT_KEYS_MAX and all(map(_is_flat, metadata.items())):
        # Messages would bring back the same, in ten times the time.
        return dict(metadata)
    return from_value_map(metadata_to(metadata))


def _is_flat(entry: tuple[Any, Any]) -> bool:
    """Whether a key and its value are of Python's own types, short, and no containers."""
    key, value = entry
    if type(key) is not str or len(key) > _FLAT_TEXT_MAX or not key.isascii():
        return False
    kind = type(value)
    if kind is str:
        return len(value) <= _FLAT_TEXT_MAX and value.isascii()
    return kind in _FLAT_KINDS or (kind is int and -_BOUND_MAX <= value <= _BOUND_MAX)


def policy_to(policy: Policy) -> pb.StoragePolicy:
    """Return a policy.

    Raises:
        InvalidPolicyError: what the contract cannot carry.
    """
    if policy.encoding is not None and policy.preset is not None:
        raise InvalidPolicyError("policy has both preset and encoding, must have at most one", reason="INVALID_POLICY")
    steps = None if policy.encoding is None else codec_steps(policy.encoding)
    try:
        message = pb.StoragePolicy(
            preset=policy.preset,
            max_relative_error=policy.max_relative_error,
            max_absolute_error=policy.max_absolute_error,
            chunk_bytes=policy.chunk_bytes,
        )
        if steps is not None:
            message.encoding.SetInParent()
            for step in steps:
                configuration = to_value_map(step.get("configuration", {}), f"configuration of codec {step['id']!r}")
                message.encoding.codecs.add(id=step["id"], configuration=configuration)
    except (TypeError, ValueError) as error:
        raise InvalidPolicyError(
            f"{policy} has a value that the contract cannot carry: {error}", reason="INVALID_POLICY"
        ) from error
    return message


def codec_steps(encoding: Iterable[str | Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return an encoding with every step written out.

    Raises:
        InvalidPolicyError: a step is neither an id nor a mapping with an id and, where it likes, a configuration.
    """
    steps: list[dict[str, Any]] = []
    for step in encoding:
        if isinstance(step, str):
            steps.append({"id": step})
        elif _is_step(step):
            steps.append(dict(step))
        else:
            raise InvalidPolicyError(
                f"a step of an encoding is {step!r}, must be a codec's id or {{'id': ..., 'configuration': {{...}}}}",
                reason="INVALID_POLICY",
            )
    return steps


def schema_to(schema: Schema) -> pb.DatasetSchema:
    """Return a schema.

    Raises:
        UnsupportedDTypeError, InvalidShapeError, InvalidMetadataError: a dtype, a size or a type that the contract does not
            have.
    """
    message = pb.DatasetSchema()
    if schema.dtype is not None:
        message.dtype = dtype_to(schema.dtype)
    if schema.shape is not None:
        message.shape.SetInParent()
        try:
            message.shape.sizes.extend(-1 if size is None else size for size in schema.shape)
        except (TypeError, ValueError) as error:
            raise InvalidShapeError(
                f"shape of a schema is {list(schema.shape)}, must be integers of 64 bits, or None for any",
                reason="INVALID_SHAPE",
            ) from error
    for key, kind in schema.metadata.items():
        if kind not in _METADATA_TYPES:
            raise InvalidMetadataError(
                f"type of {key!r} in a schema is {kind!r}, must be bool, int, float, str, list, dict or None",
                reason="INVALID_METADATA",
            )
        try:
            message.metadata[key] = _METADATA_TYPES[kind]
        except (TypeError, ValueError) as error:
            raise InvalidMetadataError(
                f"a key of a schema is {key!r}, must be Unicode text", reason="INVALID_METADATA"
            ) from error
    return message


def dataset_from(message: pb.Dataset) -> DatasetInfo:
    """Return a dataset."""
    schema = message.schema
    return DatasetInfo(
        name=message.name,
        policy=_policy_from(message.policy),
        schema=Schema(
            dtype=_dtype_name(schema.dtype) if schema.dtype else None,
            shape=tuple(None if size < 0 else size for size in schema.shape.sizes)
            if schema.HasField("shape")
            else None,
            metadata={key: _METADATA_TYPES_BACK.get(kind) for key, kind in schema.metadata.items()},
        ),
        created=time_from(message.create_time),
    )


def explanation_from(message: pb.PolicyExplanation) -> PolicyExplanation:
    """Return what a policy would do."""
    return PolicyExplanation(
        policy=_policy_from(message.policy),
        **storage_fields(message.storage, _share_from),
        encode_bytes_per_second=message.encode_bytes_per_second,
        decode_bytes_per_second=message.decode_bytes_per_second,
        worst_relative_error=message.worst_relative_error,
    )


def stats_from(message: pb.GetDatasetStatsResponse) -> DatasetStats:
    """Return a dataset's sums."""
    return DatasetStats(
        tensors=message.tensors,
        lossy_tensors=message.lossy_tensors,
        canonical_bytes=message.canonical_bytes,
        quantized_bytes=message.quantized_bytes,
        stored_bytes=message.stored_bytes,
        worst_relative_error=message.worst_relative_error,
        worst_max_absolute_error=message.worst_max_absolute_error,
        dtypes=tuple(
            DTypeShare(_dtype_name(share.dtype), share.tensors, share.canonical_bytes, share.stored_bytes)
            for share in message.data_types
        ),
        encodings=merged_shares(map(_share_from, message.encodings)),
        damaged_tensors=message.damaged_tensors,
        damaged_ids=tuple(damage.id for damage in message.damages),
    )


def merged_shares(shares: Iterable[EncodingShare]) -> tuple[EncodingShare, ...]:
    """Return one share for each chain of codecs, the largest stored share first.

    Stores tell encodings apart by the codecs' settings, of which a share says nothing.
    """
    sums: dict[tuple[str, ...], EncodingShare] = {}
    for share in shares:
        known = sums.get(share.codecs, EncodingShare(share.codecs, 0, 0, 0))
        sums[share.codecs] = EncodingShare(
            share.codecs,
            known.chunks + share.chunks,
            known.canonical_bytes + share.canonical_bytes,
            known.stored_bytes + share.stored_bytes,
        )
    return tuple(sorted(sums.values(), key=lambda share: share.stored_bytes, reverse=True))


def precision_to(precision: str | None) -> pb.Precision:
    """Return the precision of a read."""
    return _PRECISIONS[precision]


def slices_to(part: Part) -> pb.SliceSet:
    """Return slices."""
    return pb.SliceSet(axes=map(_slice_to, part.axes), trailing_axes=map(_slice_to, part.trailing_axes))


def error_from(status: status_pb2.Status) -> TensorusError | None:
    """Return the error that a status stands for, or None where it carries no reason of the contract."""
    for detail in status.details:
        info = error_details_pb2.ErrorInfo()
        if detail.Unpack(info) and info.domain == "tensorus":
            return error_for(info.reason, status.message, info.metadata)
    return None


def error_of(status: status_pb2.Status) -> TensorusError:
    """Return the error that a status stands for, whatever it carries."""
    return error_from(status) or InternalError(status.message)


def damage_from(message: pb.Damage) -> DataCorruptError:
    """Return the error of something that is damaged."""
    error = error_of(message.status)
    if isinstance(error, DataCorruptError):
        return error
    return DataCorruptError(str(error), reason="DATA_CORRUPT", facts=error.facts)


def _policy_from(message: pb.StoragePolicy) -> Policy:
    choice = message.WhichOneof("choice")
    return Policy(
        preset=message.preset if choice == "preset" else None,
        encoding=[
            {"id": codec.id, "configuration": _metadata_from(codec.configuration)} for codec in message.encoding.codecs
        ]
        if choice == "encoding"
        else None,
        max_relative_error=message.max_relative_error if message.HasField("max_relative_error") else None,
        max_absolute_error=message.max_absolute_error if message.HasField("max_absolute_error") else None,
        chunk_bytes=message.chunk_bytes if message.HasField("chunk_bytes") else None,
    )


def _is_step(step: object) -> bool:
    return (
        isinstance(step, Mapping)
        and isinstance(step.get("id"), str)
        and isinstance(step.get("configuration", {}), Mapping)
        and step.keys() <= {"id", "configuration"}
    )


def _metadata_from(message: Mapping[str, pb.Value]) -> Metadata:
    if not message:
        return {}
    try:
        return from_value_map(message)
    except ValueError as error:
        raise InternalError(f"{error}; a newer version of Tensorus may read it") from error


def _slice_to(part: slice) -> pb.Slice:
    return pb.Slice(start=_bound(part.start), stop=_bound(part.stop), step=_bound(part.step))


def _bound(bound: int | None) -> int | None:
    return None if bound is None else max(-_BOUND_MAX, min(bound, _BOUND_MAX))


def dtype_to(name: str) -> Any:  # `Any`: a number of the contract's enum
    """Return the number of a dtype.

    Raises:
        UnsupportedDTypeError: the contract has none of this name.
    """
    if name not in _DTYPE_NUMBERS:
        raise UnsupportedDTypeError(
            f"dtype {name!r} is not one of {', '.join(_DTYPE_NUMBERS)}", reason="UNSUPPORTED_DTYPE"
        )
    return _DTYPE_NUMBERS[name]


def dtype_from(spec: pb.TensorSpec) -> str:
    """Return the name of a spec's dtype."""
    return _dtype_name(spec.dtype)


def _dtype_name(number: int) -> str:
    return _DTYPE_NAMES.get(number) or f"dtype_{number}"


def _share_from(message: pb.EncodingShare) -> EncodingShare:
    codecs = tuple(codec.id for codec in message.encoding.codecs)
    return EncodingShare(codecs, message.chunks, message.canonical_bytes, message.stored_bytes)


def _values_from(message: pb.ValueSummary) -> ValueSummary:
    numbers = _numbers_of(message)
    if all(map(message.HasField, _MAY_BE_ABSENT)):
        return ValueSummary(*numbers)
    # `Any`: which of them may be absent is the contract's to say.
    found: list[Any] = [
        None if name in _MAY_BE_ABSENT and not message.HasField(name) else number
        for name, number in zip(_SUMMARY, numbers, strict=True)
    ]
    return ValueSummary(*found)


def time_from(message: timestamp_pb2.Timestamp) -> datetime:
    """Return a time, UTC."""
    return _EPOCH + timedelta(seconds=message.seconds, microseconds=message.nanos // 1000)
