"""Splits and joins messages of the data streams by hand, so that the protobuf runtime never copies bulk bytes.

The runtime needs about 4 ms to build and serialize a message with a 1 MiB bytes field, and copies the field on every access.
Joining a small head and the payload takes 0.03 ms and puts the same bytes on the wire (measured on a 2-core virtual machine).
So the streams carry raw bytes, and this module alone knows where the payload is:

    head     every field but the payload, as protobuf; the runtime parses it
    0x7a     the payload's tag: field 15, length-delimited
    varint   the payload's length
    payload  at the end in messages that we write; other writers may put it anywhere

`split(join(head, pieces)) == (head, b"".join(pieces))`. Both functions agree with the protobuf runtime for any order of fields,
for unknown fields, and for a payload that occurs twice (protobuf says that the last one counts).

Source: the encoding is https://protobuf.dev/programming-guides/encoding/.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from typing_extensions import Buffer

__all__ = ["MalformedMessageError", "join", "repeated", "split"]

PAYLOAD_TAG = 0x7A
"""Field 15, wire type 2: the tag of `payload` in every message that carries bulk data."""

_VARINT, _FIXED64, _LENGTH_DELIMITED, _START_GROUP, _END_GROUP, _FIXED32 = range(6)

_VARINT_BYTES_MAX = 10
"""Longest encoding of a 64-bit varint."""

_SHORT_VARINT_BYTES_MAX = 5
"""Longest encoding of a tag or a length. The runtime refuses longer ones, even if they are padded with zeros."""


class MalformedMessageError(ValueError):
    """The bytes are not a protobuf message; the error names the position."""


def join(head: bytes, pieces: Sequence[Buffer]) -> bytes:
    """Return the message that consists of `head` and a payload of `pieces`.

    Args:
        head: a serialized message whose payload field is not set.
        pieces: the parts of the payload, in order. If all are empty, no payload field is written.

    Returns:
        `bytes`, never another buffer: a grpcio call hangs if its serializer returns anything else. The pieces are copied
        once.
    """
    payload_bytes = sum(memoryview(piece).nbytes for piece in pieces)
    if payload_bytes == 0:
        return head
    return b"".join((head, b"\x7a", _varint(payload_bytes), *pieces))


def repeated(field: int, messages: Sequence[bytes]) -> bytes:
    """Return serialized messages as elements of a repeated field, to be placed before or after the other fields of a message.

    This builds a message with many elements one element at a time, so that the caller knows its size so far.

    Args:
        field: the field number, 1 to 15.
    """
    tag = bytes([field << 3 | _LENGTH_DELIMITED])
    parts: list[bytes] = []
    for message in messages:
        parts += (tag, _varint(len(message)), message)
    return b"".join(parts)


def split(message: bytes) -> tuple[bytes, memoryview]:
    """Return the message without its payload field, and a view of the payload.

    Args:
        message: one serialized message from the transport.

    Returns:
        The head, to be parsed by the protobuf runtime, and the payload: a view into `message`, empty if there is no payload.

    Raises:
        MalformedMessageError: the bytes end inside a field, or a wire type is invalid.
    """
    view = memoryview(message)
    end = len(message)
    payload = view[end:]
    head_parts: list[memoryview] = []
    head_start = position = 0
    while position < end:
        field_start = position
        position = _skip_short(message, position, end)
        if position != field_start:
            continue
        tag, position = _read_varint(message, position, _SHORT_VARINT_BYTES_MAX)
        if tag != PAYLOAD_TAG:
            position = _skip(message, tag, position)
            continue
        length, position = _read_varint(message, position, _SHORT_VARINT_BYTES_MAX)
        if length > end - position:
            raise MalformedMessageError(
                f"payload at byte {position} is {length} bytes long, but the message has {end - position} left"
            )
        payload = view[position : position + length]
        head_parts.append(view[head_start:field_start])
        position += length
        head_start = position
    head_parts.append(view[head_start:end])
    return (bytes(head_parts[0]) if len(head_parts) == 1 else b"".join(head_parts)), payload


def _skip_short(message: bytes, position: int, end: int) -> int:
    """Return the position after a field that is not the payload and has a one-byte tag and a one- or two-byte length.

    Nearly all fields of a head are like this: it may hold a thousand segments. For any other field, return `position`
    unchanged; the general code then handles it.
    """
    if position + 3 > end:
        return position
    tag, length = message[position], message[position + 1]
    if tag == PAYLOAD_TAG or tag & 0x87 != _LENGTH_DELIMITED:
        return position
    after = position + 2
    if length > 0x7F:
        more = message[after]
        if more > 0x7F:
            return position
        after += 1
        length = length & 0x7F | more << 7
    return after + length if after + length <= end else position


@lru_cache(maxsize=4096)
def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def _read_varint(message: bytes, position: int, bytes_max: int = _VARINT_BYTES_MAX) -> tuple[int, int]:
    """Return the varint at `position` and the position after it."""
    value = 0
    for index in range(bytes_max):
        if position + index >= len(message):
            break
        byte = message[position + index]
        value |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            return value, position + index + 1
    raise MalformedMessageError(f"no varint of at most {bytes_max} bytes at byte {position}")


def _skip(message: bytes, tag: int, position: int) -> int:
    """Return the position after the field whose tag has been read."""
    wire_type = tag & 7
    if wire_type == _LENGTH_DELIMITED:
        length, position = _read_varint(message, position)
        position += length
    elif wire_type == _VARINT:
        _, position = _read_varint(message, position)
    elif wire_type == _FIXED32:
        position += 4
    elif wire_type == _FIXED64:
        position += 8
    elif wire_type == _START_GROUP:
        position = _skip_group(message, position)
    else:
        raise MalformedMessageError(f"wire type {wire_type} at byte {position} is not valid")
    if position > len(message):
        raise MalformedMessageError(
            f"the message ends at byte {len(message)}, inside a field that goes on to {position}"
        )
    return position


def _skip_group(message: bytes, position: int) -> int:
    """Return the position after the group whose start tag has been read. Groups occur only in unknown fields."""
    depth = 1
    while depth > 0:
        tag, position = _read_varint(message, position)
        if tag & 7 == _START_GROUP:
            depth += 1
        elif tag & 7 == _END_GROUP:
            depth -= 1
        else:
            position = _skip(message, tag, position)
    return position
