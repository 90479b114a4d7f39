"""The sending side of an Insert: uploads into messages, within the credit that the server gives.

An insert is a session, which lasts until everything has a result, over as many streams as it takes. gRPC asks for a stream's
messages on a thread of its own; the caller's thread reads the answers. The two share the session and the credit.
"""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import crc32c
import xxhash

from tensorus._grpc.convert import upload_to
from tensorus.errors import InsertAbandonedError, TensorusError
from tensorus_protos.framing import join, repeated
from tensorus_protos.v1 import tensorus_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from tensorus._backend import InsertOptions, Upload

__all__ = ["Credit", "InsertMessages", "InsertSession"]

_BLOCK_BYTES = 1024 * 1024
"""Of one segment, and about what a message holds: the default size of a chunk, which the server then takes without copying."""

_BLOCK_BYTES_SLOW = 64 * 1024
"""The same on a network that does not move a message in the time that the server allows: at 18 kB/s a block of 1 MiB takes a
minute."""

_SEGMENTS_MAX = 1000
"""Of one message; the contract allows 4096."""

_HEAD_BYTES_MAX = 1024 * 1024
"""Of one message: many small tensors with large metadata."""

_KEPT_BYTES_MIN = 32 * 1024 * 1024
"""Of an interrupted tensor: up to this size, a server keeps nothing of it."""

_INITIAL_CREDIT_BYTES = 2 * 1024 * 1024
"""Until the server has said how much: one payload of the largest size."""


