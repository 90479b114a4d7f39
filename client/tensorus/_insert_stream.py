"""The sending side of an Insert: uploads into messages, within the credit that the server gives.

gRPC asks for messages on a thread of its own; the caller's thread reads the answers. The two share the credit and what went
wrong.
"""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterator
from typing import TYPE_CHECKING

import crc32c
import xxhash

from tensorus._convert import upload_to
from tensorus.errors import TensorusError
from tensorus_protos.framing import join
from tensorus_protos.v1 import tensorus_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tensorus._backend import Upload

__all__ = ["Credit", "InsertMessages"]

_BLOCK_BYTES = 1024 * 1024
"""Of one segment, and about what a message holds: the default size of a chunk, which the server then takes without copying."""

_SEGMENTS_MAX = 1000
"""Of one message; the contract allows 4096."""

_HEAD_BYTES_MAX = 1024 * 1024
"""Of one message: many small tensors with large metadata."""

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


class InsertMessages(Iterator[bytes]):
    """The messages of one Insert, made as they are asked for."""

    def __init__(self, dataset: str, uploads: Iterable[Upload]) -> None:
        """Send `uploads` to `dataset`; they are iterated as the messages go out."""
        self.credit = Credit()
        self.failure: BaseException | None = None
        """What the uploads raised; the messages then end without `finish`, and what was complete before it is sent."""
        self.finished = False
        """Whether the last message was made, with `finish`."""
        self.unsendable: list[tuple[int, TensorusError]] = []
        self._messages = self._make(dataset, uploads)

    def __next__(self) -> bytes:
        """Return the next message."""
        return next(self._messages)

    def _make(self, dataset: str, uploads: Iterable[Upload]) -> Iterator[bytes]:
        message = _Message()
        message.head.open.dataset = dataset
        message.head.open.request_id = str(uuid.uuid4())
        for segment, block in self._segments(uploads):
            if message.is_full(segment, block):
                if not self.credit.spend(message.payload_bytes):
                    return
                yield message.join()
                message = _Message()
            message.add(segment, block)
        if self.credit.spend(message.payload_bytes):
            self.finished = message.head.finish = self.failure is None
            yield message.join()

    def _segments(self, uploads: Iterable[Upload]) -> Iterator[tuple[pb.Segment, memoryview]]:
        """Yield the segments of all uploads. Whatever these raise ends them, and is kept for the caller's thread."""
        try:
            for item, upload in enumerate(uploads):
                try:
                    announced = upload_to(upload)
                except TensorusError as error:
                    self.unsendable.append((item, error))
                    continue
                yield from _segments(item, upload, announced)
        except GeneratorExit:
            raise
        except BaseException as error:  # noqa: BLE001 - on gRPC's thread even SystemExit would be nobody's, and the call never end
            self.failure = error


def _segments(item: int, upload: Upload, announced: pb.Tensor) -> Iterator[tuple[pb.Segment, memoryview]]:
    """Yield the segments of one tensor, each with its bytes; the last one carries the checksum of them all."""
    digest = xxhash.xxh3_128()
    offset = 0
    segment = pb.Segment(item=item, tensor=announced)
    for block in upload.blocks(_BLOCK_BYTES):
        digest.update(block)
        segment.offset = offset
        segment.decoded_length = segment.payload_length = block.nbytes
        segment.crc32c = crc32c.crc32c(block)
        offset += block.nbytes
        if offset < upload.canonical_bytes:
            yield segment, block
            segment = pb.Segment(item=item)
            continue
        break
    segment.last = True
    segment.source_checksum.algorithm = "xxh3_128"
    segment.source_checksum.value = digest.digest()
    yield segment, block if upload.canonical_bytes else memoryview(b"")


class _Message:
    """One message while it fills."""

    def __init__(self) -> None:
        self.head = pb.InsertRequest()
        self.payload_bytes = 0
        self._blocks: list[memoryview] = []
        self._head_bytes = 0

    def is_full(self, segment: pb.Segment, block: memoryview) -> bool:
        return bool(self._blocks) and (
            self.payload_bytes + block.nbytes > _BLOCK_BYTES
            or self._head_bytes + segment.ByteSize() > _HEAD_BYTES_MAX
            or len(self.head.segments) >= _SEGMENTS_MAX
        )

    def add(self, segment: pb.Segment, block: memoryview) -> None:
        self.head.segments.append(segment)
        self._head_bytes += segment.ByteSize()
        self._blocks.append(block)
        self.payload_bytes += block.nbytes

    def join(self) -> bytes:
        return join(self.head.SerializeToString(), self._blocks)
