"""One Insert call, run by two threads.

The reading thread takes requests and drives the engine's `InsertStream`. The call's own thread waits for news (results,
progress, acknowledgements) and sends it; news that piled up shares a message. So a client that sends without reading, or reads
without sending, blocks only itself. If the first message is also the last, one thread does both in turn.

A call with a request id holds the session of that id. The call ends when a newer stream takes the session over, or when the
client goes away or stalls; items can then be resumed from their last mark.

Acknowledgements are sent at most once per `_ACKNOWLEDGE_BYTES` or `_ACKNOWLEDGE_S`. Otherwise a client that reads late could
fill the flow-control windows of both directions, which would deadlock the stream.
"""

from __future__ import annotations

import threading
import time
from contextlib import ExitStack, suppress
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING

import grpc
from google.rpc import status_pb2

from tensorus_codecs.abc import BaseFilter
from tensorus_codecs.checksum import crc32c
from tensorus_codecs.chunk_record import parse_record
from tensorus_codecs.errors import CorruptChunkError, UnsupportedCodecError
from tensorus_codecs.pipeline import codec_ids, decode_record
from tensorus_protos.framing import repeated
from tensorus_protos.v1 import tensorus_pb2 as pb
from tensorus_server.background import STUCK_S, join_all
from tensorus_server.engine.insert.stream import InsertOptions, ItemProgress
from tensorus_server.engine.paging import answers
from tensorus_server.engine.validate import require_request_id
from tensorus_server.errors import (
    ChecksumMismatchError,
    EngineError,
    InvalidRequestError,
    PayloadTooLargeError,
    SegmentMisalignedError,
    SessionTakenOverError,
)
from tensorus_server.limits import CHUNK_BYTES_MAX, UNACKNOWLEDGED_BYTES_MAX
from tensorus_server.model import Segment
from tensorus_server.rpc.convert import (
    TensorMessage,
    checksum_from,
    encoding_from,
    new_tensor_from,
    outcome_to,
    tensor_to,
)
from tensorus_server.rpc.framing import read_insert_message
from tensorus_server.rpc.status import status_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from tensorus_server.engine.engine import Engine
    from tensorus_server.engine.insert.stream import InsertStream, ItemResult
    from tensorus_server.errors import StreamStalledError
    from tensorus_server.rpc.admission import Place
    from tensorus_server.rpc.framing import InsertMessage

__all__ = ["InsertCall", "progress_to"]

_ACKNOWLEDGE_BYTES = 8 * 1024 * 1024
_ACKNOWLEDGE_S = 0.1

_RESULT_BYTES = 1024 * 1024
"""Size of the results in a message above which no more are added: one more, with the largest metadata, still keeps the message
below `MESSAGE_BYTES_MAX`."""


