"""An edit on its way in: values that are appended to a stored tensor, or written into it.

The result is a new generation of the tensor. Its payload has only the records of changed chunks; all others stay where they
are, and the chunk table says where. Values that the edit does not write keep every bit: a chunk that changes in part is
decoded, merged and encoded again, and it is stored losslessly if the policy would alter what is kept.

A small edit is held in memory. Everything happens when it is sealed, while it has the tensor for itself (`tensor_locks.py`). A
large edit is encoded as it arrives, for the tensor as it was at that time. When it is sealed, the tensor may have changed. That
is no problem if other chunks changed; otherwise the edit fails with STORE_BUSY, and the client repeats it.

The payload of a small edit is inline, like that of a small tensor. The next edit copies its records, so that small edits pile
up in the catalogue until they are worth a file. A tensor without chunk details, because it is small or of format 1, is written
anew as a whole.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from tensorus_codecs.checksum import crc32c
from tensorus_codecs.pipeline import encode_chunk
from tensorus_codecs.plan import plan
from tensorus_codecs.policy import StoragePolicy
from tensorus_protos.digest import TENSOR_DIGEST, tensor_digest
from tensorus_server.base_section import BasePlace
from tensorus_server.catalogue.abc import StoredTensor, require_intact
from tensorus_server.engine.insert.base_chunks import BaseChunks
from tensorus_server.engine.insert.edit_plan import EditPlan
from tensorus_server.engine.insert.edited_chunks import EditedChunks
from tensorus_server.engine.insert.encoded import Encoded
from tensorus_server.engine.insert.tensor_writer import TensorWriter
from tensorus_server.engine.insert.totals import report_of
from tensorus_server.engine.validate import require_announced
from tensorus_server.errors import GenerationMismatchError, InvalidRequestError, StoreBusyError, TensorNotFoundError
from tensorus_server.limits import EDIT_HELD_BYTES_MAX
from tensorus_server.model import Checksum, Locator, NewTensor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tensorus_codecs.plan import ChunkPlan
    from tensorus_codecs.summary import ValueSummary
    from tensorus_server.chunk_store.abc import StagedPayload, Staging
    from tensorus_server.engine.insert.edit_plan import Touched
    from tensorus_server.engine.insert.items import Batch, Items
    from tensorus_server.engine.insert.options import InsertServices
    from tensorus_server.model import Dataset, StorageReport, Tensor

__all__ = ["EditWriter"]

_KEPT_EXACTLY = "an edit changed a part of the chunk, and the policy would have altered the rest"


@dataclass(frozen=True)
class _Merged:
    """A chunk that was merged with the base's."""

    touched: Touched
    place: tuple[str, int] | None
    """Key of the payload and number of the record that it was merged with; None: the tensor ended before it."""


@dataclass(frozen=True)
class _Result:
    """What is known of the new generation when its payload is complete, but for the footer."""

    report: StorageReport
    values: ValueSummary | None
    index: bytes
    """The chunk index of the payload, with its end."""
    digests: bytes
    """Digests of all chunks of the tensor, in order."""
    references: tuple[str, ...] = ()
    """Keys of the other payloads that the tensor needs."""


