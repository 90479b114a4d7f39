"""Errors and their way out: every leaf has a reason, a code and a level, and nothing leaks."""

from __future__ import annotations

import inspect
import logging

import grpc
import pytest
from google.rpc import error_details_pb2

from support.calls import a_call
from support.cases import each
from tensorus_codecs import errors as codec_errors
from tensorus_protos.v1 import tensorus_pb2 as pb
from tensorus_server import errors
from tensorus_server.errors import (
    DataCorruptError,
    DatasetNotFoundError,
    EngineError,
    InvalidNameError,
    TensorNotFoundError,
    facts_of,
    reason_of,
)
from tensorus_server.rpc.status import DETAILS_KEY, ERROR_DOMAIN, STATUS_BY_REASON, code_of, status_of


def leaves(error: type[EngineError] = EngineError) -> list[type[EngineError]]:
    """Return the errors that are raised: those with a reason of their own, whether there are errors below them or not.

    Classes that other tests make are not among them.
    """
    children = [child for child in error.__subclasses__() if child.__module__.startswith("tensorus_server.")]
    below = [found for child in children for found in leaves(child)]
    own = [error] if "reason" in vars(error) and error is not EngineError else []
    return [*own, *below]


CODECS = [
    codec_errors.InvalidPolicyError("x"),
    codec_errors.UnknownCodecNumberError("x"),
    codec_errors.UnsupportedCodecError("x"),
    codec_errors.UnsupportedDTypeError("x"),
]

RAISED = [*(error("x") for error in leaves()), *CODECS]

WIRE_REASONS = {name.removeprefix("ERROR_REASON_") for name in pb.ErrorReason.keys()} - {"UNSPECIFIED"}  # noqa: SIM118 - no dict

CODES = {
    "DATASET_NOT_FOUND": grpc.StatusCode.NOT_FOUND,
    "TENSOR_NOT_FOUND": grpc.StatusCode.NOT_FOUND,
    "ALREADY_EXISTS": grpc.StatusCode.ALREADY_EXISTS,
    "STORED_DIFFERENTLY": grpc.StatusCode.ALREADY_EXISTS,
    "GENERATION_MISMATCH": grpc.StatusCode.FAILED_PRECONDITION,
    "SNAPSHOT_NOT_FOUND": grpc.StatusCode.NOT_FOUND,
    "TOKEN_NOT_FOUND": grpc.StatusCode.NOT_FOUND,
    "STATE_NOT_KEPT": grpc.StatusCode.NOT_FOUND,
    "NEWER_TENSORS": grpc.StatusCode.FAILED_PRECONDITION,
    "HAS_SNAPSHOTS": grpc.StatusCode.FAILED_PRECONDITION,
    "INSERT_ABANDONED": grpc.StatusCode.ABORTED,
    "SESSION_TAKEN_OVER": grpc.StatusCode.ABORTED,
    "SESSION_EXPIRED": grpc.StatusCode.NOT_FOUND,
    "STREAM_STALLED": grpc.StatusCode.ABORTED,
    "TOO_MANY_STREAMS": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "STORAGE_FULL": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "QUOTA_EXCEEDED": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "RATE_LIMITED": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "READ_ONLY": grpc.StatusCode.FAILED_PRECONDITION,
    "UNAUTHENTICATED": grpc.StatusCode.UNAUTHENTICATED,
    "PERMISSION_DENIED": grpc.StatusCode.PERMISSION_DENIED,
    "DRAINING": grpc.StatusCode.UNAVAILABLE,
    "STORE_BUSY": grpc.StatusCode.UNAVAILABLE,
    "STORE_UNAVAILABLE": grpc.StatusCode.UNAVAILABLE,
    "NOT_IMPLEMENTED": grpc.StatusCode.UNIMPLEMENTED,
    "DATA_CORRUPT": grpc.StatusCode.DATA_LOSS,
    "INTERNAL": grpc.StatusCode.INTERNAL,
}
"""Every other reason says that the request is at fault."""


def info_of(status: object) -> error_details_pb2.ErrorInfo:
    """Return the one detail of a status."""
    (detail,) = status.details  # type: ignore[attr-defined]
    info = error_details_pb2.ErrorInfo()
    assert detail.Unpack(info)
    return info


class TestTree:
    """The tree that the module draws is the tree that there is."""

    def test_every_leaf_has_a_reason_of_its_own(self) -> None:
        reasons = [error.reason for error in leaves()]
        assert len(set(reasons)) == len(reasons)
        assert "INTERNAL" not in reasons

    def test_the_drawing_names_every_class_with_its_reason(self) -> None:
        assert errors.__doc__ is not None
        drawn = [line.split() for line in errors.__doc__.splitlines() if "── " in line]
        names = {
            words[words.index(next(word for word in words if word.endswith("Error")))]: words[-1] for words in drawn
        }
        classes = {
            name: found
            for name, found in vars(errors).items()
            if inspect.isclass(found) and issubclass(found, EngineError) and found is not EngineError
        }
        assert set(names) == set(classes)
        assert {name: reason for name, reason in names.items() if reason != name} == {
            error.__name__: error.reason for error in leaves()
        }

    def test_every_public_name_exists_and_every_class_is_public(self) -> None:
        classes = {
            name for name, found in vars(errors).items() if inspect.isclass(found) and issubclass(found, EngineError)
        }
        assert classes <= set(errors.__all__)
        assert all(hasattr(errors, name) for name in errors.__all__)