class InsertCall:
    """See the module's description."""

    def __init__(
        self, engine: Engine, messages: Iterator[bytes], place: Place, draining_s: Callable[[], float | None]
    ) -> None:
        """Prepare the call; it starts when `responses` is iterated.

        Args:
            place: the stream's place.
            draining_s: returns how many seconds the call has left if the server drains, otherwise None.
        """
        self._engine = engine
        self._messages = messages
        self._place = place
        self._outbox = _Outbox(draining_s)
        self._dataset = ""
        self._encodings: list[frozenset[str]] = []
        self._stream: InsertStream | None = None
        self._ends_early = False
        """Whether the call ends while its reading thread may still wait for a request."""
        self._is_whole = False
        self._is_finishing = False

    def responses(self) -> Iterator[bytes]:
        """Yield the call's responses; raises the error that makes the whole call fail."""
        messages = map(read_insert_message, self._messages)
        try:
            first = next(messages, None)
        except grpc.RpcError:
            # The client has gone, so nobody reads an answer.
            return
        if first is None:
            return
        self._is_whole, everything = first.head.finish, chain([first], messages)
        # Frees the message's memory: this frame lives as long as the call.
        del first
        if self._is_whole:
            self._read(everything)
            yield from self._outbox.messages()
            return
        reader = threading.Thread(target=self._read, args=(everything,), name="tensorus-insert", daemon=True)
        self._place.end = partial(self._stall, self._place.end)
        reader.start()
        try:
            yield from self._outbox.messages()
        finally:
            # The transport ends the iterator of requests when the call ends. That is usually before this line. If the call was
            # taken over or stalled it is after it, and to join the reader here would be a deadlock.
            if not self._ends_early:
                # All of the reader's waits have a limit. If it hangs nevertheless, its stack is logged.
                join_all([reader], STUCK_S)

    def _read(self, messages: Iterable[InsertMessage]) -> None:
        try:
            with ExitStack() as held:
                try:
                    for message in messages:
                        if self._take(message, held):
                            break
                    else:
                        if self._stream is not None:
                            self._stream.require_ended()
                finally:
                    if self._stream is not None:
                        self._stream.abort()
            self._outbox.close()
        except grpc.RpcError:
            # The client has gone, so nobody reads an answer.
            self._outbox.close()
        except BaseException as error:  # noqa: BLE001 - the call's own thread raises it, and would wait forever otherwise
            self._outbox.fail(error)

    def _take(self, message: InsertMessage, held: ExitStack) -> bool:
        """Handle one message; return whether it was the last."""
        head, segments = message.head, message.segments
        if self._stream is None:
            self._stream = self._open(head, held)
        elif head.HasField("open"):
            raise InvalidRequestError("a message opens the stream a second time", dataset=self._dataset)
        for segment, payload in segments:
            self._receive(self._stream, segment, payload)
        self._stream.flush()
        self._outbox.acknowledge(sum(payload.nbytes for _, payload in segments))
        if head.finish:
            if not self._is_whole:
                threading.Thread(target=self._refuse_more, name="tensorus-insert-end", daemon=True).start()
            self._is_finishing = True
            succeeded, failed = self._stream.finish()
            self._outbox.finish(succeeded, failed)
        return head.finish

    def _refuse_more(self) -> None:
        """Fail the call if a message follows the last one.

        This runs on its own thread, because a client may keep its side of the stream open until it has its answer. Inserts of
        one message skip the check: the thread would cost a tenth of the server's CPU time for them (measured).
        """
        # These errors mean that the call has already ended.
        with suppress(grpc.RpcError, EngineError):
            if next(self._messages, None) is not None:
                self._outbox.fail(
                    InvalidRequestError("a message follows the one that says finish", dataset=self._dataset)
                )

    def _open(self, head: pb.InsertRequest, held: ExitStack) -> InsertStream:
        if not head.HasField("open"):
            raise InvalidRequestError("first message of the stream does not open it")
        for encoding in head.open.encodings:
            # Fails here, before the client sends data, if this server cannot decode it.
            if isinstance(encoding_from(encoding).filter, BaseFilter):
                raise InvalidRequestError(
                    "an encoding of the stream has a filter whose records need a base, which a segment does not have",
                    dataset=head.open.dataset,
                )
            self._encodings.append(frozenset(codec.id for codec in encoding.codecs))
        self._dataset = head.open.dataset
        request_id = head.open.request_id
        if request_id:
            require_request_id(request_id, dataset=self._dataset)
            held.enter_context(self._engine.sessions.held(request_id, self._take_over))
        options = InsertOptions(request_id or None, head.open.all_or_nothing, head.open.validate_only)
        stream = self._engine.open_insert(self._dataset, self._report, options)
        self._place.owes = lambda: self._is_finishing or stream.owes()
        self._outbox.opened(stream.resumable)
        return stream

    def _report(self, news: Sequence[ItemResult | ItemProgress]) -> None:
        # Before the news is sent, since the stream was not silent while the server worked.
        self._place.touch()
        self._outbox.report(news)

    def _stall(self, cancel: Callable[[StreamStalledError], None], error: StreamStalledError) -> None:
        """End the call because its client stalled, with a reason if one can still be sent."""
        if self._place.sends:
            # A message is stuck in front of any error.
            cancel(error)
        else:
            self._ends_early = True
            self._outbox.fail(error)

    def _take_over(self) -> None:
        self._ends_early = True
        self._outbox.fail(
            SessionTakenOverError("a newer stream continues this insert, or it was cancelled", dataset=self._dataset)
        )

    def _receive(self, stream: InsertStream, segment: pb.Segment, payload: memoryview) -> None:
        if stream.is_lost:
            # The segment is neither checked nor decoded, since nothing of this insert will be stored.
            stream.drop(segment.item, announced=segment.HasField("tensor"))
            return
        try:
            new = new_tensor_from(segment.tensor, dataset=self._dataset) if segment.HasField("tensor") else None
            payload_crc32c = self._checked_crc32c(segment, payload)
            canonical = self._canonical(segment, payload)
        except Exception as error:  # noqa: BLE001 - any error here concerns only this item
            stream.fail(segment.item, error)
            return
        received = Segment(
            item=segment.item,
            offset=segment.offset,
            decoded_length=canonical.nbytes,
            last=segment.last,
            tensor=new,
            source_checksum=checksum_from(segment.source_checksum) if segment.HasField("source_checksum") else None,
        )
        stream.receive(received, canonical, payload_crc32c if segment.encoding == 0 else None)

    def _checked_crc32c(self, segment: pb.Segment, payload: memoryview) -> int | None:
        if not segment.HasField("crc32c"):
            return None
        found = crc32c(payload)
        if found != segment.crc32c:
            raise ChecksumMismatchError(
                f"CRC32C of the segment at offset {segment.offset} is {found:#010x}, the segment says {segment.crc32c:#010x}",
                dataset=self._dataset,
                item=segment.item,
                expected=f"{segment.crc32c:#010x}",
                found=f"{found:#010x}",
            )
        return found

    def _canonical(self, segment: pb.Segment, payload: memoryview) -> memoryview:
        """Return the segment's canonical bytes: the payload itself, or what the chunk record in it decodes to."""
        canonical, encoding, decoded_length = payload, segment.encoding, segment.decoded_length
        if encoding > len(self._encodings):
            raise InvalidRequestError(
                f"encoding of a segment is {encoding}, the stream announced {len(self._encodings)}",
                dataset=self._dataset,
            )
        if decoded_length > CHUNK_BYTES_MAX:
            raise PayloadTooLargeError(
                f"decoded_length of a segment is {decoded_length} bytes, limit is {CHUNK_BYTES_MAX} bytes "
                "(chunk_bytes_max)",
                dataset=self._dataset,
                limit=CHUNK_BYTES_MAX,
            )
        if encoding:
            try:
                record = parse_record(payload)
                self._require_announced(segment, codec_ids(record))
                canonical = decode_record(record)
            except UnsupportedCodecError:
                # An unknown codec number (a subclass) counts as unsupported, not as a damaged record.
                raise
            except CorruptChunkError as error:
                raise ChecksumMismatchError(
                    f"chunk record of the segment at offset {segment.offset}: {error}", dataset=self._dataset
                ) from error
        if canonical.nbytes != decoded_length:
            raise SegmentMisalignedError(
                f"decoded_length of the segment at offset {segment.offset} is {decoded_length} bytes, "
                f"it has {canonical.nbytes} bytes",
                dataset=self._dataset,
            )
        return canonical

    def _require_announced(self, segment: pb.Segment, found: tuple[str, ...]) -> None:
        """Refuse a record that uses codecs other than those announced for its encoding."""
        announced = self._encodings[segment.encoding - 1]
        if not announced.issuperset(found):
            raise InvalidRequestError(
                f"chunk record of the segment at offset {segment.offset} takes {' > '.join(found)}, "
                f"encoding {segment.encoding} of the stream has {', '.join(sorted(announced)) or 'no codec'}",
                dataset=self._dataset,
                item=segment.item,
            )