class EditWriter(TensorWriter):
    """See the module's description. One thread at a time."""

    def __init__(
        self,
        dataset: Dataset,
        new: NewTensor,
        services: InsertServices,
        staging: Staging,
        request: tuple[str, int] | None,
    ) -> None:
        """Start with no bytes.

        Args:
            new: the announcement; its spec is that of the values.
            services: for reading the tensor, and for encoding.
            staging: takes the payload.
            request: request id and item, by which a repeated edit is recognized; None: it is not.

        Raises:
            TensorNotFoundError: there is no such tensor.
            GenerationMismatchError: the tensor is not of the generation that is to be edited.
            InvalidRequestError, SchemaMismatchError: the edit does not fit the tensor or the dataset's schema.
            DataCorruptError: the tensor is damaged.
        """
        _require_plain(new, dataset)
        self._catalogue, self._reader = services.catalogue, services.reader
        self._details_cache = services.details_cache
        self._request = request
        base = self._current(dataset, new)
        super().__init__(dataset, new, _plan_for(base, dataset), staging=staging, pool=services.pool)
        self._value_digest = None
        self._edit = EditPlan(base, new)
        require_announced(self._result(base, self._edit), dataset)
        self._locks = services.tensor_locks
        # Called before each chunk while the edit is sealed.
        self._go_on: Callable[[], None] = lambda: None
        self._held: bytearray | None = bytearray() if new.spec.canonical_bytes <= EDIT_HELD_BYTES_MAX else None
        self._open = ExitStack()
        self._base: BaseChunks | None = None
        self._coming: Iterator[Touched] = iter(())
        self._next: Touched | None = None
        self._changed: list[int] = []
        self._merged: list[_Merged] = []
        self._copied_to = 0
        if self._held is None:
            self._begin(base)

    @property
    def is_held(self) -> bool:
        """Return False: sealing reads the tensor and waits for other edits."""
        return False

    def _cut(self, canonical: memoryview, canonical_crc32c: int | None) -> None:
        if self._held is None:
            super()._cut(canonical, canonical_crc32c)
        else:
            self._held += canonical

    def wait_for_turn(self, items: Items, batch: Batch) -> None:
        """Wait until no other edit of the tensor is in progress. `batch` keeps the tensor until it is settled.

        Raises:
            StoreBusyError: other edits have taken too long.
            StoreUnavailableError: the insert was given up meanwhile.
        """
        items.take_lock(batch, self._locks.acquire(self._dataset, self.new.id))
        self._go_on = partial(items.go_on, batch)

    def seal(self, source_checksum: Checksum | None) -> tuple[StoredTensor, StagedPayload | None]:
        """See `TensorWriter`. Comes after `wait_for_turn`.

        Raises:
            TensorNotFoundError, GenerationMismatchError: the tensor was deleted, or another generation was to be edited.
            StoreBusyError: the tensor has changed in the same chunks; repeat the edit.
            StoreUnavailableError: the insert ended before the edit was done.
        """
        with self._open:
            current = self._current(self._dataset, self.new)
            if self._held is not None:
                held, self._held = self._held, None
                self._edit = EditPlan(current, self.new)
                require_announced(self._result(current, self._edit), self._dataset)
                self._begin(current)
                if held:
                    self._cut(memoryview(held), None)
            elif self._base is None or current.generation != self._base.tensor.generation:
                self._rebase(current)
            self._complete(source_checksum)
            assert self._base is not None
            if not self._base.has_details:
                self._copy_up_to(self._chunk_count)
                return self._sealed(current, self._whole())
            return self._sealed(current, self._shared())

    def drop(self) -> None:
        """See `TensorWriter`."""
        super().drop()
        self._open.close()

    def park(self) -> None:
        """Drop everything: an edit begins anew."""
        self.drop()

    # ---- Chunks -------------------------------------------------------------------------------------------------

    @property
    def _chunk_count(self) -> int:
        return -(-self._edit.spec.canonical_bytes // self._chunk_bytes)

    def _begin(self, base: Tensor) -> None:
        """Start to encode, for this generation."""
        self._plan = self._narrowed = _plan_for(base, self._dataset)
        self._chunk_bytes = self._plan.chunk_bytes
        self._base = BaseChunks(base, self._open.enter_context(self._reader.chunks(base)))
        self._coming = self._edit.touched()
        self._advance()

    def _advance(self) -> None:
        self._next = next(self._coming, None)
        self._piece_bytes = self._next.sent_bytes if self._next is not None else 1

    def _encode(self, chunk: memoryview, chunk_crc32c: int | None = None) -> None:
        touched = self._next
        assert touched is not None
        assert self._base is not None
        self._go_on()
        if not self._base.has_details:
            self._copy_up_to(touched.chunk)
        self._changed.append(touched.chunk)
        self._copied_to = touched.chunk + 1
        self._advance()
        if touched.is_whole:
            super()._encode(chunk, chunk_crc32c)
            return
        place = None
        if touched.chunk * self._chunk_bytes < self._base.tensor.spec.canonical_bytes:
            place = _place(self._base, touched.chunk)
        self._merged.append(_Merged(touched, place))
        while len(self._pending) >= self._pool.depth:
            self._store_next()
        known_crc32c = crc32c(chunk) if chunk_crc32c is None else chunk_crc32c
        encoding = self._pool.submit(_encode_merged, self._base, self._edit, touched, chunk, self._plan)
        self._pending.append((chunk, known_crc32c, encoding))

    def _copy_up_to(self, chunk: int) -> None:
        """Copy the unchanged chunks before this one, so that the payload has all chunks in order."""
        assert self._base is not None
        while self._pending:
            self._store_next()
        for unchanged in range(self._copied_to, chunk):
            self._go_on()
            self._append_record(self._base.as_encoded(unchanged))
        self._copied_to = max(self._copied_to, chunk)

    def _rebase(self, current: Tensor) -> None:
        """Continue with a newer generation, if the chunks that were merged are the same in it."""
        assert self._base is not None
        edit = EditPlan(current, self.new)
        while self._pending:
            self._store_next()
        chunks = BaseChunks(current, self._open.enter_context(self._reader.chunks(current)))
        is_same = edit.same_layout(self._edit) and chunks.has_details and self._base.has_details
        if not is_same or any(_place(chunks, merged.touched.chunk) != merged.place for merged in self._merged):
            raise StoreBusyError(
                "another edit changed the same part of the tensor meanwhile; repeat this one",
                dataset=self._dataset.name,
                tensor=self.new.id,
            )
        self._base, self._edit = chunks, edit

    # ---- The new generation -------------------------------------------------------------------------------------

    def _whole(self) -> _Result:
        """Complete a payload that has all chunks, in order."""
        overhead_bytes, index = self._append_index()
        totals = self._totals
        return _Result(totals.report(overhead_bytes), totals.value_summary(), index, totals.details.digests)

    def _shared(self) -> _Result:
        """Complete a payload that has only changed chunks, and a few copied ones."""
        base, totals = self._base, self._totals
        assert base is not None
        chunks = EditedChunks(base.tensor, base.chunks, self._chunk_count, self._changed, self._details_cache)
        for chunk in chunks.to_copy():
            self._go_on()
            payload, number = chunks.source(chunk)
            record, record_crc32c = base.chunks.read_record(chunk)
            place = base.chunks.base_of(chunk)
            if place is not None:
                # Its base is at least one level below the payload that it is copied from.
                self._payload.spilled()
                self._bases.add(len(totals.index), BasePlace(*place, base.chunks.depth(payload) - 1))
            theirs = chunks.details(payload)
            chunks.copied(chunk, totals.copy(record, record_crc32c, self._payload_key, theirs, number))
            self._payload.append([record])
        whole, lengths = chunks.measured(totals)
        table = chunks.table()
        overhead_bytes, index = self._payload.append_end(totals, self._bases, table)
        sizes = [self._chunk_bytes] * self._chunk_count
        if sizes:
            sizes[-1] = self._edit.spec.canonical_bytes - self._chunk_bytes * (self._chunk_count - 1)
        report = report_of(self._plan, whole, sizes, lengths, overhead_bytes)
        values = None if whole.summary is None else whole.summary.finish()
        return _Result(report, values, index, whole.digests, tuple(payload.key for payload in table.payloads))

    def _sealed(self, current: Tensor, result: _Result) -> tuple[StoredTensor, StagedPayload | None]:
        """Return the new generation, which changes the current one."""
        spec = self._edit.spec
        digest = tensor_digest(
            spec.dtype.number, 8 * spec.dtype.element_bytes, spec.shape, self._chunk_bytes, result.digests
        )
        checksum = Checksum(TENSOR_DIGEST, digest)
        stored = StoredTensor(
            dataset=self._dataset,
            new=self._result(current, self._edit),
            chunk_bytes=self._chunk_bytes,
            source_checksum=checksum,
            value_checksum=checksum,
            storage=result.report,
            values=result.values,
            locator=Locator(self._payload_key, 0, self._payload.length, len(result.index), crc32c(result.index)),
            inline_payload=self._payload.inline(),
            # It is not known what the values of the whole tensor were before they were encoded.
            source_crc32c=-1,
            references=result.references,
            bases=self._bases.keys,
            changes=current.generation,
            sent=self.new.spec,
            upload=self._request,
        )
        return stored, self._payload.finish(stored)

    def _current(self, dataset: Dataset, new: NewTensor) -> Tensor:
        (found,) = self._catalogue.tensors.get(dataset.name, [new.id], with_payloads=True)
        current = require_intact(found)
        if current is None:
            raise TensorNotFoundError("there is no such tensor to edit", dataset=dataset.name, tensor=new.id)
        if new.if_generation_match is not None and new.if_generation_match != current.generation:
            raise GenerationMismatchError(
                f"generation is {current.generation}, {new.if_generation_match} was to be edited",
                dataset=dataset.name,
                tensor=new.id,
                generation=current.generation,
            )
        return current

    def _result(self, base: Tensor, edit: EditPlan) -> NewTensor:
        policy = None if base.policy is None else StoragePolicy.from_json(dict(base.policy))
        return NewTensor(base.id, edit.spec, base.metadata, policy, if_generation_match=base.generation)


def _require_plain(new: NewTensor, dataset: Dataset) -> None:
    """Refuse an edit that brings what only a whole tensor has."""
    given = [name for name in ("metadata", "policy", "replace", "base") if getattr(new, name)]
    if given:
        raise InvalidRequestError(
            f"an edit keeps the tensor's metadata and policy, and has no base, but it was announced with {', '.join(given)}",
            dataset=dataset.name,
            tensor=new.id,
        )


def _plan_for(base: Tensor, dataset: Dataset) -> ChunkPlan:
    """Return the plan of a tensor's policy, with the chunk size that the tensor has."""
    policy = dataset.policy if base.policy is None else StoragePolicy.from_json(dict(base.policy))
    return replace(plan(policy, base.spec.dtype), chunk_bytes=base.chunk_bytes)


def _place(base: BaseChunks, chunk: int) -> tuple[str, int]:
    """Return the key of the payload that has a chunk's record, and the record's number there."""
    payload, number = base.chunks.place(chunk)
    return base.chunks.key(payload), number


def _encode_merged(
    base: BaseChunks, edit: EditPlan, touched: Touched, sent: memoryview, chunk_plan: ChunkPlan
) -> Encoded:
    """Merge what was sent for a chunk with the base's chunk, and encode it."""
    old = base.decoded(touched.chunk)
    merged = edit.merge(touched, old, sent)
    dtype = base.tensor.spec.dtype
    encoded = encode_chunk(merged, dtype, chunk_plan)
    if encoded.decoded is not None and not edit.keeps(touched, old, memoryview(encoded.decoded)):
        exact = encode_chunk(merged, dtype, replace(chunk_plan, lossy=None))
        encoded = replace(exact, fallback_reason=_KEPT_EXACTLY)
    return Encoded.of(encoded, merged)
