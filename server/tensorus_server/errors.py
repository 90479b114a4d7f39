"""The errors of the engine, independent of gRPC.

EngineError
├── NotFoundError
│   ├── DatasetNotFoundError        DATASET_NOT_FOUND
│   ├── TensorNotFoundError         TENSOR_NOT_FOUND
│   ├── SnapshotNotFoundError       SNAPSHOT_NOT_FOUND
│   ├── StateNotKeptError           STATE_NOT_KEPT
│   └── TokenNotFoundError          TOKEN_NOT_FOUND
├── AlreadyExistsError              ALREADY_EXISTS
│   └── StoredDifferentlyError      STORED_DIFFERENTLY
├── GenerationMismatchError         GENERATION_MISMATCH
├── NewerTensorsError               NEWER_TENSORS
├── HasSnapshotsError               HAS_SNAPSHOTS
├── InvalidRequestError             INVALID_REQUEST
│   ├── InvalidNameError            INVALID_NAME
│   ├── InvalidShapeError           INVALID_SHAPE
│   ├── InvalidSliceError           INVALID_SLICE
│   ├── InvalidMetadataError        INVALID_METADATA
│   ├── InvalidFilterError          INVALID_FILTER
│   ├── InvalidBaseError            INVALID_BASE
│   ├── InvalidPageTokenError       INVALID_PAGE_TOKEN
│   ├── LimitExceededError          LIMIT_EXCEEDED
│   ├── PayloadTooLargeError        PAYLOAD_TOO_LARGE
│   ├── SegmentOutOfOrderError      SEGMENT_OUT_OF_ORDER
│   ├── SegmentMisalignedError      SEGMENT_MISALIGNED
│   ├── SizeMismatchError           SIZE_MISMATCH
│   ├── ChecksumMismatchError       CHECKSUM_MISMATCH
│   └── SchemaMismatchError         SCHEMA_MISMATCH
├── UnimplementedError              NOT_IMPLEMENTED
├── InsertAbandonedError            INSERT_ABANDONED
├── SessionTakenOverError           SESSION_TAKEN_OVER
├── SessionExpiredError             SESSION_EXPIRED
├── StreamStalledError              STREAM_STALLED
├── TooManyStreamsError             TOO_MANY_STREAMS
├── DrainingError                   DRAINING
├── StorageFullError                STORAGE_FULL
├── StoreBusyError                  STORE_BUSY
├── StoreUnavailableError           STORE_UNAVAILABLE
├── ReadOnlyError                   READ_ONLY
├── UnauthenticatedError            UNAUTHENTICATED
├── PermissionDeniedError           PERMISSION_DENIED
├── QuotaExceededError              QUOTA_EXCEEDED
├── RateLimitedError                RATE_LIMITED
└── DataCorruptError                DATA_CORRUPT

Each leaf has a reason, which is its name on the wire (`ErrorReason` in the contract); `status.py` maps it to a gRPC code. Some
errors of the codecs pass through unchanged; `reason_of` returns their reasons. Callers match class or reason, never text.
"""

from __future__ import annotations

from typing import ClassVar

from tensorus_codecs.errors import (
    InvalidPolicyError,
    UnknownCodecNumberError,
    UnsupportedCodecError,
    UnsupportedDTypeError,
)

__all__ = [
    "AlreadyExistsError",
    "ChecksumMismatchError",
    "DataCorruptError",
    "DatasetNotFoundError",
    "DrainingError",
    "EngineError",
    "GenerationMismatchError",
    "HasSnapshotsError",
    "InsertAbandonedError",
    "InvalidBaseError",
    "InvalidFilterError",
    "InvalidMetadataError",
    "InvalidNameError",
    "InvalidPageTokenError",
    "InvalidRequestError",
    "InvalidShapeError",
    "InvalidSliceError",
    "LimitExceededError",
    "NewerTensorsError",
    "NotFoundError",
    "PayloadTooLargeError",
    "PermissionDeniedError",
    "QuotaExceededError",
    "RateLimitedError",
    "ReadOnlyError",
    "SchemaMismatchError",
    "SegmentMisalignedError",
    "SegmentOutOfOrderError",
    "SessionExpiredError",
    "SessionTakenOverError",
    "SizeMismatchError",
    "SnapshotNotFoundError",
    "StateNotKeptError",
    "StorageFullError",
    "StoreBusyError",
    "StoreUnavailableError",
    "StoredDifferentlyError",
    "StreamStalledError",
    "TensorNotFoundError",
    "TokenNotFoundError",
    "TooManyStreamsError",
    "UnauthenticatedError",
    "UnimplementedError",
    "facts_of",
    "reason_of",
]


