"""The contract's messages of tensors into the client's values, and back; and its errors."""

from __future__ import annotations

from dataclasses import fields
from functools import lru_cache, partial
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from google.rpc import error_details_pb2

from tensorus._backend import Append, Part
from tensorus._grpc.convert_dataset import policy_to, share_from
from tensorus._grpc.convert_history import reference_to
from tensorus._grpc.convert_values import dtype_name, dtype_to, metadata_from, metadata_to, time_from
from tensorus._grpc.tensor_info import described, measured
from tensorus.errors import DataCorruptError, InternalError, InvalidNameError, error_for
from tensorus.types import ValueSummary
from tensorus_protos.v1 import tensorus_pb2 as pb

if TYPE_CHECKING:
    from google.rpc import status_pb2

    from tensorus._backend import Upload, Write
    from tensorus.errors import TensorusError
    from tensorus.types import TensorInfo

__all__ = [
    "damage_from",
    "error_from",
    "error_of",
    "inserted_from",
    "precision_to",
    "slices_to",
    "tensor_from",
    "upload_to",
]

_PRECISIONS: dict[str | None, pb.Precision] = {None: pb.PRECISION_UNSPECIFIED, "bf16": pb.PRECISION_BF16}

_BOUND_MAX = 2**63 - 1
"""Of a slice on the wire; beyond every axis, as anything larger is."""

_SUMMARY = [field.name for field in fields(ValueSummary)]
_MAY_BE_ABSENT = [field.name for field in pb.ValueSummary.DESCRIPTOR.fields if field.has_presence]
_numbers_of = attrgetter(*_SUMMARY)


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
        dtype=dtype_name(spec.dtype),
        shape=tuple(spec.shape[:]),
        metadata=metadata_from(message.metadata),
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
        share_from=share_from,
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
            base=None if upload.base is None else reference_to(upload.base),
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
    return pb.TensorSpec(dtype=dtype_to(dtype), shape=shape)


def precision_to(precision: str | None) -> pb.Precision:
    """Return the precision of a read."""
    return _PRECISIONS[precision]


def slices_to(part: Part) -> pb.SliceSet:
    """Return slices."""
    return pb.SliceSet(axes=map(_slice_to, part.axes), trailing_axes=map(_slice_to, part.trailing_axes))


def error_from(status: status_pb2.Status) -> TensorusError | None:
    """Return the error that a status stands for, or None where it carries no reason of the contract."""
    error, retry = None, error_details_pb2.RetryInfo()
    for detail in status.details:
        info = error_details_pb2.ErrorInfo()
        if error is None and detail.Unpack(info) and info.domain == "tensorus":
            error = error_for(info.reason, status.message, info.metadata)
        elif detail.Unpack(retry) and error is not None:
            error.facts.setdefault("retry_after_s", str(retry.retry_delay.ToMilliseconds() / 1000))
    return error


def error_of(status: status_pb2.Status) -> TensorusError:
    """Return the error that a status stands for, whatever it carries."""
    return error_from(status) or InternalError(status.message)


def damage_from(message: pb.Damage) -> DataCorruptError:
    """Return the error of something that is damaged."""
    error = error_of(message.status)
    if isinstance(error, DataCorruptError):
        return error
    return DataCorruptError(str(error), reason="DATA_CORRUPT", facts=error.facts)


def _slice_to(part: slice) -> pb.Slice:
    return pb.Slice(start=_bound(part.start), stop=_bound(part.stop), step=_bound(part.step))


def _bound(bound: int | None) -> int | None:
    return None if bound is None else max(-_BOUND_MAX, min(bound, _BOUND_MAX))


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
