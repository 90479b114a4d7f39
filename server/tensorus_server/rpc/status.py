"""Maps each error's reason to its gRPC code and log level, and converts errors to `google.rpc.Status`.

The error of a whole call is sent as a code, a message, and a status in the trailers; `call_log.py` logs it when the call ends.
The error of one item is sent in band, as the same status, and logged here. An unexpected error is sent as fixed text with a
number; the log has the details under that number.
"""

from __future__ import annotations

import logging
import uuid
from typing import TYPE_CHECKING

import grpc
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2

from tensorus_server.errors import facts_of, reason_of
from tensorus_server.meters import Tally
from tensorus_server.rpc.log_rate import LogRate

if TYPE_CHECKING:
    from collections.abc import Mapping

    from google.protobuf.message import Message

    from tensorus_server.logs.formats import Field
    from tensorus_server.rpc.calls import Call

__all__ = [
    "DETAILS_KEY",
    "ERROR_DOMAIN",
    "REQUEST_ID_FACT",
    "STATUS_BY_REASON",
    "TOLD",
    "code_of",
    "log_failure",
    "message_of",
    "retry_delay_s",
    "status_of",
    "status_of_call",
]

ERROR_DOMAIN = "tensorus"
"""The `domain` of every ErrorInfo."""

DETAILS_KEY = "grpc-status-details-bin"
"""The trailer that carries the status. Source: gRPC's convention for rich errors."""

REQUEST_ID_FACT = "request_id"
"""In the metadata of every ErrorInfo: the id of the call, under which the log has it."""

_MESSAGE_BYTES_MAX = 1024
_FACT_BYTES_MAX = 256
"""UTF-8 bytes of each fact; longer ones are cut, like messages. gRPC drops trailers above 8 KiB, and the error's details with
them. In trailers, each non-ASCII byte of the message takes three bytes, and the status repeats message and facts in base64."""

STATUS_BY_REASON: dict[str, tuple[grpc.StatusCode, int]] = {
    "DATASET_NOT_FOUND": (grpc.StatusCode.NOT_FOUND, logging.DEBUG),
    "TENSOR_NOT_FOUND": (grpc.StatusCode.NOT_FOUND, logging.DEBUG),
    "SNAPSHOT_NOT_FOUND": (grpc.StatusCode.NOT_FOUND, logging.DEBUG),
    "STATE_NOT_KEPT": (grpc.StatusCode.NOT_FOUND, logging.DEBUG),
    "TOKEN_NOT_FOUND": (grpc.StatusCode.NOT_FOUND, logging.DEBUG),
    "ALREADY_EXISTS": (grpc.StatusCode.ALREADY_EXISTS, logging.DEBUG),
    "STORED_DIFFERENTLY": (grpc.StatusCode.ALREADY_EXISTS, logging.DEBUG),
    "GENERATION_MISMATCH": (grpc.StatusCode.FAILED_PRECONDITION, logging.DEBUG),
    "NEWER_TENSORS": (grpc.StatusCode.FAILED_PRECONDITION, logging.DEBUG),
    "HAS_SNAPSHOTS": (grpc.StatusCode.FAILED_PRECONDITION, logging.DEBUG),
    "READ_ONLY": (grpc.StatusCode.FAILED_PRECONDITION, logging.DEBUG),
    "UNAUTHENTICATED": (grpc.StatusCode.UNAUTHENTICATED, logging.INFO),
    "PERMISSION_DENIED": (grpc.StatusCode.PERMISSION_DENIED, logging.INFO),
    "INVALID_REQUEST": (grpc.StatusCode.INVALID_ARGUMENT, logging.INFO),
    "INVALID_NAME": (grpc.StatusCode.INVALID_ARGUMENT, logging.INFO),
    "INVALID_SHAPE": (grpc.StatusCode.INVALID_ARGUMENT, logging.INFO),
    "INVALID_BASE": (grpc.StatusCode.INVALID_ARGUMENT, logging.INFO),
    "INVALID_SLICE": (grpc.StatusCode.INVALID_ARGUMENT, logging.INFO),
    "INVALID_METADATA": (grpc.StatusCode.INVALID_ARGUMENT, logging.INFO),
    "INVALID_FILTER": (grpc.StatusCode.INVALID_ARGUMENT, logging.INFO),
    "INVALID_POLICY": (grpc.StatusCode.INVALID_ARGUMENT, logging.INFO),
    "INVALID_PAGE_TOKEN": (grpc.StatusCode.INVALID_ARGUMENT, logging.INFO),
    "UNSUPPORTED_DTYPE": (grpc.StatusCode.INVALID_ARGUMENT, logging.INFO),
    "UNSUPPORTED_CODEC": (grpc.StatusCode.INVALID_ARGUMENT, logging.INFO),
    "LIMIT_EXCEEDED": (grpc.StatusCode.INVALID_ARGUMENT, logging.INFO),
    "PAYLOAD_TOO_LARGE": (grpc.StatusCode.INVALID_ARGUMENT, logging.INFO),
    "SEGMENT_OUT_OF_ORDER": (grpc.StatusCode.INVALID_ARGUMENT, logging.INFO),
    "SEGMENT_MISALIGNED": (grpc.StatusCode.INVALID_ARGUMENT, logging.INFO),
    "SIZE_MISMATCH": (grpc.StatusCode.INVALID_ARGUMENT, logging.INFO),
    "CHECKSUM_MISMATCH": (grpc.StatusCode.INVALID_ARGUMENT, logging.WARNING),
    "SCHEMA_MISMATCH": (grpc.StatusCode.INVALID_ARGUMENT, logging.INFO),
    "INSERT_ABANDONED": (grpc.StatusCode.ABORTED, logging.DEBUG),
    "SESSION_TAKEN_OVER": (grpc.StatusCode.ABORTED, logging.INFO),
    "SESSION_EXPIRED": (grpc.StatusCode.NOT_FOUND, logging.INFO),
    "STREAM_STALLED": (grpc.StatusCode.ABORTED, logging.INFO),
    "TOO_MANY_STREAMS": (grpc.StatusCode.RESOURCE_EXHAUSTED, logging.WARNING),
    "QUOTA_EXCEEDED": (grpc.StatusCode.RESOURCE_EXHAUSTED, logging.INFO),
    "RATE_LIMITED": (grpc.StatusCode.RESOURCE_EXHAUSTED, logging.INFO),
    "STORAGE_FULL": (grpc.StatusCode.RESOURCE_EXHAUSTED, logging.ERROR),
    "DRAINING": (grpc.StatusCode.UNAVAILABLE, logging.INFO),
    "STORE_BUSY": (grpc.StatusCode.UNAVAILABLE, logging.WARNING),
    "STORE_UNAVAILABLE": (grpc.StatusCode.UNAVAILABLE, logging.ERROR),
    "NOT_IMPLEMENTED": (grpc.StatusCode.UNIMPLEMENTED, logging.INFO),
    "DATA_CORRUPT": (grpc.StatusCode.DATA_LOSS, logging.ERROR),
    "INTERNAL": (grpc.StatusCode.INTERNAL, logging.ERROR),
}
"""Every reason that this server sends, with its gRPC code and log level."""

