"""Wraps every call: admits it, runs it, and converts its errors into the statuses of the contract.

Requests arrive as raw bytes and are parsed here, on the call's own thread. gRPC itself would parse the requests of all calls on
one thread; for a request that does not parse it would return INTERNAL without a reason, and log a traceback.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import grpc
from google.protobuf.message import DecodeError, Message

from tensorus_server.errors import InvalidRequestError
from tensorus_server.rpc.status import DETAILS_KEY, code_of, retry_delay_s, status_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tensorus_server.errors import StreamStalledError
    from tensorus_server.rpc.admission import Admission, Place

__all__ = ["guard_stream", "guard_unary", "guard_upload", "parsed"]

Request = TypeVar("Request", bound=Message)


def parsed(raw: bytes, request_type: type[Request]) -> Request:
    """Parse a request.

    Raises:
        InvalidRequestError: `raw` is not a `request_type`.
    """
    try:
        return request_type.FromString(raw)
    except DecodeError as error:
        raise InvalidRequestError(f"message is not a {request_type.DESCRIPTOR.name}: {error}") from error


def guard_unary(
    call: str, method: Callable[[Any], Message], request_type: type[Message], admission: Admission
) -> Callable[[bytes, grpc.ServicerContext], bytes]:
    """Wrap `method` as a gRPC handler that takes one raw message and returns one.

    Args:
        method: takes a `request_type`; `Any`, since only the table of methods knows which.
    """

    @functools.wraps(method)
    def guarded(raw: bytes, context: grpc.ServicerContext) -> bytes:
        try:
            with admission.short_call():
                return method(parsed(raw, request_type)).SerializeToString()
        except Exception as error:  # noqa: BLE001 - the last place to turn it into a status
            _end_with(error, call, context)

    return guarded


def guard_stream(
    call: str, method: Callable[[Any, Place], Iterator[bytes]], admission: Admission
) -> Callable[[Any, grpc.ServicerContext], Iterator[bytes]]:
    """Wrap `method` as a gRPC handler that takes one raw message, or an iterator of them, and yields raw messages.

    Args:
        method: takes the message or the iterator, and the stream's place.
    """

    @functools.wraps(method)
    def guarded(request: Any, context: grpc.ServicerContext) -> Iterator[bytes]:
        try:
            with admission.stream(_cancelling(call, context), is_active=context.is_active) as place:
                for message in method(request, place):
                    place.begin_sending()
                    yield message
                    place.end_sending()
                    if not context.is_active():
                        return
        except Exception as error:  # noqa: BLE001 - the last place to turn it into a status
            _end_with(error, call, context)

    return guarded


def guard_upload(
    call: str,
    method: Callable[[Iterator[bytes], Callable[[], None]], bytes],
    admission: Admission,
    *,
    memory_bytes: int,
) -> Callable[[Iterator[bytes], grpc.ServicerContext], bytes]:
    """Wrap `method` as a gRPC handler that takes an iterator of raw messages and returns one.

    Args:
        method: takes the messages and a function that raises if the caller has gone. It calls the function now and then while
            it computes, because it does not notice otherwise.
        memory_bytes: what one call reserves of the memory budget.
    """

    @functools.wraps(method)
    def guarded(messages: Iterator[bytes], context: grpc.ServicerContext) -> bytes:
        def require_caller() -> None:
            if not context.is_active():
                # The same error that iterating over the messages would raise.
                raise grpc.RpcError

        try:
            with admission.stream(_cancelling(call, context), is_active=context.is_active) as place:
                return method(place.requests(messages, memory_bytes), require_caller)
        except grpc.RpcError:
            # The caller has gone, so the answer goes nowhere.
            return b""
        except Exception as error:  # noqa: BLE001 - the last place to turn it into a status
            _end_with(error, call, context)

    return guarded


def _cancelling(call: str, context: grpc.ServicerContext) -> Callable[[StreamStalledError], None]:
    """Return a function that ends a call whose thread is blocked in gRPC.

    Only cancelling the call wakes such a thread. The client then gets CANCELLED without a reason; the log has the reason.
    """

    def cancel(error: StreamStalledError) -> None:
        status_of(error, call=call)
        context.cancel()

    return cancel


def _end_with(error: Exception, call: str, context: grpc.ServicerContext) -> NoReturn:
    status = status_of(error, call=call)
    trailers: list[tuple[str, str | bytes]] = [(DETAILS_KEY, status.SerializeToString())]
    retry_after_s = retry_delay_s(error)
    if retry_after_s is not None:
        # gRPC's built-in retries read this trailer.
        trailers.append(("grpc-retry-pushback-ms", str(int(1000 * retry_after_s))))
    context.set_trailing_metadata(tuple(trailers))
    context.abort(code_of(error), status.message)
