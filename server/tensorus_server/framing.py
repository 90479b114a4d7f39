"""Messages of the data streams: requests taken apart and checked, responses packed, payloads never copied by protobuf.

`tensorus_protos.framing` finds and appends the payload; this module knows what the segments in the head mean for it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias, TypeVar

from google.protobuf.message import DecodeError

from tensorus_codecs.checksum import crc32c
from tensorus_protos.framing import MalformedMessageError, join, split
from tensorus_protos.v1 import tensorus_pb2 as pb
from tensorus_server.convert import encoding_to, spec_to, tensor_to
from tensorus_server.errors import InvalidRequestError, PayloadTooLargeError, SegmentMisalignedError
from tensorus_server.limits import (
    MESSAGE_BYTES_MAX,
    PAYLOAD_BYTES_MAX,
    PAYLOAD_BYTES_TARGET,
    SEGMENTS_PER_MESSAGE_MAX,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from google.rpc import status_pb2
    from typing_extensions import Buffer

    from tensorus_server.model import Tensor, TensorSpec
    from tensorus_server.read import Piece

__all__ = ["InsertMessage", "ResponsePacker", "read_explain_message", "read_insert_message"]

_HEAD_BYTES_MAX = 1024 * 1024
"""Of a response: many headers with large metadata must not make a message too large. With the largest payload and one more
header, still below `MESSAGE_BYTES_MAX`."""

Request = TypeVar("Request", pb.InsertRequest, pb.ExplainPolicyRequest)

Response: TypeAlias = "pb.GetResponse | pb.QueryResponse"
"""The two have the same fields, by the same numbers, as far as packing goes."""


@dataclass(frozen=True)
class InsertMessage:
    """One message of an Insert."""

    head: pb.InsertRequest
    """All but the payload."""
    segments: list[tuple[pb.Segment, memoryview]]
    """Each segment with its part of the payload."""


def read_insert_message(message: bytes) -> InsertMessage:
    """Take a message apart.

    Raises:
        PayloadTooLargeError: the message or its payload is above its limit.
        InvalidRequestError: it is no such message, or has too many segments.
        SegmentMisalignedError: the segments do not consume the payload exactly.
    """
    head, payload = _read_message(message, pb.InsertRequest)
    if len(head.segments) > SEGMENTS_PER_MESSAGE_MAX:
        raise InvalidRequestError(
            f"message has {len(head.segments)} segments, limit is {SEGMENTS_PER_MESSAGE_MAX} (segments_per_message_max)",
            limit=SEGMENTS_PER_MESSAGE_MAX,
        )
    segments = []
    position = 0
    for segment in head.segments:
        segments.append((segment, payload[position : position + segment.payload_length]))
        position += segment.payload_length
    if position != payload.nbytes:
        raise SegmentMisalignedError(
            f"payload lengths of the segments add up to {position} bytes, the payload is {payload.nbytes} bytes"
        )
    return InsertMessage(head, segments)


def read_explain_message(message: bytes) -> tuple[pb.ExplainPolicyRequest, memoryview]:
    """Return one message of an ExplainPolicy without its payload, and the payload.

    Raises:
        PayloadTooLargeError: the message or its payload is above its limit.
        InvalidRequestError: it is no such message.
    """
    return _read_message(message, pb.ExplainPolicyRequest)


def _read_message(message: bytes, request_type: type[Request]) -> tuple[Request, memoryview]:
    if len(message) > MESSAGE_BYTES_MAX:
        raise PayloadTooLargeError(
            f"message is {len(message)} bytes, limit is {MESSAGE_BYTES_MAX} bytes (message_bytes_max)",
            limit=MESSAGE_BYTES_MAX,
        )
    try:
        head_bytes, payload = split(message)
        head = request_type.FromString(head_bytes)
    except (MalformedMessageError, DecodeError) as error:
        name = request_type.DESCRIPTOR.name
        raise InvalidRequestError(f"message is not an {name}: {error}") from error
    if payload.nbytes > PAYLOAD_BYTES_MAX:
        raise PayloadTooLargeError(
            f"payload is {payload.nbytes} bytes, limit is {PAYLOAD_BYTES_MAX} bytes (payload_bytes_max)",
            limit=PAYLOAD_BYTES_MAX,
        )
    return head, payload


class ResponsePacker:
    """Packs headers and pieces of tensors into messages of about `payload_bytes_target`, in order."""

    def __init__(
        self, response_type: type[pb.GetResponse | pb.QueryResponse], *, payload_bytes_max: int, omit_crc: bool
    ) -> None:
        """Start with no message.

        Args:
            response_type: of the messages.
            payload_bytes_max: of one message; no piece is larger.
            omit_crc: whether segments go without their CRC32C.
        """
        self._response_type = response_type
        self._payload_bytes_max = min(payload_bytes_max, PAYLOAD_BYTES_MAX)
        self._payload_bytes_target = min(payload_bytes_max, PAYLOAD_BYTES_TARGET)
        self._omit_crc = omit_crc
        self._encodings: dict[tuple[str, ...], int] = {(): 0}
        self._head: Response = response_type()
        self._head_bytes = 0
        self._pieces: list[Buffer] = []
        self._payload_bytes = 0
        self._token: Callable[[], str] | None = None

    def add_tensor(self, item: int, tensor: Tensor, part: TensorSpec | None, *, last: bool) -> Iterator[bytes]:
        """Add the header of an item.

        Args:
            part: what the pieces make up, where that is not the whole tensor.
            last: no piece will follow.
        """
        segment = pb.Segment(item=item, tensor=tensor_to(tensor), last=last)
        if part is not None:
            segment.part.CopyFrom(spec_to(part))
        head_bytes = segment.ByteSize()
        if self._head_bytes + head_bytes > _HEAD_BYTES_MAX or len(self._head.segments) >= SEGMENTS_PER_MESSAGE_MAX:
            yield from self.flush()
        self._head.segments.append(segment)
        self._head_bytes += head_bytes
        self._token = None

    def add_piece(self, item: int, piece: Piece, *, last: bool) -> Iterator[bytes]:
        """Add a piece of the item whose header came before it."""
        for offset, decoded_length, data, data_crc32c in self._cut(piece):
            payload_length = memoryview(data).nbytes
            full = self._payload_bytes and self._payload_bytes + payload_length > self._payload_bytes_target
            if full or len(self._head.segments) >= SEGMENTS_PER_MESSAGE_MAX:
                yield from self.flush()
            segment = self._segment_for(item)
            segment.offset = offset
            segment.decoded_length = decoded_length
            segment.payload_length = payload_length
            segment.encoding = self._encoding_index(piece.codec_ids)
            segment.last = last and offset + decoded_length == piece.offset + piece.decoded_length
            if not self._omit_crc:
                segment.crc32c = data_crc32c
            self._pieces.append(data)
            self._payload_bytes += payload_length

    def add_failure(self, item: int, status: status_pb2.Status) -> Iterator[bytes]:
        """Say what became of an item that cannot be read, or not to its end."""
        failure = pb.ItemStatus(item=item, status=status)
        if self._head_bytes + failure.ByteSize() > _HEAD_BYTES_MAX:
            yield from self.flush()
        self._head.statuses.append(failure)
        self._head_bytes += failure.ByteSize()
        self._token = None

    def complete(self, token: Callable[[], str]) -> None:
        """Note that every item so far is complete; a message that ends here carries the token."""
        self._token = token

    def flush(self) -> Iterator[bytes]:
        """Yield what has been added and not sent, if anything."""
        if self._head.ByteSize():
            if self._token is not None and isinstance(self._head, pb.QueryResponse):
                self._head.resume_token = self._token()
            yield join(self._head.SerializeToString(), self._pieces)
            self._head = self._response_type()
            self._head_bytes = 0
            self._pieces = []
            self._payload_bytes = 0

    def _segment_for(self, item: int) -> pb.Segment:
        """Return the item's header, if it is the last thing added and has no bytes yet; otherwise a new segment."""
        if self._head.segments:
            segment = self._head.segments[-1]
            if segment.item == item and segment.HasField("tensor") and segment.payload_length == 0:
                return segment
        return self._head.segments.add(item=item)

    def _cut(self, piece: Piece) -> Iterator[tuple[int, int, Buffer, int]]:
        """Yield the piece in parts that fit a message: offset, decoded length, data and its CRC32C."""
        data = memoryview(piece.data).cast("B")
        if piece.codec_ids or data.nbytes <= self._payload_bytes_max:
            yield piece.offset, piece.decoded_length, data, piece.crc32c
            return
        for start in range(0, data.nbytes, self._payload_bytes_max):
            part = data[start : start + self._payload_bytes_max]
            yield piece.offset + start, part.nbytes, part, crc32c(part)

    def _encoding_index(self, codec_ids: tuple[str, ...]) -> int:
        """Return the encoding's place in the stream's table; a new one is announced in the same message."""
        index = self._encodings.get(codec_ids)
        if index is None:
            index = self._encodings[codec_ids] = len(self._encodings)
            self._head.encodings.append(encoding_to([{"id": codec_id} for codec_id in codec_ids]))
        return index