class EngineError(Exception):
    """Base of every error that the engine raises on purpose."""

    reason: ClassVar[str] = "INTERNAL"
    """The leaf's name on the wire."""

    def __init__(self, message: str, *, dataset: str | None = None, tensor: str | None = None, **facts: object) -> None:
        """Build the full message by appending the identity, such as [dataset=d, tensor=t].

        Args:
            message: what is wrong, with the value, and the limit with its unit.
            dataset: name of the dataset, if any.
            tensor: id of the tensor, if any.
            facts: the facts of the message for programs, e.g. `limit=512`.
        """
        identity = {"dataset": dataset, "tensor": tensor}
        named = {name: value for name, value in identity.items() if value is not None}
        suffix = ", ".join(f"{name}={value}" for name, value in named.items())
        super().__init__(f"{message} [{suffix}]" if suffix else message)
        self.facts: dict[str, str] = {**named, **{name: str(value) for name, value in facts.items()}}


class NotFoundError(EngineError):
    """A dataset, a tensor, a snapshot or an earlier state does not exist."""


class DatasetNotFoundError(NotFoundError):
    """No dataset has this name."""

    reason = "DATASET_NOT_FOUND"


class TensorNotFoundError(NotFoundError):
    """The dataset has no tensor with this id."""

    reason = "TENSOR_NOT_FOUND"


class SnapshotNotFoundError(NotFoundError):
    """The dataset has no snapshot with this name."""

    reason = "SNAPSHOT_NOT_FOUND"


class StateNotKeptError(NotFoundError):
    """The dataset's state at this generation or time is not kept, or is not reached yet."""

    reason = "STATE_NOT_KEPT"


class TokenNotFoundError(NotFoundError):
    """No token has this id."""

    reason = "TOKEN_NOT_FOUND"


class AlreadyExistsError(EngineError):
    """The name or the id is already taken."""

    reason = "ALREADY_EXISTS"


class StoredDifferentlyError(AlreadyExistsError):
    """The same values are stored under this id, but with other metadata, or less exactly than requested."""

    reason = "STORED_DIFFERENTLY"


class GenerationMismatchError(EngineError):
    """The tensor's generation is not the requested one."""

    reason = "GENERATION_MISMATCH"


class NewerTensorsError(EngineError):
    """A restore would lose tensors that no snapshot and no retention keeps."""

    reason = "NEWER_TENSORS"


class HasSnapshotsError(EngineError):
    """A dataset cannot be deleted, because it has snapshots."""

    reason = "HAS_SNAPSHOTS"


class InvalidRequestError(EngineError):
    """The request violates the contract; a retry fails again."""

    reason = "INVALID_REQUEST"


class InvalidNameError(InvalidRequestError):
    """A dataset's name or a tensor's id is not allowed."""

    reason = "INVALID_NAME"


class InvalidShapeError(InvalidRequestError):
    """A shape has a negative size, too many dimensions or too many bytes."""

    reason = "INVALID_SHAPE"


class InvalidSliceError(InvalidRequestError):
    """A slice or a byte range does not fit the tensor."""

    reason = "INVALID_SLICE"


class InvalidMetadataError(InvalidRequestError):
    """Metadata holds a value that cannot be stored."""

    reason = "INVALID_METADATA"


class InvalidFilterError(InvalidRequestError):
    """A filter does not parse, or compares with a value that cannot be indexed."""

    reason = "INVALID_FILTER"


class InvalidBaseError(InvalidRequestError):
    """The base of a tensor has another dtype or shape."""

    reason = "INVALID_BASE"


class InvalidPageTokenError(InvalidRequestError):
    """A page token was not issued by this server, or belongs to another query."""

    reason = "INVALID_PAGE_TOKEN"


class LimitExceededError(InvalidRequestError):
    """A request has more of something than a limit allows."""

    reason = "LIMIT_EXCEEDED"