class TestReasons:
    """A reason is a name of the contract, and has one code."""

    @each("error", CODECS)
    def test_errors_of_the_codecs_have_reasons_of_their_own(self, error: Exception) -> None:
        assert reason_of(error) != "INTERNAL"

    def test_every_reason_of_the_table_is_one_of_the_contract(self) -> None:
        assert set(STATUS_BY_REASON) <= WIRE_REASONS

    def test_reasons_of_the_contract_that_are_never_given_belong_to_parts_that_are_missing(self) -> None:
        assert WIRE_REASONS - set(STATUS_BY_REASON) == {"CREDIT_EXCEEDED"}

    def test_the_table_has_the_reason_of_every_error_and_no_other(self) -> None:
        assert set(STATUS_BY_REASON) == {reason_of(error) for error in RAISED} | {"INTERNAL"}

    @each("reason", sorted(STATUS_BY_REASON))
    def test_a_reason_has_its_code(self, reason: str) -> None:
        assert STATUS_BY_REASON[reason][0] is CODES.get(reason, grpc.StatusCode.INVALID_ARGUMENT)

    @each("error", [ValueError("x"), OSError(5, "x"), MemoryError(), codec_errors.CorruptChunkError("x")])
    def test_what_nobody_foresaw_is_internal(self, error: Exception) -> None:
        assert (reason_of(error), facts_of(error)) == ("INTERNAL", {})


class TestMessages:
    """What, value and limit, then whose it is; the same as facts."""

    def test_a_message_ends_with_whose_it_is(self) -> None:
        assert str(TensorNotFoundError("gone", dataset="d", tensor="t")) == "gone [dataset=d, tensor=t]"
        assert str(DatasetNotFoundError("gone", dataset="d")) == "gone [dataset=d]"
        assert str(InvalidNameError("bad")) == "bad"

    def test_facts_are_text_and_name_dataset_and_tensor(self) -> None:
        error = DataCorruptError("damaged", dataset="d", tensor="t", chunk=7, limit=1.5)
        assert facts_of(error) == {"dataset": "d", "tensor": "t", "chunk": "7", "limit": "1.5"}

    def test_an_empty_name_is_a_name(self) -> None:
        assert str(InvalidNameError("bad", dataset="")) == "bad [dataset=]"


class TestStatus:
    """Errors as they travel."""

    @each("error", RAISED)
    def test_a_status_has_code_message_and_reason(self, error: Exception) -> None:
        status = status_of(error, call=a_call())
        assert status.code == code_of(error).value[0]
        assert status.message == "x"
        info = info_of(status)
        assert (info.reason, info.domain) == (reason_of(error), ERROR_DOMAIN) == (reason_of(error), "tensorus")

    def test_facts_travel_as_metadata(self) -> None:
        info = info_of(status_of(DataCorruptError("damaged", dataset="d", tensor="t", chunk=7), call=a_call()))
        assert dict(info.metadata).items() >= {"dataset": "d", "tensor": "t", "chunk": "7"}.items()

    def test_the_details_travel_under_grpcs_own_key(self) -> None:
        assert DETAILS_KEY == "grpc-status-details-bin"

    @pytest.mark.parametrize(
        "error",
        [ValueError("a secret"), OSError(2, "No such file", "/a/secret"), codec_errors.CorruptChunkError("a secret")],
        ids=lambda error: type(error).__name__,
    )
    def test_what_nobody_foresaw_leaks_nothing_and_is_in_the_log(
        self, error: Exception, caplog: pytest.LogCaptureFixture
    ) -> None:
        with caplog.at_level(logging.DEBUG):
            status = status_of(error, call=a_call())
        assert status.code == grpc.StatusCode.INTERNAL.value[0]
        info = info_of(status)
        number = info.metadata["number"]
        assert status.message == f"internal error; the server's log has it under number {number}"
        assert set(info.metadata) == {"number", "request_id"}
        assert b"secret" not in status.SerializeToString()
        (record,) = caplog.records
        assert record.levelno == logging.ERROR
        assert number in record.getMessage()
        assert record.exc_info is not None
        assert record.exc_info[1] is error

    def test_every_internal_error_has_a_number_of_its_own(self) -> None:
        numbers = {info_of(status_of(ValueError(), call=a_call())).metadata["number"] for _ in range(10)}
        assert len(numbers) == 10

    @pytest.mark.parametrize("error", RAISED, ids=lambda error: type(error).__name__)
    def test_an_error_is_logged_at_its_level(self, error: Exception, caplog: pytest.LogCaptureFixture) -> None:
        with caplog.at_level(logging.DEBUG):
            status_of(error, call=a_call("Insert"))
        (record,) = caplog.records
        assert record.levelno == STATUS_BY_REASON[reason_of(error)][1]
        assert record.getMessage() == f"Insert: {reason_of(error)}: x"

    def test_long_messages_and_facts_are_cut(self) -> None:
        status = status_of(InvalidNameError("m" * 10_000, dataset="d" * 10_000, value="v" * 10_000), call=a_call())
        assert status.message == "m" * 1024
        assert dict(info_of(status).metadata).items() >= {"dataset": "d" * 256, "value": "v" * 256}.items()

    @each("character", ["x", "%", "ä", "\U0001f600", "\0"], ids=["ascii", "percent", "2 bytes", "4 bytes", "nul"])
    def test_an_error_fits_the_trailers_whatever_it_is_made_of(self, character: str) -> None:
        # Trailers above 8 KiB are dropped on the way, and the error with them. The message goes as text, in which every byte
        # that is not plain ASCII takes three, and again within the status, which goes as base64.
        error = DatasetNotFoundError("there is no such dataset", dataset=character * 100_000)
        status = status_of(error, call=a_call())
        encoded = sum(1 if 0x20 <= byte <= 0x7E and byte != 0x25 else 3 for byte in status.message.encode())
        details = -(-status.ByteSize() * 4 // 3)
        assert encoded + details < 8 * 1024
