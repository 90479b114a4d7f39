"""What can go wrong in `TensorStorage`: the exceptions of Tensorus 0.1, which are those of `tensorus.errors` at the same time.

DatasetNotFoundError     ValueError, and tensorus.errors.DatasetNotFoundError
TensorNotFoundError      ValueError, and tensorus.errors.TensorNotFoundError
NameTakenError           ValueError, and tensorus.errors.AlreadyExistsError: of a dataset, or a record's id
SchemaValidationError    ValueError, and tensorus.errors.SchemaMismatchError
DamagedRecordError       RuntimeError, and tensorus.compression.CompressionError: names dataset, record and chunk
TransactionError         nothing of a transaction or batch was stored; `__cause__` is why
OperationError           ValueError and RuntimeError: torch cannot compute this of these tensors

Everything else comes as the client raises it: `UnavailableError`, which is a ConnectionError, `InvalidRequestError`, which is a
ValueError, and so on. All but the last two have `reason` and `facts`.

What is missing, and a dataset that is there already, are told in the words of Tensorus 0.1, which programs show and compare.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from tensorus import errors
from tensorus.compression import CompressionError
from tensorus.tensor_storage._names import shown_name

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = [
    "DamagedRecordError",
    "DatasetNotFoundError",
    "NameTakenError",
    "OperationError",
    "SchemaValidationError",
    "TensorNotFoundError",
    "TransactionError",
    "as_storage_errors",
    "record_missing",
    "storage_error",
    "taken_error",
]


class DatasetNotFoundError(errors.DatasetNotFoundError, ValueError):
    """There is no dataset of this name."""


class TensorNotFoundError(errors.TensorNotFoundError, ValueError):
    """The dataset has no record with this id."""


class NameTakenError(errors.AlreadyExistsError, ValueError):
    """There is a dataset of this name, or a record with this id."""


class SchemaValidationError(errors.SchemaMismatchError):
    """A tensor or its metadata does not fit the dataset's schema; names what is required and what is there."""


class DamagedRecordError(CompressionError, RuntimeError):
    """What is stored of a record is damaged; names dataset, record and chunk. Other records can be read."""


class TransactionError(Exception):
    """A transaction or batch failed, and nothing of it was stored; `__cause__` is why."""


class OperationError(ValueError, RuntimeError):
    """An operation cannot be done on these tensors; names it, their ids and shapes, and what torch says."""


_CLASSES: dict[type[errors.TensorusError], type[errors.TensorusError]] = {
    errors.DatasetNotFoundError: DatasetNotFoundError,
    errors.TensorNotFoundError: TensorNotFoundError,
    errors.AlreadyExistsError: NameTakenError,
    errors.SchemaMismatchError: SchemaValidationError,
    errors.DataCorruptError: DamagedRecordError,
}
"""The only table from errors of the client to those above."""

_TAKEN = "ALREADY_EXISTS"


def record_missing(dataset: str, record_id: object) -> TensorNotFoundError:
    """Return the error of a record that is not there; its id may be anything.

    Args:
        dataset: as the store names it, as in every function here.
    """
    return TensorNotFoundError(
        f"Tensor {record_id} not found in dataset {shown_name(dataset)}.",
        reason="TENSOR_NOT_FOUND",
        facts={"dataset": dataset, "tensor": str(record_id)},
    )


def storage_error(error: errors.TensorusError) -> errors.TensorusError:
    """Return the error of this module that stands for one of the client; itself, where none does."""
    if isinstance(error, errors.InsertManyError):
        # Of all that were not stored, the one that is to blame.
        blamed = [one for _, one in error.failed if not isinstance(one, errors.InsertAbandonedError)]
        return storage_error((blamed or [error.failed[0][1]])[0])
    dataset, record_id = error.facts.get("dataset"), error.facts.get("tensor")
    if isinstance(error, errors.AlreadyExistsError) and dataset is not None:
        # Its own message names ways out that these methods do not have.
        return taken_error(dataset, record_id)
    if isinstance(error, errors.TensorNotFoundError) and dataset is not None and record_id is not None:
        return record_missing(dataset, record_id)
    message = str(error)
    if isinstance(error, errors.DatasetNotFoundError) and dataset is not None:
        message = f"Dataset '{shown_name(dataset)}' not found."
    found = _CLASSES.get(type(error))
    return error if found is None else found(message, reason=error.reason, facts=error.facts)


def taken_error(dataset: str, record_id: str | None = None) -> NameTakenError:
    """Return the error of a dataset's name that is taken, or of a record's id within it."""
    facts = {"dataset": dataset}
    if record_id is None:
        return NameTakenError(f"Dataset '{shown_name(dataset)}' already exists.", reason=_TAKEN, facts=facts)
    return NameTakenError(
        f"there is a record with this id already [dataset={dataset}, tensor={record_id}]",
        reason=_TAKEN,
        facts=facts | {"tensor": record_id},
    )


@contextmanager
def as_storage_errors() -> Iterator[None]:
    """Turn what the client raises into errors of this module."""
    try:
        yield
    except errors.TensorusError as error:
        found = storage_error(error)
        if found is error:
            raise
        raise found from error
