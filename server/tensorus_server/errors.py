"""What can go wrong in the engine; nothing of gRPC.

EngineError
├── NotFoundError
│   ├── DatasetNotFoundError        DATASET_NOT_FOUND
│   └── TensorNotFoundError         TENSOR_NOT_FOUND
├── AlreadyExistsError              ALREADY_EXISTS
│   └── StoredDifferentlyError      STORED_DIFFERENTLY
├── GenerationMismatchError         GENERATION_MISMATCH
├── InvalidRequestError             INVALID_REQUEST
│   ├── InvalidNameError            INVALID_NAME
│   ├── InvalidShapeError           INVALID_SHAPE
│   ├── InvalidSliceError           INVALID_SLICE
│   ├── InvalidMetadataError        INVALID_METADATA
│   ├── InvalidFilterError          INVALID_FILTER
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
└── DataCorruptError                DATA_CORRUPT

A leaf's reason is its name on the wire (`ErrorReason` in the contract); `status.py` adds the gRPC code. Three errors of the
codecs pass through as they are: `reason_of` knows their reasons. Callers match class or reason, never text.
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
    "InsertAbandonedError",
    "InvalidFilterError",
    "InvalidMetadataError",
    "InvalidNameError",
    "InvalidPageTokenError",
    "InvalidRequestError",
    "InvalidShapeError",
    "InvalidSliceError",
    "LimitExceededError",
    "NotFoundError",
    "PayloadTooLargeError",
    "SchemaMismatchError",
    "SegmentMisalignedError",
    "SegmentOutOfOrderError",
    "SessionExpiredError",
    "SessionTakenOverError",
    "SizeMismatchError",
    "StorageFullError",
    "StoreBusyError",
    "StoreUnavailableError",
    "StoredDifferentlyError",
    "StreamStalledError",
    "TensorNotFoundError",
    "TooManyStreamsError",
    "UnimplementedError",
    "facts_of",
    "reason_of",
]


class EngineError(Exception):
    """Base of every error that the engine raises on purpose."""

    reason: ClassVar[str] = "INTERNAL"
    """The leaf's name on the wire."""

    def __init__(self, message: str, *, dataset: str | None = None, tensor: str | None = None, **facts: object) -> None:
        """Make the message that says what, value and limit, and append whose it is.

        Args:
            message: what is wrong, with the value and the limit and its unit.
            dataset: name of the dataset, where there is one.
            tensor: id of the tensor, where there is one.
            facts: the same facts for programs, e.g. `limit=512`.
        """
        identity = {"dataset": dataset, "tensor": tensor}
        named = {name: value for name, value in identity.items() if value is not None}
        suffix = ", ".join(f"{name}={value}" for name, value in named.items())
        super().__init__(f"{message} [{suffix}]" if suffix else message)
        self.facts: dict[str, str] = {**named, **{name: str(value) for name, value in facts.items()}}


class NotFoundError(EngineError):
    """Something that was named does not exist."""


class DatasetNotFoundError(NotFoundError):
    """No dataset has this name."""

    reason = "DATASET_NOT_FOUND"


class TensorNotFoundError(NotFoundError):
    """The dataset has no tensor with this id, or not in this generation."""

    reason = "TENSOR_NOT_FOUND"


class AlreadyExistsError(EngineError):
    """The name or id is taken by something else."""

    reason = "ALREADY_EXISTS"


class StoredDifferentlyError(AlreadyExistsError):
    """The same values are stored under this id, but with other metadata, or less exactly than was asked for."""

    reason = "STORED_DIFFERENTLY"


class GenerationMismatchError(EngineError):
    """The tensor is there in another generation than the one asked for."""

    reason = "GENERATION_MISMATCH"


class InvalidRequestError(EngineError):
    """The request contradicts the contract; sent again, it fails again."""

    reason = "INVALID_REQUEST"


class InvalidNameError(InvalidRequestError):
    """A dataset's name or a tensor's id that is not allowed."""

    reason = "INVALID_NAME"


class InvalidShapeError(InvalidRequestError):
    """A shape with a negative size, too many dimensions or too many bytes."""

    reason = "INVALID_SHAPE"


