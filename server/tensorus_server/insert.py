"""One streamed insert: segments in, tensors committed.

    open      the dataset is looked up
    items     each: announced by its first segment → bytes → last segment → sealed (durable) → committed (visible) → reported
    finish    everything has been reported

An item that fails is reported and its remaining segments are dropped; the stream and its other items go on. Items may
interleave, and are announced in ascending order of their numbers, so that nothing has to remember which ones have ended.
What has been reported as committed stays; when the stream ends early, what is not complete is dropped.

Threads: `receive` and `finish` belong to one thread, the stream's. Sealing a large item waits for the disk on a thread of its
own, so that the next item streams in meanwhile; commits happen on the committer's. Reports come from any of these.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tensorus_codecs.policy import plan
from tensorus_server.committer import PendingCommit
from tensorus_server.errors import (
    InvalidRequestError,
    LimitExceededError,
    SegmentOutOfOrderError,
)
from tensorus_server.limits import OPEN_ITEMS_MAX, UNCOMMITTED_ITEMS_MAX
from tensorus_server.model import Tensor
from tensorus_server.tensor_writer import TensorWriter
from tensorus_server.validate import require_id, require_metadata, require_schema_fit

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import ThreadPoolExecutor

    from tensorus_server.chunk_store.abc import ChunkStore
    from tensorus_server.codec_pool import CodecPool
    from tensorus_server.committer import Committer
    from tensorus_server.model import Checksum, Dataset, NewTensor, Segment

__all__ = ["InsertServices", "InsertStream", "ItemResult"]

_SEALS_MAX = 4
"""Large items of one stream that wait for their last sync, each with the memory of its chunks under way."""


@dataclass(frozen=True)
class ItemResult:
    """What became of one item."""

    item: int
    """Its number within the stream."""
    outcome: Tensor | Exception
    """The committed tensor, or why there is none."""


@dataclass(frozen=True)
class InsertServices:
    """What an insert works with; shared by all streams."""

    chunk_store: ChunkStore
    pool: CodecPool
    committer: Committer
    seal_pool: ThreadPoolExecutor


class InsertStream:
    """See the module's description."""

    def __init__(self, dataset: Dataset, services: InsertServices, report: Callable[[ItemResult], None]) -> None:
        """Open the stream.

        Args:
            report: called once for each item, from any thread; must not block for long, and must not raise.
        """
        self._dataset = dataset
        self._services = services
        self._report = report
        self._open: dict[int, TensorWriter] = {}
        self._last_item = -1
        self._seal_slots = threading.BoundedSemaphore(_SEALS_MAX)
        self._commit_slots = threading.BoundedSemaphore(UNCOMMITTED_ITEMS_MAX)
        self._counts = _Counts()

    def receive(self, segment: Segment, canonical: memoryview, canonical_crc32c: int | None = None) -> None:
        """Take one segment.

        Args:
            canonical: its decoded bytes, `segment.decoded_length` of them; used until its chunk is stored.
            canonical_crc32c: their CRC32C, where it is known already.

        Raises:
            InvalidRequestError: the segment has no place in the stream, which then is of no use any more. What is wrong with
                the item alone is reported, not raised.
        """
        writer = self._open.get(segment.item)
        if writer is None:
            if segment.tensor is None:
                self._require_seen(segment)
                return
            writer = self._announce(segment, segment.tensor)
            if writer is None:
                return
        elif segment.tensor is not None:
            raise InvalidRequestError(f"segment of item {segment.item} announces its tensor a second time")
        try:
            self._write(writer, segment, canonical, canonical_crc32c)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is this item's
            self._fail(segment.item, error)

    def fail(self, item: int, error: Exception) -> None:
        """Fail an item for a reason that was found outside; its later segments are dropped."""
        if item > self._last_item:
            self._last_item = item
            self._counts.begin()
            self._settle(item, error)
        elif item in self._open:
            self._fail(item, error)

    def finish(self) -> tuple[int, int]:
        """Wait until every item has been reported; return how many were committed and how many failed.

        An item that has begun and not ended fails.
        """
        for item, writer in list(self._open.items()):
            received, expected = writer.received_bytes, writer.new.spec.canonical_bytes
            self._fail(
                item,
                SegmentOutOfOrderError(
                    f"the stream finished after {received} of {expected} bytes of item {item}",
                    dataset=self._dataset.name,
                    tensor=writer.new.id,
                ),
            )
        self._counts.wait()
        return self._counts.succeeded, self._counts.failed

    def abort(self) -> None:
        """Drop what is not complete and wait for what is. Idempotent."""
        for item in list(self._open):
            self._open.pop(item).abort()
            self._counts.drop()
        self._counts.wait()

    def _announce(self, segment: Segment, new: NewTensor) -> TensorWriter | None:
        """Start an item, or report why it cannot be."""
        if segment.item <= self._last_item:
            raise InvalidRequestError(
                f"item {segment.item} is announced after item {self._last_item}; numbers must ascend"
            )
        self._last_item = segment.item
        self._counts.begin()
        dataset = self._dataset
        try:
            require_id(new.id, dataset=dataset.name)
            require_metadata(new.metadata, dataset=dataset.name, tensor=new.id)
            require_schema_fit(new.id, new.spec, new.metadata, dataset.schema, dataset=dataset.name)
            if len(self._open) >= OPEN_ITEMS_MAX:
                raise LimitExceededError(
                    f"{len(self._open)} items of the stream are open, limit is {OPEN_ITEMS_MAX} (open_items_max)",
                    dataset=dataset.name,
                    tensor=new.id,
                    limit=OPEN_ITEMS_MAX,
                )
            self._services.chunk_store.require_space()
            chunk_plan = plan(new.policy or dataset.policy, new.spec.dtype)
            writer = TensorWriter(
                dataset, new, chunk_plan, chunk_store=self._services.chunk_store, pool=self._services.pool
            )
        except Exception as error:  # noqa: BLE001 - whatever it is, it is this item's
            self._settle(segment.item, error)
            return None
        self._open[segment.item] = writer
        return writer

    def _write(
        self, writer: TensorWriter, segment: Segment, canonical: memoryview, canonical_crc32c: int | None
    ) -> None:
        if segment.offset != writer.received_bytes:
            raise SegmentOutOfOrderError(
                f"offset of a segment of item {segment.item} is {segment.offset}, expected {writer.received_bytes}",
                dataset=self._dataset.name,
                tensor=writer.new.id,
                expected=writer.received_bytes,
            )
        if canonical.nbytes:
            writer.write(canonical, canonical_crc32c)
        if segment.last:
            self._end(segment.item, writer, segment.source_checksum)

    def _end(self, item: int, writer: TensorWriter, source_checksum: Checksum | None) -> None:
        """Seal and commit an item whose bytes are all here: an inline one at once, a large one on a thread of its own."""
        del self._open[item]
        if writer.is_held:
            self._seal(item, writer, source_checksum)
            return
        self._seal_slots.acquire()
        seal = self._services.seal_pool.submit(self._seal, item, writer, source_checksum)
        seal.add_done_callback(lambda _: self._seal_slots.release())

    def _seal(self, item: int, writer: TensorWriter, source_checksum: Checksum | None) -> None:
        try:
            stored, staged = writer.seal(source_checksum)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is this item's
            writer.abort()
            self._settle(item, error)
            return
        self._commit_slots.acquire()
        self._services.committer.submit(PendingCommit(stored, staged, lambda outcome: self._committed(item, outcome)))

    def _committed(self, item: int, outcome: Tensor | Exception) -> None:
        self._commit_slots.release()
        self._settle(item, outcome)

    def _fail(self, item: int, error: Exception) -> None:
        writer = self._open.pop(item, None)
        if writer is not None:
            writer.abort()
        self._settle(item, error)

    def _settle(self, item: int, outcome: Tensor | Exception) -> None:
        self._report(ItemResult(item, outcome))
        self._counts.end(succeeded=isinstance(outcome, Tensor))

    def _require_seen(self, segment: Segment) -> None:
        """Let pass the segments of an item that has failed; refuse those of an item that was never announced."""
        if segment.item > self._last_item:
            raise InvalidRequestError(f"first segment of item {segment.item} announces no tensor")


class _Counts:
    """How many items there were, and how they ended. Safe in many threads."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._unsettled = 0
        self.succeeded = 0
        self.failed = 0

    def begin(self) -> None:
        with self._changed:
            self._unsettled += 1

    def end(self, *, succeeded: bool) -> None:
        with self._changed:
            self._unsettled -= 1
            self.succeeded += succeeded
            self.failed += not succeeded
            self._changed.notify_all()

    def drop(self) -> None:
        with self._changed:
            self._unsettled -= 1
            self._changed.notify_all()

    def wait(self) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._unsettled == 0)
