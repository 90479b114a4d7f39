"""The exceptions of `TensorStorage`: those of Tensorus 0.1, which are also those of `tensorus.errors`.

DatasetNotFoundError     ValueError, and tensorus.errors.DatasetNotFoundError
TensorNotFoundError      ValueError, and tensorus.errors.TensorNotFoundError
NameTakenError           ValueError, and tensorus.errors.AlreadyExistsError: the name of a dataset or id of a record is taken
SchemaValidationError    ValueError, and tensorus.errors.SchemaMismatchError
DamagedRecordError       RuntimeError, and tensorus.compression.CompressionError: names dataset, record and chunk
TransactionError         nothing of a transaction or batch was stored; `__cause__` says why
OperationError           ValueError and RuntimeError: torch cannot compute the operation on these tensors

Other errors are raised as by the client: `UnavailableError`, which is a ConnectionError, `InvalidRequestError`, which is a
ValueError, and so on. All except the last two have `reason` and `facts`.

Messages about missing objects and existing datasets have the exact wording of Tensorus 0.1, which programs show and compare.
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
    """No dataset has this name."""


class TensorNotFoundError(errors.TensorNotFoundError, ValueError):
    """No record of the dataset has this id."""


class NameTakenError(errors.AlreadyExistsError, ValueError):
    """A dataset already has this name, or a record already has this id."""


class SchemaValidationError(errors.SchemaMismatchError):
    """A tensor or its metadata does not fit the dataset's schema. The message names the required and the actual value."""


class DamagedRecordError(CompressionError, RuntimeError):
    """A stored record is damaged. The message names dataset, record and chunk. Other records can be read."""


class TransactionError(Exception):
    """A transaction or batch failed, and nothing of it was stored; `__cause__` says why."""


class OperationError(ValueError, RuntimeError):
    """Torch cannot compute an operation. The message names it, the ids and shapes of the operands, and torch's error."""


_CLASSES: dict[type[errors.TensorusError], type[errors.TensorusError]] = {
    errors.DatasetNotFoundError: DatasetNotFoundError,
    errors.TensorNotFoundError: TensorNotFoundError,
    errors.AlreadyExistsError: NameTakenError,
    errors.SchemaMismatchError: SchemaValidationError,
    errors.DataCorruptError: DamagedRecordError,
}
"""Maps errors of the client to those above."""

_TAKEN = "ALREADY_EXISTS"


def record_missing(dataset: str, record_id: object) -> TensorNotFoundError:
    """Return the error of a record that does not exist.

    Args:
        dataset: its name in the store, as in every function here.
        record_id: any object; users may pass ids that are not text.
    """
    return TensorNotFoundError(
        f"Tensor {record_id} not found in dataset {shown_name(dataset)}.",
        reason="TENSOR_NOT_FOUND",
        facts={"dataset": dataset, "tensor": str(record_id)},
    )


def storage_error(error: errors.TensorusError) -> errors.TensorusError:
    """Return the error of this module that corresponds to one of the client; the same error if none does."""
    if isinstance(error, errors.InsertManyError):
        # Of all failures, report the one that caused the others.
        blamed = [one for _, one in error.failed if not isinstance(one, errors.InsertAbandonedError)]
        return storage_error((blamed or [error.failed[0][1]])[0])
    dataset, record_id = error.facts.get("dataset"), error.facts.get("tensor")
    if isinstance(error, errors.AlreadyExistsError) and dataset is not None:
        # The client's message recommends arguments that these methods do not have.
        return taken_error(dataset, record_id)
    if isinstance(error, errors.TensorNotFoundError) and dataset is not None and record_id is not None:
        return record_missing(dataset, record_id)
    message = str(error)
    if isinstance(error, errors.DatasetNotFoundError) and dataset is not None:
        message = f"Dataset '{shown_name(dataset)}' not found."
    found = _CLASSES.get(type(error))
    return error if found is None else found(message, reason=error.reason, facts=error.facts)


def taken_error(dataset: str, record_id: str | None = None) -> NameTakenError:
    """Return the error of a dataset that already exists, or of a record's id that is taken."""
    facts = {"dataset": dataset}
    if record_id is None:
        return NameTakenError(f"Dataset '{shown_name(dataset)}' already exists.", reason=_TAKEN, facts=facts)
    return NameTakenError(
        f"a record with this id already exists [dataset={dataset}, tensor={record_id}]",
        reason=_TAKEN,
        facts=facts | {"tensor": record_id},
    )


@contextmanager
def as_storage_errors() -> Iterator[None]:
    """Convert errors of the client to errors of this module."""
    try:
        yield
    except errors.TensorusError as error:
        found = storage_error(error)
        if found is error:
            raise
        raise found from error
