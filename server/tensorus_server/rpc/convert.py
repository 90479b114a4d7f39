"""Converts protobuf messages to the engine's values and back. Only this module and `convert_filter` know both.

The functions `*_from` read a message, and `*_to` make one. Messages are checked for their form only; the engine checks what
they mean.
"""

from __future__ import annotations

from functools import lru_cache
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from google.protobuf import timestamp_pb2

from tensorus_codecs.dtypes import dtype_by_name, dtype_by_number, opaque_dtype
from tensorus_codecs.encoding import Encoding
from tensorus_codecs.errors import InvalidPolicyError, UnsupportedDTypeError
from tensorus_codecs.policy import StoragePolicy
from tensorus_protos.v1 import tensorus_pb2 as pb
from tensorus_protos.values import from_value_map, to_value_map
from tensorus_server.engine.paging import answers
from tensorus_server.engine.validate import checked_spec, require_candidate_count
from tensorus_server.errors import InvalidMetadataError, InvalidRequestError, InvalidShapeError
from tensorus_server.model import (
    Append,
    Checksum,
    NewTensor,
    Outcome,
    Schema,
    Write,
)
from tensorus_server.rpc.convert_history import reference_from, retention_to
from tensorus_server.rpc.convert_read import slices_from

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from tensorus_codecs.dtypes import DType
    from tensorus_codecs.summary import ValueSummary
    from tensorus_server.engine.explain import Explanation
    from tensorus_server.model import (
        Dataset,
        DatasetStats,
        Edit,
        EncodingShare,
        Metadata,
        StorageReport,
        Tensor,
        TensorSpec,
    )

__all__ = [
    "TensorMessage",
    "checksum_from",
    "dataset_to",
    "encoding_from",
    "encoding_to",
    "explain_from",
    "explanation_to",
    "metadata_from",
    "new_tensor_from",
    "outcome_to",
    "policy_from",
    "schema_from",
    "spec_to",
    "stats_to",
    "tensor_to",
]

_METADATA_TYPES = {
    pb.METADATA_TYPE_UNSPECIFIED: "any",
    pb.METADATA_TYPE_BOOLEAN: "boolean",
    pb.METADATA_TYPE_INTEGER: "integer",
    pb.METADATA_TYPE_NUMBER: "number",
    pb.METADATA_TYPE_TEXT: "text",
    pb.METADATA_TYPE_LIST: "list",
    pb.METADATA_TYPE_MAP: "map",
}
_OUTCOMES = {
    None: pb.INSERT_OUTCOME_UNSPECIFIED,
    Outcome.INSERTED: pb.INSERT_OUTCOME_INSERTED,
    Outcome.ALREADY_STORED: pb.INSERT_OUTCOME_ALREADY_STORED,
    Outcome.REPLACED: pb.INSERT_OUTCOME_REPLACED,
    Outcome.CHANGED: pb.INSERT_OUTCOME_CHANGED,
}
_METADATA_TYPE_NUMBERS = {name: number for number, name in _METADATA_TYPES.items()}


def new_tensor_from(message: pb.Tensor, *, dataset: str) -> NewTensor:
    """Return the tensor that a first segment announces.

    Raises:
        UnsupportedDTypeError, InvalidShapeError, InvalidMetadataError, InvalidPolicyError, UnsupportedCodecError: a field is
            invalid.
        InvalidRequestError: it names another dataset, or has both `replace` and `if_generation_match`.
    """
    if message.dataset not in {"", dataset}:
        raise InvalidRequestError(
            f"dataset of the tensor is {message.dataset!r}, the stream's is another", dataset=dataset, tensor=message.id
        )
    spec_message, tensor_id = message.spec, message.id
    shape = tuple(spec_message.shape[:])
    spec = _known_spec(spec_message.dtype, spec_message.element_bits, shape)
    if spec is None:
        spec = checked_spec(_dtype_from(spec_message), shape, dataset=dataset, tensor=tensor_id)
    replaces_any, replaces_generation = message.replace, message.HasField("if_generation_match")
    if replaces_any and replaces_generation:
        raise InvalidRequestError(
            "a tensor has both replace and if_generation_match, must have at most one",
            dataset=dataset,
            tensor=tensor_id,
        )
    return NewTensor(
        id=tensor_id,
        spec=spec,
        metadata=metadata_from(message.metadata, dataset=dataset, tensor=tensor_id),
        policy=policy_from(message.policy) if message.HasField("policy") else None,
        source_checksum=checksum_from(message.source_checksum) if message.HasField("source_checksum") else None,
        if_generation_match=message.if_generation_match if replaces_generation else None,
        replace=replaces_any,
        edit=_edit_from(message.edit, dataset=dataset, tensor=tensor_id) if message.HasField("edit") else None,
        base=reference_from(message.base, dataset=dataset) if message.HasField("base") else None,
    )


