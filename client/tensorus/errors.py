"""What can go wrong when you use Tensorus, remote or embedded.

TensorusError
├── NotFoundError (also LookupError)
│   ├── DatasetNotFoundError
│   └── TensorNotFoundError
├── AlreadyExistsError
│   └── StoredDifferentlyError     the same values are stored, with other metadata, or less exactly than asked for
├── GenerationMismatchError
├── InsertAbandonedError           another tensor of an insert of all or nothing failed
├── InvalidRequestError (also ValueError)
│   ├── InvalidNameError
│   ├── InvalidShapeError
│   ├── InvalidSliceError
│   ├── InvalidMetadataError
│   ├── InvalidFilterError
│   ├── InvalidPolicyError
│   ├── UnsupportedDTypeError
│   ├── UnsupportedCodecError
│   ├── LimitExceededError
│   └── SchemaMismatchError
├── ChecksumMismatchError          bytes were damaged on their way
├── DataCorruptError               stored bytes are damaged, or some are missing
├── StorageFullError
├── OverloadedError
├── UnavailableError (also ConnectionError)
├── NotImplementedByServerError
├── InternalError
└── InsertManyError                some tensors of an `insert_many` were not stored

ConnectionLostWarning (a UserWarning): a call fails at the same place again and again, and is still tried

Every error has a `reason`, which is the contract's name for it, and `facts`, the values in its message for programs. Errors
are told apart by reason, never by text.
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
    "InsertAbandonedError",
    "InsertManyError",
    "InternalError",
    "InvalidFilterError",
    "InvalidMetadataError",
    "InvalidNameError",
    "InvalidPolicyError",
    "InvalidRequestError",
    "InvalidShapeError",
    "InvalidSliceError",
    "LimitExceededError",
    "NotFoundError",
    "NotImplementedByServerError",
    "OverloadedError",
    "SchemaMismatchError",
    "StorageFullError",
    "StoredDifferentlyError",
    "TensorNotFoundError",
    "TensorusError",
    "UnavailableError",
    "UnsupportedCodecError",
    "UnsupportedDTypeError",
    "error_for",
]


class TensorusError(Exception):
    """Base of every error of Tensorus."""

    def __init__(self, message: str, *, reason: str = "INTERNAL", facts: Mapping[str, str] | None = None) -> None:
        """Keep message, reason and facts."""
        super().__init__(message)
        self.reason = reason
        self.facts: dict[str, str] = dict(facts or {})


class ConnectionLostWarning(UserWarning):
    """A call failed twice without progress in between, and is tried again; the message names the cause."""


class NotFoundError(TensorusError, LookupError):
    """What was named does not exist."""


class DatasetNotFoundError(NotFoundError):
    """There is no dataset of this name."""


class TensorNotFoundError(NotFoundError):
    """There is no tensor with this id."""


class AlreadyExistsError(TensorusError):
    """The name or id is taken."""


class StoredDifferentlyError(AlreadyExistsError):
    """The same values are stored under this id, but with other metadata, or less exactly than was asked for."""


class GenerationMismatchError(TensorusError):
    """The tensor is there in another generation, or is there although it must not be."""


class InsertAbandonedError(TensorusError):
    """Another tensor of an insert that stores all or nothing failed, so this one was not stored, either."""


class InvalidRequestError(TensorusError, ValueError):
    """The request cannot be right; sent again, it fails again."""


class InvalidNameError(InvalidRequestError):
    """A name or id that is not allowed."""


class InvalidShapeError(InvalidRequestError):
    """A shape that is not allowed."""


class InvalidSliceError(InvalidRequestError):
    """A slice that the tensor does not have."""


class InvalidMetadataError(InvalidRequestError):
    """Metadata that cannot be kept."""


class InvalidFilterError(InvalidRequestError):
    """A filter that does not parse, or asks what cannot be answered."""


class InvalidPolicyError(InvalidRequestError):
    """A preset or policy that cannot be followed."""


class UnsupportedDTypeError(InvalidRequestError):
    """A dtype that one side does not know."""


class UnsupportedCodecError(InvalidRequestError):
    """A codec that one side does not know, or whose library is not installed."""


class LimitExceededError(InvalidRequestError):
    """More of something than is allowed."""


class SchemaMismatchError(InvalidRequestError):
    """A tensor that does not fit its dataset's schema."""


class ChecksumMismatchError(TensorusError):
    """Bytes were damaged on their way; sent again, they may arrive."""


class DataCorruptError(TensorusError):
    """Stored bytes are damaged, or not all of a tensor's bytes arrived; the message names dataset and tensor."""


class StorageFullError(TensorusError):
    """The store's disk is full; reads and deletes go on."""


class OverloadedError(TensorusError):
    """The server has as much to do as it admits; try again later."""


class UnavailableError(TensorusError, ConnectionError):
    """The server cannot be reached, is about to stop, or takes no writes; or another program keeps the store locked."""


class NotImplementedByServerError(TensorusError):
    """The server's version does not implement this part of the contract."""


class InternalError(TensorusError):
    """The other side failed unexpectedly, or gave no proper answer; a server's log has more under the number in the message."""


class InsertManyError(TensorusError):
    """Some tensors of an `insert_many` were not stored; the others are."""

    def __init__(self, inserted: Sequence[TensorInfo], failed: Sequence[tuple[int, TensorusError]]) -> None:
        """Name how many failed and why the first one did.

        Args:
            inserted: what is stored, in the order of the input.
            failed: positions in the input, and why.
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
        """Pickle by what it was made of: `Exception` would make it again from its message alone."""
        return type(self), (self.inserted, self.failed)


_BY_REASON: dict[str, type[TensorusError]] = {
    "DATASET_NOT_FOUND": DatasetNotFoundError,
    "TENSOR_NOT_FOUND": TensorNotFoundError,
    "ALREADY_EXISTS": AlreadyExistsError,
    "STORED_DIFFERENTLY": StoredDifferentlyError,
    "GENERATION_MISMATCH": GenerationMismatchError,
    "INVALID_REQUEST": InvalidRequestError,
    "INVALID_NAME": InvalidNameError,
    "INVALID_SHAPE": InvalidShapeError,
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
    "DATA_CORRUPT": "what is stored is damaged: restore this tensor from a copy, or insert it again, and check the disk",
}
"""What to do, where the message of a server only says what was found."""


def error_for(reason: str, message: str, facts: Mapping[str, str]) -> TensorusError:
    """Return the error that a reason of the contract stands for; a reason from the future is a plain `TensorusError`."""
    if advice := _ADVICE.get(reason):
        message = f"{message}; {advice}"
    return _BY_REASON.get(reason, TensorusError)(message, reason=reason, facts=facts)
