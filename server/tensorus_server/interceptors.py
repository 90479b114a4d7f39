"""What every call gets, in this order: admission (streams only), then the call, then errors as the contract wants them."""

from __future__ import annotations

import functools
import threading
from typing import TYPE_CHECKING, Any, NoReturn

from tensorus_server.errors import TooManyStreamsError
from tensorus_server.status import DETAILS_KEY, code_of, status_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import grpc
    from google.protobuf.message import Message

__all__ = ["StreamSlots", "guard_stream", "guard_unary"]


class StreamSlots:
    """How many streams may be open; long streams must leave threads for short calls."""

    def __init__(self, streams_max: int) -> None:
        """Admit so many at once."""
        self._streams_max = streams_max
        self._slots = threading.BoundedSemaphore(streams_max)

    def __enter__(self) -> None:
        """Take a slot.

        Raises:
            TooManyStreamsError: there is none.
        """
        if not self._slots.acquire(blocking=False):
            raise TooManyStreamsError(
                f"{self._streams_max} streams are open, limit is {self._streams_max} (streams_max)",
                limit=self._streams_max,
            )

    def __exit__(self, *_: object) -> None:
        """Give the slot back."""
        self._slots.release()


def guard_unary(call: str, method: Callable[[Any], Message]) -> Callable[[Any, grpc.ServicerContext], Message]:
    """Return `method` as gRPC calls it; `Any` is the request's type, which the table of methods knows."""

    @functools.wraps(method)
    def guarded(request: Any, context: grpc.ServicerContext) -> Message:
        try:
            return method(request)
        except Exception as error:  # noqa: BLE001 - the last place to turn it into a status
            _end_with(error, call, context)

    return guarded


def guard_stream(
    call: str, method: Callable[[Any], Iterator[bytes]], slots: StreamSlots
) -> Callable[[Any, grpc.ServicerContext], Iterator[bytes]]:
    """Return `method` as gRPC calls it; the request is a message, or an iterator of raw messages."""

    @functools.wraps(method)
    def guarded(request: Any, context: grpc.ServicerContext) -> Iterator[bytes]:
        try:
            with slots:
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