class InvalidSliceError(InvalidRequestError):
    """A slice or byte range that the tensor does not have."""

    reason = "INVALID_SLICE"


class InvalidMetadataError(InvalidRequestError):
    """Metadata that cannot be kept."""

    reason = "INVALID_METADATA"


class InvalidFilterError(InvalidRequestError):
    """A filter that does not parse, or that asks what cannot be answered."""

    reason = "INVALID_FILTER"


class InvalidPageTokenError(InvalidRequestError):
    """A page token that this server did not give, or not for this query."""

    reason = "INVALID_PAGE_TOKEN"


class LimitExceededError(InvalidRequestError):
    """More of something than one request may have."""

    reason = "LIMIT_EXCEEDED"


class PayloadTooLargeError(InvalidRequestError):
    """A message, a payload or a segment above its limit."""

    reason = "PAYLOAD_TOO_LARGE"


class SegmentOutOfOrderError(InvalidRequestError):
    """A segment that does not continue its item."""

    reason = "SEGMENT_OUT_OF_ORDER"


class SegmentMisalignedError(InvalidRequestError):
    """Segments whose lengths do not add up to the payload, or that cut an element."""

    reason = "SEGMENT_MISALIGNED"


class SizeMismatchError(InvalidRequestError):
    """More or fewer bytes than dtype and shape need."""

    reason = "SIZE_MISMATCH"


class ChecksumMismatchError(InvalidRequestError):
    """Bytes that are not what their checksum says."""

    reason = "CHECKSUM_MISMATCH"


class SchemaMismatchError(InvalidRequestError):
    """A tensor that does not fit its dataset's schema."""

    reason = "SCHEMA_MISMATCH"


class UnimplementedError(EngineError):
    """A part of the contract that this version does not implement."""

    reason = "NOT_IMPLEMENTED"


class InsertAbandonedError(EngineError):
    """Another item of an insert that stores all or nothing failed, so this one was not stored, either."""

    reason = "INSERT_ABANDONED"


class SessionTakenOverError(EngineError):
    """A newer stream goes on with this insert."""

    reason = "SESSION_TAKEN_OVER"


class SessionExpiredError(EngineError):
    """What an insert left is not there any more, or never was: its tensors must be sent from their start."""

    reason = "SESSION_EXPIRED"


class StreamStalledError(EngineError):
    """Nothing came from the client, or it took nothing, for too long; an insert can be resumed, a read goes on where it was."""

    reason = "STREAM_STALLED"


class TooManyStreamsError(EngineError):
    """The server serves as many streams as it admits, or as its memory suffices for."""

    reason = "TOO_MANY_STREAMS"


class DrainingError(EngineError):
    """The server is about to stop and takes nothing new."""

    reason = "DRAINING"


class StorageFullError(EngineError):
    """The disk, or the share of it that inserts may use, is full; reads and deletes go on."""

    reason = "STORAGE_FULL"


class StoreBusyError(EngineError):
    """Another program, or another process, keeps the store locked; nothing of this call was done, and it may be repeated."""

    reason = "STORE_BUSY"


class StoreUnavailableError(EngineError):
    """The store failed, or what it needs cannot be had; nothing acknowledged is lost."""

    reason = "STORE_UNAVAILABLE"


class DataCorruptError(EngineError):
    """Stored bytes are not what was written; names dataset, tensor, chunk, expected and found."""

    reason = "DATA_CORRUPT"


_CODEC_REASONS: dict[type[BaseException], str] = {
    InvalidPolicyError: "INVALID_POLICY",
    UnknownCodecNumberError: "UNSUPPORTED_CODEC",
    UnsupportedCodecError: "UNSUPPORTED_CODEC",
    UnsupportedDTypeError: "UNSUPPORTED_DTYPE",
}


def reason_of(error: BaseException) -> str:
    """Return the error's reason on the wire; INTERNAL for what nobody foresaw."""
    if isinstance(error, EngineError):
        return error.reason
    return _CODEC_REASONS.get(type(error), "INTERNAL")


def facts_of(error: BaseException) -> dict[str, str]:
    """Return the facts that the error carries for programs."""
    return error.facts if isinstance(error, EngineError) else {}
