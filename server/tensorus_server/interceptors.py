"""What every call gets, in this order: admission, then the call, then errors as the contract wants them."""

from __future__ import annotations

import functools
import threading
import time
from collections import deque
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NoReturn

import grpc

from tensorus_server.errors import DrainingError, TooManyStreamsError
from tensorus_server.status import DETAILS_KEY, code_of, retry_delay_s, status_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from google.protobuf.message import Message

__all__ = ["Admission", "guard_stream", "guard_unary", "guard_upload"]

_RETRY_AFTER_S = 1.0
"""What those are told who find every place taken."""

_LOOK_S = 0.2
"""How often one who waits looks whether its caller still does."""


class Admission:
    """Who may come in: streams up to a number, since they must leave threads for short calls; nobody, once it drains.

    Streams borrow from one memory budget. Where it does not suffice they wait, in the order in which they came.
    """

    def __init__(self, streams_max: int, memory_budget_bytes: int) -> None:
        """Admit so many streams at once, waiting ones included, and as many at work as the budget allows; at least one."""
        self._streams_max = streams_max
        self._budget_bytes = memory_budget_bytes
        self._changed = threading.Condition()
        self._streams = 0
        self._calls = 0
        self._borrowed_bytes = 0
        self._waiting: deque[object] = deque()
        self._drained_s: float | None = None

    @contextmanager
    def admitted(
        self, *, stream: bool, memory_bytes: int = 0, is_active: Callable[[], bool] = lambda: True
    ) -> Iterator[None]:
        """Let one call in for as long as the block runs.

        Args:
            memory_bytes: what a stream borrows of the budget; waits for it.
            is_active: whether the caller still waits.

        Raises:
            DrainingError: the server is about to stop.
            TooManyStreamsError: it is a stream, and as many as there may be are open.
        """
        # A stream that needs more than there is has it all.
        memory_bytes = min(memory_bytes, self._budget_bytes)
        with self._changed:
            self._require_open()
            if stream and self._streams >= self._streams_max:
                raise TooManyStreamsError(
                    f"{self._streams} streams are open, limit is {self._streams_max} (streams_max)",
                    limit=self._streams_max,
                    retry_after_s=_RETRY_AFTER_S,
                )
            self._calls += 1
            self._streams += stream
        borrowed_bytes = 0
        try:
            if memory_bytes:
                self._borrow(memory_bytes, is_active)
                borrowed_bytes = memory_bytes
            yield
        finally:
            with self._changed:
                self._calls -= 1
                self._streams -= stream
                self._borrowed_bytes -= borrowed_bytes
                self._changed.notify_all()

    @property
    def draining_s(self) -> float | None:
        """For how long calls may still go on, in seconds; None: nothing is about to stop."""
        drained_s = self._drained_s
        return None if drained_s is None else max(drained_s - time.monotonic(), 0.0)

    def drain(self, grace_s: float) -> bool:
        """Let nobody in any more, and wait for those inside, at most `grace_s`; return whether all have left."""
        with self._changed:
            self._drained_s = time.monotonic() + grace_s
            self._changed.notify_all()
            return self._changed.wait_for(lambda: self._calls == 0, timeout=grace_s)

    def _borrow(self, memory_bytes: int, is_active: Callable[[], bool]) -> None:
        place = object()
        with self._changed:
            self._waiting.append(place)
            try:
                while self._waiting[0] is not place or self._borrowed_bytes + memory_bytes > self._budget_bytes:
                    self._require_open()
                    if not is_active():
                        raise TooManyStreamsError("the caller has gone while its stream waited for memory")
                    self._changed.wait(_LOOK_S)
                self._borrowed_bytes += memory_bytes
            finally:
                self._waiting.remove(place)
                self._changed.notify_all()

    def _require_open(self) -> None:
        if self._drained_s is not None:
            raise DrainingError("the server is about to stop")


def guard_unary(
    call: str, method: Callable[[Any], Message], admission: Admission
) -> Callable[[Any, grpc.ServicerContext], Message]:
    """Return `method` as gRPC calls it; `Any` is the request's type, which the table of methods knows."""

    @functools.wraps(method)
    def guarded(request: Any, context: grpc.ServicerContext) -> Message:
        try:
            with admission.admitted(stream=False):
                return method(request)
        except Exception as error:  # noqa: BLE001 - the last place to turn it into a status
            _end_with(error, call, context)

    return guarded


def guard_stream(
    call: str, method: Callable[[Any], Iterator[bytes]], admission: Admission, *, memory_bytes: int
) -> Callable[[Any, grpc.ServicerContext], Iterator[bytes]]:
    """Return `method` as gRPC calls it; the request is a message, or an iterator of raw messages.

    Args:
        memory_bytes: what one call borrows of the memory budget.
    """

    @functools.wraps(method)
    def guarded(request: Any, context: grpc.ServicerContext) -> Iterator[bytes]:
        try:
            with admission.admitted(stream=True, memory_bytes=memory_bytes, is_active=context.is_active):
                for message in method(request):
                    yield message
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
    """Return `method` as gRPC calls it; many raw messages in, one raw message out.

    Args:
        method: takes the messages, and what to call from time to time while nothing else shows whether the caller still waits.
        memory_bytes: what one call borrows of the memory budget.
    """

    @functools.wraps(method)
    def guarded(messages: Iterator[bytes], context: grpc.ServicerContext) -> bytes:
        def require_caller() -> None:
            if not context.is_active():
                # As the messages raise it.
                raise grpc.RpcError

        try:
            with admission.admitted(stream=True, memory_bytes=memory_bytes, is_active=context.is_active):
                return method(messages, require_caller)
        except grpc.RpcError:
            # The caller has gone: nobody waits for an answer.
            return b""
        except Exception as error:  # noqa: BLE001 - the last place to turn it into a status
            _end_with(error, call, context)

    return guarded


def _end_with(error: Exception, call: str, context: grpc.ServicerContext) -> NoReturn:
    status = status_of(error, call=call)
    trailers: list[tuple[str, str | bytes]] = [(DETAILS_KEY, status.SerializeToString())]
    retry_after_s = retry_delay_s(error)
    if retry_after_s is not None:
        # What gRPC's own retries go by.
        trailers.append(("grpc-retry-pushback-ms", str(int(1000 * retry_after_s))))
    context.set_trailing_metadata(tuple(trailers))
    context.abort(code_of(error), status.message)
