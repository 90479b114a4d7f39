"""What the synchronous client reads of tensors. `client.py` has what it stores, changes and deletes."""

from __future__ import annotations

from itertools import chain, starmap
from typing import TYPE_CHECKING, Any

from tensorus._arguments import (
    READS_PER_CALL,
    at_of,
    batches,
    dataset_name,
    listing_of,
    part_of,
    precision_of,
    record_of,
    selection_of,
    tensor_name,
    without_result,
)
from tensorus._arrays.assemble import headers
from tensorus._damage import intact
from tensorus._forks import of_this_process
from tensorus._history_client import HistoryClient
from tensorus.types import Record

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from tensorus._arrays.canonical import AnyArray
    from tensorus._backend import Arrival
    from tensorus._damage import OnDamaged
    from tensorus._where import Where
    from tensorus.types import AsArray, At, Index, Precision, Progress, TensorInfo

__all__ = ["ReadingClient"]


class ReadingClient(HistoryClient):
    """The part of `Client` that reads tensors."""

    def get(
        self,
        dataset: str,
        id: str,  # noqa: A002 - the field's word
        *,
        index: Index | None = None,
        dtype: str | None = None,
        precision: Precision | None = None,
        as_: AsArray | None = None,
        at: At | None = None,
        on_progress: Callable[[Progress], None] | None = None,
    ) -> Any:  # `Any`: a torch tensor or a NumPy array, as asked for
        """Return a tensor, or a part of it.

        Args:
            dataset: name of the dataset.
            id: id of the tensor.
            index: NumPy basic indexing with integers, slices of any step, and Ellipsis. Only the chunks that the index touches
                are read.
            dtype: cast to this dtype before sending: "bfloat16" halves the transfer of a float32 tensor. Real dtypes can be
                cast to floating-point dtypes, complex to complex.
            precision: "bf16" allows float32 values to be rounded to bfloat16. About 40 % of the bytes are then read and sent.
                The dtype stays float32, and chunks whose encoding saves nothing are read exactly. `info`, `get_many` and
                `query` tell how large the error can be: `TensorInfo.coarse_error`. None: the stored values.
            as_: "torch" or "numpy". None: torch if it is installed, else NumPy.
            at: the state of the dataset to read: the name of a snapshot, a generation, or a time (without a time zone: local
                time). None: the current one.
            on_progress: called as bytes arrive, on the caller's thread.

        Returns:
            A new array. With `index`, it has the shape and values of the same index in NumPy.

        Raises:
            DatasetNotFoundError, TensorNotFoundError: the dataset or tensor does not exist.
            SnapshotNotFoundError, StateNotKeptError: there is no such snapshot, or the state is not kept.
            IndexError: an integer is out of bounds.
            UnsupportedDTypeError, InvalidRequestError: the dtype or precision is unknown, or the cast is not supported.
            DataCorruptError: the stored data is damaged.
        """
        part, finish = selection_of(index, dtype, as_, precision)
        arrivals = self._backend.get(dataset_name(dataset), [tensor_name(id)], part, with_data=True, at=at_of(at))
        for info, array in self._assembler.assemble(arrivals, on_progress):
            return finish(info, array)
        raise without_result("read", dataset, id)

    def get_many(
        self,
        dataset: str,
        ids: Iterable[str],
        *,
        precision: Precision | None = None,
        as_: AsArray | None = None,
        at: At | None = None,
        on_damaged: OnDamaged = None,
    ) -> Iterator[Record]:
        """Yield tensors by id, in the given order, in one stream.

        Args:
            dataset: name of the dataset.
            ids: ids of the tensors.
            precision: as for `get`.
            as_: "torch" or "numpy". None: torch if it is installed, else NumPy.
            at: as for `get`.
            on_damaged: called with the error of each damaged tensor; the others are still yielded. None: the first error is
                raised.

        Raises:
            TensorNotFoundError: an id does not exist; raised when the iteration reaches it.
            DataCorruptError: a tensor is damaged; raised when the iteration reaches it.
        """
        name, wanted, backend = dataset_name(dataset), [tensor_name(tensor_id) for tensor_id in ids], self._backend
        part, state = part_of(precision), at_of(at)
        reads = (backend.get(name, batch, part, with_data=True, at=state) for batch in batches(wanted, READS_PER_CALL))
        return self._records(chain.from_iterable(reads), record_of(as_), on_damaged)

    def query(
        self,
        dataset: str,
        where: Where | None = None,
        *,
        order_by: str | None = None,
        limit: int | None = None,
        sample: int | None = None,
        seed: int | None = None,
        with_data: bool = True,
        precision: Precision | None = None,
        as_: AsArray | None = None,
        at: At | None = None,
        on_damaged: OnDamaged = None,
    ) -> Iterator[Record]:
        """Yield the tensors that match a filter.

        Args:
            dataset: name of the dataset.
            where: a filter as text, such as `layer >= 3 AND kind = "attention" AND @nbytes > 1e6`, or a dict from metadata keys
                to required values (a list means any of its values). None: all tensors.
            order_by: "created", "id", "nbytes" or "stored_bytes", optionally followed by " desc". None: "created".
            limit: maximum number of tensors.
            sample: choose this many tensors at random, and yield them in random order.
            seed: makes the sample reproducible.
            with_data: False skips the values: `Record.tensor` is None.
            precision: as for `get`.
            as_: "torch" or "numpy". None: torch if it is installed, else NumPy.
            at: as for `get`.
            on_damaged: called with the error of each damaged tensor; the others are still yielded. None: the first error is
                raised.

        Raises:
            DatasetNotFoundError: the dataset does not exist.
            InvalidFilterError: the filter does not parse; the message names the position.
            DataCorruptError: a tensor is damaged; raised when the iteration reaches it.
        """
        listing = listing_of(dataset, where, order_by=order_by, limit=limit, sample=sample, seed=seed, at=at)
        finish = record_of(as_)
        arrivals = self._backend.query(listing, with_data=with_data, precision=precision_of(precision))
        if with_data:
            return self._records(arrivals, finish, on_damaged)
        return of_this_process(Record(info, None) for info in headers(arrivals, on_damaged))

    def list(
        self,
        dataset: str,
        where: Where | None = None,
        *,
        order_by: str | None = None,
        limit: int | None = None,
        at: At | None = None,
        on_damaged: OnDamaged = None,
    ) -> Iterator[TensorInfo]:
        """Yield descriptions of a dataset's tensors without their values, fetched page by page. Arguments as for `query`.

        Raises:
            DatasetNotFoundError: the dataset does not exist.
            InvalidFilterError: the filter does not parse; the message names the position.
            DataCorruptError: a tensor is damaged; the message names it. The intact tensors of its page are yielded first.
        """
        found = self._backend.list_tensors(listing_of(dataset, where, order_by=order_by, limit=limit, at=at))
        return of_this_process(intact(found, on_damaged))

    def info(
        self,
        dataset: str,
        id: str,  # noqa: A002 - the field's word
        *,
        precision: Precision | None = None,
        at: At | None = None,
    ) -> TensorInfo:
        """Return the description of a tensor: everything except its values.

        Args:
            dataset: name of the dataset.
            id: id of the tensor.
            precision: as for `get`; `TensorInfo.coarse_error` then is the bound of the error of such a read.
            at: as for `get`.

        Raises:
            DatasetNotFoundError, TensorNotFoundError: the dataset or tensor does not exist.
        """
        part, state = part_of(precision), at_of(at)
        arrivals = self._backend.get(dataset_name(dataset), [tensor_name(id)], part, with_data=False, at=state)
        for info in headers(arrivals):
            return info
        raise without_result("read", dataset, id)

    def _records(
        self, arrivals: Iterator[Arrival], finish: Callable[[TensorInfo, AnyArray], Record], on_damaged: OnDamaged
    ) -> Iterator[Record]:
        return of_this_process(starmap(finish, self._assembler.assemble(arrivals, on_damaged=on_damaged)))