class Credit:
    """How much payload may be on the way. Safe in many threads."""

    def __init__(self) -> None:
        """Start with what is allowed before the server has answered."""
        self._changed = threading.Condition()
        self._limit_bytes = _INITIAL_CREDIT_BYTES
        self._sent_bytes = 0
        self._acknowledged_bytes = 0
        self._ended = False

    def spend(self, payload_bytes: int) -> bool:
        """Wait until so much more may be sent and count it as sent; False where the call has ended meanwhile."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._ended or self._sent_bytes + payload_bytes - self._acknowledged_bytes <= self._limit_bytes
            )
            self._sent_bytes += payload_bytes
            return not self._ended

    def set_limit(self, limit_bytes: int) -> None:
        """Take the server's word for how much may be on the way."""
        with self._changed:
            self._limit_bytes = limit_bytes
            self._changed.notify_all()

    def acknowledge(self, acknowledged_bytes: int) -> None:
        """Count what the server has taken since the stream opened."""
        with self._changed:
            self._acknowledged_bytes = acknowledged_bytes
            self._changed.notify_all()

    def end(self) -> None:
        """Let go whoever waits: the call is over."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()


class InsertSession:
    """What is to be inserted, over as many streams as it takes, and what is still without a result.

    Safe in many threads: gRPC may still be asking for a message of a stream that broke when the next one begins.
    """

    def __init__(self, dataset: str, uploads: Iterable[Upload], options: InsertOptions) -> None:
        """Insert `uploads` into `dataset`; they are iterated as the messages go out."""
        self.dataset = dataset
        self.options = options
        self.request_id = str(uuid.uuid4())
        self.is_in_hand = isinstance(uploads, Sequence)
        """Whether the uploads are all here: making messages of them then runs nobody else's code."""
        self.failure: BaseException | None = None
        """What the uploads raised; the messages then end without `finish`, and what was complete before it is sent."""
        self.unsendable: list[tuple[int, TensorusError]] = []
        self.delivered_bytes = 0
        """Canonical bytes of what has a result, and of what the server had when the stream began."""
        self.acknowledged_bytes = 0
        """What the server has taken of the stream."""
        self.block_bytes = _BLOCK_BYTES
        """Of one segment, and about what a message holds."""
        self.source_is_slow = False
        """Whether each tensor is sent as soon as it is there, since the next one may take long."""
        # Asking the uploads may take long, and only the next stream is to wait for that. `_pulling` is taken before `_lock`.
        self._pulling = threading.Lock()
        self._lock = threading.Lock()
        self._uploads = enumerate(uploads)
        self._exhausted = False
        self._unresolved: dict[int, _Sending] = {}
        self._late: list[_Sending] = []
        """What a stream that broke had asked for, and was given after the next one had begun."""
        self._resolved = 0
        self._resolved_bytes = 0
        self._stream: InsertMessages | None = None
        self.has_expired = False
        """Whether a tensor is to be sent from its start by another stream."""
        self.busy: TensorusError | None = None
        """Why tensors of this stream are to be sent again by another one, a little later."""
        self.is_lost = False
        """Whether it is all or nothing, and a tensor has failed: the rest need not be sent."""

    @property
    def may_have_left_something(self) -> bool:
        """Whether the server may keep a part of a tensor for this request."""
        with self._lock:
            return any(sending.upload.canonical_bytes > _KEPT_BYTES_MIN for sending in self._unresolved.values())

    @property
    def place(self) -> tuple[int, int]:
        """How far the insert is: items that have a result, and bytes that the server has or took."""
        with self._lock:
            return self._resolved, self.delivered_bytes + self.acknowledged_bytes

    def begin(self) -> InsertMessages:
        """Return the messages of the next stream; those of the one before end."""
        if self._stream is not None:
            self._stream.credit.end()
        with self._lock:
            self.has_expired = False
            self.busy = None
            self.acknowledged_bytes = 0
            self._late.clear()
            self._stream = InsertMessages(self, list(self._unresolved.values()), resumes=self._stream is not None)
            return self._stream

    def await_source(self) -> bool:
        """Wait for the uploads where a stream stalled because of them, and return whether one did.

        Otherwise it was the network: the next stream sends smaller messages.
        """
        if self._pulling.acquire(blocking=False):
            self._pulling.release()
            self.block_bytes = _BLOCK_BYTES_SLOW
            return False
        with self._pulling:
            self.source_is_slow = True
        return True

    def pull(self, stream: InsertMessages) -> _Sending | None:
        """Return the next tensor that has never been sent; None where there is none, or the stream is not the latest.

        Whatever the uploads raise ends them, and is kept for the caller's thread.
        """
        with self._pulling:
            with self._lock:
                if self._stream is not stream:
                    return None
                if self._late:
                    return self._late.pop()
            sending = self._next_sending()
            if sending is None:
                return None
            with self._lock:
                self._unresolved[sending.item] = sending
                if self._stream is stream:
                    return sending
                self._late.append(sending)
        return None

    def _next_sending(self) -> _Sending | None:
        try:
            while not self._exhausted:
                item, upload = next(self._uploads)
                try:
                    return _Sending(item, upload, upload_to(upload).SerializeToString())
                except TensorusError as error:
                    if self.options.all_or_nothing:
                        raise
                    self.unsendable.append((item, error))
        except StopIteration:
            self._exhausted = True
        except BaseException as error:  # noqa: BLE001 - on gRPC's thread even SystemExit would be nobody's, and the call never end
            self._exhausted, self.failure = True, error
        return None

    def resumed(self, committed_bytes: Mapping[int, int]) -> None:
        """Go on with these items after as many of their canonical bytes, and with all others from their start."""
        with self._lock:
            for item, sending in self._unresolved.items():
                sending.committed_bytes = committed_bytes.get(item, 0)
            self.delivered_bytes = self._resolved_bytes + sum(
                sending.committed_bytes for sending in self._unresolved.values()
            )

    def resolve(self, item: int) -> bool:
        """Count the item as done; False where it was, or never was there."""
        with self._lock:
            sending = self._unresolved.pop(item, None)
            if sending is None:
                return False
            self._resolved += 1
            self._resolved_bytes += sending.upload.canonical_bytes
            return True

    def expired(self, item: int) -> bool:
        """Let the item be sent from its start by the next stream; False where that has been tried."""
        with self._lock:
            sending = self._unresolved.get(item)
            if sending is None or sending.expired:
                return False
            sending.expired, sending.committed_bytes = True, 0
            self.has_expired = True
            return True

    def failed(self, item: int, error: TensorusError) -> bool:
        """Take a result that is an error; False where it is none yet, since the tensor is to be sent again."""
        together = self.options.all_or_nothing and not self.options.validate_only
        if together and self._stream is not None:
            self._stream.cut_short()
        if error.reason == "SESSION_EXPIRED" and self.expired(item):
            return False
        if error.reason == "STORE_BUSY" or (error.reason == "STORE_UNAVAILABLE" and "retry_after_s" in error.facts):
            self.busy = error
            return False
        if error.reason == "INSERT_ABANDONED" and (self.busy is not None or self.has_expired):
            # Because of a tensor that is sent again, and so are all others.
            return False
        self.is_lost = together
        return True

    def abandoned(self) -> list[tuple[int, TensorusError]]:
        """Return what was not sent of an insert that is lost, each with why it has no result of its own."""
        with self._lock:
            left, self._unresolved = self._unresolved, {}
        message = "another tensor of the insert failed, so nothing of it was stored"
        return [(item, InsertAbandonedError(message, reason="INSERT_ABANDONED")) for item in sorted(left)]

    def is_unresolved(self, item: int) -> bool:
        """Return whether the item is still without a result."""
        with self._lock:
            return item in self._unresolved