def _edit_from(message: pb.Edit, *, dataset: str, tensor: str) -> Edit:
    match message.WhichOneof("kind"):
        case "append":
            return Append(message.append.axis)
        case "write":
            return Write(slices_from(message.write.slices))
    raise InvalidRequestError("an edit has no kind that this server knows", dataset=dataset, tensor=tensor)


def outcome_to(tensor: Tensor) -> pb.InsertOutcome:
    """Convert the outcome of an insert."""
    return _OUTCOMES[tensor.outcome]


def tensor_to(tensor: Tensor) -> pb.Tensor:
    """Convert a tensor, without its bytes."""
    message = pb.Tensor()
    TensorMessage(message).fill(tensor)
    return message


class TensorMessage:
    """A message that is reused for one tensor after the other; serialize it before filling it again.

    Consecutive tensors are often alike. The fields that they share stay in the message, which takes less than half of the time.
    Every field is set in one place: in `fill`, or in `_begin` if `_common_of` or `_are_alike` compares it.
    """

    def __init__(self, message: pb.Tensor) -> None:
        """Use `message`, which nothing else may change."""
        self._message = message
        self._last: Tensor | None = None
        self._common: tuple[Any, ...] = ()

    def fill(self, tensor: Tensor) -> None:
        """Set all fields of the message to those of `tensor`."""
        last, self._last = self._last, tensor
        message, values, common = self._message, tensor.values, _common_of(tensor)
        if last is None or common != self._common or not _are_alike(last, tensor):
            self._begin(tensor, common)
            self._common = common
        elif last.storage is not tensor.storage:
            _set_storage(message.storage, tensor.storage)
        message.id, message.generation, message.ordinal = tensor.id, tensor.generation, tensor.ordinal
        self._source_checksum.value = tensor.source_checksum.value
        self._value_checksum.value = tensor.value_checksum.value
        _set_time(self._create_time, tensor.created_us)
        if values is not None:
            _set_values(self._values, values)

    def _begin(self, tensor: Tensor, common: tuple[Any, ...]) -> None:
        """Clear the message, and set the fields that the next tensors may share."""
        message = self._message
        dataset, spec, chunk_bytes, source_algorithm, value_algorithm = common
        message.Clear()
        message.MergeFrom(
            pb.Tensor(
                dataset=dataset,
                spec=spec_to(spec),
                metadata=to_value_map(tensor.metadata),
                policy=None if tensor.policy is None else _policy_to(tensor.policy),
                source_checksum=pb.Checksum(algorithm=source_algorithm),
                value_checksum=pb.Checksum(algorithm=value_algorithm),
                storage=_storage_to(tensor.storage),
                chunk_bytes=chunk_bytes,
            )
        )
        # Kept, because each access to a message field creates an object.
        self._source_checksum, self._value_checksum = message.source_checksum, message.value_checksum
        self._create_time, self._values = message.create_time, message.values
        if tensor.values is not None:
            # The summary must be present even if all of its fields have their defaults.
            self._values.SetInParent()


_common_of = attrgetter("dataset", "spec", "chunk_bytes", "source_checksum.algorithm", "value_checksum.algorithm")
"""What tensors must share for a message to be filled again: `common` of `TensorMessage._begin`."""


def _are_alike(one: Tensor, other: Tensor) -> bool:
    """Whether `_begin` sets the remaining fields to the same values for both tensors."""
    return (
        # Not compared with ==, because equal metadata and policies may differ: 1 equals 1.0 and true.
        not (one.metadata or other.metadata)
        and one.policy is other.policy
        and (one.values is None) == (other.values is None)
        and (one.storage is other.storage or _have_same_encodings(one.storage, other.storage))
    )


def _have_same_encodings(one: StorageReport, other: StorageReport) -> bool:
    if one.encodings is other.encodings:
        return True
    return [share.encoding for share in one.encodings] == [share.encoding for share in other.encodings]


def spec_to(spec: TensorSpec) -> pb.TensorSpec:
    """Convert dtype and shape."""
    # The enum is open: numbers that this version does not know are preserved. The generated types do not express that.
    number: Any = spec.dtype.number
    return pb.TensorSpec(dtype=number, shape=spec.shape, element_bits=8 * spec.dtype.element_bytes)


def metadata_from(message: Mapping[str, pb.Value], *, dataset: str, tensor: str) -> Metadata:
    """Convert metadata to Python objects.

    Raises:
        InvalidMetadataError: a value has no kind that this version knows.
    """
    if not message:
        return {}
    try:
        return from_value_map(message)
    except ValueError as error:
        raise InvalidMetadataError(str(error), dataset=dataset, tensor=tensor) from error


