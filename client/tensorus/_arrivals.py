"""Answers of Get and Query as arrivals, and the place where a read goes on after its stream broke."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import replace
from typing import TYPE_CHECKING

import crc32c

from tensorus._arrays import element_bytes
from tensorus._backend import Began, Bytes, Failed
from tensorus._convert import dtype_from, error_of, tensor_from
from tensorus.errors import ChecksumMismatchError, InternalError
from tensorus_protos.v1 import tensorus_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from tensorus._backend import Arrival

__all__ = ["GetPlace", "QueryPlace", "arrivals"]


def arrivals(response: pb.GetResponse | pb.QueryResponse, payload: memoryview) -> Iterator[Arrival]:
    """Yield what one answer brings.

    Raises:
        InternalError: its segments do not add up to its payload.
        ChecksumMismatchError: bytes were damaged on their way.
    """
    lengths = sum(segment.payload_length for segment in response.segments)
    if lengths != payload.nbytes:
        raise InternalError(f"segments of an answer add up to {lengths} bytes, its payload is {payload.nbytes} bytes")
    position = 0
    failed = deque(Failed(status.item, error_of(status.status)) for status in response.statuses)
    for segment in response.segments:
        item, payload_length, decoded_length = segment.item, segment.payload_length, segment.decoded_length
        # Statuses stand apart from segments, and both are in the order of their items.
        while failed and failed[0].item < item:
            yield failed.popleft()
        data = payload[position : position + payload_length]
        position += payload_length
        if decoded_length and segment.HasField("crc32c"):
            found, expected = crc32c.crc32c(data), segment.crc32c
            if found != expected:
                raise ChecksumMismatchError(
                    f"CRC32C of the bytes at offset {segment.offset} is {found:#010x}, expected {expected:#010x}",
                    reason="CHECKSUM_MISMATCH",
                )
        if segment.HasField("tensor"):
            info = tensor_from(segment.tensor)
            if segment.HasField("part"):
                yield Began(item, info, tuple(segment.part.shape), dtype_from(segment.part))
            elif segment.last and decoded_length and not (segment.encoding or segment.offset):
                yield Began(item, info, info.shape, data=data, checksum=segment.tensor.value_checksum.value)
                continue
            else:
                yield Began(item, info, info.shape, checksum=segment.tensor.value_checksum.value)
        if decoded_length:
            yield Bytes(item, segment.offset, data, segment.encoding != 0, decoded_length)
    yield from failed


class _Item:
    """One tensor as far as it has arrived."""

    def __init__(self, began: Began, *, with_data: bool) -> None:
        self.began = began
        count = math.prod(began.shape) if with_data else 0
        self._expected_bytes = count * element_bytes(began.dtype or began.info.dtype) if count else 0
        self.arrived_bytes = 0
        self.in_order = True
        """Whether what arrived is the beginning, without holes."""

    @property
    def is_complete(self) -> bool:
        return self.arrived_bytes >= self._expected_bytes

    def take(self, arrival: Bytes) -> None:
        self.in_order &= arrival.offset == self.arrived_bytes
        self.arrived_bytes += arrival.decoded_length


class GetPlace:
    """How far a Get is: which read, and how much of its tensor."""

    def __init__(self, reads: Sequence[pb.TensorRead], *, with_data: bool) -> None:
        """Begin before the first read."""
        self._reads = reads
        self._with_data = with_data
        self._next = 0
        self._item: _Item | None = None
        # Of the stream that is going on: the number of its first read, and where the bytes of that one begin.
        self._first = 0
        self._offset = 0
        # The last read that has begun, and the generation of its tensor.
        self._begun = -1
        self._generation = 0
        self._restarts = -1

    def remaining(self) -> Sequence[pb.TensorRead]:
        """Return the reads of the next stream: those that have no end yet, the first one from where it broke off."""
        self._first, self._offset, self._restarts = self._next, 0, -1
        if self._begun < self._next:
            return self._reads[self._next :]
        read = pb.TensorRead()
        read.CopyFrom(self._reads[self._next])
        # What has arrived is of this generation; what follows must be, too.
        read.generation = self._generation
        # By bytes a tensor is another part, of another shape: only what has begun to arrive goes on so.
        if self._item is not None and self._item.in_order and self._item.arrived_bytes and not read.HasField("slices"):
            self._offset = self._item.arrived_bytes
            read.bytes.offset = self._offset
        else:
            self._item, self._restarts = None, self._next
        return [read, *self._reads[self._next + 1 :]]

    def passed(self, found: Iterable[Arrival]) -> Iterator[Arrival]:
        """Yield arrivals of the stream as those of the whole Get."""
        for local in found:
            # The first stream of a Get numbers its items as the Get does.
            arrival = replace(local, item=local.item + self._first) if self._first else local
            goes_on = self._offset > 0 and arrival.item == self._first
            whole = False
            if isinstance(arrival, Began):
                if goes_on:
                    # Its reader has heard of it.
                    continue
                if arrival.item == self._restarts:
                    arrival = replace(arrival, restarts=True)
                self._begun, self._generation, self._restarts = arrival.item, arrival.info.generation, -1
                whole = arrival.data is not None
                self._item = None if whole else _Item(arrival, with_data=self._with_data)
            elif isinstance(arrival, Bytes):
                if goes_on:
                    arrival = replace(arrival, offset=arrival.offset + self._offset)
                if self._item is not None:
                    self._item.take(arrival)
            if whole or isinstance(arrival, Failed) or (self._item is not None and self._item.is_complete):
                self._item, self._next = None, arrival.item + 1
            yield arrival

    @property
    def reached(self) -> tuple[int, int]:
        """How far it is: reads that have their end, and bytes of the next one."""
        return self._next, 0 if self._item is None else self._item.arrived_bytes

    @property
    def is_complete(self) -> bool:
        """Whether every read has its end."""
        return self._next == len(self._reads)


class QueryPlace:
    """How far a Query is: the server's token for it, and what came after that."""

    def __init__(self, *, with_data: bool) -> None:
        """Begin at the start."""
        self.token = ""
        self._with_data = with_data
        self._covered = 0
        self._complete = 0
        self._item: _Item | None = None
        # Of the stream that is going on: the number of its first tensor, and of the first that is new to the reader.
        self._first = 0
        self._new = 0
        # The last tensor that has begun, and the one that does so again: its reader is to begin again.
        self._begun = -1
        self._restarts = -1

    def note(self, token: str) -> None:
        """Take the server's word that everything so far is behind `token`, if it gave one."""
        if token:
            self.token, self._covered = token, self._complete

    def restart(self) -> None:
        """Go on with another stream, from the token."""
        self._first, self._new = self._covered, self._complete
        self._restarts = self._complete if self._begun == self._complete else -1
        self._item = None

    def passed(self, found: Iterable[Arrival]) -> Iterator[Arrival]:
        """Yield arrivals of the stream as those of the whole Query, without those that came before."""
        for local in found:
            # Likewise the first stream of a Query.
            arrival = replace(local, item=local.item + self._first) if self._first else local
            if arrival.item < self._new:
                continue
            whole = False
            if isinstance(arrival, Began):
                if arrival.item == self._restarts:
                    arrival = replace(arrival, restarts=True)
                self._begun, self._restarts = arrival.item, -1
                whole = arrival.data is not None
                self._item = None if whole else _Item(arrival, with_data=self._with_data)
            elif isinstance(arrival, Bytes) and self._item is not None:
                self._item.take(arrival)
            if whole or isinstance(arrival, Failed) or (self._item is not None and self._item.is_complete):
                self._item, self._complete = None, arrival.item + 1
            yield arrival