@dataclass
class _Sending:
    """A tensor on its way."""

    item: int
    upload: Upload
    announced: bytes
    """A `Tensor` message, serialized."""
    committed_bytes: int = 0
    """Canonical bytes that the server has."""
    expired: bool = False
    """Whether what the server had was lost once."""


class InsertMessages(Iterator[bytes]):
    """The messages of one stream, made as they are asked for."""

    def __init__(self, session: InsertSession, unresolved: Sequence[_Sending], *, resumes: bool) -> None:
        """Send what has no result, and then what has never been sent.

        Args:
            resumes: whether to wait for `opened` before anything is sent.
        """
        self.credit = Credit()
        self.opened = threading.Event()
        """Set it once the server has said what it has, and `InsertSession.resumed` knows."""
        self.left: dict[int, int] = {}
        """Canonical bytes that the server has of unfinished items, as far as it has said; it may take several messages."""
        self.finished = False
        """Whether the last message was made, with `finish`."""
        self.session = session
        """What it is a stream of."""
        self._cut_short = False
        self._only_segment = _OnlySegment()
        self._messages = self._make(unresolved, resumes=resumes)

    def __next__(self) -> bytes:
        """Return the next message."""
        return next(self._messages)

    def end(self) -> None:
        """Let gRPC's thread go: the call is over."""
        self.credit.end()
        self.opened.set()

    def cut_short(self) -> None:
        """Send nothing more but the end."""
        self._cut_short = True

    def _make(self, unresolved: Sequence[_Sending], *, resumes: bool) -> Iterator[bytes]:
        message = _Message()
        message.head.open.dataset = self.session.dataset
        message.head.open.request_id = self.session.request_id
        message.head.open.all_or_nothing = self.session.options.all_or_nothing
        message.head.open.validate_only = self.session.options.validate_only
        if resumes:
            yield message.join()
            message = _Message()
            self.opened.wait()
        for segment, block in self._segments(unresolved):
            if self._cut_short:
                # What is not sent has no use any more.
                message = _Message()
                break
            if message.is_full(segment, block, self.session.block_bytes):
                if not self.credit.spend(message.payload_bytes):
                    return
                yield message.join()
                message = _Message()
            message.add(segment, block)
            if self.session.source_is_slow:
                if not self.credit.spend(message.payload_bytes):
                    return
                yield message.join()
                message = _Message()
        if self.credit.spend(message.payload_bytes):
            self.finished = message.head.finish = self.session.failure is None
            yield message.join()

    def _segments(self, unresolved: Sequence[_Sending]) -> Iterator[tuple[bytes, memoryview]]:
        """Yield the segments of all tensors, serialized, each with its bytes.

        Whatever reading one raises ends them, and is kept for the caller's thread.
        """
        try:
            for sending in unresolved:
                if self.session.is_unresolved(sending.item):
                    yield from _segments(sending, self.session.block_bytes)
            while (pulled := self.session.pull(self)) is not None:
                block = _only_block(pulled.upload, self.session.block_bytes)
                if block is None:
                    yield from _segments(pulled, self.session.block_bytes)
                else:
                    yield self._only_segment.serialize(pulled, block), block
        except GeneratorExit:
            raise
        except BaseException as error:  # noqa: BLE001 - on gRPC's thread even SystemExit would be nobody's, and the call never end
            self.session.failure = error