TOLD = Tally()
"""How often clients of this process were told of errors, by method and reason."""

_log = logging.getLogger("tensorus_server.calls")
_rate = LogRate(_log)


def code_of(error: BaseException) -> grpc.StatusCode:
    """Return the gRPC code for the error."""
    return STATUS_BY_REASON[reason_of(error)][0]


def status_of(error: BaseException, *, call: Call) -> status_pb2.Status:
    """Convert the error of one item of a call to a status, and log it."""
    reason = reason_of(error)
    number = uuid.uuid4().hex if reason == "INTERNAL" else ""
    log_failure(call, error, number, {"reason": reason})
    return _status(error, call, number)


def status_of_call(error: BaseException, *, call: Call) -> status_pb2.Status:
    """Convert the error that made a call fail to a status. It is logged at the end of the call."""
    if reason_of(error) == "INTERNAL":
        call.failure_number = uuid.uuid4().hex
    return _status(error, call, call.failure_number)


def log_failure(
    call: Call, error: BaseException, number: str, fields: Mapping[str, Field], *, always: bool = False
) -> None:
    """Log the error of a call or of one of its items.

    Args:
        number: of an unexpected error.
        fields: for machines, in addition to those of the call.
        always: whether to log it at any level, and however many others there are.
    """
    reason = reason_of(error)
    level = STATUS_BY_REASON[reason][1]
    if reason == "INTERNAL":
        extra = {"fields": {**call.fields(), **fields, "number": number}}
        _log.log(level, "%s failed unexpectedly, number %s", call.method, number, exc_info=error, extra=extra)
    elif always:
        extra = {"fields": {**call.fields(), **fields}}
        _log.log(max(level, logging.INFO), "%s: %s: %s", call.method, reason, message_of(error, number), extra=extra)
    elif _log.isEnabledFor(level):
        text = message_of(error, number)
        _rate.log(level, reason, "%s: %s: %s", call.method, reason, text, fields=lambda: {**call.fields(), **fields})


def message_of(error: BaseException, number: str) -> str:
    """Return what a client is told.

    Args:
        number: of an unexpected error, whose text might tell too much.
    """
    if reason_of(error) == "INTERNAL":
        return f"internal error; the server's log has it under number {number}"
    return _cut(str(error), _MESSAGE_BYTES_MAX)


def _status(error: BaseException, call: Call, number: str) -> status_pb2.Status:
    reason = reason_of(error)
    TOLD.add(call.method, reason)
    facts = {"number": number} if number else facts_of(error)
    info = error_details_pb2.ErrorInfo(
        reason=reason,
        domain=ERROR_DOMAIN,
        metadata={
            **{name: _cut(value, _FACT_BYTES_MAX) for name, value in facts.items()},
            REQUEST_ID_FACT: call.call_id,
        },
    )
    details: list[Message] = [info]
    retry_after_s = retry_delay_s(error)
    if retry_after_s is not None:
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.FromMilliseconds(int(1000 * retry_after_s))
        details.append(retry)
    message = message_of(error, number)
    return status_pb2.Status(
        code=code_of(error).value[0], message=message, details=[_packed(detail) for detail in details]
    )


def retry_delay_s(error: BaseException) -> float | None:
    """Return after how many seconds the caller should retry; None if the error does not say."""
    found = facts_of(error).get("retry_after_s")
    return None if found is None else float(found)


def _packed(message: Message) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(message)
    return packed


def _cut(text: str, bytes_max: int) -> str:
    """Return as many whole characters from the start as fit into `bytes_max` of UTF-8."""
    return text.encode(errors="replace")[:bytes_max].decode(errors="ignore")
