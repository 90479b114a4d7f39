"""Parses and checks the requests of data streams, and packs their responses, without protobuf copying a payload.

`tensorus_protos.framing` finds and appends the payload. This module maps the segments in the head to parts of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias, TypeVar

from google.protobuf.message import DecodeError

from tensorus_codecs.checksum import crc32c
from tensorus_protos.framing import MalformedMessageError, join, repeated, split
from tensorus_protos.v1 import tensorus_pb2 as pb
from tensorus_server.engine.read.reader import Piece
from tensorus_server.errors import InvalidRequestError, PayloadTooLargeError, SegmentMisalignedError
from tensorus_server.limits import (
    MESSAGE_BYTES_MAX,
    PAYLOAD_BYTES_MAX,
    PAYLOAD_BYTES_TARGET,
    SEGMENTS_PER_MESSAGE_MAX,
)
from tensorus_server.rpc.convert import TensorMessage, encoding_to, spec_to

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from google.rpc import status_pb2
    from typing_extensions import Buffer

    from tensorus_server.model import Tensor, TensorSpec

__all__ = ["InsertMessage", "ResponsePacker", "read_explain_message", "read_insert_message", "require_message_size"]

_HEAD_BYTES_MAX = 1024 * 1024
"""Once a response's head is larger, the response is sent, so that many headers with large metadata cannot make it too large.
With the largest payload and one more header it is still below `MESSAGE_BYTES_MAX`."""

Request = TypeVar("Request", pb.InsertRequest, pb.ExplainPolicyRequest)

Response: TypeAlias = "pb.GetResponse | pb.QueryResponse"
"""The fields that packing uses have the same names and numbers in both."""


@dataclass(frozen=True)
class InsertMessage:
    """One message of an Insert."""

    head: pb.InsertRequest
    """All but the payload."""
    segments: list[tuple[pb.Segment, memoryview]]
    """Each segment with its part of the payload."""


def read_insert_message(message: bytes) -> InsertMessage:
    """Parse a message and assign each segment its part of the payload, without a copy.

    Raises:
        PayloadTooLargeError: the message or its payload is above its limit.
        InvalidRequestError: the message is not an InsertRequest, or has too many segments.
        SegmentMisalignedError: the segments' lengths do not add up to the payload's.
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
        InvalidRequestError: the message is not an ExplainPolicyRequest.
    """
    return _read_message(message, pb.ExplainPolicyRequest)


def require_message_size(size: int, *, dataset: str | None = None) -> None:
    """Refuse a message above the limit. The transport accepts somewhat larger ones, so that this error can say why.

    Raises:
        PayloadTooLargeError: names the size and the limit.
    """
    if size > MESSAGE_BYTES_MAX:
        raise PayloadTooLargeError(
            f"message is {size} bytes, limit is {MESSAGE_BYTES_MAX} bytes (message_bytes_max)",
            dataset=dataset,
            limit=MESSAGE_BYTES_MAX,
        )


def _read_message(message: bytes, request_type: type[Request]) -> tuple[Request, memoryview]:
    require_message_size(len(message))
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
    """Packs headers and pieces of tensors, in order, into messages with a payload of about `PAYLOAD_BYTES_TARGET`.

    The `add_*` methods return the messages that became full; `flush` returns the last one.
    """

    def __init__(
        self, response_type: type[pb.GetResponse | pb.QueryResponse], *, payload_bytes_max: int, omit_crc: bool
    ) -> None:
        """Start with no message.

        Args:
            response_type: of the messages.
            payload_bytes_max: largest payload of one message. Larger pieces are split, unless they are encoded: the caller
                must not add encoded pieces above it.
            omit_crc: whether to leave out the segments' CRC32C.
        """
        self._response_type = response_type
        self._payload_bytes_max = min(payload_bytes_max, PAYLOAD_BYTES_MAX)
        self._payload_bytes_target = min(payload_bytes_max, PAYLOAD_BYTES_TARGET)
        self._omit_crc = omit_crc
        self._encodings: dict[tuple[str, ...], int] = {(): 0}
        # Two messages are reused for all segments, which is faster than new ones: one for an item's first segment, which
        # carries the tensor, and one for those that follow.
        self._first = pb.Segment()
        self._tensor = TensorMessage(self._first.tensor)
        self._next = pb.Segment()
        # Whether an item's header is held back so that it can share a segment with the first piece.
        self._header_waits = False
        # The message so far: its serialized segments, its other fields, and its payload.
        self._segments: list[bytes] = []
        self._head: Response = response_type()
        self._head_bytes = 0
        self._pieces: list[Buffer] = []
        self._payload_bytes = 0
        self._token: Callable[[], str] | None = None

    def report_state(self, generation: int) -> None:
        """Put the generation of the state that is read into the message in progress."""
        self._head.at_generation = generation

    def add_tensor(
        self, item: int, tensor: Tensor, part: TensorSpec | None, *, last: bool, coarse_error: float = 0.0
    ) -> list[bytes]:
        """Add the header of an item; return the messages that are full.

        Args:
            part: dtype and shape of what the pieces make up; None: the whole tensor.
            last: no piece will follow.
            coarse_error: see `ReadPlan`.
        """
        segment = self._first
        self._tensor.fill(tensor)
        if part is None:
            segment.ClearField("part")
        else:
            segment.part.CopyFrom(spec_to(part))
        segment.coarse_error = coarse_error
        segment.has_plan = False
        self._header_waits = True
        return self._add(item, None, last=True) if last else []

    def add_planned(self, item: int, tensor: Tensor) -> list[bytes]:
        """Add the header of an item of which no piece follows, because it has a plan; return the messages that are full."""
        self.add_tensor(item, tensor, None, last=False)
        self._first.has_plan = True
        return self._add(item, None, last=False)

    def add_piece(self, item: int, piece: Piece, *, last: bool) -> list[bytes]:
        """Add the next piece of the item whose header was added last; return the messages that are full."""
        if piece.codec_ids or piece.decoded_length <= self._payload_bytes_max:
            return self._add(item, piece, last=last)
        full = []
        for part in self._cut(piece):
            ends = part.offset + part.decoded_length == piece.offset + piece.decoded_length
            full += self._add(item, part, last=last and ends)
        return full

    def add_failure(self, item: int, status: status_pb2.Status) -> list[bytes]:
        """Add the error of an item that could not be read completely; return the messages that are full."""
        full = self._add(item, None, last=False) if self._header_waits else []
        failure = pb.ItemStatus(item=item, status=status)
        if self._head_bytes + failure.ByteSize() > _HEAD_BYTES_MAX:
            full += self.flush()
        self._head.statuses.append(failure)
        self._head_bytes += failure.ByteSize()
        self._token = None
        return full

    def complete(self, token: Callable[[], str]) -> None:
        """Note that every item so far is complete: a message that ends here carries the token, which is computed only then."""
        self._token = token

    def flush(self) -> list[bytes]:
        """Return the message in progress, or nothing if it is empty."""
        if not self._segments and not self._head.ByteSize():
            return []
        if self._token is not None and isinstance(self._head, pb.QueryResponse):
            self._head.resume_token = self._token()
        segments = repeated(self._response_type.SEGMENTS_FIELD_NUMBER, self._segments)
        message = join(self._head.SerializeToString() + segments, self._pieces)
        self._segments, self._pieces = [], []
        self._head = self._response_type()
        self._head_bytes = self._payload_bytes = 0
        return [message]

    def _add(self, item: int, piece: Piece | None, *, last: bool) -> list[bytes]:
        """Add a segment with the pending header, if any, and the piece, if any."""
        payload_bytes = 0 if piece is None else memoryview(piece.data).nbytes
        full = self._payload_bytes and self._payload_bytes + payload_bytes > self._payload_bytes_target
        full = full or self._head_bytes > _HEAD_BYTES_MAX or len(self._segments) >= SEGMENTS_PER_MESSAGE_MAX
        sent = self.flush() if full else []
        segment = self._first if self._header_waits else self._next
        self._header_waits = False
        segment.item, segment.last, segment.payload_length = item, last, payload_bytes
        if piece is None:
            segment.ClearField("crc32c")
            segment.offset = segment.decoded_length = segment.encoding = 0
        else:
            if not self._omit_crc:
                segment.crc32c = piece.crc32c
            segment.offset, segment.decoded_length = piece.offset, piece.decoded_length
            segment.encoding = self._encoding_index(piece.codec_ids)
            self._pieces.append(piece.data)
        serialized = segment.SerializeToString()
        self._segments.append(serialized)
        self._head_bytes += len(serialized)
        self._payload_bytes += payload_bytes
        self._token = None
        return sent

    def _cut(self, piece: Piece) -> Sequence[Piece]:
        """Split a piece of canonical bytes into parts that fit a message, each with its own CRC32C."""
        data = memoryview(piece.data).cast("B")
        cuts = range(0, data.nbytes, self._payload_bytes_max)
        parts = [(piece.offset + start, data[start : start + self._payload_bytes_max]) for start in cuts]
        return [Piece(offset, part.nbytes, part, crc32c(part)) for offset, part in parts]

    def _encoding_index(self, codec_ids: tuple[str, ...]) -> int:
        """Return the encoding's index in the stream's table; a new encoding is announced in the same message."""
        index = self._encodings.get(codec_ids)
        if index is None:
            index = self._encodings[codec_ids] = len(self._encodings)
            self._head.encodings.append(encoding_to([{"id": codec_id} for codec_id in codec_ids]))
        return index