class _Outbox:
    """Collects the news for the client until it is sent. Thread-safe."""

    def __init__(self, draining_s: Callable[[], float | None]) -> None:
        self._draining_s = draining_s
        self._told_draining = False
        self._changed = threading.Condition()
        self._opened: list[ItemProgress] | None = None
        self._results: list[ItemResult] = []
        self._result = _ResultMessage()
        self._progress: dict[int, ItemProgress] = {}
        self._received_bytes = 0
        self._acknowledged_bytes = 0
        self._acknowledged_s = time.monotonic()
        self._finished: tuple[int, int] | None = None
        self._closed = False
        self._error: BaseException | None = None

    def opened(self, resumable: list[ItemProgress]) -> None:
        with self._changed:
            self._opened = resumable
            self._changed.notify()

    def report(self, news: Sequence[ItemResult | ItemProgress]) -> None:
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
        with self._changed:
            self._received_bytes += payload_bytes
            if self._received_bytes - self._acknowledged_bytes >= _ACKNOWLEDGE_BYTES:
                self._changed.notify()

    def finish(self, succeeded: int, failed: int) -> None:
        with self._changed:
            self._finished = (succeeded, failed)
            self._changed.notify()

    def close(self) -> None:
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

    def __init__(self) -> None:
        self._message = pb.ItemStatus(status=status_pb2.Status())
        self._tensor = TensorMessage(self._message.tensor)

    def serialize(self, result: ItemResult) -> bytes:
        """Serialize the result of an item."""
        message, tensor = self._message, result.outcome
        if isinstance(tensor, Exception):
            return pb.ItemStatus(item=result.item, status=status_of(tensor, call="Insert")).SerializeToString()
        message.item = result.item
        # A tensor that was only validated has no generation, and nothing of it is stored.
        message.committed_bytes = tensor.spec.canonical_bytes if tensor.generation else 0
        message.outcome = outcome_to(tensor)
        self._tensor.fill(tensor)
        return message.SerializeToString()
