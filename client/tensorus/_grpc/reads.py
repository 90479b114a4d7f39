"""The life of a Get and of a Query: what their answers bring, and where one goes on after its stream broke.

No I/O: see `steps.py`.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import replace
from typing import TYPE_CHECKING

import crc32c

from tensorus._arrays.canonical import element_bytes
from tensorus._backend import Began, Bytes, Failed, Part
from tensorus._grpc.calls import query_request, read_options
from tensorus._grpc.convert import error_of, slices_to, tensor_from
from tensorus._grpc.convert_history import state_to
from tensorus._grpc.convert_values import dtype_from
from tensorus._grpc.steps import AttemptFailedError, Give, Open, Pause, Read, as_answer
from tensorus._grpc.tensor_info import checksum_fields
from tensorus.errors import ChecksumMismatchError, InternalError
from tensorus_protos.framing import split
from tensorus_protos.v1 import tensorus_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from google.protobuf.message import Message

    from tensorus._backend import Arrival, Listing, State
    from tensorus._grpc.steps import Steps

__all__ = ["GetPlace", "QueryPlace", "arrivals", "get", "get_in_state", "query"]

_READ = Read()


def get(
    dataset: str, ids: Sequence[str], part: Part | None, *, with_data: bool, at: State | None = None
) -> Steps[Arrival, None]:
    """See `Backend`."""
    yield from get_in_state(dataset, ids, part, None if at is None else state_to(at), with_data=with_data)


def get_in_state(
    dataset: str,
    ids: Sequence[str],
    part: Part | None,
    state: pb.At | None,
    *,
    with_data: bool,
    take: Callable[[Iterator[Arrival]], Iterator[Arrival]] = iter,
    until_plan: bool = False,
) -> Steps[Arrival, None]:
    """Read tensors; see `Backend.get`.

    Args:
        state: gets the generation that the server read; None: the current state.
        take: changes what arrives.
        until_plan: whether the read ends at the header of the first tensor that the server has a plan of.
    """
    part = part or Part()
    slices = None if part.is_whole else slices_to(part)
    reads = [pb.TensorRead(id=tensor_id, slices=slices) for tensor_id in ids]
    options = read_options(with_data=with_data, dtype=part.dtype, precision=part.precision, until_plan=until_plan)
    # Byte ranges are of the stored values.
    place = GetPlace(reads, with_data=with_data, by_bytes=part.precision is None)

    def request() -> pb.GetRequest:
        return pb.GetRequest(dataset=dataset, reads=place.remaining(), options=options, at=state)

    def arrived(raw: bytes) -> Iterator[Arrival]:
        with as_answer("Get"):
            head, payload = split(raw)
            response = pb.GetResponse.FromString(head)
        _pin(state, response)
        yield from take(place.passed(arrivals(response, payload)))

    # A tensor is cached where it is read. Reads of several go where the same one did before.
    key = f"{dataset}\0{ids[0]}" if ids else dataset
    return (yield from _read("Get", key, request, arrived, place))


def query(listing: Listing, *, with_data: bool, precision: str | None = None) -> Steps[Arrival, None]:
    """See `Backend`."""
    first = query_request(listing, with_data=with_data, precision=precision)
    place = QueryPlace(with_data=with_data)

    def request() -> pb.QueryRequest:
        first.resume_token = place.remaining()
        return first

    def arrived(raw: bytes) -> Iterator[Arrival]:
        with as_answer("Query"):
            head, payload = split(raw)
            response = pb.QueryResponse.FromString(head)
        if first.HasField("at"):
            _pin(first.at, response)
        yield from place.passed(arrivals(response, payload))
        place.note(response.resume_token)

    return _read(
        "Query", f"{listing.dataset}\0{listing.where}\0{listing.order_by}\0{listing.seed}", request, arrived, place
    )


def _pin(state: pb.At | None, response: pb.GetResponse | pb.QueryResponse) -> None:
    """Let the next streams read the state that this one does: a snapshot may be dropped, and its name be given again."""
    if state is not None and response.at_generation:
        state.generation = response.at_generation


def _read(
    name: str,
    key: str,
    request: Callable[[], Message],
    arrived: Callable[[bytes], Iterator[Arrival]],
    place: GetPlace | QueryPlace,
) -> Steps[Arrival, None]:
    """Give what the answers of as many streams bring as it takes.

    Args:
        key: by which the server is chosen: see `Open`.
        request: makes the request of the next stream.
        arrived: takes an answer apart.
    """
    while True:
        try:
            yield Open(name, request().SerializeToString(), key)
            while (raw := (yield _READ)) is not None:
                yield Give(arrived(raw))
        except AttemptFailedError as failed:
            broken = failed.error
        else:
            return
        if place.wants_no_more:
            return
        yield Pause(broken, place.reached)


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
            coarse_error = segment.coarse_error
            tensor = segment.tensor
            info = tensor_from(tensor, coarse_error=coarse_error)
            # The checksum is that of the stored values.
            checksum = {} if coarse_error else checksum_fields(tensor, tensor.spec.dtype, tensor.spec.element_bits)
            if segment.HasField("part"):
                yield Began(item, info, tuple(segment.part.shape), dtype_from(segment.part))
            elif segment.last and decoded_length and not (segment.encoding or segment.offset):
                yield Began(item, info, info.shape, data=data, **checksum)
                continue
            else:
                yield Began(item, info, info.shape, has_plan=segment.has_plan, **checksum)
        if decoded_length:
            yield Bytes(item, segment.offset, data, segment.encoding != 0, decoded_length)
    yield from failed


class _Place:
    """How far a read is: which item, and how much of its tensor."""

    def __init__(self, *, with_data: bool) -> None:
        self._with_data = with_data
        # The first item without an end, and what has arrived of it.
        self._next = 0
        self._item: _Item | None = None
        # Of the stream that is going on: the item that it begins with, where the bytes of that one begin, and the first item
        # that is new to the reader.
        self._first = 0
        self._offset = 0
        self._new = 0
        # The last item that has begun, the generation of its tensor, and the one that begins again: its reader is to, too.
        self._begun = -1
        self._generation = 0
        self._restarts = -1

    def passed(self, found: Iterable[Arrival]) -> Iterator[Arrival]:
        """Yield arrivals of the stream as those of the whole read, without what its reader has."""
        for local in found:
            # The first stream numbers its items as the read does.
            arrival = replace(local, item=local.item + self._first) if self._first else local
            if arrival.item < self._new:
                continue
            goes_on = self._offset > 0 and arrival.item == self._first
            whole = False
            if isinstance(arrival, Began):
                if goes_on:
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


class GetPlace(_Place):
    """How far a Get is. Its next stream is asked for what is left."""

    def __init__(self, reads: Sequence[pb.TensorRead], *, with_data: bool, by_bytes: bool = True) -> None:
        """Begin before the first read.

        Args:
            by_bytes: whether a whole tensor that has arrived in part may be gone on with by its bytes; if not, it begins again.
        """
        super().__init__(with_data=with_data)
        self._reads = reads
        self._by_bytes = by_bytes

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
        by_bytes = self._by_bytes and not read.HasField("slices")
        if by_bytes and self._item is not None and self._item.in_order and self._item.arrived_bytes:
            self._offset = self._item.arrived_bytes
            read.bytes.offset = self._offset
        else:
            self._item, self._restarts = None, self._next
        return [read, *self._reads[self._next + 1 :]]

    @property
    def reached(self) -> tuple[int, int]:
        """How far it is: reads that have their end, and bytes of the next one."""
        return self._next, 0 if self._item is None else self._item.arrived_bytes

    @property
    def is_complete(self) -> bool:
        """Whether every read has its end."""
        return self._next == len(self._reads)

    @property
    def wants_no_more(self) -> bool:
        """Whether another stream would bring nothing: even one without reads says whether the dataset is there."""
        return self.is_complete and bool(self._reads)


class QueryPlace(_Place):
    """How far a Query is. Its next stream begins after the server's last token, perhaps before what has come."""

    def __init__(self, *, with_data: bool) -> None:
        """Begin at the start."""
        super().__init__(with_data=with_data)
        self._token = ""
        self._covered = 0

    def note(self, token: str) -> None:
        """Take the server's word that everything so far is behind `token`, if it gave one."""
        if token:
            self._token, self._covered = token, self._next

    def remaining(self) -> str:
        """Return the token that the next stream is to go on from."""
        self._first, self._new = self._covered, self._next
        self._restarts = self._next if self._begun == self._next else -1
        self._item = None
        return self._token

    @property
    def reached(self) -> tuple[int]:
        """How far it is: the last tensor of which anything came. One that broke off begins again: only the next is further."""
        return (max(self._begun, self._next - 1),)

    wants_no_more = False
    """Only the server knows."""


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