def _segments(sending: _Sending, block_bytes: int) -> Iterator[tuple[bytes, memoryview]]:
    """Yield the segments of one tensor, serialized, each with its bytes; the last one carries the checksum of them all.

    Bytes that the server has are only taken into the checksum. That is then a CRC, which the server can go on with.
    """
    upload, committed_bytes = sending.upload, sending.committed_bytes
    digest, crc = xxhash.xxh3_128(), 0
    offset = 0
    segment = pb.Segment(item=sending.item)
    # Serialized once, and put before the first segment's other fields: the order of fields is free.
    announced = repeated(pb.Segment.TENSOR_FIELD_NUMBER, [sending.announced])
    block = memoryview(b"")
    for block in upload.blocks(block_bytes):
        if committed_bytes:
            crc = crc32c.crc32c(block, crc)
        else:
            digest.update(block)
        begin, offset = offset, offset + block.nbytes
        if offset <= committed_bytes:
            continue
        segment.offset = begin
        segment.decoded_length = segment.payload_length = block.nbytes
        segment.crc32c = crc32c.crc32c(block)
        if offset < upload.canonical_bytes:
            yield announced + segment.SerializeToString(), block
            announced = b""
    segment.last = True
    if committed_bytes:
        segment.source_checksum.algorithm = "crc32c"
        segment.source_checksum.value = crc.to_bytes(4, "big")
    else:
        segment.source_checksum.algorithm = "xxh3_128"
        segment.source_checksum.value = digest.digest()
    if offset <= committed_bytes:
        # It is empty, or all of it is there and only its end is not.
        segment.offset, block = offset, memoryview(b"")
    yield announced + segment.SerializeToString(), block


def _only_block(upload: Upload, block_bytes: int) -> memoryview | None:
    """Return all bytes of a small tensor; None where they come in several blocks, or there are none."""
    if not 0 < upload.canonical_bytes <= block_bytes:
        return None
    block = next(upload.blocks(block_bytes), None)
    return block if block is not None and block.nbytes == upload.canonical_bytes else None


class _OnlySegment:
    """A segment that is filled with one small tensor after the other, as `_segments` would: in half the time."""

    def __init__(self) -> None:
        self._segment = pb.Segment(last=True)
        self._checksum = self._segment.source_checksum
        self._checksum.algorithm = "xxh3_128"

    def serialize(self, sending: _Sending, block: memoryview) -> bytes:
        segment = self._segment
        segment.item = sending.item
        segment.decoded_length = segment.payload_length = block.nbytes
        segment.crc32c = crc32c.crc32c(block)
        self._checksum.value = xxhash.xxh3_128_digest(block)
        return repeated(pb.Segment.TENSOR_FIELD_NUMBER, [sending.announced]) + segment.SerializeToString()


class _Message:
    """One message while it fills."""

    def __init__(self) -> None:
        self.head = pb.InsertRequest()
        """All but segments and payload."""
        self.payload_bytes = 0
        self._segments: list[bytes] = []
        self._blocks: list[memoryview] = []
        self._head_bytes = 0

    def is_full(self, segment: bytes, block: memoryview, payload_bytes_max: int) -> bool:
        return bool(self._blocks) and (
            self.payload_bytes + block.nbytes > payload_bytes_max
            or self._head_bytes + len(segment) > _HEAD_BYTES_MAX
            or len(self._segments) >= _SEGMENTS_MAX
        )

    def add(self, segment: bytes, block: memoryview) -> None:
        self._segments.append(segment)
        self._head_bytes += len(segment)
        self._blocks.append(block)
        self.payload_bytes += block.nbytes

    def join(self) -> bytes:
        segments = repeated(pb.InsertRequest.SEGMENTS_FIELD_NUMBER, self._segments)
        return join(self.head.SerializeToString() + segments, self._blocks)
