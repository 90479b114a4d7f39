"""The exceptions of Tensorus, the same for a server and for a store in this process.

TensorusError
├── NotFoundError (also LookupError)
│   ├── DatasetNotFoundError
│   ├── TensorNotFoundError
│   ├── SnapshotNotFoundError
│   ├── StateNotKeptError
│   └── TokenNotFoundError
├── AlreadyExistsError
│   └── StoredDifferentlyError     the same values are stored, with other metadata or less exact than requested
├── GenerationMismatchError
├── NewerTensorsError              a restore would lose tensors that nothing keeps
├── HasSnapshotsError
├── InsertAbandonedError           another tensor of the same all-or-nothing insert failed
├── InvalidRequestError (also ValueError)
│   ├── InvalidNameError
│   ├── InvalidShapeError
│   ├── InvalidSliceError
│   ├── InvalidBaseError
│   ├── InvalidMetadataError
│   ├── InvalidFilterError
│   ├── InvalidPolicyError
│   ├── UnsupportedDTypeError
│   ├── UnsupportedCodecError
│   ├── LimitExceededError
│   └── SchemaMismatchError
├── ChecksumMismatchError          bytes were damaged in transit
├── DataCorruptError               stored bytes are damaged or missing
├── StorageFullError
├── QuotaExceededError             the caller may not store more, or open more streams
├── OverloadedError
│   └── RateLimitedError           the caller makes more calls per second than it may
├── UnauthenticatedError (also PermissionError)
├── PermissionDeniedError (also PermissionError)
├── ReadOnlyError                  the store is open for reading only
├── UnavailableError (also ConnectionError)
├── NotImplementedByServerError
├── InternalError
└── InsertManyError                some tensors of an `insert_many` were not stored

ConnectionLostWarning (a UserWarning): a call keeps failing without progress, and is still being retried

Every error has a `reason`, its code in the gRPC contract, and `facts`, the values in its message in machine-readable form.
Programs should distinguish errors by class or reason, never by text.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tensorus.types import TensorInfo

__all__ = [
    "AlreadyExistsError",
    "ChecksumMismatchError",
    "ConnectionLostWarning",
    "DataCorruptError",
    "DatasetNotFoundError",
    "GenerationMismatchError",
    "HasSnapshotsError",
    "InsertAbandonedError",
    "InsertManyError",
    "InternalError",
    "InvalidBaseError",
    "InvalidFilterError",
    "InvalidMetadataError",
    "InvalidNameError",
    "InvalidPolicyError",
    "InvalidRequestError",
    "InvalidShapeError",
    "InvalidSliceError",
    "LimitExceededError",
    "NewerTensorsError",
    "NotFoundError",
    "NotImplementedByServerError",
    "OverloadedError",
    "PermissionDeniedError",
    "QuotaExceededError",
    "RateLimitedError",
    "ReadOnlyError",
    "SchemaMismatchError",
    "SnapshotNotFoundError",
    "StateNotKeptError",
    "StorageFullError",
    "StoredDifferentlyError",
    "TensorNotFoundError",
    "TensorusError",
    "TokenNotFoundError",
    "UnauthenticatedError",
    "UnavailableError",
    "UnsupportedCodecError",
    "UnsupportedDTypeError",
    "error_for",
]


class TensorusError(Exception):
    """Base class of all Tensorus errors."""

    def __init__(self, message: str, *, reason: str = "INTERNAL", facts: Mapping[str, str] | None = None) -> None:
        """Store message, reason and facts."""
        super().__init__(message)
        self.reason = reason
        self.facts: dict[str, str] = dict(facts or {})


class ConnectionLostWarning(UserWarning):
    """A call failed twice without progress in between, and is being retried. The message names the cause."""


class NotFoundError(TensorusError, LookupError):
    """A dataset, a tensor, a snapshot or an earlier state does not exist."""


class DatasetNotFoundError(NotFoundError):
    """No dataset has this name."""


class TensorNotFoundError(NotFoundError):
    """No tensor of the dataset has this id."""


class SnapshotNotFoundError(NotFoundError):
    """The dataset has no snapshot with this name."""


class StateNotKeptError(NotFoundError):
    """The dataset's state at this generation or time is not kept, or is not reached yet."""


