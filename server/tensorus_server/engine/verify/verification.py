"""One verification: goes through the rows of its target in order, and checks each tensor.

The target is the whole store, a dataset, or some tensors of it. In the whole store, the payloads that no row refers to are
counted at the end. Nothing is changed.

Rows are read in small pages, each in a transaction of its own. So tensors may be deleted or replaced after their row was read:
nothing is reported of a row that is not there any more. Tensors that are committed after the start are left out. Replaced and
deleted tensors that are still kept are verified with the others of their dataset.

A verification stops between any two chunks, and another one goes on from its token, perhaps after a restart. It begins with the
tensor at which the first one was, but does not report again what it has reported.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from tensorus_server.catalogue.abc import DamagedTensor, PageRequest
from tensorus_server.chunk_store.abc import PayloadMissingError
from tensorus_server.engine.orphans import count_orphans
from tensorus_server.engine.verify.chunks import CATALOGUE_FILE
from tensorus_server.engine.verify.pace import Pace
from tensorus_server.engine.verify.place import Place, digest_of
from tensorus_server.engine.verify.tensor import check_tensor
from tensorus_server.errors import (
    DataCorruptError,
    DatasetNotFoundError,
    InvalidRequestError,
    LimitExceededError,
    StoreUnavailableError,
    TensorNotFoundError,
)
from tensorus_server.limits import READS_PER_GET_MAX
from tensorus_server.model import Tensor

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Iterator, Sequence
    from typing import TypeAlias

    from tensorus_server.catalogue.abc import Catalogue
    from tensorus_server.chunk_store.abc import ChunkStore
    from tensorus_server.engine.verify.tensor import Step
    from tensorus_server.errors import EngineError

    _Row: TypeAlias = Tensor | DataCorruptError | None
    """A tensor as its row says, the damage of its row, or None: there is no such row."""

__all__ = ["Progress", "Target", "Verification"]

_PAGE = 64
"""Rows that are read at once, with their inline payloads, which are 4 MiB at most."""

_DATASETS_PAGE = 100


@dataclass(frozen=True)
class Target:
    """What to verify, and how fast."""

    dataset: str = ""
    """Empty: the whole store."""
    ids: Sequence[str] = ()
    """Of tensors of the dataset; empty: all."""
    bytes_per_second: int | None = None
    """Stored bytes that may be read per second; None: any number."""

    def require_valid(self) -> None:
        """Check the target.

        Raises:
            InvalidRequestError: it has ids but no dataset, or allows no bytes.
            LimitExceededError: it has too many ids.
        """
        if self.ids and not self.dataset:
            raise InvalidRequestError("the request has ids but no dataset")
        if self.bytes_per_second is not None and self.bytes_per_second < 1:
            raise InvalidRequestError(
                f"max_bytes_per_second is {self.bytes_per_second}, must be at least 1 byte", limit=1
            )
        if len(self.ids) > READS_PER_GET_MAX:
            raise LimitExceededError(
                f"number of ids is {len(self.ids)}, limit is {READS_PER_GET_MAX} (reads_per_get_max)",
                dataset=self.dataset,
                limit=READS_PER_GET_MAX,
            )


@dataclass(frozen=True)
class Progress:
    """How far a verification is. Counts include the verifications that this one continues."""

    tensors: int
    stored_bytes: int
    damages: int
    damaged_tensors: int
    undecoded_tensors: int
    """Tensors that need a codec which is not installed; only the checksums of their records were verified."""
    total_tensors: int | None
    """How many there were at the start, damaged rows included; None: that is not known."""
    total_stored_bytes: int | None
    orphans: int | None
    """Payloads that no row refers to; None: not counted, or not yet."""


class Verification:
    """See the module's description. Iterate over it once, on one thread."""

    def __init__(
        self,
        catalogue: Catalogue,
        chunk_store: ChunkStore,
        target: Target,
        resume_token: str,
        *,
        closing: threading.Event,
        uncommitted: Callable[[], frozenset[str]],
        pause: Callable[[float], object] | None = None,
    ) -> None:
        """Check the request. Nothing is verified before iteration starts.

        Args:
            resume_token: a result of `token`. Empty: start at the beginning.
            closing: set when the store closes, which ends the verification.
            uncommitted: returns the payload keys that this process is about to commit.
            pause: waits for so many seconds; None: until `closing` is set.

        Raises:
            DatasetNotFoundError, TensorNotFoundError: the dataset, or one of the tensors, does not exist.
            InvalidRequestError, LimitExceededError: see `Target.require_valid`.
            InvalidPageTokenError: the token belongs to another verification, or was not issued by this server.
        """
        target.require_valid()
        self._catalogue = catalogue
        self._chunk_store = chunk_store
        self._dataset = target.dataset
        self._ids = list(dict.fromkeys(target.ids))
        self._closing = closing
        self._uncommitted = uncommitted
        self._pause = pause or closing.wait
        self._pace = Pace(target.bytes_per_second)
        self._digest = digest_of(self._dataset, self._ids)
        self._place = Place.parse(resume_token, self._digest) if resume_token else self._start()
        self._under_way_bytes = 0
        """Stored bytes of the current tensor that were verified."""
        self._orphans: int | None = None

    def __iter__(self) -> Iterator[EngineError | None]:
        """Yield each damage as it is found, and None now and then: after every check, and at least twice a second in a pause.

        A damage is a `DataCorruptError`, or a `StoreUnavailableError` for a payload that cannot be opened. Its facts are
        `dataset`, `tensor` and `generation` (of a damaged tensor), `chunk` (if the damage is in one), and `file`.

        Raises:
            StoreUnavailableError: the store closes, or the catalogue cannot be read.
        """
        if self._ids:
            found = self._verify_ids()
        elif self._dataset:
            found = self._verify_dataset(self._dataset, self._dataset_damage())
        else:
            found = self._verify_store()
        for damage in found:
            if self._closing.is_set():
                raise StoreUnavailableError("the store is closing")
            yield damage

    @property
    def progress(self) -> Progress:
        """How far this is."""
        place = self._place
        return Progress(
            tensors=place.tensors,
            stored_bytes=place.stored_bytes + self._under_way_bytes,
            damages=place.damages,
            damaged_tensors=place.damaged_tensors,
            undecoded_tensors=place.undecoded_tensors,
            total_tensors=place.total_tensors,
            total_stored_bytes=place.total_stored_bytes,
            orphans=self._orphans,
        )

    def token(self) -> str:
        """Return a token with which another verification of the same target goes on after what was yielded so far."""
        return self._place.token(self._digest)

    # ---- Which rows, in which order ---------------------------------------------------------------------------------

    def _start(self) -> Place:
        """Return the place at which a verification begins."""
        generation_max = self._catalogue.tensors.latest_generation()
        if self._ids:
            tensors, stored_bytes = len(self._ids), self._require_ids()
            return Place(generation_max, total_tensors=tensors, total_stored_bytes=stored_bytes)
        try:
            parts = [self._catalogue.sizes(self._dataset or None, past=past) for past in (False, True)]
        except StoreUnavailableError:
            # Probably a damaged page. The verification reports what it can.
            return Place(generation_max)
        return Place(
            generation_max,
            total_tensors=sum(sizes.tensors for sizes in parts),
            total_stored_bytes=sum(sizes.stored_bytes for sizes in parts),
        )

    def _require_ids(self) -> int:
        """Check that every tensor exists, and return their stored bytes."""
        stored_bytes = 0
        for start in range(0, len(self._ids), _PAGE):
            batch = self._ids[start : start + _PAGE]
            for tensor_id, found in zip(batch, self._catalogue.tensors.get(self._dataset, batch), strict=True):
                if found is None:
                    raise TensorNotFoundError("there is no such tensor", dataset=self._dataset, tensor=tensor_id)
                stored_bytes += found.storage.stored_bytes if isinstance(found, Tensor) else 0
        return stored_bytes

    def _verify_store(self) -> Iterator[EngineError | None]:
        after: int | None = self._place.dataset - 1
        while after is not None:
            page = self._catalogue.datasets.page(after, _DATASETS_PAGE)
            for number, found in page.datasets:
                if number != self._place.dataset:
                    self._place = replace(self._place, dataset=number, after=-1)
                damage = found if isinstance(found, DataCorruptError) else None
                name = found.facts.get("dataset", "") if isinstance(found, DataCorruptError) else found.name
                yield from self._verify_dataset(name, damage)
            after = page.next
        orphans = 0
        for count in count_orphans(self._catalogue, self._chunk_store, self._uncommitted):
            orphans += count
            yield None
        self._orphans = orphans

    def _dataset_damage(self) -> DataCorruptError | None:
        """Return the damage of the dataset's row, if any."""
        try:
            self._catalogue.datasets.get(self._dataset)
        except DataCorruptError as error:
            return error
        except DatasetNotFoundError:
            # It existed at the start.
            return None
        return None

    def _verify_dataset(self, name: str, damage: DataCorruptError | None) -> Iterator[EngineError | None]:
        """Verify the tensors of a dataset from the place on.

        Args:
            damage: of the dataset's own row; None: it is intact.
        """
        if self._place.after < 0:
            self._place = replace(self._place, after=0)
            if damage is not None:
                yield self._reported(_at_catalogue(damage))
            yield from self._verify_snapshots(name)
        tensors, generation_max = self._catalogue.tensors, self._place.generation_max
        while True:
            after = self._place.after
            request = PageRequest(
                size=_PAGE, after=(after, after), generation_max=generation_max, with_past=True, with_payloads=True
            )
            try:
                page = tensors.page(name, request)
            except DatasetNotFoundError:
                # It was deleted meanwhile, or its name is damaged, which was reported.
                return
            except DataCorruptError as error:
                # No more rows of it can be read.
                self._place = replace(self._place, after=generation_max)
                yield self._reported(_at_catalogue(error))
                return
            for found in page.tensors:
                tensor = found.error if isinstance(found, DamagedTensor) else found
                yield from self._verify(tensor, found.generation, partial(self._row, name, found.generation))
            yield None
            if page.next is None:
                return

    def _verify_snapshots(self, name: str) -> Iterator[EngineError | None]:
        """Verify the rows of a dataset's snapshots."""
        after: int | None = 0
        while after is not None:
            try:
                page = self._catalogue.snapshots.page(name, after, _PAGE)
            except DatasetNotFoundError:
                return
            except DataCorruptError as error:
                yield self._reported(_at_catalogue(error))
                return
            for _, found in page.snapshots:
                if isinstance(found, DataCorruptError):
                    yield self._reported(_at_catalogue(found))
            after = page.next

    def _row(self, dataset: str, generation: int) -> _Row:
        """Return the tensor with this generation as it is now; None if it was deleted or replaced, and is not kept."""
        # Not by `by_generation`, which does not find a row that only the index has.
        request = PageRequest(
            size=1,
            after=(generation - 1, generation - 1),
            generation_max=generation,
            with_past=True,
            with_payloads=True,
        )
        try:
            found = self._catalogue.tensors.page(dataset, request).tensors
        except DatasetNotFoundError:
            return None
        if not found:
            return None
        return found[0].error if isinstance(found[0], DamagedTensor) else found[0]

    def _verify_ids(self) -> Iterator[EngineError | None]:
        for start in range(max(self._place.after, 0), len(self._ids), _PAGE):
            batch = self._ids[start : start + _PAGE]
            try:
                rows = self._catalogue.tensors.get(self._dataset, batch, with_payloads=True)
            except DatasetNotFoundError:
                # It was deleted meanwhile.
                return
            for done, (tensor_id, found) in enumerate(zip(batch, rows, strict=True), start + 1):
                yield from self._verify(found, done, partial(self._row_of_id, tensor_id))
            yield None

    def _row_of_id(self, tensor_id: str) -> _Row:
        try:
            (found,) = self._catalogue.tensors.get(self._dataset, [tensor_id], with_payloads=True)
        except DatasetNotFoundError:
            return None
        return found

    # ---- One tensor -------------------------------------------------------------------------------------------------

    def _verify(self, found: _Row, number: int, row: Callable[[], _Row]) -> Iterator[EngineError | None]:
        """Verify a tensor.

        Args:
            found: its row, as it was read.
            number: for `Place.after`.
            row: returns the row as it is now.
        """
        now = row() if isinstance(found, DataCorruptError) else found
        if now is None:
            self._place = self._place.after_gone(number)
        elif isinstance(now, DataCorruptError):
            self._place = self._place.after_verified(number, 0, is_damaged=True)
            yield self._reported(_at_catalogue(now))
        else:
            yield from self._verify_intact_row(now, number, row)

    def _verify_intact_row(self, tensor: Tensor, number: int, row: Callable[[], _Row]) -> Iterator[EngineError | None]:
        damaged = undecoded = False
        for step in check_tensor(tensor, self._chunk_store):
            undecoded |= step.undecoded
            if step.damage is not None:
                # Bytes that were read are the tensor's, so one look suffices for them. A payload may be deleted at any time.
                is_missing = isinstance(step.damage.__cause__, PayloadMissingError)
                if (is_missing or not damaged) and not _is_there(tensor, row()):
                    self._under_way_bytes = 0
                    self._place = self._place.after_gone(number)
                    return
                damaged = True
                if not self._place.has_reported(tensor.generation, step.position):
                    self._place = self._place.with_report(tensor.generation, step.position)
                    yield self._reported(step.damage)
            yield from self._paid(step)
        self._under_way_bytes = 0
        stored_bytes = tensor.storage.stored_bytes
        self._place = self._place.after_verified(number, stored_bytes, is_damaged=damaged, is_undecoded=undecoded)
        yield None

    def _paid(self, step: Step) -> Iterator[None]:
        """Count the bytes of a step, and pause if they were read faster than allowed."""
        self._under_way_bytes += step.stored_bytes
        yield None
        for pause_s in self._pace.pauses(step.stored_bytes):
            self._pause(pause_s)
            yield None

    def _reported(self, damage: EngineError) -> EngineError:
        self._place = replace(self._place, damages=self._place.damages + 1)
        return damage


def _at_catalogue(error: DataCorruptError) -> DataCorruptError:
    error.facts["file"] = CATALOGUE_FILE
    return error


def _is_there(tensor: Tensor, row: _Row) -> bool:
    """Whether a row, as it is now, is still that of the tensor. A row that is damaged by now is."""
    return isinstance(row, DataCorruptError) or (row is not None and row.generation == tensor.generation)
