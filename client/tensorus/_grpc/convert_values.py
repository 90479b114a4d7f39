"""Plain values in the contract's messages, and back: dtypes, metadata and times."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from tensorus.errors import InternalError, InvalidMetadataError, LimitExceededError, UnsupportedDTypeError
from tensorus_protos.v1 import tensorus_pb2 as pb
from tensorus_protos.values import from_value_map, to_value_map

if TYPE_CHECKING:
    from google.protobuf import timestamp_pb2

    from tensorus.types import Metadata

__all__ = ["dtype_from", "dtype_name", "dtype_to", "metadata_from", "metadata_to", "plain_metadata", "time_from"]

_DTYPE_PREFIX = "DATA_TYPE_"
# `Any`: the generated types demand a member of the enum where a number would do.
_DTYPE_NUMBERS: dict[str, Any] = {
    name.removeprefix(_DTYPE_PREFIX).lower(): number for name, number in pb.DataType.items() if number
}
_DTYPE_NAMES = {number: name for name, number in _DTYPE_NUMBERS.items()}

_METADATA_BYTES_MAX = 1024 * 1024
"""As messages, so that an announcement fits a message. A server takes 64 KiB as JSON, which are never that much as messages."""

_FLAT_KEYS_MAX, _FLAT_TEXT_MAX = 64, 1024
"""Of metadata that need no look at how large they are as messages: far less than `_METADATA_BYTES_MAX`."""

_FLAT_KINDS = frozenset({bool, float, type(None)})
"""Beside text and integers, which may be too long."""

_INTEGER_MAX = 2**63 - 1

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


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
    return kind in _FLAT_KINDS or (kind is int and -_INTEGER_MAX <= value <= _INTEGER_MAX)


def metadata_from(message: Mapping[str, pb.Value]) -> Metadata:
    """Return metadata.

    Raises:
        InternalError: they have something that this version cannot read.
    """
    if not message:
        return {}
    try:
        return from_value_map(message)
    except ValueError as error:
        raise InternalError(f"{error}; a newer version of Tensorus may read it") from error


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
    return dtype_name(spec.dtype)


def dtype_name(number: int) -> str:
    """Return the name of a dtype's number; `dtype_<number>` if this version does not know it."""
    return _DTYPE_NAMES.get(number) or f"dtype_{number}"


def time_from(message: timestamp_pb2.Timestamp) -> datetime:
    """Return a time, UTC."""
    return _EPOCH + timedelta(seconds=message.seconds, microseconds=message.nanos // 1000)