class TokenNotFoundError(NotFoundError):
    """The store has no access token with this id."""


class AlreadyExistsError(TensorusError):
    """A dataset or a snapshot already has this name, or another tensor already has this id."""


class StoredDifferentlyError(AlreadyExistsError):
    """The same values are stored under this id, but with other metadata or less exact than requested."""


class GenerationMismatchError(TensorusError):
    """The stored tensor has another generation than required, or exists although it must not."""


class NewerTensorsError(TensorusError):
    """A restore would lose tensors that no snapshot and no retention keeps."""


class HasSnapshotsError(TensorusError):
    """A dataset with snapshots was to be deleted."""


class InsertAbandonedError(TensorusError):
    """This tensor was not stored because another tensor of the same all-or-nothing insert failed."""


class InvalidRequestError(TensorusError, ValueError):
    """The request is invalid. Retrying it fails again."""


class InvalidNameError(InvalidRequestError):
    """A name or id is not allowed."""


class InvalidShapeError(InvalidRequestError):
    """A shape is not allowed."""


class InvalidBaseError(InvalidRequestError):
    """The base of a tensor has another dtype or shape."""


class InvalidSliceError(InvalidRequestError):
    """A slice does not fit the tensor."""


class InvalidMetadataError(InvalidRequestError):
    """Metadata cannot be stored: it has an unsupported type or value."""


class InvalidFilterError(InvalidRequestError):
    """A filter does not parse, or cannot be evaluated."""


class InvalidPolicyError(InvalidRequestError):
    """A preset is unknown, or a policy is invalid."""


class UnsupportedDTypeError(InvalidRequestError):
    """Client or server does not know the dtype."""


class UnsupportedCodecError(InvalidRequestError):
    """Client or server does not know the codec, or its library is not installed."""


class LimitExceededError(InvalidRequestError):
    """A size or count exceeds its limit; the message names both."""


class SchemaMismatchError(InvalidRequestError):
    """A tensor does not fit the schema of its dataset."""


class ChecksumMismatchError(TensorusError):
    """Bytes were damaged in transit. A retry may succeed."""


class DataCorruptError(TensorusError):
    """Stored bytes are damaged, or a tensor arrived incomplete. The message names dataset and tensor."""


class StorageFullError(TensorusError):
    """The disk of the store is full. Reads and deletes still work."""


class OverloadedError(TensorusError):
    """The server is at its limit of concurrent work. Retry later."""


class RateLimitedError(OverloadedError):
    """The caller makes more calls per second than its quota allows; the client retries by itself after the pause."""


class QuotaExceededError(TensorusError):
    """The call would exceed what the caller may store or have open. `facts` has the limit."""


class UnauthenticatedError(TensorusError, PermissionError):
    """The server does not know who the caller is: there is no token or certificate, or it is unknown, expired or revoked."""


class PermissionDeniedError(TensorusError, PermissionError):
    """The caller lacks the right that the call needs, which the message names."""


class ReadOnlyError(TensorusError):
    """The store is open for reading only."""


class UnavailableError(TensorusError, ConnectionError):
    """The server is unreachable, shutting down, or not accepting writes.

    With reason STORE_BUSY, another process has locked the store, another edit of the tensor was in the way, or the base of a
    tensor was deleted or replaced while the tensor was stored.
    """


class NotImplementedByServerError(TensorusError):
    """This version of the server does not implement the call."""


class InternalError(TensorusError):
    """The server or engine failed unexpectedly. A server logs details under the number in the message."""


