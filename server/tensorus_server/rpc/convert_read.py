"""Converts what a client wants to read: the tensor, the part of it, and its precision."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tensorus_protos.v1 import tensorus_pb2 as pb
from tensorus_server.errors import InvalidRequestError
from tensorus_server.model import ByteRange, Precision, Read, SliceSet

if TYPE_CHECKING:
    from tensorus_server.model import Part

__all__ = ["precision_from", "read_from", "slices_from"]

_PRECISIONS: dict[int, Precision | None] = {pb.PRECISION_UNSPECIFIED: None, pb.PRECISION_BF16: Precision.BF16}


def read_from(message: pb.TensorRead) -> Read:
    """Convert a request to read one tensor."""
    part: Part = None
    kind = message.WhichOneof("part")
    if kind == "bytes":
        length = message.bytes.length if message.bytes.HasField("length") else None
        part = ByteRange(message.bytes.offset, length)
    elif kind == "slices":
        part = slices_from(message.slices)
    return Read(message.id, part, message.generation if message.HasField("generation") else None)


def precision_from(number: int) -> Precision | None:
    """Return the precision of a read; None: as stored.

    Raises:
        InvalidRequestError: this version does not know it.
    """
    if number not in _PRECISIONS:
        raise InvalidRequestError(f"precision is number {number}, which this server does not know")
    return _PRECISIONS[number]


def slices_from(message: pb.SliceSet) -> SliceSet:
    """Convert slices."""
    return SliceSet(tuple(map(_slice_from, message.axes)), tuple(map(_slice_from, message.trailing_axes)))


def _slice_from(message: pb.Slice) -> slice:
    return slice(
        message.start if message.HasField("start") else None,
        message.stop if message.HasField("stop") else None,
        message.step if message.HasField("step") else None,
    )
