"""One streamed insert: receives segments and commits tensors.

    open      look up the dataset, and what an earlier stream of the same request left
    items     each: announced by its first segment → bytes → last segment → sealed (durable) → committed (visible) → reported
              small ones that one segment brings whole: collected in `SmallTensors`, and sealed many at a time
    finish    all items have been reported

If an item fails, that is reported and its remaining segments are dropped; the stream and its other items continue. Items may
interleave. They are announced in ascending order of their numbers, so that the stream need not remember which have ended.
Items that were reported as committed stay. If the stream ends early, another stream of the same request can resume items that
have a mark; nothing is kept of the others.

An all-or-nothing insert is lost when one item fails. From then on, its items fail as soon as they are announced, and their
bytes are dropped unread.

Threads: `receive`, `flush`, `fail`, `finish` and `abort` belong to one thread, the stream's. Large items are sealed in the seal
pool, which waits for the disk while the next item streams in. Commits run on the committer's thread. `items.py` has the states
of an item, and ensures that each item gets its result.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from tensorus_codecs.plain_dataclass import plain_dataclass
from tensorus_server.catalogue.abc import require_intact
from tensorus_server.catalogue.conflicts import validated
from tensorus_server.chunk_store.discarding import DiscardingStaging
from tensorus_server.engine.insert import leftovers
from tensorus_server.engine.insert.announcement import first_announcement
from tensorus_server.engine.insert.committer import Commit
from tensorus_server.engine.insert.delta_base import find_base, plan_with_base
from tensorus_server.engine.insert.edit_writer import EditWriter
from tensorus_server.engine.insert.items import ItemProgress, ItemResult, Items
from tensorus_server.engine.insert.options import InsertOptions, InsertServices
from tensorus_server.engine.insert.plans import Plans
from tensorus_server.engine.insert.small_tensors import SmallTensors
from tensorus_server.engine.insert.uploads import progress_of, uploads_of
from tensorus_server.engine.insert.writers import writer_of
from tensorus_server.engine.validate import require_announced, require_id
from tensorus_server.errors import (
    EngineError,
    InsertAbandonedError,
    InvalidRequestError,
    SegmentOutOfOrderError,
    StoreUnavailableError,
)
from tensorus_server.limits import UNCOMMITTED_BYTES_MAX, UNCOMMITTED_ITEMS_MAX

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from concurrent.futures import Future

    from tensorus_server.catalogue.abc import StoredTensor, Upload
    from tensorus_server.engine.insert.items import Batch
    from tensorus_server.engine.insert.tensor_writer import TensorWriter
    from tensorus_server.model import Checksum, Dataset, NewTensor, Segment, Tensor

__all__ = ["InsertOptions", "InsertServices", "InsertStream", "ItemProgress", "ItemResult"]

_INLINE_TOGETHER_BYTES_MAX = 16 * 1024 * 1024
"""Stored bytes of an all-or-nothing insert that wait in memory for `finish`; further items wait in the chunk store."""


@plain_dataclass
class _Open:
    """An item that receives segments."""

    batch: Batch
    writer: TensorWriter


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
            report: called with the result of each item once, often several at a time, and with the durable progress of large
                ones; called on any thread, must not block for long.

        Raises:
            InvalidRequestError: the request id belongs to an insert into another dataset.
        """
        self._dataset = dataset
        self._services = services
        self._report = report
        self._options = options
        self._staging = DiscardingStaging() if options.validate_only else services.staging
        session = options.request_id if services.shares_sessions and not options.validate_only else None
        self._items = Items(report, services.health, session=session, trace=options.trace)
        self._open: dict[int, _Open] = {}
        self._last_item = -1
        self._small = SmallTensors(dataset)
        self._plans = Plans(dataset)
        self._uploads: dict[int, tuple[Upload, Tensor | None]] = {}
        if options.request_id is not None and not options.validate_only:
            self._uploads = uploads_of(services.catalogue, dataset, options.request_id)

    @property
    def resumable(self) -> list[ItemProgress]:
        """Items of earlier streams of the request that are complete, or can be resumed at their committed bytes."""
        return [progress_of(upload, tensor) for upload, tensor in self._uploads.values()]

    @property
    def is_lost(self) -> bool:
        """Whether this is an all-or-nothing insert with a failed item, so that nothing of it will be stored."""
        return self._options.all_or_nothing and not self._options.validate_only and self._items.failed > 0

    def owes(self) -> bool:
        """Return whether items are being sealed or committed, which the client may be waiting for. Thread-safe."""
        return self._items.are_under_way

    def receive(self, segment: Segment, canonical: memoryview, canonical_crc32c: int | None = None) -> None:
        """Handle one segment.

        Args:
            canonical: its decoded bytes, `segment.decoded_length` of them; must not change until its chunk is stored.
            canonical_crc32c: their CRC32C, if it is known.

        Raises:
            InvalidRequestError: the segment does not fit the stream, which must end. An error of the item alone is reported
                and not raised.
        """
        if self.is_lost:
            self.drop(segment.item, announced=segment.tensor is not None)
            return
        opened = self._open.get(segment.item)
        if opened is None:
            if segment.tensor is None:
                self._require_seen(segment.item)
                return
            opened = self._announce(segment, segment.tensor, canonical, canonical_crc32c)
            if opened is None:
                return
        elif segment.tensor is not None:
            raise InvalidRequestError(f"segment of item {segment.item} announces its tensor a second time")
        try:
            self._write(opened.writer, segment, canonical, canonical_crc32c)
        except Exception as error:  # noqa: BLE001 - any error here concerns only this item
            self._fail(segment.item, error)
            return
        if segment.last:
            self._end(segment.item, segment.source_checksum)

    def drop(self, item: int, *, announced: bool) -> None:
        """Handle a segment of a lost insert: ignore its bytes, and fail its item.

        Args:
            announced: whether the segment announces its tensor.

        Raises:
            InvalidRequestError: the item was never announced.
        """
        self._abandon()
        if item <= self._last_item:
            return
        if not announced:
            self._require_seen(item)
        self._last_item = item
        self._items.begin([item]).fail(self._abandoned(None))

    def flush(self) -> None:
        """Seal the small items collected so far. Without a call, they wait for more, or for the end of the stream."""
        if not len(self._small):
            return
        batch = self._items.begin(self._small.numbers)
        with batch.carried():
            written = self._small.write()
            batch.stored = [found for found in written if not isinstance(found, Exception)]
            if len(batch.stored) < len(written):
                pairs = zip(batch.numbers, written, strict=True)
                self._items.settle_some(
                    batch, {number: found for number, found in pairs if isinstance(found, Exception)}
                )
            self._sealed(batch)

    def fail(self, item: int, error: Exception) -> None:
        """Fail an item because the caller found an error in it; its later segments are dropped."""
        if item > self._last_item:
            self._last_item = item
            self._items.begin([item]).fail(error)
        elif item in self._open:
            self._fail(item, error)

    def finish(self) -> tuple[int, int]:
        """Wait until all items have been reported; return how many were committed and how many failed.

        Items that have not received their last segment fail.

        Raises:
            Exception: a result could not be reported.
        """
        try:
            self.flush()
            for item, opened in list(self._open.items()):
                self._fail(item, self._incomplete(SegmentOutOfOrderError, "the stream finished", item, opened.writer))
            if self._options.all_or_nothing:
                self._items.wait(sealed=True)
                self._commit_together()
            self._items.wait()
        except Exception as error:  # noqa: BLE001 - every item must get a result, whatever the error
            self._give_up(error)
        if self._items.unreported is not None:
            raise self._items.unreported
        return self._items.succeeded, self._items.failed

    def require_ended(self) -> None:
        """Check that all items have ended when the client ends the stream without `finish`.

        Raises:
            InvalidRequestError: an item is open, or waits for the other items of an all-or-nothing insert.
        """
        how = "the client ended the stream without finish"
        for item, opened in self._open.items():
            raise self._incomplete(InvalidRequestError, how, item, opened.writer)
        if self._options.all_or_nothing and self._items.begun:
            raise InvalidRequestError(f"{how}, so nothing of it was stored", dataset=self._dataset.name)

    def abort(self) -> None:
        """Keep items that can be resumed, drop other unfinished ones, and wait for complete ones. Idempotent.

        An edit that is being sealed may have much to do, so it ends before its next chunk; the client repeats it.
        """
        try:
            self.flush()
            for item in list(self._open):
                self._leave(item)
            self._items.stop_edits()
            if self._options.all_or_nothing:
                self._items.wait(sealed=True)
                for batch in self._items.in_state("sealed"):
                    leftovers.park(self._staging, batch.staged)
                    self._items.leave(batch)
            self._items.wait()
        except Exception as error:  # noqa: BLE001 - every item must get a result, whatever the error
            self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        """Fail all unsettled items; the payloads of sealed ones are kept, so that they can be resumed."""
        for batch in self._items.in_state("sealed"):
            leftovers.park(self._staging, batch.staged)
        self._items.fail_all(error)

    def _announce(
        self, segment: Segment, new: NewTensor, canonical: memoryview, canonical_crc32c: int | None
    ) -> _Open | None:
        """Start an item; return None if it needs no more segments: it is small and whole, complete already, or has failed."""
        item = segment.item
        if item <= self._last_item:
            raise InvalidRequestError(f"item {item} is announced after item {self._last_item}; numbers must ascend")
        self._last_item = item
        upload, complete = self._uploads.pop(item, (None, None))
        outcome: Tensor | Exception | None = complete
        base: Tensor | None = None
        try:
            if upload is not None:
                new = first_announcement(upload, new, dataset=self._dataset.name)
            self._require_allowed(new)
            if complete is None and new.edit is None:
                base = find_base(self._services, self._dataset, new)
                if upload is None and self._take_small(segment, new, base, canonical, canonical_crc32c):
                    return None
        except Exception as error:  # noqa: BLE001 - any error here concerns only this item
            outcome = error
        if self._options.all_or_nothing:
            self.flush()  # Keeps the order of item numbers in the commit.
        batch = self._items.begin([item])
        with batch.carried():
            if outcome is not None:
                batch.settle([outcome])
                return None
            opened = self._open[item] = _Open(batch, self._writer(item, new, base, upload))
            batch.hand_over()
            return opened
        return None

    def _take_small(
        self,
        segment: Segment,
        new: NewTensor,
        base: Tensor | None,
        canonical: memoryview,
        canonical_crc32c: int | None,
    ) -> bool:
        """Take an item if it is small and whole; return False if it must be streamed. Errors as of `SmallTensors.take`."""
        small = self._small
        # Flush at a quarter of the limits, so that the next items are encoded while these are committed.
        if 4 * len(small) >= UNCOMMITTED_ITEMS_MAX or 4 * small.canonical_bytes >= UNCOMMITTED_BYTES_MAX:
            self.flush()
        inline_bytes = self._items.sealed_inline_bytes + small.canonical_bytes
        if self._options.all_or_nothing and inline_bytes >= _INLINE_TOGETHER_BYTES_MAX:
            return False
        plan = self._plans.of(new)
        if base is not None:
            plan, _ = plan_with_base(plan, base, None)
        return small.take(segment, new, plan, canonical, canonical_crc32c)

    def _require_allowed(self, new: NewTensor) -> None:
        if new.edit is None:
            require_announced(new, self._dataset)
        else:
            require_id(new.id, dataset=self._dataset.name)
            self._options.require_edits(self._dataset)
        self._options.require_room(
            new, self._dataset, open_items=len(self._open), items=self._items.begun + len(self._small) + 1
        )
        self._staging.require_space()

    def _writer(self, item: int, new: NewTensor, base: Tensor | None, upload: Upload | None) -> TensorWriter:
        return writer_of(
            self._dataset,
            item,
            new,
            chunk_plan=self._plans.of(new),
            base=base,
            upload=upload,
            staging=self._staging,
            services=self._services,
            options=self._options,
            report=lambda progress: self._report([progress]),
            inline=not self._options.all_or_nothing or self._items.sealed_inline_bytes < _INLINE_TOGETHER_BYTES_MAX,
        )

    def _write(
        self, writer: TensorWriter, segment: Segment, canonical: memoryview, canonical_crc32c: int | None
    ) -> None:
        received = writer.received_bytes
        if segment.offset < min(received, writer.resumed_bytes):
            # The client resumed before the durable position: skip the bytes that are already stored.
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

    def _end(self, item: int, source_checksum: Checksum | None) -> None:
        """Seal and commit an item that has all its bytes: an inline one at once, a large one in the seal pool."""
        # Items that ended before it get lower ordinals.
        self.flush()
        opened = self._open.pop(item)
        if opened.writer.is_held:
            self._seal(opened, source_checksum)
            return
        with opened.batch.carried():
            try:
                if isinstance(opened.writer, EditWriter):
                    # Here, since the threads of the seal pool are for all tensors.
                    opened.writer.wait_for_turn(self._items, opened.batch)
                self._items.seal(opened.batch)
                opened.batch.hand_over()
                seal = self._services.seal_pool.submit(self._seal, opened, source_checksum)
                seal.add_done_callback(partial(self._sealing_ended, opened))
            except BaseException as error:
                leftovers.put_away(opened.writer, error, resumable=not self._options.all_or_nothing)
                raise

    def _seal(self, opened: _Open, source_checksum: Checksum | None) -> None:
        batch = opened.batch
        with batch.carried():
            try:
                stored, staged = opened.writer.seal(source_checksum)
            except BaseException as error:
                leftovers.put_away(opened.writer, error, resumable=not self._options.all_or_nothing)
                raise
            batch.stored, batch.staged = [stored], [] if staged is None else [staged]
            self._sealed(batch)

    def _sealed(self, batch: Batch) -> None:
        """Commit a sealed batch, or let it wait for the other items of an all-or-nothing insert. See `InsertOptions`."""
        if self._options.validate_only:
            batch.settle(self._validated(batch.stored))
        elif not self._options.all_or_nothing:
            self._commit(batch)
        else:
            batch.hand_over()
            if not self._items.sealed(batch):
                # The stream gave the batch up while the disk was slow.
                self._drop(batch)

    def _validated(self, group: Sequence[StoredTensor]) -> list[Tensor | Exception]:
        """Return what each tensor would become, or the error that its commit would raise."""
        outcomes: list[Tensor | Exception] = []
        existing = self._services.catalogue.tensors.get(self._dataset.name, [stored.new.id for stored in group])
        for stored, found in zip(group, existing, strict=True):
            try:
                outcomes.append(validated(stored, require_intact(found)))
            except EngineError as error:
                outcomes.append(error)
        return outcomes

    def _sealing_ended(self, opened: _Open, seal: Future[None]) -> None:
        """Clean up if the pool was closed before it ran the task."""
        error = seal.exception(timeout=0)
        if error is not None:
            leftovers.put_away(opened.writer, error, resumable=not self._options.all_or_nothing)
            opened.batch.fail(StoreUnavailableError(f"the tensor could not be sealed: {error}"))

    def _commit(self, batch: Batch) -> None:
        """Submit a batch to the committer; blocks while too many items of the stream are being committed."""
        try:
            goes_on = self._items.commit(batch)
        except BaseException:
            self._drop(batch)
            raise
        if not goes_on:
            self._drop(batch)
            return
        batch.hand_over()
        self._services.committer.submit(Commit([batch]))

    def _commit_together(self) -> None:
        """Commit all items of an all-or-nothing insert together, or drop them all if one has failed."""
        if self._items.failed and not self._options.validate_only:
            self._abandon()
            return
        batches = self._items.in_state("sealed")
        if not batches:
            return
        for batch in batches:
            self._items.commit(batch, together=True)
        self._services.committer.submit(Commit(batches, together=True))

    def _abandon(self) -> None:
        """Fail the open and sealed items of a lost insert."""
        for item, opened in list(self._open.items()):
            self._fail(item, self._abandoned(opened.writer.new))
        marked = False
        for batch in self._items.in_state("sealed"):
            batch.settle([self._abandoned(stored.new) for stored in batch.stored])
            leftovers.drop(self._staging, batch.staged)
            marked = marked or any(stored.upload is not None for stored in batch.stored)
        if marked and self._options.request_id is not None:
            # In one transaction: there may be thousands.
            leftovers.drop_upload(self._services.catalogue.uploads, (self._options.request_id, None))

    def _abandoned(self, new: NewTensor | None) -> InsertAbandonedError:
        return InsertAbandonedError(
            f"item {self._items.first_failed} of the insert failed, so nothing of it was stored",
            dataset=self._dataset.name,
            tensor=None if new is None else new.id,
            failed_item=self._items.first_failed,
        )

    def _incomplete(self, error: type[InvalidRequestError], how: str, item: int, writer: TensorWriter) -> Exception:
        received, expected = writer.received_bytes, writer.new.spec.canonical_bytes
        message = f"{how} after {received} of {expected} bytes of item {item}, and no `last` segment of it"
        return error(message, dataset=self._dataset.name, tensor=writer.new.id, item=item)

    def _fail(self, item: int, error: Exception) -> None:
        """Fail an open item."""
        opened = self._open.pop(item)
        try:
            leftovers.put_away(opened.writer, error, resumable=not self._options.all_or_nothing)
        finally:
            opened.batch.fail(error)

    def _leave(self, item: int) -> None:
        """Keep an open item for a later stream to resume, or drop it if it has no mark."""
        opened = self._open.pop(item)
        try:
            leftovers.park_writer(opened.writer)
        finally:
            self._items.leave(opened.batch)

    def _drop(self, batch: Batch) -> None:
        leftovers.drop_batch(self._staging, self._services.catalogue.uploads, batch)

    def _require_seen(self, item: int) -> None:
        """Refuse a segment of an item that was never announced; those of failed items pass, and are ignored."""
        if item > self._last_item:
            raise InvalidRequestError(f"first segment of item {item} announces no tensor")