class InsertManyError(TensorusError):
    """Some tensors of an `insert_many` were not stored; the others were."""

    def __init__(self, inserted: Sequence[TensorInfo], failed: Sequence[tuple[int, TensorusError]]) -> None:
        """Build the message from the number of failures and the first of them.

        Args:
            inserted: descriptions of the stored tensors, in the order of the input.
            failed: position in the input and error of each tensor that failed; at least one.
        """
        position, first = failed[0]
        super().__init__(
            f"{len(failed)} of {len(inserted) + len(failed)} tensors were not stored; number {position}: {first}",
            reason=first.reason,
            facts=first.facts,
        )
        self.inserted = list(inserted)
        self.failed = list(failed)

    def __reduce__(self) -> tuple[type[InsertManyError], tuple[object, ...]]:
        """Pickle the constructor's arguments, because `Exception` would pass only the message to it."""
        return type(self), (self.inserted, self.failed)


_BY_REASON: dict[str, type[TensorusError]] = {
    "DATASET_NOT_FOUND": DatasetNotFoundError,
    "TENSOR_NOT_FOUND": TensorNotFoundError,
    "SNAPSHOT_NOT_FOUND": SnapshotNotFoundError,
    "STATE_NOT_KEPT": StateNotKeptError,
    "TOKEN_NOT_FOUND": TokenNotFoundError,
    "ALREADY_EXISTS": AlreadyExistsError,
    "STORED_DIFFERENTLY": StoredDifferentlyError,
    "GENERATION_MISMATCH": GenerationMismatchError,
    "NEWER_TENSORS": NewerTensorsError,
    "HAS_SNAPSHOTS": HasSnapshotsError,
    "INVALID_REQUEST": InvalidRequestError,
    "INVALID_NAME": InvalidNameError,
    "INVALID_SHAPE": InvalidShapeError,
    "INVALID_BASE": InvalidBaseError,
    "INVALID_SLICE": InvalidSliceError,
    "INVALID_METADATA": InvalidMetadataError,
    "INVALID_FILTER": InvalidFilterError,
    "INVALID_POLICY": InvalidPolicyError,
    "INVALID_PAGE_TOKEN": InvalidRequestError,
    "UNSUPPORTED_DTYPE": UnsupportedDTypeError,
    "UNSUPPORTED_CODEC": UnsupportedCodecError,
    "LIMIT_EXCEEDED": LimitExceededError,
    "PAYLOAD_TOO_LARGE": LimitExceededError,
    "SCHEMA_MISMATCH": SchemaMismatchError,
    "SEGMENT_OUT_OF_ORDER": InvalidRequestError,
    "SEGMENT_MISALIGNED": InvalidRequestError,
    "SIZE_MISMATCH": InvalidRequestError,
    "CREDIT_EXCEEDED": InvalidRequestError,
    "CHECKSUM_MISMATCH": ChecksumMismatchError,
    "DATA_CORRUPT": DataCorruptError,
    "STORAGE_FULL": StorageFullError,
    "TOO_MANY_STREAMS": OverloadedError,
    "RATE_LIMITED": RateLimitedError,
    "QUOTA_EXCEEDED": QuotaExceededError,
    "UNAUTHENTICATED": UnauthenticatedError,
    "PERMISSION_DENIED": PermissionDeniedError,
    "READ_ONLY": ReadOnlyError,
    "INSERT_ABANDONED": InsertAbandonedError,
    "SESSION_TAKEN_OVER": UnavailableError,
    "STREAM_STALLED": UnavailableError,
    "SESSION_EXPIRED": UnavailableError,
    "DRAINING": UnavailableError,
    "STORE_BUSY": UnavailableError,
    "STORE_UNAVAILABLE": UnavailableError,
    "NOT_IMPLEMENTED": NotImplementedByServerError,
    "INTERNAL": InternalError,
}


_ADVICE = {
    "DATA_CORRUPT": "the stored data is damaged: restore this tensor from a backup or insert it again, and check the disk",
}
"""Advice appended to messages in which the server only states what it found."""


def error_for(reason: str, message: str, facts: Mapping[str, str]) -> TensorusError:
    """Return the error for a reason of the contract. Unknown reasons, from newer servers, give a plain `TensorusError`."""
    if advice := _ADVICE.get(reason):
        message = f"{message}; {advice}"
    return _BY_REASON.get(reason, TensorusError)(message, reason=reason, facts=facts)
