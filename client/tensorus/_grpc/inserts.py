"""The life of an insert: streams, what their answers mean, and what is done when one breaks. No I/O: see `steps.py`.

Each stream sends what has no result yet. One that breaks is followed by another one, which goes on where the server has it.
An insert that ends before it is complete, however that came, is cancelled at the server where something large may be left.
"""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, TypeAlias

from tensorus._grpc.calls import cancel_insert
from tensorus._grpc.convert import error_of, inserted_from
from tensorus._grpc.insert_stream import InsertSession
from tensorus._grpc.patience import STALL_REASONS
from tensorus._grpc.steps import Ask, AttemptFailedError, Close, Give, Open, Pause, Read, Work, as_answer
from tensorus.errors import InternalError, TensorusError
from tensorus.types import Progress
from tensorus_protos.v1 import tensorus_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Never

    from tensorus._backend import InsertOptions, Upload
    from tensorus._grpc.insert_stream import InsertMessages
    from tensorus._grpc.steps import Steps
    from tensorus.types import TensorInfo

__all__ = ["Result", "insert", "insert_results"]

Result: TypeAlias = "tuple[int, TensorInfo | TensorusError]"
"""The position of an upload, and what became of it."""

_READ = Read()


def insert(
    dataset: str,
    uploads: Iterable[Upload],
    options: InsertOptions,
    on_progress: Callable[[Progress], None] | None,
) -> Steps[Result, None]:
    """See `Backend`."""
    session = InsertSession(dataset, uploads, options)
    try:
        while True:
            broken = yield from _stream(session, on_progress)
            if session.failure is not None:
                raise session.failure
            if broken is None:
                if not session.has_expired:
                    break
            # Where there was nothing to send, nobody's patience is asked for.
            elif broken.reason not in STALL_REASONS or not (yield Work(session.await_source)):
                interruptions = yield Pause(broken, session.place)
                if on_progress is not None:
                    on_progress(Progress(None, session.delivered_bytes, None, interruptions))
    except BaseException:
        yield from _leave_nothing(session)
        raise
    if session.unsendable:
        yield Give(session.unsendable)
    if session.is_lost:
        yield Give(session.abandoned())


def _leave_nothing(session: InsertSession) -> Steps[Never, None]:
    """Cancel an insert that is not complete, where the server may keep a part of it."""
    if session.may_have_left_something:
        yield Close()
        with suppress(TensorusError):
            yield Ask(cancel_insert(session.request_id))


def _stream(
    session: InsertSession, on_progress: Callable[[Progress], None] | None
) -> Steps[Result, TensorusError | None]:
    """Give the results of one stream; return why another one is to follow a little later, if one is."""
    messages, requests = yield Work(partial(_begin, session))
    told: list[Progress] = []
    try:
        yield Open("Insert", requests, session.request_id)
        while (raw := (yield _READ)) is not None:
            yield Give(insert_results(raw, session, messages, told.append))
            if on_progress is not None:
                for progress in told:
                    on_progress(progress)
            told.clear()
    except AttemptFailedError as failed:
        return failed.error
    finally:
        messages.end()
    if session.failure is None and not messages.finished:
        raise InternalError("the server ended the insert before all of it was sent")
    return session.busy


def _begin(session: InsertSession) -> tuple[InsertMessages, bytes | Iterator[bytes]]:
    """Return the messages of the next stream, and the requests that send them.

    A stream of one message goes as a call of one request: the server sees no difference, and gRPC takes no thread for it.
    """
    messages = session.begin()
    if not session.is_in_hand:
        return messages, messages
    first = next(messages)
    return messages, first if messages.finished else chain([first], messages)


def insert_results(
    raw: bytes,
    session: InsertSession,
    messages: InsertMessages,
    on_progress: Callable[[Progress], None],
) -> Iterator[Result]:
    """Yield the results in an answer of Insert, and let session and messages know what it says."""
    with as_answer("Insert"):
        response = pb.InsertResponse.FromString(raw)
    if response.HasField("opened"):
        yield from _take_opened(response.opened, session, messages)
    if response.HasField("progress"):
        acknowledged_bytes = response.progress.acknowledged_payload_bytes
        messages.credit.acknowledge(acknowledged_bytes)
        session.acknowledged_bytes = acknowledged_bytes
        on_progress(Progress(None, session.delivered_bytes + acknowledged_bytes, None))
    for result in response.results:
        if not result.status.code:
            outcome: TensorInfo | TensorusError = inserted_from(result)
        else:
            outcome = error_of(result.status)
            if not session.failed(result.item, outcome):
                continue
        if session.resolve(result.item):
            yield result.item, outcome


def _take_opened(opened: pb.InsertOpened, session: InsertSession, messages: InsertMessages) -> Iterator[Result]:
    """Yield what was complete before the stream opened, and not heard of then; let the rest go on after its last message."""
    for left in opened.items:
        if left.tensor.generation and session.resolve(left.item):
            yield left.item, inserted_from(left)
    messages.left.update((left.item, left.committed_bytes) for left in opened.items)
    if not opened.more:
        session.resumed(messages.left)
        messages.credit.set_limit(opened.max_unacknowledged_bytes)
        messages.opened.set()
