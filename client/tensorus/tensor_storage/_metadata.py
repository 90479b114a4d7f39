"""Metadata of records: which part of a user's metadata is stored, and which metadata a record returns.

The store keeps the user's fields, flat, so that filters find them. It adds `timestamp_utc` and, if a configuration was set,
`compression_metadata` with the names of its algorithms. All other fields of a record are derived from the store's measurements:

record_id            id of the tensor
timestamp_utc        seconds since 1970
shape, dtype         of the tensor: a tuple, and text such as "torch.float32"
version              number of the record in its dataset, from 1; never reused. 0 if it is not stored yet
compressed           whether a configuration other than none/none was set
compression_metadata only then: `compression`, `quantization` (names as set), `quantization_params`, `original_size`
                     (canonical bytes), `compressed_size` (stored bytes), `compression_ratio`, `encodings` (of the chunks),
                     `lossy`, `fallback` (why chunks are not encoded as set; None if all are), `relative_error`,
                     `max_absolute_error` (both measured)

For a record imported from Tensorus 0.1, `compression_metadata` also has `import_status` ("imported", "repaired" or "lossy"),
`saturated_count` (number of elements beyond the range of the codes, if any), and in `quantization_params` the original `scale`
and `zero_point`. If 0.1 lost information, `lossy` is True and both errors are None, since they are unknown.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping
from typing import TYPE_CHECKING

from tensorus._grpc.convert_values import plain_metadata
from tensorus._imported import lost_before_import
from tensorus.errors import InvalidMetadataError
from tensorus_protos.plain import plain, seconds_since_1970
from tensorus_protos.values import from_value_map, to_value_map

if TYPE_CHECKING:
    from tensorus.types import Metadata, TensorInfo
    from tensorus_protos.values import MetadataValue

__all__ = [
    "SYSTEM_KEYS",
    "dtype_text",
    "new_metadata",
    "plain_value",
    "record_metadata",
    "replaced_metadata",
]

SYSTEM_KEYS = frozenset(
    {"record_id", "timestamp_utc", "shape", "dtype", "version", "compressed", "compression_metadata"}
)
"""Keys of every record (`compression_metadata`: of some). For a new record, a user may set the first two."""

_KEPT_KEYS = ("timestamp_utc", "compression_metadata")


def new_metadata(given: object, algorithms: Metadata | None) -> tuple[str, bool, Metadata]:
    """Return a new record's id, whether the user set it, and the metadata to store.

    Args:
        given: the user's metadata, or None.
        algorithms: the `compression_metadata` to store; None: no configuration was set.

    Raises:
        TypeError: metadata cannot hold a value (the message names its key), or id or time have a wrong type.
        ValueError: an integer exceeds 64 bits, text is not Unicode, or a time is not in ISO 8601.
    """
    user = _checked({} if given is None else given)
    record_id, timestamp = _given_id(user.get("record_id")), _given_time(user.get("timestamp_utc"))
    stored = _users_fields(user)
    stored["timestamp_utc"] = time.time() if timestamp is None else timestamp
    if algorithms is not None:
        stored["compression_metadata"] = dict(algorithms)
    return str(uuid.uuid4()) if record_id is None else record_id, record_id is not None, stored


def replaced_metadata(stored: Metadata, given: object) -> Metadata:
    """Return what is stored where the user's fields become those given. Raises as `new_metadata`."""
    return _users_fields(_checked(given)) | {key: stored[key] for key in _KEPT_KEYS if key in stored}


def record_metadata(info: TensorInfo) -> Metadata:
    """Return a fresh dict of all that is told of a record."""
    asked, timestamp = info.metadata.get("compression_metadata"), info.metadata.get("timestamp_utc")
    metadata = _users_fields(info.metadata) | {
        "record_id": info.id,
        "timestamp_utc": info.created.timestamp() if timestamp is None else timestamp,
        "shape": info.shape,
        "dtype": dtype_text(info.dtype),
        "version": info.ordinal,
        "compressed": isinstance(asked, dict),
    }
    if isinstance(asked, dict):
        metadata["compression_metadata"] = _compression_metadata(info, asked)
    return metadata


def dtype_text(dtype: str) -> str:
    """Return a dtype in the form of records, such as "torch.float32"."""
    return f"torch.{dtype}"


def plain_value(value: object) -> object:
    """Return a value as metadata return it, such as a list for a tuple or set; unchanged if metadata cannot hold it."""
    try:
        return from_value_map(to_value_map({"value": plain(value)}))["value"]
    except (TypeError, ValueError):
        return value


def _compression_metadata(info: TensorInfo, asked: Metadata) -> Metadata:
    lost = lost_before_import(info.metadata)
    parameters = asked.get("quantization_params")
    return {
        "compression": asked.get("compression", "none"),
        "quantization": asked.get("quantization", "none"),
        "quantization_params": {"original_dtype": dtype_text(info.dtype), "original_shape": list(info.shape)}
        | _entries(parameters, ("scale", "zero_point")),
        "original_size": info.canonical_bytes,
        "compressed_size": info.stored_bytes,
        "compression_ratio": info.ratio,
        "encodings": [
            {
                "codecs": list(share.codecs),
                "chunks": share.chunks,
                "canonical_bytes": share.canonical_bytes,
                "stored_bytes": share.stored_bytes,
            }
            for share in info.encodings
        ],
        "lossy": info.lossy or lost,
        "fallback": info.fallback_reason or None,
        "relative_error": None if lost else info.relative_error,
        "max_absolute_error": None if lost else info.max_absolute_error,
    } | _entries(asked, ("import_status", "saturated_count"))


def _entries(described: object, keys: tuple[str, ...]) -> Metadata:
    """Return the entries of a dict that have these keys."""
    return {key: described[key] for key in keys if key in described} if isinstance(described, dict) else {}


def _given_id(given: MetadataValue) -> str | None:
    """Return the id that a user set, or None."""
    if isinstance(given, bool) or not isinstance(given, (str, int, float, type(None))):
        raise TypeError(f"metadata['record_id'] is a {type(given).__name__}, must be a str or a number")
    return None if given is None or given == "" else str(given)


def _given_time(given: MetadataValue) -> float | None:
    """Return the time that a user set, in seconds since 1970, or None."""
    if isinstance(given, bool) or not isinstance(given, (str, int, float, type(None))):
        raise TypeError(
            f"metadata['timestamp_utc'] is a {type(given).__name__}, must be a number, or a time in ISO 8601"
        )
    if not isinstance(given, str):
        return given
    try:
        return seconds_since_1970(given)
    except (ValueError, OverflowError) as error:
        raise ValueError(
            f"metadata['timestamp_utc'] is {given[:80]!r}, must be a number of seconds since 1970, or a time in ISO 8601"
        ) from error


def _users_fields(metadata: Metadata) -> Metadata:
    return {key: value for key, value in metadata.items() if key not in SYSTEM_KEYS}


def _checked(given: object) -> Metadata:
    """Return a checked deep copy of a user's metadata."""
    if not isinstance(given, Mapping):
        raise TypeError(f"metadata is a {type(given).__name__}, must be a dict")
    try:
        # The store sets the other system keys, whatever the user put there.
        given = {key: plain(value, 1) for key, value in given.items() if key not in SYSTEM_KEYS or key in _GIVEN_KEYS}
        return plain_metadata(given)
    except InvalidMetadataError as error:
        if isinstance(error.__cause__, TypeError):
            raise TypeError(str(error)) from error
        raise


_GIVEN_KEYS = frozenset({"record_id", "timestamp_utc"})
