"""What every call gets, in this order: admission, then the call, then errors as the contract wants them."""

from __future__ import annotations

import functools
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NoReturn

from tensorus_server.errors import DrainingError, TooManyStreamsError
from tensorus_server.status import DETAILS_KEY, code_of, status_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import grpc
    from google.protobuf.message import Message

__all__ = ["Admission", "guard_stream", "guard_unary"]


class Admission:
    """Who may come in: streams up to a number, since they must leave threads for short calls; nobody, once it drains."""

    def __init__(self, streams_max: int) -> None:
        """Admit so many streams at once."""
        self._streams_max = streams_max
        self._changed = threading.Condition()
        self._streams = 0
        self._calls = 0
        self._draining = False

    @contextmanager
    def admitted(self, *, stream: bool) -> Iterator[None]:
        """Let one call in for as long as the block runs.

        Raises:
            DrainingError: the server is about to stop.
            TooManyStreamsError: it is a stream, and as many as there may be are open.
        """
        with self._changed:
            if self._draining:
                raise DrainingError("the server is about to stop")
            if stream and self._streams >= self._streams_max:
                raise TooManyStreamsError(
                    f"{self._streams} streams are open, limit is {self._streams_max} (streams_max)",
                    limit=self._streams_max,
                )
            self._calls += 1
            self._streams += stream
        try:
            yield
        finally:
            with self._changed:
                self._calls -= 1
                self._streams -= stream
                self._changed.notify_all()

    def drain(self, grace_s: float) -> bool:
        """Let nobody in any more, and wait for those inside, at most `grace_s`; return whether all have left."""
        with self._changed:
            self._draining = True
            return self._changed.wait_for(lambda: self._calls == 0, timeout=grace_s)


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
    call: str, method: Callable[[Any], Iterator[bytes]], admission: Admission
) -> Callable[[Any, grpc.ServicerContext], Iterator[bytes]]:
    """Return `method` as gRPC calls it; the request is a message, or an iterator of raw messages."""

    @functools.wraps(method)
    def guarded(request: Any, context: grpc.ServicerContext) -> Iterator[bytes]:
        try:
            with admission.admitted(stream=True):
                for message in method(request):
                    yield message
                    if not context.is_active():
                        return
        except Exception as error:  # noqa: BLE001 - the last place to turn it into a status
            _end_with(error, call, context)

    return guarded


def _end_with(error: Exception, call: str, context: grpc.ServicerContext) -> NoReturn:
    status = status_of(error, call=call)
    context.set_trailing_metadata(((DETAILS_KEY, status.SerializeToString()),))
    context.abort(code_of(error), status.message)
