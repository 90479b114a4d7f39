"""Messages about datasets and policies into the client's values, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tensorus._grpc.convert_values import dtype_name, dtype_to, metadata_from, time_from
from tensorus._grpc.tensor_info import storage_fields
from tensorus.errors import InvalidMetadataError, InvalidPolicyError, InvalidShapeError
from tensorus.types import DatasetInfo, DatasetStats, DTypeShare, EncodingShare, Policy, PolicyExplanation, Schema
from tensorus_protos.v1 import tensorus_pb2 as pb
from tensorus_protos.values import to_value_map

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = [
    "codec_steps",
    "dataset_from",
    "explanation_from",
    "merged_shares",
    "policy_to",
    "schema_to",
    "share_from",
    "stats_from",
]

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
            dtype=dtype_name(schema.dtype) if schema.dtype else None,
            shape=tuple(None if size < 0 else size for size in schema.shape.sizes)
            if schema.HasField("shape")
            else None,
            metadata={key: _METADATA_TYPES_BACK.get(kind) for key, kind in schema.metadata.items()},
        ),
        created=time_from(message.create_time),
        retention=message.retention.ToTimedelta(),
    )


def explanation_from(message: pb.PolicyExplanation) -> PolicyExplanation:
    """Return what a policy would do."""
    return PolicyExplanation(
        policy=_policy_from(message.policy),
        **storage_fields(message.storage, share_from),
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
            DTypeShare(dtype_name(share.dtype), share.tensors, share.canonical_bytes, share.stored_bytes)
            for share in message.data_types
        ),
        encodings=merged_shares(map(share_from, message.encodings)),
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


def share_from(message: pb.EncodingShare) -> EncodingShare:
    """Return the share of an encoding."""
    codecs = tuple(codec.id for codec in message.encoding.codecs)
    return EncodingShare(codecs, message.chunks, message.canonical_bytes, message.stored_bytes)


def _policy_from(message: pb.StoragePolicy) -> Policy:
    choice = message.WhichOneof("choice")
    return Policy(
        preset=message.preset if choice == "preset" else None,
        encoding=[
            {"id": codec.id, "configuration": metadata_from(codec.configuration)} for codec in message.encoding.codecs
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
