"""The tree of errors: drawn as it is, and every reason of the contract in its place."""

from __future__ import annotations

import inspect
import pickle
import re
from typing import Any

import tensorus
from support.cases import each
from tensorus import errors
from tensorus.errors import InsertManyError, TensorusError, error_for
from tensorus_protos.v1 import tensorus_pb2 as pb

REASONS = [name.removeprefix("ERROR_REASON_") for name, number in pb.ErrorReason.items() if number]

CLASSES = {
    name: found
    for name, found in vars(errors).items()
    if inspect.isclass(found) and issubclass(found, Exception) and found.__name__.endswith("Error")
}

CLASS_OF_REASON = {
    "DATASET_NOT_FOUND": errors.DatasetNotFoundError,
    "TENSOR_NOT_FOUND": errors.TensorNotFoundError,
    "SNAPSHOT_NOT_FOUND": errors.SnapshotNotFoundError,
    "TOKEN_NOT_FOUND": errors.TokenNotFoundError,
    "STATE_NOT_KEPT": errors.StateNotKeptError,
    "NEWER_TENSORS": errors.NewerTensorsError,
    "HAS_SNAPSHOTS": errors.HasSnapshotsError,
    "ALREADY_EXISTS": errors.AlreadyExistsError,
    "SCHEMA_MISMATCH": errors.SchemaMismatchError,
    "INVALID_BASE": errors.InvalidBaseError,
    "CHECKSUM_MISMATCH": errors.ChecksumMismatchError,
    "SIZE_MISMATCH": errors.InvalidRequestError,
    "SEGMENT_OUT_OF_ORDER": errors.InvalidRequestError,
    "SEGMENT_MISALIGNED": errors.InvalidRequestError,
    "PAYLOAD_TOO_LARGE": errors.LimitExceededError,
    "CREDIT_EXCEEDED": errors.InvalidRequestError,
    "UNSUPPORTED_DTYPE": errors.UnsupportedDTypeError,
    "UNSUPPORTED_CODEC": errors.UnsupportedCodecError,
    "INVALID_POLICY": errors.InvalidPolicyError,
    "INVALID_FILTER": errors.InvalidFilterError,
    "STORED_DIFFERENTLY": errors.StoredDifferentlyError,
    "GENERATION_MISMATCH": errors.GenerationMismatchError,
    "INSERT_ABANDONED": errors.InsertAbandonedError,
    "SESSION_TAKEN_OVER": errors.UnavailableError,
    "SESSION_EXPIRED": errors.UnavailableError,
    "STORAGE_FULL": errors.StorageFullError,
    "DATA_CORRUPT": errors.DataCorruptError,
    "DRAINING": errors.UnavailableError,
    "INVALID_REQUEST": errors.InvalidRequestError,
    "INVALID_NAME": errors.InvalidNameError,
    "INVALID_SHAPE": errors.InvalidShapeError,
    "INVALID_SLICE": errors.InvalidSliceError,
    "INVALID_METADATA": errors.InvalidMetadataError,
    "LIMIT_EXCEEDED": errors.LimitExceededError,
    "INVALID_PAGE_TOKEN": errors.InvalidRequestError,
    "STREAM_STALLED": errors.UnavailableError,
    "TOO_MANY_STREAMS": errors.OverloadedError,
    "STORE_BUSY": errors.UnavailableError,
    "STORE_UNAVAILABLE": errors.UnavailableError,
    "NOT_IMPLEMENTED": errors.NotImplementedByServerError,
    "READ_ONLY": errors.ReadOnlyError,
    "UNAUTHENTICATED": errors.UnauthenticatedError,
    "PERMISSION_DENIED": errors.PermissionDeniedError,
    "QUOTA_EXCEEDED": errors.QuotaExceededError,
    "RATE_LIMITED": errors.RateLimitedError,
    "INTERNAL": errors.InternalError,
}


def test_the_table_has_every_reason_of_the_contract() -> None:
    assert set(CLASS_OF_REASON) == set(REASONS)


@each("reason", REASONS)
def test_every_reason_has_its_class(reason: str) -> None:
    error = error_for(reason, "what is wrong", {"limit": "512"})
    assert type(error) is CLASS_OF_REASON[reason]
    assert str(error).startswith("what is wrong")
    assert (error.reason, error.facts) == (reason, {"limit": "512"})


def test_damage_of_what_is_stored_says_what_to_do() -> None:
    assert str(error_for("DATA_CORRUPT", "CRC32C of chunk 0 is wrong", {})) == (
        "CRC32C of chunk 0 is wrong; the stored data is damaged: restore this tensor from a backup or insert it again, "
        "and check the disk"
    )


