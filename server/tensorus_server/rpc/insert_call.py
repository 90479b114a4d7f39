"""One Insert call, run by two threads.

The reading thread takes requests and drives the engine's `InsertStream`. The call's own thread waits for news (results,
progress, acknowledgements) and sends it; news that piled up shares a message. So a client that sends without reading, or reads
without sending, blocks only itself. If the first message is also the last, one thread does both in turn.

A call with a request id holds the session of that id. The call ends when a newer stream takes the session over, or when the
client goes away or stalls; items can then be resumed from their last mark.
"""

from __future__ import annotations

import threading
from contextlib import ExitStack, suppress
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING

import grpc

from tensorus_codecs.abc import BaseFilter
from tensorus_codecs.checksum import crc32c
from tensorus_codecs.chunk_record import parse_record
from tensorus_codecs.errors import CorruptChunkError, UnsupportedCodecError
from tensorus_codecs.pipeline import codec_ids, decode_record
from tensorus_server.access.rights import Role
from tensorus_server.background import STUCK_S, join_all
from tensorus_server.engine.insert.stream import InsertOptions, ItemResult
from tensorus_server.engine.validate import require_request_id
from tensorus_server.errors import (
    ChecksumMismatchError,
    EngineError,
    InvalidRequestError,
    PayloadTooLargeError,
    SegmentMisalignedError,
    SessionTakenOverError,
    reason_of,
)
from tensorus_server.limits import CHUNK_BYTES_MAX, ID_BYTES_MAX
from tensorus_server.model import Outcome, Segment, Tensor
from tensorus_server.rpc.calls import OK
from tensorus_server.rpc.convert import (
    checksum_from,
    encoding_from,
    new_tensor_from,
)
from tensorus_server.rpc.framing import read_insert_message
from tensorus_server.rpc.insert_outbox import Outbox

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from tensorus_protos.v1 import tensorus_pb2 as pb
    from tensorus_server.engine.engine import Engine
    from tensorus_server.engine.insert.stream import InsertStream, ItemProgress
    from tensorus_server.errors import StreamStalledError
    from tensorus_server.model import NewTensor
    from tensorus_server.rpc.admission import Place
    from tensorus_server.rpc.calls import Call
    from tensorus_server.rpc.framing import InsertMessage
    from tensorus_server.rpc.quotas import Budget

__all__ = ["InsertCall"]


class InsertCall:
    """See the module's description."""

    def __init__(
        self,
        engine: Engine,
        messages: Iterator[bytes],
        place: Place,
        call: Call,
        draining_s: Callable[[], float | None],
    ) -> None:
        """Prepare the call; it starts when `responses` is iterated.

        Args:
            place: the stream's place.
            call: who inserts; its rights are checked again at every message.
            draining_s: returns how many seconds the call has left if the server drains, otherwise None.
        """
        self._engine = engine
        self._messages = messages
        self._place = place
        self._call = call
        self._outbox = Outbox(call, draining_s)
        self._noting = threading.Lock()
        """Held while results are counted, which several threads bring."""
        self._ids: dict[int, str] | None = {} if call.wants_tensors else None
        """Ids of the items without a result, if anybody is to be told of them."""
        self._is_trial = False
        self._dataset = ""
        self._budget: Budget | None = None
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
        else:
            # They may have been withdrawn meanwhile.
            self._call.require(Role.WRITER, self._dataset)
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
        self._dataset = self._call.dataset = head.open.dataset
        self._call.require(Role.WRITER, self._dataset)
        self._budget = self._call.budget_of(self._dataset)
        for encoding in head.open.encodings:
            # Fails here, before the client sends data, if this server cannot decode it.
            if isinstance(encoding_from(encoding).filter, BaseFilter):
                raise InvalidRequestError(
                    "an encoding of the stream has a filter whose records need a base, which a segment does not have",
                    dataset=self._dataset,
                )
            self._encodings.append(frozenset(codec.id for codec in encoding.codecs))
        request_id = head.open.request_id
        if request_id:
            require_request_id(request_id, dataset=self._dataset)
            request_id = self._call.caller.session_of(request_id)
            held.enter_context(self._engine.sessions.held(request_id, self._take_over))
        self._is_trial = head.open.validate_only
        if self._is_trial:
            # Nothing becomes of its tensors that anybody is to be told.
            self._ids = None
        options = InsertOptions(
            request_id or None, head.open.all_or_nothing, head.open.validate_only, trace=self._call.trace
        )
        stream = self._engine.open_insert(self._dataset, self._report, options)
        self._place.owes = lambda: self._is_finishing or stream.owes()
        self._outbox.opened(stream.resumable)
        return stream

    def _report(self, news: Sequence[ItemResult | ItemProgress]) -> None:
        # Before the news is sent, since the stream was not silent while the server worked.
        self._place.touch()
        if not self._is_trial:
            self._note([told for told in news if isinstance(told, ItemResult)])
        self._outbox.report(news)

    def _note(self, results: Sequence[ItemResult]) -> None:
        """Count tensors, and say what became of them, before the client is told."""
        stored = [result.outcome for result in results if isinstance(result.outcome, Tensor)]
        with self._noting:
            self._call.tensors += len(stored)
        if self._budget is not None:
            new = [tensor for tensor in stored if tensor.outcome is not Outcome.ALREADY_STORED]
            self._budget.note(sum(tensor.storage.stored_bytes for tensor in new), len(new))
        if self._ids is None or not results:
            return
        named = []
        for result in results:
            announced, outcome = self._ids.pop(result.item, ""), result.outcome
            if isinstance(outcome, Exception):
                named.append((announced, reason_of(outcome)))
            else:
                named.append((outcome.id, OK))
        self._call.note_tensors(named)

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
        if self._ids is not None and segment.HasField("tensor"):
            self._ids[segment.item] = segment.tensor.id[:ID_BYTES_MAX]
        try:
            new = self._announced(segment) if segment.HasField("tensor") else None
            payload_crc32c = self._checked_crc32c(segment, payload)
            canonical = self._canonical(segment, payload)
            self._call.inserted_bytes += canonical.nbytes
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

    def _announced(self, segment: pb.Segment) -> NewTensor:
        new = new_tensor_from(segment.tensor, dataset=self._dataset)
        if self._budget is not None:
            self._budget.require_room()
        if new.base is not None and new.base.dataset:
            # Whoever sees how small the differences are knows something of the base.
            self._call.require(Role.READER, new.base.dataset)
        return new

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
