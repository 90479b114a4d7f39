"""Wraps every call: finds out who makes it, admits it, checks rights, runs it, and converts its errors into statuses.

Requests arrive as raw bytes and are parsed here, on the call's own thread. gRPC itself would parse the requests of all calls on
one thread; for a request that does not parse it would return INTERNAL without a reason, and log a traceback.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import grpc
from google.protobuf.message import DecodeError, Message

from tensorus_server.errors import InvalidRequestError
from tensorus_server.rpc.rights import NEEDS
from tensorus_server.rpc.status import DETAILS_KEY, code_of, retry_delay_s, status_of_call

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tensorus_server.errors import StreamStalledError
    from tensorus_server.rpc.admission import Place
    from tensorus_server.rpc.calls import Call, Gate

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
    name: str, method: Callable[[Any, Call], Message], request_type: type[Message], gate: Gate
) -> Callable[[Iterator[bytes], grpc.ServicerContext], bytes]:
    """Wrap `method` as a gRPC handler that takes one raw message from an iterator and returns one; see `arrivals.py`.

    Args:
        method: takes a `request_type` and the call; `Any`, since only the table of methods knows which.
    """
    needs = NEEDS[name]

    @functools.wraps(method)
    def guarded(messages: Iterator[bytes], context: grpc.ServicerContext) -> bytes:
        call = gate.arrived(name, context)
        try:
            gate.identify(call, context)
            raw = _only(messages, call, gate, context)
            with gate.admission.short_call():
                request = parsed(raw, request_type)
                gate.authorize(call, request, needs)
                answer = method(request, call).SerializeToString()
        except grpc.RpcError:
            # The caller has gone, or has sent nothing for too long. The answer goes nowhere.
            gate.ended(call, call.cut_by)
            return b""
        except Exception as error:  # noqa: BLE001 - the last place to turn it into a status
            _end_with(error, call, gate, context)
        call.sent_bytes = len(answer)
        gate.ended(call, None)
        return answer

    return guarded


def guard_stream(
    name: str,
    method: Callable[[Any, Place, Call], Iterator[bytes]],
    gate: Gate,
    request_type: type[Message] | None = None,
) -> Callable[[Iterator[bytes], grpc.ServicerContext], Iterator[bytes]]:
    """Wrap `method` as a gRPC handler that takes an iterator of raw messages, and yields raw messages.

    Args:
        method: takes the message, or the iterator of raw messages; the stream's place; the call.
        request_type: of the only message; None: the method takes the iterator, and checks the caller's rights itself.
    """
    needs = NEEDS[name]

    @functools.wraps(method)
    def guarded(messages: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        call = gate.arrived(name, context)
        try:
            gate.identify(call, context)
            raw = b"" if request_type is None else _only(messages, call, gate, context)
            with gate.stream(call, _cancelling(call, context), is_active=context.is_active) as place:
                place.trace = call.trace
                request: Any
                if request_type is None:
                    request = map(call.received, messages)
                else:
                    request = parsed(raw, request_type)
                    gate.authorize(call, request, needs)
                for message in map(call.sent, method(request, place, call)):
                    place.begin_sending()
                    yield message
                    place.end_sending()
                    if not context.is_active():
                        break
        except Exception as error:  # noqa: BLE001 - the last place to turn it into a status
            _end_with(error, call, gate, context)
        except BaseException:
            # The client went away: gRPC closes this generator where it is.
            gate.ended(call, call.cut_by)
            raise
        gate.ended(call, call.cut_by)

    return guarded


def guard_upload(
    name: str,
    method: Callable[[Iterator[bytes], Callable[[], None], Call], bytes],
    gate: Gate,
    *,
    memory_bytes: int,
) -> Callable[[Iterator[bytes], grpc.ServicerContext], bytes]:
    """Wrap `method` as a gRPC handler that takes an iterator of raw messages and returns one.

    Args:
        method: takes the messages, a function that raises if the caller has gone, and the call, whose rights it checks itself.
            It calls the function now and then while it computes, because it does not notice otherwise.
        memory_bytes: what one call reserves of the memory budget.
    """

    @functools.wraps(method)
    def guarded(messages: Iterator[bytes], context: grpc.ServicerContext) -> bytes:
        def require_caller() -> None:
            if not context.is_active():
                # The same error that iterating over the messages would raise.
                raise grpc.RpcError

        call = gate.arrived(name, context)
        try:
            gate.identify(call, context)
            with gate.stream(call, _cancelling(call, context), is_active=context.is_active) as place:
                place.trace = call.trace
                requests = place.requests(map(call.received, messages), memory_bytes)
                answer = method(requests, require_caller, call)
        except grpc.RpcError:
            # The caller has gone, so the answer goes nowhere.
            answer = b""
        except Exception as error:  # noqa: BLE001 - the last place to turn it into a status
            _end_with(error, call, gate, context)
        call.sent_bytes = len(answer)
        gate.ended(call, call.cut_by)
        return answer

    return guarded


def _only(messages: Iterator[bytes], call: Call, gate: Gate, context: grpc.ServicerContext) -> bytes:
    """Return the only message of a call.

    Raises:
        InvalidRequestError: there is none.
        RpcError: the call has ended, perhaps because the message did not arrive in time.
    """
    raw = gate.admission.arrivals.next(messages, _cancelling(call, context))
    if raw is None:
        raise InvalidRequestError("the call has no message")
    call.received_bytes = len(raw)
    return raw


def _cancelling(call: Call, context: grpc.ServicerContext) -> Callable[[StreamStalledError], None]:
    """Return a function that ends a call whose thread is blocked in gRPC.

    Only cancelling the call wakes such a thread. The client then gets CANCELLED without a reason; the log has the reason.
    """

    def cancel(error: StreamStalledError) -> None:
        call.cut_by = error
        context.cancel()

    return cancel


def _end_with(error: Exception, call: Call, gate: Gate, context: grpc.ServicerContext) -> NoReturn:
    status = status_of_call(error, call=call)
    # Before the client is told, so that the log has it by then.
    gate.ended(call, error)
    trailers: list[tuple[str, str | bytes]] = [(DETAILS_KEY, status.SerializeToString())]
    retry_after_s = retry_delay_s(error)
    if retry_after_s is not None:
        # gRPC's built-in retries read this trailer.
        trailers.append(("grpc-retry-pushback-ms", str(int(1000 * retry_after_s))))
    context.set_trailing_metadata(tuple(trailers))
    context.abort(code_of(error), status.message)