def checksum_from(message: pb.Checksum) -> Checksum:
    """Convert a checksum."""
    return Checksum(message.algorithm, message.value)


def policy_from(message: pb.StoragePolicy) -> StoragePolicy:
    """Convert a policy.

    Raises:
        InvalidPolicyError, UnsupportedCodecError: the policy is invalid.
    """
    choice = message.WhichOneof("choice")
    return StoragePolicy(
        preset=message.preset if choice == "preset" else None,
        encoding=encoding_from(message.encoding) if choice == "encoding" else None,
        max_relative_error=message.max_relative_error if message.HasField("max_relative_error") else None,
        max_absolute_error=message.max_absolute_error if message.HasField("max_absolute_error") else None,
        chunk_bytes=message.chunk_bytes if message.HasField("chunk_bytes") else None,
    )


def encoding_from(message: pb.Encoding) -> Encoding:
    """Convert an encoding.

    Raises:
        InvalidPolicyError, UnsupportedCodecError: the encoding is invalid.
    """
    steps = []
    for codec in message.codecs:
        try:
            steps.append({"id": codec.id, "configuration": from_value_map(codec.configuration)})
        except ValueError as error:
            raise InvalidPolicyError(f"configuration of codec {codec.id!r}: {error}") from error
    return Encoding.from_json(steps)


def encoding_to(steps: Iterable[Mapping[str, Any]]) -> pb.Encoding:
    """Convert the JSON form of an encoding."""
    return pb.Encoding(
        codecs=[pb.Codec(id=step["id"], configuration=to_value_map(step.get("configuration", {}))) for step in steps]
    )


def explain_from(message: pb.OpenExplain) -> tuple[TensorSpec, list[StoragePolicy], list[int]]:
    """Return dtype and shape of a sample, the candidates, and the canonical bytes of each tensor in the sample.

    Raises:
        UnsupportedDTypeError, InvalidShapeError, InvalidPolicyError, UnsupportedCodecError: a field is invalid.
        LimitExceededError: the request has too many candidates.
    """
    require_candidate_count(len(message.candidates))
    spec = checked_spec(_dtype_from(message.spec), tuple(message.spec.shape))
    return spec, [policy_from(candidate) for candidate in message.candidates], list(message.tensor_bytes)


def explanation_to(explanation: Explanation) -> pb.PolicyExplanation:
    """Convert the explanation of a policy."""
    return pb.PolicyExplanation(
        policy=_policy_to(explanation.policy.to_json()),
        storage=_storage_to(explanation.storage),
        encode_bytes_per_second=explanation.encode_bytes_per_second,
        decode_bytes_per_second=explanation.decode_bytes_per_second,
        worst_relative_error=explanation.worst_relative_error,
    )


def schema_from(message: pb.DatasetSchema) -> Schema:
    """Convert a schema.

    Raises:
        UnsupportedDTypeError, InvalidMetadataError: this version does not know the dtype, or a metadata type.
    """
    dtype = None
    if message.dtype != pb.DATA_TYPE_UNSPECIFIED:
        known = dtype_by_number(message.dtype)
        if known is None:
            raise UnsupportedDTypeError(f"dtype of the schema is number {message.dtype}, which is unknown here")
        dtype = known.name
    for key, kind in message.metadata.items():
        if kind not in _METADATA_TYPES:
            raise InvalidMetadataError(f"type of {key!r} in the schema is number {kind}, which is unknown here")
    return Schema(
        dtype=dtype,
        shape=tuple(message.shape.sizes) if message.HasField("shape") else None,
        metadata={key: _METADATA_TYPES[kind] for key, kind in message.metadata.items()},
    )


def dataset_to(dataset: Dataset) -> pb.Dataset:
    """Convert a dataset."""
    schema = dataset.schema
    message = pb.Dataset(
        name=dataset.name,
        policy=_policy_to(dataset.policy.to_json()),
        create_time=_time_to(dataset.created_us),
        retention=retention_to(dataset.retention_s),
    )
    if schema.dtype is not None:
        message.schema.dtype = _dtype_number(schema.dtype)
    if schema.shape is not None:
        message.schema.shape.sizes.extend(schema.shape)
    for key, kind in schema.metadata.items():
        message.schema.metadata[key] = _METADATA_TYPE_NUMBERS[kind]
    return message


