"""Converts errors of failed gRPC calls to errors of the client. Shared by both clients."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import grpc
from google.protobuf.message import DecodeError
from google.rpc import status_pb2

from tensorus._grpc.convert import error_from
from tensorus.errors import (
    InternalError,
    LimitExceededError,
    NotImplementedByServerError,
    OverloadedError,
    PermissionDeniedError,
    UnauthenticatedError,
    UnavailableError,
)

if TYPE_CHECKING:
    from tensorus.errors import TensorusError

__all__ = ["rpc_error"]

_DETAILS_KEY = "grpc-status-details-bin"

_HTTP_STATUS = re.compile(r"http2 header with status: (\d{3})")
"""gRPC's message for an answer from something that does not speak gRPC, such as a proxy. Only the message has the status."""

_OTHER_NAME = "the server's certificate is of another name than the address"
_ADVICE = {
    "CERTIFICATE_VERIFY_FAILED": "the server's certificate has expired, or is not trusted: ca= (--ca) names whom to trust",
    "Hostname Verification": _OTHER_NAME,
    "is not in peer certificate": _OTHER_NAME,
    "WRONG_VERSION_NUMBER": "the server does not speak TLS: grpc:// connects without",
    "Failed to create security handshaker": "ca, cert or key is no certificate, or the key is not that of cert",
}
"""What to do about handshakes that fail, by a part of gRPC's message."""

_HUNG_UP = re.compile(r"failed to connect .*(Socket closed|Connection reset)", re.DOTALL)
"""gRPC's message where a server ended the connection before it said anything."""


def rpc_error(error: Any) -> TensorusError:  # `Any`: a grpc.RpcError that is also a grpc.Call, which no type says
    """Return the error of a call that failed."""
    for key, value in error.trailing_metadata() or ():
        if key == _DETAILS_KEY:
            found = _details_error(value)
            if found is not None:
                return found
    return _error_by_code(error.code(), f"{error.code().name}: {error.details()}")


def _details_error(details: bytes) -> TensorusError | None:
    """Return the error that the trailers carry; None where they are not ours, and the code has to do."""
    try:
        return error_from(status_pb2.Status.FromString(details))
    except DecodeError:
        return None


def _error_by_code(code: grpc.StatusCode, message: str) -> TensorusError:
    """Return the error of a call that did not reach the service, or was ended by the transport."""
    if code in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED}:
        return UnavailableError(message + _advice(message), reason=code.name)
    if code is grpc.StatusCode.UNAUTHENTICATED:
        return UnauthenticatedError(message, reason=code.name)
    if code is grpc.StatusCode.PERMISSION_DENIED:
        return PermissionDeniedError(message, reason=code.name)
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        return OverloadedError(message, reason=code.name)
    found = _HTTP_STATUS.search(message)
    if found is not None and found.group(1) == "413":
        # Not retriable: the proxy would refuse it again.
        return LimitExceededError(
            f"{message}: a proxy before the server refused a request for its size; raise its limit (nginx: "
            "client_max_body_size 0)",
            reason="PAYLOAD_TOO_LARGE",
            facts={"http_status": "413"},
        )
    if code is grpc.StatusCode.UNIMPLEMENTED:
        return NotImplementedByServerError(message, reason=code.name)
    return InternalError(message, reason=code.name)


def _advice(message: str) -> str:
    """Return what to do about a handshake that failed, as far as gRPC's message tells."""
    if _HUNG_UP.search(message):
        return "; the server hung up: it may want TLS (grpcs://), or, with TLS, a client certificate (cert= and key=)"
    return next((f"; {advice}" for text, advice in _ADVICE.items() if text in message), "")
