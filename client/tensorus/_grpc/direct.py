"""Direct reads: large tensors come from the object store itself, if the server offers that, and all others from the server.

    Get          →  ends at the header of the first tensor that has a plan; all before it have arrived
    GetPlan      →  where the records of this and the next tensors are
    HTTP         →  the records, which are verified here; the reader decodes them as those of the server
    Get          →  goes on after the last tensor that had a plan

Whatever fails, a plan or a request, the tensor is read from the server, which then says what is wrong, if anything is.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING

from tensorus._arrays.decode import accepted_codecs
from tensorus._backend import Began, Bytes
from tensorus._grpc import reads
from tensorus._grpc.convert import tensor_from
from tensorus._grpc.convert_history import state_to
from tensorus._grpc.patience import PASSING_REASONS
from tensorus._grpc.ranges import Fetcher, FetchFailedError, Range, Unit
from tensorus._grpc.steps import Ask, Call, Give
from tensorus._grpc.tensor_info import checksum_fields
from tensorus.errors import TensorusError
from tensorus_protos.v1 import tensorus_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from tensorus._backend import Arrival, Part, State
    from tensorus._grpc.steps import Steps

__all__ = ["DirectReads", "get"]

_UNIT_BYTES = 8 * 1024 * 1024
"""Of the records that are fetched together, about; they also end with the object that they are in."""

_PLANS_PER_CALL = 64

_PAUSE_S = 30.0
"""How long a client reads from the server alone after a failure, such as a store that it cannot reach."""

_log = logging.getLogger(__name__)


class DirectReads:
    """Whether a client reads directly, and how that went. Thread-safe."""

    def __init__(self, *, enabled: bool) -> None:
        """Read directly, if the server offers it and `enabled` is set."""
        self._enabled = enabled
        self._paused_until_s = 0.0
        self.delivered = 0
        """Tensors that came from the object store."""
        self.failed = 0
        """Tensors that came from the server because their plan, or a request, failed."""

    @property
    def is_due(self) -> bool:
        """Whether the next read may be direct."""
        return self._enabled and time.monotonic() >= self._paused_until_s

    def pause(self, error: Exception) -> None:
        """Count a failure, and read from the server for a while."""
        self.failed += 1
        self._paused_until_s = time.monotonic() + _PAUSE_S
        _log.warning(
            "tensors are read from the server alone for %.0f s, since a direct read failed: %s", _PAUSE_S, error
        )


def get(
    dataset: str,
    ids: Sequence[str],
    part: Part | None,
    *,
    with_data: bool,
    at: State | None = None,
    direct: DirectReads,
) -> Steps[Arrival, None]:
    """See `Backend`."""
    is_stored_form = part is None or (part.is_whole and part.precision is None)
    if not (with_data and is_stored_form and direct.is_due):
        yield from reads.get(dataset, ids, part, with_data=with_data, at=at)
        return
    state = None if at is None else state_to(at)
    first = 0
    while True:
        watched = _Watched(first)
        yield from reads.get_in_state(
            dataset, ids[first:], None, state, with_data=True, take=watched.take, until_plan=direct.is_due
        )
        if watched.planned is None:
            return
        with closing(Fetcher()) as fetcher:
            first = yield from _Planned(dataset, ids, state, direct, fetcher).read(watched.planned)
        if first == len(ids):
            return


class _Watched:
    """What a Get brings until it ends at a tensor with a plan."""

    def __init__(self, first: int) -> None:
        """Number the items from `first` on."""
        self._first = first
        self.planned: int | None = None
        """The item that has a plan; None: no more items follow."""

    def take(self, arrived: Iterable[Arrival]) -> Iterator[Arrival]:
        for local in arrived:
            arrival = replace(local, item=local.item + self._first) if self._first else local
            if isinstance(arrival, Began) and arrival.has_plan:
                self.planned = arrival.item
            else:
                yield arrival


class _Planned:
    """Reads those tensors of a Get that have plans."""

    def __init__(
        self, dataset: str, ids: Sequence[str], state: pb.At | None, direct: DirectReads, fetcher: Fetcher
    ) -> None:
        self._dataset = dataset
        self._ids = ids
        self._state = state
        self._direct = direct
        self._fetcher = fetcher

    def read(self, first: int) -> Steps[Arrival, int]:
        """Read the tensor with this number, and those after it as far as they have plans; return the next number."""
        answer = yield from self._plan(first)
        if answer is None:
            yield from self._from_server(first)
            return first + 1
        item, deadline_s = first, _deadline_s(answer)
        for plan in answer.plans:
            yield from self._fetch(item, plan, deadline_s)
            item += 1
            if not self._direct.is_due:
                break
        return item

    def _plan(
        self, first: int, first_chunk: int = 0, generation: int | None = None
    ) -> Steps[Arrival, pb.GetPlanResponse | None]:
        """Return plans from a tensor on; None: there are none."""
        ids = self._ids[first : first + (_PLANS_PER_CALL if generation is None else 1)]
        call = Call(
            "GetPlan",
            pb.GetPlanRequest(
                dataset=self._dataset,
                reads=[pb.TensorRead(id=tensor_id, generation=generation) for tensor_id in ids],
                accepted_codecs=accepted_codecs(),
                at=self._state,
                first_chunk=first_chunk,
            ),
            pb.GetPlanResponse.FromString,
            lambda response: response,
        )
        try:
            answer: pb.GetPlanResponse = yield Ask(call)
        except TensorusError as error:
            if error.reason in PASSING_REASONS:
                # If the server is away, the read from it says so.
                self._direct.failed += 1
            else:
                self._direct.pause(error)
            return None
        return answer if answer.plans else None

    def _from_server(self, item: int, *, restarts: bool = False) -> Steps[Arrival, None]:
        def take(arrived: Iterable[Arrival]) -> Iterator[Arrival]:
            for arrival in arrived:
                if restarts and isinstance(arrival, Began):
                    yield replace(arrival, item=item, restarts=True)
                else:
                    yield replace(arrival, item=item)

        yield from reads.get_in_state(
            self._dataset, [self._ids[item]], None, self._state, with_data=True, take=take, until_plan=False
        )

    def _fetch(self, item: int, plan: pb.TensorPlan, deadline_s: float) -> Steps[Arrival, None]:
        """Read a tensor by its plan, and otherwise from the server."""
        tensor = plan.tensor
        info = tensor_from(tensor)
        checksum = checksum_fields(tensor, tensor.spec.dtype, tensor.spec.element_bits)
        yield Give(iter([Began(item, info, info.shape, **checksum)]))
        try:
            answer: pb.GetPlanResponse | None
            chunks, is_fresh = _Chunks(plan, item, 0, deadline_s), False
            while True:
                # Not closed here: if a task is cancelled, a thread may still be waiting in it. The fetcher is closed then.
                fetched = self._fetcher.fetched(chunks.units())
                while not chunks.has_ended:
                    # Waits for the store where the values are taken: in the asynchronous client, on a thread.
                    yield Give(self._counted(chunks, fetched))
                if chunks.is_complete:
                    return
                next_chunk = chunks.next_chunk
                if is_fresh and next_chunk == chunks.first_chunk:
                    raise FetchFailedError("the ranges of a plan have expired at once")
                answer = yield from self._plan(item, next_chunk, info.generation)
                if answer is None:
                    break
                chunks, is_fresh = _Chunks(answer.plans[0], item, next_chunk, _deadline_s(answer)), True
        except FetchFailedError as error:
            self._direct.pause(error)
        yield from self._from_server(item, restarts=True)

    def _counted(self, chunks: _Chunks, fetched: Iterator[tuple[Unit, memoryview]]) -> Iterator[Bytes]:
        for arrival in chunks.next_arrivals(fetched):
            # Counted now, since a reader that has its last tensor asks for no more.
            self._direct.delivered += chunks.is_complete
            yield arrival


class _Chunks:
    """The chunks of one plan of a tensor, as they are fetched."""

    def __init__(self, plan: pb.TensorPlan, item: int, first_chunk: int, deadline_s: float) -> None:
        """Begin with a chunk.

        Args:
            deadline_s: when the ranges of the plan expire, by the monotonic clock.
        """
        self.first_chunk = self.next_chunk = first_chunk
        self.has_ended = False
        self._plan = plan
        self._item = item
        self._deadline_s = deadline_s
        self._nbytes = plan.tensor.storage.canonical_bytes
        self._chunk_bytes = plan.tensor.chunk_bytes
        self._count = -(-self._nbytes // self._chunk_bytes) if self._chunk_bytes else 0

    @property
    def is_complete(self) -> bool:
        """Whether all chunks of the tensor have arrived."""
        return self.next_chunk == self._count

    def units(self) -> Iterator[Unit]:
        """Yield units up to the end of the plan, or until its ranges expire.

        Raises:
            FetchFailedError: the plan is not one of this tensor.
        """
        expected = self.first_chunk
        for span in self._plan.spans:
            if span.first_chunk != expected or len(span.record_bytes) != len(span.record_crc32c):
                raise FetchFailedError(f"a plan has chunk {span.first_chunk}, expected {expected}")
            for unit in _units(span):
                if time.monotonic() >= self._deadline_s:
                    return
                yield unit
            expected += len(span.record_bytes)

    def next_arrivals(self, fetched: Iterator[tuple[Unit, memoryview]]) -> Iterator[Bytes]:
        """Yield what the next unit brings."""
        found = next(fetched, None)
        if found is None:
            self.has_ended = True
            return
        unit, records = found
        at, chunk = 0, unit.first_chunk
        for length, _ in unit.records:
            offset = chunk * self._chunk_bytes
            decoded_length = min(self._chunk_bytes, self._nbytes - offset)
            if decoded_length <= 0:
                raise FetchFailedError(f"a plan has chunk {chunk}, the tensor has {self._count}")
            record = records[at : at + length]
            at, chunk = at + length, chunk + 1
            self.next_chunk = chunk
            yield Bytes(self._item, offset, record, encoded=True, decoded_length=decoded_length)


def _units(span: pb.ChunkSpan) -> Iterator[Unit]:
    """Yield the units of a span, which end with its objects or at `_UNIT_BYTES`."""
    pieces = deque(Range(piece.url, piece.offset, piece.length) for piece in span.ranges)
    chunk, records, size = span.first_chunk, list[tuple[int, int]](), 0
    for record in zip(span.record_bytes, span.record_crc32c, strict=True):
        records.append(record)
        size += record[0]
        if size >= min(_UNIT_BYTES, pieces[0].length if pieces else 0):
            yield Unit(chunk, records, _take(pieces, size))
            chunk, records, size = chunk + len(records), [], 0
    if records:
        yield Unit(chunk, records, _take(pieces, size))


def _take(pieces: deque[Range], size: int) -> list[Range]:
    """Remove the first `size` bytes of ranges, and return them."""
    taken = []
    while size:
        if not pieces:
            raise FetchFailedError("the ranges of a plan are shorter than its records")
        piece = pieces.popleft()
        length = min(piece.length, size)
        taken.append(replace(piece, length=length))
        if length < piece.length:
            pieces.appendleft(Range(piece.url, piece.offset + length, piece.length - length))
        size -= length
    return taken


def _deadline_s(answer: pb.GetPlanResponse) -> float:
    return time.monotonic() + answer.valid_for.ToMilliseconds() / 1000
