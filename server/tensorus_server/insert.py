"""One streamed insert: segments in, tensors committed.

    open      the dataset is looked up, and what an earlier stream of the same request left
    items     each: announced by its first segment → bytes → last segment → sealed (durable) → committed (visible) → reported
    finish    everything has been reported

An item that fails is reported and its remaining segments are dropped; the stream and its other items go on. Items may
interleave, and are announced in ascending order of their numbers, so that nothing has to remember which ones have ended.
What has been reported as committed stays. When the stream ends early, items that were marked on their way can be resumed by
another stream of the same request; of the others nothing is left.

Threads: `receive` and `finish` belong to one thread, the stream's. Sealing a large item waits for the disk on a thread of its
own, so that the next item streams in meanwhile; commits happen on the committer's. Reports come from any of these.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tensorus_codecs.plan import plan
from tensorus_codecs.quick import quick
from tensorus_server.catalogue.abc import require_intact, resolve
from tensorus_server.chunk_store.discarding import DiscardingChunkStore
from tensorus_server.committer import PendingCommit, forget_upload
from tensorus_server.errors import (
    DataCorruptError,
    InsertAbandonedError,
    InvalidRequestError,
    LimitExceededError,
    SegmentOutOfOrderError,
)
from tensorus_server.insert_counts import Counts, Together
from tensorus_server.limits import ITEMS_TOGETHER_MAX, OPEN_ITEMS_MAX, UNCOMMITTED_BYTES_MAX, UNCOMMITTED_ITEMS_MAX
from tensorus_server.marker import Marker
from tensorus_server.small_tensors import SmallTensors
from tensorus_server.tensor_writer import TensorWriter
from tensorus_server.validate import require_id, require_metadata, require_schema_fit

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from concurrent.futures import ThreadPoolExecutor

    from tensorus_codecs.plan import ChunkPlan
    from tensorus_server.catalogue.abc import Catalogue, StoredTensor, Upload
    from tensorus_server.chunk_store.abc import ChunkStore, StagedPayload
    from tensorus_server.codec_pool import CodecPool
    from tensorus_server.committer import Committer
    from tensorus_server.model import Checksum, Dataset, NewTensor, Segment, Tensor, TensorSpec

__all__ = ["InsertOptions", "InsertServices", "InsertStream", "ItemProgress", "ItemResult"]

_SEALS_MAX = 4
"""Large items of one stream that wait for their last sync, each with the memory of its chunks under way."""

_INLINE_TOGETHER_BYTES_MAX = 16 * 1024 * 1024
"""Stored bytes that wait in memory for the others of their insert; what comes after them waits in the chunk store."""


@dataclass(frozen=True)
class InsertOptions:
    """How an insert is done."""

    request_id: str | None = None
    """Under which it can be resumed; None: it cannot."""
    all_or_nothing: bool = False
    """Whether nothing is visible before `finish` has succeeded for every item."""
    validate_only: bool = False
    """Whether everything is checked and measured, and nothing stored."""


@quick
class ItemResult:
    """What became of one item."""

    item: int
    """Its number within the stream."""
    outcome: Tensor | Exception
    """The committed tensor, or why there is none."""


@dataclass(frozen=True)
class ItemProgress:
    """How far an item is."""

    item: int
    id: str
    committed_bytes: int
    """Canonical bytes that are durable."""
    tensor: Tensor | None = None
    """Once it is complete and visible."""


@dataclass(frozen=True)
class InsertServices:
    """What an insert works with; shared by all streams."""

    catalogue: Catalogue
    chunk_store: ChunkStore
    pool: CodecPool
    committer: Committer
    seal_pool: ThreadPoolExecutor


class InsertStream:
    """See the module's description."""

    def __init__(
        self,
        dataset: Dataset,
        services: InsertServices,
        report: Callable[[Sequence[ItemResult | ItemProgress]], None],
        options: InsertOptions,
    ) -> None:
        """Open the stream.

        Args:
            report: told the result of each item once, often several at a time, and how far large ones are durable, from any
                thread; must not block for long, and must not raise.

        Raises:
            InvalidRequestError: the request belongs to another dataset.
        """
        self._dataset = dataset
        self._services = services
        self._report = report
        self._options = options
        self._chunk_store = DiscardingChunkStore() if options.validate_only else services.chunk_store
        self._open: dict[int, TensorWriter] = {}
        self._last_item = -1
        self._seal_slots = threading.BoundedSemaphore(_SEALS_MAX)
        self._small = SmallTensors(dataset)
        self._planned: tuple[TensorSpec | None, ChunkPlan | None] = (None, None)
        self._together = Together(services.chunk_store) if options.all_or_nothing else None
        self._counts = Counts()
        self._uploads: dict[int, tuple[Upload, Tensor | None]] = {}
        if options.request_id is not None and not options.validate_only:
            self._uploads = _uploads(services.catalogue, dataset, options.request_id)

    @property
    def resumable(self) -> list[ItemProgress]:
        """What an earlier stream of the request left: items that go on at their committed bytes, or are complete."""
        return [
            ItemProgress(
                item, upload.id, upload.committed_bytes if tensor is None else upload.spec.canonical_bytes, tensor
            )
            for item, (upload, tensor) in self._uploads.items()
        ]

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
            if self._take_small(segment, segment.tensor, canonical, canonical_crc32c):
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

    def flush(self) -> None:
        """Commit the small items that are here; otherwise they wait for more of them, or for the end of the stream."""
        if not len(self._small):
            return
        self._counts.begin(len(self._small))
        stored: list[tuple[int, StoredTensor]] = []
        for item, written in self._small.write():
            if isinstance(written, Exception):
                self._settle([item], [written])
            else:
                stored.append((item, written))
        self._commit(stored, [], sum(tensor.locator.length for _, tensor in stored))

    def fail(self, item: int, error: Exception) -> None:
        """Fail an item for a reason that was found outside; its later segments are dropped."""
        if item > self._last_item:
            self._last_item = item
            self._counts.begin()
            self._settle([item], [error])
        elif item in self._open:
            self._fail(item, error)

    def finish(self) -> tuple[int, int]:
        """Wait until every item has been reported; return how many were committed and how many failed.

        An item that has begun and not ended fails.
        """
        self.flush()
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
        if self._together is not None:
            self._counts.wait(self._together.count)
            self._commit_together(self._together)
        self._counts.wait()
        return self._counts.succeeded, self._counts.failed

    def abort(self) -> None:
        """Leave what can be resumed, drop what else is not complete, and wait for what is. Idempotent."""
        self.flush()
        for item in list(self._open):
            writer = self._open.pop(item)
            if self._options.request_id is None:
                writer.abort()
            else:
                writer.park()
            self._counts.drop()
        if self._together is not None:
            self._counts.wait(self._together.count)
            self._counts.drop(self._together.park())
        self._counts.wait()

    def _take_small(
        self, segment: Segment, new: NewTensor, canonical: memoryview, canonical_crc32c: int | None
    ) -> bool:
        """Take a small item the short way; False where it is not one, or not as it should be: the general way says why."""
        if segment.item <= self._last_item or segment.item in self._uploads:
            return False
        if self._together is not None or self._options.validate_only:
            # Rare, and more than that way knows.
            return False
        try:
            self._require_allowed(new)
            chunk_plan = self._plan(new)
        except Exception:  # noqa: BLE001 - the general way finds it again, and reports it
            return False
        if not self._small.take(segment, new, chunk_plan, canonical, canonical_crc32c):
            return False
        self._last_item = segment.item
        # A quarter of what may wait, so that the next ones are encoded while these are committed.
        if 4 * len(self._small) >= UNCOMMITTED_ITEMS_MAX or 4 * self._small.canonical_bytes >= UNCOMMITTED_BYTES_MAX:
            self.flush()
        return True

    def _announce(self, segment: Segment, new: NewTensor) -> TensorWriter | None:
        """Start an item, or report why it cannot be."""
        item = segment.item
        if item <= self._last_item:
            raise InvalidRequestError(f"item {item} is announced after item {self._last_item}; numbers must ascend")
        self._last_item = item
        self._counts.begin()
        try:
            self._require_allowed(new)
            upload, complete = self._uploads.pop(item, (None, None))
            if upload is not None and (upload.id, upload.spec) != (new.id, new.spec):
                raise InvalidRequestError(
                    f"item {item} was announced as another tensor by an earlier stream of the request",
                    dataset=self._dataset.name,
                    tensor=new.id,
                )
            if complete is not None:
                self._settle([item], [complete])
                return None
            writer = self._writer(item, new, upload)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is this item's
            self._settle([item], [error])
            return None
        self._open[item] = writer
        return writer

    def _require_allowed(self, new: NewTensor) -> None:
        dataset = self._dataset
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
        if self._together is not None and self._counts.begun > ITEMS_TOGETHER_MAX:
            raise LimitExceededError(
                f"{self._counts.begun} items are to be stored together, limit is {ITEMS_TOGETHER_MAX} "
                "(items_together_max)",
                dataset=dataset.name,
                tensor=new.id,
                limit=ITEMS_TOGETHER_MAX,
            )
        self._chunk_store.require_space()

    def _plan(self, new: NewTensor) -> ChunkPlan:
        """Return how chunks of the tensor are encoded: mostly as those of the one before."""
        spec, planned = self._planned
        if new.policy is None and new.spec is spec and planned is not None:
            return planned
        found = plan(new.policy or self._dataset.policy, new.spec.dtype)
        if new.policy is None:
            self._planned = (new.spec, found)
        return found

    def _writer(self, item: int, new: NewTensor, upload: Upload | None) -> TensorWriter:
        services, request_id = self._services, self._options.request_id
        marker = None
        if request_id is not None and not self._options.validate_only:

            def report(committed_bytes: int) -> None:
                self._report([ItemProgress(item, new.id, committed_bytes)])

            marker = Marker((request_id, item), services.catalogue.uploads, services.committer, report)
        if upload is not None and marker is not None:
            return TensorWriter.resume(
                self._dataset, new, upload, chunk_store=self._chunk_store, pool=services.pool, marker=marker
            )
        return TensorWriter(
            self._dataset,
            new,
            self._plan(new),
            chunk_store=self._chunk_store,
            pool=services.pool,
            marker=marker,
            inline=self._together is None or self._together.inline_bytes < _INLINE_TOGETHER_BYTES_MAX,
        )

    def _write(
        self, writer: TensorWriter, segment: Segment, canonical: memoryview, canonical_crc32c: int | None
    ) -> None:
        received = writer.received_bytes
        if segment.offset < min(received, writer.resumed_bytes):
            # The sender goes on a little before the place that is durable: what is there already is left out.
            canonical, canonical_crc32c = canonical[received - segment.offset :], None
        elif segment.offset != received:
            raise SegmentOutOfOrderError(
                f"offset of a segment of item {segment.item} is {segment.offset}, expected {received}",
                dataset=self._dataset.name,
                tensor=writer.new.id,
                expected=received,
            )
        if canonical.nbytes:
            writer.write(canonical, canonical_crc32c)
        if segment.last:
            self._end(segment.item, writer, segment.source_checksum)

    def _end(self, item: int, writer: TensorWriter, source_checksum: Checksum | None) -> None:
        """Seal and commit an item whose bytes are all here: an inline one at once, a large one on a thread of its own."""
        del self._open[item]
        # What came before it gets the ordinals before its own.
        self.flush()
        if writer.is_held:
            self._seal(item, writer, source_checksum)
            return
        self._seal_slots.acquire()
        seal = self._services.seal_pool.submit(self._seal, item, writer, source_checksum)
        seal.add_done_callback(lambda _: self._seal_slots.release())

    def _seal(self, item: int, writer: TensorWriter, source_checksum: Checksum | None) -> None:
        try:
            stored, staged = writer.seal(source_checksum)
            if self._options.validate_only:
                self._settle([item], [self._validated(stored)])
                return
        except Exception as error:  # noqa: BLE001 - whatever it is, it is this item's
            writer.abort()
            self._settle([item], [error])
            return
        if self._together is not None:
            self._together.add(item, stored, staged)
            self._counts.changed()
            return
        self._commit([(item, stored)], [] if staged is None else [staged], len(stored.inline_payload or b""))

    def _commit(self, items: list[tuple[int, StoredTensor]], staged: list[StagedPayload], inline_bytes: int) -> None:
        """Hand items over to be committed; waits while more of the stream wait for that than may."""
        self._counts.begin_commit(len(items), inline_bytes)

        def done(outcomes: Sequence[Tensor | Exception]) -> None:
            self._counts.end_commit(len(items), inline_bytes)
            self._settle([item for item, _ in items], outcomes)

        self._services.committer.submit(PendingCommit([stored for _, stored in items], staged, done))

    def _commit_together(self, together: Together) -> None:
        """Commit the items that wait for each other, or drop them all where one has failed."""
        # Large items are sealed on threads, whichever is done first; ordinals are in the order of the items.
        waiting, failed = sorted(together.take(), key=lambda entry: entry[0]), self._counts.failed
        if not failed:
            items = [item for item, _, _ in waiting]
            self._services.committer.submit(
                PendingCommit(
                    [stored for _, stored, _ in waiting],
                    [staged for _, _, staged in waiting if staged is not None],
                    lambda outcomes: self._settle(items, outcomes),
                    together=True,
                )
            )
            return
        for item, stored, staged in waiting:
            if staged is not None:
                self._chunk_store.discard(staged)
            if stored.upload is not None:
                forget_upload(self._services.catalogue.uploads, stored.upload)
            message = f"{failed} of the items of the insert failed, so nothing of it was stored"
            self._settle([item], [InsertAbandonedError(message, dataset=self._dataset.name, tensor=stored.new.id)])

    def _validated(self, stored: StoredTensor) -> Tensor:
        """Return the tensor as it would be stored, without generation and ordinal."""
        (found,) = self._services.catalogue.tensors.get(self._dataset.name, [stored.new.id])
        existing = require_intact(found)
        source_crc32c = None
        if existing is not None and existing.source_checksum.algorithm != stored.source_checksum.algorithm:
            # Unlike this one it was resumed, and its checksum is the CRC.
            source_crc32c = int.from_bytes(existing.source_checksum.value, "big")
        resolve(stored, existing, source_crc32c)
        return stored.committed(generation=0, ordinal=0, created_us=0)

    def _fail(self, item: int, error: Exception) -> None:
        writer = self._open.pop(item, None)
        if writer is not None:
            writer.abort()
        self._settle([item], [error])

    def _settle(self, items: Sequence[int], outcomes: Sequence[Tensor | Exception]) -> None:
        self._report([ItemResult(item, outcome) for item, outcome in zip(items, outcomes, strict=True)])
        self._counts.end(outcomes)

    def _require_seen(self, segment: Segment) -> None:
        """Let pass the segments of an item that has failed; refuse those of an item that was never announced."""
        if segment.item > self._last_item:
            raise InvalidRequestError(f"first segment of item {segment.item} announces no tensor")


def _uploads(catalogue: Catalogue, dataset: Dataset, request_id: str) -> dict[int, tuple[Upload, Tensor | None]]:
    """Return what the request left, by item: each upload, and the tensor that it became."""
    found: dict[int, tuple[Upload, Tensor | None]] = {}
    for upload in catalogue.uploads.find(request_id):
        if upload.dataset_number != dataset.number:
            raise InvalidRequestError(
                f"request_id {request_id} belongs to an insert into another dataset", dataset=dataset.name
            )
        tensor = None
        if upload.generation is not None:
            (there,) = catalogue.tensors.by_generation(dataset.name, [upload.generation])
            if there is None or isinstance(there, DataCorruptError):
                # Complete, and deleted or damaged since: if it is sent again, its result says so.
                continue
            tensor = there
        found[upload.item] = (upload, tensor)
    return found