class PayloadTooLargeError(InvalidRequestError):
    """A message, a payload or a segment is above its limit."""

    reason = "PAYLOAD_TOO_LARGE"


class SegmentOutOfOrderError(InvalidRequestError):
    """A segment does not continue its item."""

    reason = "SEGMENT_OUT_OF_ORDER"


class SegmentMisalignedError(InvalidRequestError):
    """The lengths of segments do not add up to the payload, or a segment splits an element."""

    reason = "SEGMENT_MISALIGNED"


class SizeMismatchError(InvalidRequestError):
    """There are more or fewer bytes than dtype and shape need."""

    reason = "SIZE_MISMATCH"


class ChecksumMismatchError(InvalidRequestError):
    """Received bytes do not match their checksum."""

    reason = "CHECKSUM_MISMATCH"


class SchemaMismatchError(InvalidRequestError):
    """A tensor does not fit its dataset's schema."""

    reason = "SCHEMA_MISMATCH"


class UnimplementedError(EngineError):
    """This version does not implement a part of the contract."""

    reason = "NOT_IMPLEMENTED"


class InsertAbandonedError(EngineError):
    """Another item of an all-or-nothing insert failed, so this one was not stored, either."""

    reason = "INSERT_ABANDONED"


class SessionTakenOverError(EngineError):
    """A newer stream has taken over this insert."""

    reason = "SESSION_TAKEN_OVER"


class SessionExpiredError(EngineError):
    """An insert cannot be resumed, because nothing of it is stored any more; its tensors must be sent from their start."""

    reason = "SESSION_EXPIRED"


class StreamStalledError(EngineError):
    """The client sent or read nothing for too long; an insert can be resumed, and a read continues where it stopped."""

    reason = "STREAM_STALLED"


class TooManyStreamsError(EngineError):
    """The server has as many streams as it admits, or as its memory budget allows."""

    reason = "TOO_MANY_STREAMS"


class DrainingError(EngineError):
    """The server is about to stop and accepts no new calls."""

    reason = "DRAINING"


class StorageFullError(EngineError):
    """The disk, or the share of it that inserts may use, is full; reads and deletes still work."""

    reason = "STORAGE_FULL"


class StoreBusyError(EngineError):
    """Another process keeps the store locked, or another edit of the tensor was in the way; nothing was done, so retry."""

    reason = "STORE_BUSY"


class StoreUnavailableError(EngineError):
    """The store failed, or cannot be opened; nothing that was committed is lost."""

    reason = "STORE_UNAVAILABLE"


class ReadOnlyError(EngineError):
    """The store is open for reading only."""

    reason = "READ_ONLY"


class UnauthenticatedError(EngineError):
    """The caller did not prove who it is: no token or certificate, or one that is unknown, expired or revoked."""

    reason = "UNAUTHENTICATED"


class PermissionDeniedError(EngineError):
    """The caller lacks the right that the call needs."""

    reason = "PERMISSION_DENIED"


class QuotaExceededError(EngineError):
    """The call would exceed what its principal may store, or have open; a retry may succeed once something is freed."""

    reason = "QUOTA_EXCEEDED"


class RateLimitedError(EngineError):
    """The principal makes more calls per second than it may; says when to retry."""

    reason = "RATE_LIMITED"


class DataCorruptError(EngineError):
    """Stored bytes are damaged; names dataset, tensor, chunk, expected and found."""

    reason = "DATA_CORRUPT"


_CODEC_REASONS: dict[type[BaseException], str] = {
    InvalidPolicyError: "INVALID_POLICY",
    UnknownCodecNumberError: "UNSUPPORTED_CODEC",
    UnsupportedCodecError: "UNSUPPORTED_CODEC",
    UnsupportedDTypeError: "UNSUPPORTED_DTYPE",
}


def reason_of(error: BaseException) -> str:
    """Return the error's reason on the wire; INTERNAL for unexpected errors."""
    if isinstance(error, EngineError):
        return error.reason
    return _CODEC_REASONS.get(type(error), "INTERNAL")


def facts_of(error: BaseException) -> dict[str, str]:
    """Return the error's facts for programs."""
    return error.facts if isinstance(error, EngineError) else {}
