"""What one Insert call tells its client: collected until it is sent, so that news that piled up shares a message.

Acknowledgements are sent at most once per `_ACKNOWLEDGE_BYTES` or `_ACKNOWLEDGE_S`. Otherwise a client that reads late could
fill the flow-control windows of both directions, which would deadlock the stream.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from google.rpc import status_pb2

from tensorus_protos.framing import repeated
from tensorus_protos.v1 import tensorus_pb2 as pb
from tensorus_server.engine.insert.stream import ItemProgress
from tensorus_server.engine.paging import answers
from tensorus_server.limits import UNACKNOWLEDGED_BYTES_MAX
from tensorus_server.rpc.convert import TensorMessage, outcome_to, tensor_to
from tensorus_server.rpc.status import status_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from tensorus_server.engine.insert.stream import ItemResult
    from tensorus_server.rpc.calls import Call

__all__ = ["Outbox", "progress_to"]

_ACKNOWLEDGE_BYTES = 8 * 1024 * 1024
_ACKNOWLEDGE_S = 0.1

_RESULT_BYTES = 1024 * 1024
"""Size of the results in a message above which no more are added: one more, with the largest metadata, still keeps the message
below `MESSAGE_BYTES_MAX`."""


class Outbox:
    """Collects the news for the client until it is sent. Thread-safe."""

    def __init__(self, call: Call, draining_s: Callable[[], float | None]) -> None:
        """Start without news.

        Args:
            call: whose news they are.
            draining_s: see `InsertCall`.
        """
        self._draining_s = draining_s
        self._told_draining = False
        self._changed = threading.Condition()
        self._opened: list[ItemProgress] | None = None
        self._results: list[ItemResult] = []
        self._result = _ResultMessage(call)
        self._progress: dict[int, ItemProgress] = {}
        self._received_bytes = 0
        self._acknowledged_bytes = 0
        self._acknowledged_s = time.monotonic()
        self._finished: tuple[int, int] | None = None
        self._closed = False
        self._error: BaseException | None = None

    def opened(self, resumable: list[ItemProgress]) -> None:
        """Tell that the stream is open, and what an earlier one left."""
        with self._changed:
            self._opened = resumable
            self._changed.notify()

    def report(self, news: Sequence[ItemResult | ItemProgress]) -> None:
        """Tell results and progress of items."""
        with self._changed:
            for told in news:
                if isinstance(told, ItemProgress):
                    # An item's latest progress includes all earlier progress.
                    self._progress[told.item] = told
                else:
                    self._progress.pop(told.item, None)
                    self._results.append(told)
            self._changed.notify()

    def acknowledge(self, payload_bytes: int) -> None:
        """Tell, some time, that so many more bytes of payload were taken."""
        with self._changed:
            self._received_bytes += payload_bytes
            if self._received_bytes - self._acknowledged_bytes >= _ACKNOWLEDGE_BYTES:
                self._changed.notify()

    def finish(self, succeeded: int, failed: int) -> None:
        """Tell that all items have ended, and how many succeeded and failed."""
        with self._changed:
            self._finished = (succeeded, failed)
            self._changed.notify()

    def close(self) -> None:
        """End the call after what is still to be told."""
        with self._changed:
            self._closed = True
            self._changed.notify()

    def fail(self, error: BaseException) -> None:
        """End the call with an error; only the first error counts."""
        with self._changed:
            self._error = self._error or error
            self._closed = True
            self._changed.notify()

    def messages(self) -> Iterator[bytes]:
        """Yield messages as news arrives; raises the call's error at the end."""
        while True:
            with self._changed:
                self._changed.wait_for(self._has_news, timeout=_ACKNOWLEDGE_S)
                opened, self._opened = self._opened, None
                response, results = self._take()
                closed = self._closed and not self._has_unsaid()
            if opened is not None:
                yield from _to_opened(opened, response.opened)
            yield from self._to_messages(response, results)
            if closed:
                break
        if self._error is not None:
            raise self._error

    def _to_messages(self, response: pb.InsertResponse, results: list[ItemResult]) -> Iterator[bytes]:
        """Yield the response, with its results split over as many messages as they need; the last one says `finished`."""
        field = pb.InsertResponse.RESULTS_FIELD_NUMBER
        tail = b""
        if response.HasField("finished"):
            tail = pb.InsertResponse(finished=response.finished).SerializeToString()
            response.ClearField("finished")
        head, size = response.SerializeToString(), 0
        statuses: list[bytes] = []
        for result in results:
            if size > _RESULT_BYTES:
                yield head + repeated(field, statuses)
                head, statuses, size = b"", [], 0
            statuses.append(self._result.serialize(result))
            size += len(statuses[-1])
        if head or statuses or tail:
            yield head + repeated(field, statuses) + tail

    def _has_unsaid(self) -> bool:
        return bool(self._results or self._finished)

    def _has_news(self) -> bool:
        if self._closed or self._finished:
            return True
        unsaid_bytes = self._received_bytes - self._acknowledged_bytes
        return bool(self._opened is not None or self._progress or self._results or unsaid_bytes >= _ACKNOWLEDGE_BYTES)

    def _take(self) -> tuple[pb.InsertResponse, list[ItemResult]]:
        """Take the pending news: a response without results, and the results. The lock is held."""
        response = pb.InsertResponse()
        draining_s = self._draining_s()
        if draining_s is not None and not self._told_draining:
            self._told_draining = True
            response.draining.grace.FromMilliseconds(int(1000 * draining_s))
        results, self._results = self._results, []
        progress, self._progress = self._progress, {}
        due = time.monotonic() - self._acknowledged_s >= _ACKNOWLEDGE_S
        unsaid_bytes = self._received_bytes - self._acknowledged_bytes
        acknowledges = unsaid_bytes >= _ACKNOWLEDGE_BYTES or (unsaid_bytes > 0 and (due or bool(results or progress)))
        if acknowledges:
            self._acknowledged_bytes = self._received_bytes
            self._acknowledged_s = time.monotonic()
        if acknowledges or progress:
            # Always send both: the sender takes each Progress message as the current state of both.
            response.progress.acknowledged_payload_bytes = self._acknowledged_bytes
            response.progress.items.extend(map(progress_to, progress.values()))
        if self._finished is not None:
            # All results have been reported by now, so `finished` cannot overtake one.
            succeeded, failed = self._finished
            self._finished = None
            response.finished.SetInParent()
            response.finished.succeeded, response.finished.failed = succeeded, failed
        return response, results


