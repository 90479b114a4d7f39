"""The engine's reads: of single tensors, of many, of queries and listings, now or in an earlier state."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from tensorus_server.catalogue.abc import require_intact
from tensorus_server.engine.paging import take_all
from tensorus_server.engine.query import Selection, list_page
from tensorus_server.engine.validate import generation_checked, no_such_tensor
from tensorus_server.errors import DataCorruptError, LimitExceededError
from tensorus_server.limits import READS_PER_GET_MAX

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from tensorus_server.catalogue.abc import Catalogue, Order
    from tensorus_server.engine.query import Query
    from tensorus_server.engine.read.plans import Plans
    from tensorus_server.engine.read.reader import TensorReader
    from tensorus_server.engine.snapshots import Snapshots
    from tensorus_server.filter.tree import Filter
    from tensorus_server.model import At, Read, Tensor

__all__ = ["Reads"]

_READ_BATCH = 64
"""Rows, with their inline payloads, that a Get of many tensors fetches in one statement."""


class Reads:
    """A part of `Engine`, which sets the attributes."""

    _catalogue: Catalogue
    _reader: TensorReader
    _snapshots: Snapshots
    _plans: Plans

    @property
    def reader(self) -> TensorReader:
        """Reads the bytes of tensors that `find` or `select` returned with payloads."""
        return self._reader

    @property
    def plans(self) -> Plans:
        """Plans of direct reads."""
        return self._plans

    def find(
        self, dataset: str, reads: Sequence[Read], *, with_payloads: bool, at: At | None = None
    ) -> Iterator[Tensor | Exception]:
        """Yield, for each read in order, its tensor or the error that it fails with.

        Args:
            at: the state of the dataset; None: the current one.

        Raises:
            DatasetNotFoundError: the dataset does not exist.
            SnapshotNotFoundError, StateNotKeptError: see `Snapshots.generation_of`.
            LimitExceededError: the request has too many reads.
        """
        if len(reads) > READS_PER_GET_MAX:
            raise LimitExceededError(
                f"number of reads is {len(reads)}, limit is {READS_PER_GET_MAX} (reads_per_get_max)",
                dataset=dataset,
                limit=READS_PER_GET_MAX,
            )
        if not reads:
            # With reads, the first batch checks this.
            self._require_dataset(dataset)
        generation = self._generation_of(dataset, at)
        for start in range(0, len(reads), _READ_BATCH):
            batch = reads[start : start + _READ_BATCH]
            ids = [read.id for read in batch]
            found = self._catalogue.tensors.get(dataset, ids, with_payloads=with_payloads, at=generation)
            for read, tensor in zip(batch, found, strict=True):
                yield tensor if isinstance(tensor, Exception) else generation_checked(dataset, read, tensor, generation)

    def get_tensor(self, dataset: str, tensor_id: str, at: At | None = None) -> Tensor:
        """Return the tensor, without its bytes.

        Args:
            at: the state of the dataset; None: the current one.

        Raises:
            DatasetNotFoundError, TensorNotFoundError: the dataset or the tensor does not exist.
            SnapshotNotFoundError, StateNotKeptError: see `Snapshots.generation_of`.
        """
        generation = self._generation_of(dataset, at)
        (found,) = self._catalogue.tensors.get(dataset, [tensor_id], at=generation)
        tensor = require_intact(found)
        if tensor is None:
            raise no_such_tensor(dataset, tensor_id, generation)
        return tensor

    def select(self, query: Query, *, with_payloads: bool, resume_token: str = "") -> Selection:
        """Return the tensors of a query; see `Selection`.

        Raises:
            DatasetNotFoundError: the dataset does not exist.
        """
        self._require_dataset(query.dataset)
        return Selection(
            self._catalogue.tensors,
            query,
            with_payloads=with_payloads,
            resume_token=resume_token,
            generation_of=self._snapshots.generation_of,
        )

    def list_tensors(
        self,
        dataset: str,
        filter_: Filter | None,
        order: Order,
        *,
        page_size: int = 0,
        page_token: str = "",
        take: Callable[[Tensor | DataCorruptError], bool] = take_all,
        at: At | None = None,
    ) -> tuple[list[Tensor | DataCorruptError], str]:
        """Return one page of tensors without their bytes, and the token of the next page; see `list_page`."""
        return list_page(
            self._catalogue.tensors,
            dataset,
            filter_,
            order,
            size=page_size,
            token=page_token,
            take=take,
            at=at,
            generation_of=self._snapshots.generation_of,
        )

    def _generation_of(self, dataset: str, at: At | None) -> int | None:
        return None if at is None else self._snapshots.generation_of(dataset, at)

    def _require_dataset(self, name: str) -> None:
        """Refuse a dataset that does not exist. A damaged one passes, because its tensors may be intact."""
        with suppress(DataCorruptError):
            self._catalogue.datasets.get(name)