def stats_to(stats: DatasetStats) -> pb.GetDatasetStatsResponse:
    """Convert the sums over a dataset."""
    return pb.GetDatasetStatsResponse(
        tensors=stats.tensors,
        lossy_tensors=stats.lossy_tensors,
        canonical_bytes=stats.canonical_bytes,
        quantized_bytes=stats.quantized_bytes,
        stored_bytes=stats.stored_bytes,
        worst_relative_error=stats.worst_relative_error,
        worst_max_absolute_error=stats.worst_max_absolute_error,
        data_types=[
            pb.DataTypeShare(
                dtype=_dtype_number(share.dtype),
                tensors=share.tensors,
                canonical_bytes=share.canonical_bytes,
                stored_bytes=share.stored_bytes,
            )
            for share in stats.dtypes
        ],
        # If there are many encodings with long settings, only the largest shares fit into the message.
        encodings=next(answers(stats.encodings, _encoding_share_to)),
        damaged_tensors=stats.damaged_tensors,
        unique_bytes=stats.unique_bytes,
        unique_stored_bytes=stats.unique_stored_bytes,
    )


@lru_cache(maxsize=1024)
def _known_spec(number: int, element_bits: int, shape: tuple[int, ...]) -> TensorSpec | None:
    """Return the spec, or None if it is invalid. The result is cached, because consecutive tensors often have the same spec."""
    message = pb.TensorSpec(element_bits=element_bits)
    # The enum is open: numbers that this version does not know are preserved. The generated types do not express that.
    message.dtype = number  # type: ignore[assignment]
    try:
        return checked_spec(_dtype_from(message), shape)
    except (UnsupportedDTypeError, InvalidShapeError):
        return None


def _dtype_from(message: pb.TensorSpec) -> DType:
    if message.dtype == pb.DATA_TYPE_UNSPECIFIED:
        raise UnsupportedDTypeError("dtype of the tensor is not specified")
    known = dtype_by_number(message.dtype)
    if known is None:
        return opaque_dtype(message.dtype, message.element_bits)
    if message.element_bits not in {0, 8 * known.element_bytes}:
        raise UnsupportedDTypeError(
            f"element_bits is {message.element_bits}, but {known.name} has {8 * known.element_bytes} bits"
        )
    return known


def _dtype_number(name: str) -> Any:  # `Any`: the generated types demand a member of the enum, which is open
    prefix = "dtype_"
    return int(name.removeprefix(prefix)) if name.startswith(prefix) else dtype_by_name(name).number


def _policy_to(policy: Mapping[str, Any]) -> pb.StoragePolicy:
    scalars = {name: value for name, value in policy.items() if name != "encoding"}
    message = pb.StoragePolicy(**scalars)
    if "encoding" in policy:
        message.encoding.CopyFrom(encoding_to(policy["encoding"]))
    return message


def _storage_to(storage: StorageReport) -> pb.StorageReport:
    message = pb.StorageReport(
        encodings=[pb.EncodingShare(encoding=encoding_to(share.encoding)) for share in storage.encodings]
    )
    _set_storage(message, storage)
    return message


def _set_storage(message: pb.StorageReport, storage: StorageReport) -> None:
    """Set all fields except the encodings themselves."""
    message.canonical_bytes = storage.canonical_bytes
    message.quantized_bytes = storage.quantized_bytes
    message.stored_bytes = storage.stored_bytes
    message.relative_error = storage.relative_error
    message.max_absolute_error = storage.max_absolute_error
    message.lossy = storage.lossy
    message.fallback_reason = storage.fallback_reason
    for share_message, share in zip(message.encodings, storage.encodings, strict=True):
        share_message.chunks = share.chunks
        share_message.canonical_bytes = share.canonical_bytes
        share_message.stored_bytes = share.stored_bytes


def _encoding_share_to(share: EncodingShare) -> pb.EncodingShare:
    return pb.EncodingShare(
        encoding=encoding_to(share.encoding),
        chunks=share.chunks,
        canonical_bytes=share.canonical_bytes,
        stored_bytes=share.stored_bytes,
    )


def _set_values(message: pb.ValueSummary, values: ValueSummary) -> None:
    minimum, maximum, mean = values.minimum, values.maximum, values.mean
    standard_deviation, l2_norm = values.standard_deviation, values.l2_norm
    if minimum is None or maximum is None or mean is None or standard_deviation is None or l2_norm is None:
        # Clear the values of the previous tensor, because some are absent now.
        message.Clear()
    if minimum is not None and maximum is not None:
        message.min, message.max = minimum, maximum
    if mean is not None:
        message.mean = mean
    if standard_deviation is not None:
        message.standard_deviation = standard_deviation
    if l2_norm is not None:
        message.l2_norm = l2_norm
    message.zero_count = values.zero_count
    message.nan_count = values.nan_count
    message.infinity_count = values.infinity_count


def _time_to(time_us: int) -> timestamp_pb2.Timestamp:
    message = timestamp_pb2.Timestamp()
    _set_time(message, time_us)
    return message


def _set_time(message: timestamp_pb2.Timestamp, time_us: int) -> None:
    seconds, rest_us = divmod(time_us, 1_000_000)
    message.seconds = seconds
    message.nanos = 1000 * rest_us