def test_a_reason_from_the_future_is_a_plain_error_that_keeps_it() -> None:
    error = error_for("TOO_PURPLE", "what is wrong", {})
    assert type(error) is TensorusError
    assert error.reason == "TOO_PURPLE"


def test_every_leaf_is_some_reason_s() -> None:
    leaves = {found for found in CLASSES.values() if not found.__subclasses__()}
    # Raised by the client alone, for what several answers of the server mean together.
    assert leaves - set(CLASS_OF_REASON.values()) == {InsertManyError}


def test_facts_are_a_copy() -> None:
    facts = {"limit": "512"}
    error = error_for("LIMIT_EXCEEDED", "what is wrong", facts)
    facts["limit"] = "1"
    assert error.facts == {"limit": "512"}


def test_an_error_without_reason_and_facts_has_defaults() -> None:
    error = TensorusError("what is wrong")
    assert (error.reason, error.facts) == ("INTERNAL", {})


@each(
    ("ours", "python_s"),
    [
        (errors.NotFoundError, LookupError),
        (errors.InvalidRequestError, ValueError),
        (errors.UnavailableError, ConnectionError),
    ],
)
def test_some_errors_are_python_s_as_well(ours: type[Exception], python_s: type[Exception]) -> None:
    assert issubclass(ours, python_s)


# ---- The drawing --------------------------------------------------------------------------------------------------------


def drawn_tree() -> dict[str, tuple[str | None, str | None]]:
    """Return, for each class in the drawing, the class above it and the class of Python's that is named beside it."""
    found: dict[str, tuple[str | None, str | None]] = {}
    above: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        match = re.match(r"([│├└─ ]*)(\w+Error)\b(?: \(also (\w+)\))?", line)
        if match is None:
            continue
        depth = len(match.group(1)) // 4
        above[depth:] = [match.group(2)]
        found[match.group(2)] = (above[depth - 1] if depth else None, match.group(3))
    return found


def actual_tree() -> dict[str, tuple[str | None, str | None]]:
    found: dict[str, tuple[str | None, str | None]] = {}
    for name, kind in CLASSES.items():
        ours = [base.__name__ for base in kind.__bases__ if base.__module__ == errors.__name__]
        python_s = [base.__name__ for base in kind.__bases__ if base.__module__ == "builtins" and base is not Exception]
        found[name] = (ours[0] if ours else None, python_s[0] if python_s else None)
    return found


def test_the_tree_is_drawn_as_it_is() -> None:
    assert drawn_tree() == actual_tree()


def test_every_class_is_exported_and_says_what_it_means() -> None:
    assert set(errors.__all__) == {*CLASSES, "ConnectionLostWarning", "error_for"}
    for name, kind in CLASSES.items():
        assert kind.__doc__, name


def test_the_root_is_at_the_top_of_the_package() -> None:
    assert tensorus.TensorusError is TensorusError
    assert tensorus.errors is errors


# ---- InsertManyError ----------------------------------------------------------------------------------------------------

FIRST = errors.AlreadyExistsError("the id is taken", reason="ALREADY_EXISTS", facts={"tensor": "a"})
SECOND = errors.InvalidNameError("the id is empty", reason="INVALID_NAME")


def test_an_insert_that_failed_in_part_tells_what_failed_first() -> None:
    error = InsertManyError([], [(2, FIRST), (7, SECOND)])
    assert str(error) == "2 of 2 tensors were not stored; number 2: the id is taken"
    assert (error.reason, error.facts) == ("ALREADY_EXISTS", {"tensor": "a"})
    assert error.failed == [(2, FIRST), (7, SECOND)]


def test_an_insert_that_failed_in_part_has_what_was_stored() -> None:
    stored: list[Any] = ["info of the first", "info of the second", "info of the third"]
    error = InsertManyError(stored, [(1, FIRST)])
    assert str(error).startswith("1 of 4 tensors were not stored; number 1: ")
    assert error.inserted == stored
    assert error.inserted is not stored


@each(
    "error",
    [*(error_for(reason, "what is wrong", {"limit": "512"}) for reason in REASONS), InsertManyError([], [(2, FIRST)])],
    ids=[*REASONS, "InsertManyError"],
)
def test_an_error_survives_the_way_between_processes(error: TensorusError) -> None:
    # A pool of processes pickles what its workers raise, and hangs where that fails.
    found = pickle.loads(pickle.dumps(error))
    assert type(found) is type(error)
    assert (str(found), found.reason, found.facts) == (str(error), error.reason, error.facts)