def _to_opened(items: list[ItemProgress], last: pb.InsertOpened) -> Iterator[bytes]:
    """Put the items into `last`; if they do not fit, yield messages with the earlier ones first."""
    last.max_unacknowledged_bytes = UNACKNOWLEDGED_BYTES_MAX
    held: list[pb.ItemStatus] | None = None
    for part in answers(items, progress_to):
        if held is not None:
            opened = pb.InsertOpened(max_unacknowledged_bytes=UNACKNOWLEDGED_BYTES_MAX, items=held, more=True)
            yield pb.InsertResponse(opened=opened).SerializeToString()
        held = part
    last.items.extend(held or ())


def progress_to(progress: ItemProgress) -> pb.ItemStatus:
    """Convert an item's progress."""
    message = pb.ItemStatus(item=progress.item, committed_bytes=progress.committed_bytes, status=status_pb2.Status())
    if progress.tensor is None:
        message.tensor.id = progress.id
    else:
        message.tensor.CopyFrom(tensor_to(progress.tensor))
        message.outcome = outcome_to(progress.tensor)
    return message


class _ResultMessage:
    """A message that is reused for one result after the other."""

    def __init__(self, call: Call) -> None:
        self._call = call
        self._message = pb.ItemStatus(status=status_pb2.Status())
        self._tensor = TensorMessage(self._message.tensor)

    def serialize(self, result: ItemResult) -> bytes:
        """Serialize the result of an item."""
        message, tensor = self._message, result.outcome
        if isinstance(tensor, Exception):
            return pb.ItemStatus(item=result.item, status=status_of(tensor, call=self._call)).SerializeToString()
        message.item = result.item
        # A tensor that was only validated has no generation, and nothing of it is stored.
        message.committed_bytes = tensor.spec.canonical_bytes if tensor.generation else 0
        message.outcome = outcome_to(tensor)
        self._tensor.fill(tensor)
        return message.SerializeToString()
