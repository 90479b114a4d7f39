"""The client: datasets, tensors in, tensors out. The same class over a server and over an engine in this process."""

from __future__ import annotations

from itertools import chain, starmap
from typing import TYPE_CHECKING, Any, Self

from tensorus._arguments import (
    DELETES_PER_CALL,
    READS_PER_CALL,
    batches,
    dataset_name,
    dataset_taken,
    inserted_many,
    inserted_one,
    listing_of,
    policies_of,
    policy_of,
    progress_of,
    record_of,
    sample_from,
    selection_of,
    tensor_name,
    upload_of,
    uploads_of,
    without_result,
)
from tensorus._backend import InsertOptions
from tensorus._damage import intact
from tensorus._forks import of_this_process
from tensorus._transfer import Assembler, headers
from tensorus.errors import AlreadyExistsError, UnavailableError
from tensorus.types import NewTensor, Record

if TYPE_CHECKING:
    import builtins
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from tensorus._arrays import AnyArray
    from tensorus._backend import Arrival, Backend
    from tensorus._damage import OnDamaged
    from tensorus._where import Where
    from tensorus.types import (
        AsArray,
        DatasetInfo,
        DatasetStats,
        Index,
        OnConflict,
        Policy,
        PolicyExplanation,
        Progress,
        Schema,
        TensorInfo,
    )

__all__ = ["Client"]


class Client:
    """Made by `tensorus.connect` and `tensorus.open`; a context manager. Safe in many threads.

    That of a server can be pickled, and used after a fork: every process has its own connection. An iteration goes on only in
    the process that began it.

    Every method raises `tensorus.errors.TensorusError`; docstrings name the interesting ones.
    """

    def __init__(self, backend: Backend) -> None:
        """Work on `backend`, which `close` closes."""
        self._opened = backend
        self._closed = False
        self._assembler = Assembler()

    def __reduce__(self) -> tuple[type[Self], tuple[Backend]]:
        """Pickle what it works on; `TypeError` where that is a store in this process."""
        return type(self), (self._backend,)

    def __enter__(self) -> Self:
        """Return the client."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()

    def close(self) -> None:
        """End all use. Idempotent."""
        self._closed = True
        self._assembler.close()
        self._opened.close()

    def create_dataset(
        self,
        name: str,
        *,
        preset: str | None = None,
        policy: Policy | None = None,
        schema: Schema | None = None,
        exist_ok: bool = False,
    ) -> DatasetInfo:
        """Create a dataset.

        Args:
            name: 1 to 255 bytes; may have slashes.
            preset: how its tensors are stored, by name; short for `policy=Policy(preset=...)`.
            policy: how its tensors are stored, in detail; without either, losslessly.
            schema: what its tensors must look like.
            exist_ok: return the dataset of this name as it is if there is one.

        Raises:
            AlreadyExistsError: the name is taken, and not `exist_ok`.
            InvalidPolicyError: an unknown preset, or a policy that cannot be followed.
        """
        try:
            return self._backend.create_dataset(
                dataset_name(name), policy_of(preset, policy), schema, repeatable=exist_ok
            )
        except AlreadyExistsError as error:
            if not exist_ok:
                raise dataset_taken(error) from None
            return self._backend.get_dataset(dataset_name(name))

    def datasets(self, *, on_damaged: OnDamaged = None) -> builtins.list[DatasetInfo]:
        """Return all datasets in order of creation.

        Args:
            on_damaged: called with the error of each dataset that is damaged, and the others are returned; None: it is raised.

        Raises:
            DataCorruptError: a dataset is damaged; names it.
        """
        return [*intact(self._backend.list_datasets(), on_damaged)]

    def dataset(self, name: str) -> DatasetInfo:
        """Return a dataset.

        Raises:
            DatasetNotFoundError: there is none.
        """
        return self._backend.get_dataset(dataset_name(name))

    def update_dataset(
        self, name: str, *, preset: str | None = None, policy: Policy | None = None, schema: Schema | None = None
    ) -> DatasetInfo:
        """Replace how later tensors are stored, what they must look like, or both; stored ones stay as they are.

        Raises:
            DatasetNotFoundError: there is none.
        """
        return self._backend.update_dataset(dataset_name(name), policy_of(preset, policy), schema)

    def delete_dataset(self, name: str) -> int:
        """Delete a dataset with all its tensors, and return how many there were.

        Raises:
            DatasetNotFoundError: there is none.
        """
        return self._backend.delete_dataset(dataset_name(name))

    def stats(self, dataset: str) -> DatasetStats:
        """Return sums over a dataset's tensors.

        Raises:
            DatasetNotFoundError: there is none.
        """
        return self._backend.dataset_stats(dataset_name(dataset))

    def insert(
        self,
        dataset: str,
        tensor: object,
        *,
        id: str | None = None,  # noqa: A002 - the field's word
        metadata: Mapping[str, Any] | None = None,
        preset: str | None = None,
        policy: Policy | None = None,
        if_generation_match: int | None = None,
        on_conflict: OnConflict = "error",
        validate_only: bool = False,
        on_progress: Callable[[Progress], None] | None = None,
    ) -> TensorInfo:
        """Store one tensor. When this returns, it survives a crash and a loss of power.

        A transfer to a server that is interrupted goes on by itself; see `tensorus.connect`.

        The same tensor under the same id may be inserted again: that stores nothing twice, and `TensorInfo.inserted` is False.
        Where what is stored does not keep what is asked for, other metadata or more exact values, that is an error.

        Args:
            dataset: its name.
            tensor: a torch tensor, a NumPy array, or anything with `__array__` or `__dlpack__`; is not copied as a whole.
            id: unique within the dataset; None: a random one.
            metadata: None, bool, int, float, str, and lists and dicts of these; can be filtered on.
            preset: how it is stored, by name; None: as the dataset says.
            policy: how it is stored, in detail.
            if_generation_match: replace the tensor of this id if it is of this generation (`TensorInfo.generation`); 0: the id
                must be free; None: as `on_conflict` says.
            on_conflict: where another tensor has this id: "error", or "replace", which takes its place.
            validate_only: check and measure everything, and store nothing; the generation is then 0.
            on_progress: called from time to time, on the caller's thread.

        Returns:
            What was stored, with the sizes and errors that were measured.

        Raises:
            TypeError: `tensor` is no array.
            DatasetNotFoundError: there is no such dataset.
            AlreadyExistsError: another tensor has this id.
            StoredDifferentlyError: the same values have this id, but with other metadata, or less exactly than asked for.
            GenerationMismatchError: the tensor is there in another generation than `if_generation_match`.
            SchemaMismatchError: the dataset's schema requires another.
            StorageFullError: the disk is full.
        """
        new = NewTensor(tensor, id, metadata, policy_of(preset, policy), if_generation_match)
        upload = upload_of(new, on_conflict)
        options = InsertOptions(validate_only=validate_only)
        report = None if on_progress is None else progress_of(upload, on_progress)
        outcomes = dict(self._backend.insert(dataset_name(dataset), [upload], options, report))
        return inserted_one(dataset, upload, outcomes, report)

    def insert_many(
        self,
        dataset: str,
        tensors: Iterable[object],
        *,
        all_or_nothing: bool = False,
        on_conflict: OnConflict = "error",
        validate_only: bool = False,
        on_progress: Callable[[Progress], None] | None = None,
    ) -> builtins.list[TensorInfo]:
        """Store many tensors in one stream: much faster than one by one where they are small.

        Args:
            tensors: arrays, `(id, array)` pairs such as `state_dict.items()`, or `NewTensor`; iterated while they are sent, so
                that they need not be in memory together.
            all_or_nothing: make all of them visible at once, at the end, or, where one cannot be stored, none; at most 4096.
            on_conflict: as of `insert`, for tensors that do not say themselves.
            validate_only: check and measure everything, and store nothing; generations are then 0.
            on_progress: called from time to time with the canonical bytes that were taken of all of them.

        Returns:
            What was stored, in the order of the input.

        Raises:
            InsertManyError: some were not stored; names them, and has what was.
        """
        ids: builtins.list[str] = []
        uploads = uploads_of(tensors, on_conflict, ids)
        options = InsertOptions(all_or_nothing, validate_only)
        outcomes = dict(self._backend.insert(dataset_name(dataset), uploads, options, on_progress))
        return inserted_many(dataset, ids, outcomes)

    def get(
        self,
        dataset: str,
        id: str,  # noqa: A002 - the field's word
        *,
        index: Index | None = None,
        dtype: str | None = None,
        as_: AsArray | None = None,
        on_progress: Callable[[Progress], None] | None = None,
    ) -> Any:  # `Any`: a torch tensor or a NumPy array, as asked for
        """Return a tensor, or a part of it.

        Args:
            dataset: its name.
            id: the tensor's.
            index: as NumPy's basic indexing, with integers, slices with any step, and Ellipsis: only the chunks that it touches
                are read.
            dtype: cast to this dtype where it is stored, such as "bfloat16": half the network for float32. Real dtypes become
                floating ones, complex ones complex.
            as_: "torch" or "numpy"; None: torch where it is installed.
            on_progress: called as bytes arrive, on the caller's thread.

        Returns:
            A fresh array; what NumPy's indexing would give, where there is an index.

        Raises:
            DatasetNotFoundError, TensorNotFoundError: there is none.
            IndexError: an integer is out of bounds.
            UnsupportedDTypeError, InvalidRequestError: there is no such dtype, or no such cast.
            DataCorruptError: what is stored is damaged.
        """
        part, finish = selection_of(index, dtype, as_)
        arrivals = self._backend.get(dataset_name(dataset), [tensor_name(id)], part, with_data=True)
        for info, array in self._assembler.assemble(arrivals, on_progress):
            return finish(info, array)
        raise without_result("read", dataset, id)

    def get_many(
        self, dataset: str, ids: Iterable[str], *, as_: AsArray | None = None, on_damaged: OnDamaged = None
    ) -> Iterator[Record]:
        """Yield tensors by id, in order, in one stream.

        Args:
            dataset: its name.
            ids: the tensors'.
            as_: "torch" or "numpy"; None: torch where it is installed.
            on_damaged: called with the error of each tensor that is damaged, and the others go on; None: it is raised.

        Raises:
            TensorNotFoundError: at the place of an id that does not exist.
            DataCorruptError: at the place of a tensor that is damaged.
        """
        name, wanted, backend = dataset_name(dataset), [tensor_name(tensor_id) for tensor_id in ids], self._backend
        reads = (backend.get(name, batch, None, with_data=True) for batch in batches(wanted, READS_PER_CALL))
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
        as_: AsArray | None = None,
        on_damaged: OnDamaged = None,
    ) -> Iterator[Record]:
        """Yield the tensors that match a filter.

        Args:
            dataset: its name.
            where: a filter as text, such as `layer >= 3 AND kind = "attention" AND @nbytes > 1e6`, or a dict of metadata keys
                and what they must be (a list: one of these); None: all.
            order_by: "created", "id", "nbytes" or "stored_bytes", then " desc" where wanted; None: "created".
            limit: at most so many.
            sample: so many at random, in random order.
            seed: for a sample that can be had again.
            with_data: False: `Record.tensor` is None.
            as_: "torch" or "numpy"; None: torch where it is installed.
            on_damaged: called with the error of each tensor that is damaged, and the others go on; None: it is raised.

        Raises:
            DatasetNotFoundError: there is no such dataset.
            InvalidFilterError: the filter does not parse; names the position.
            DataCorruptError: at the place of a tensor that is damaged.
        """
        listing = listing_of(dataset, where, order_by=order_by, limit=limit, sample=sample, seed=seed)
        finish = record_of(as_)
        arrivals = self._backend.query(listing, with_data=with_data)
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
        on_damaged: OnDamaged = None,
    ) -> Iterator[TensorInfo]:
        """Yield what is stored in a dataset, without the values, page by page. Arguments as of `query`.

        Raises:
            DatasetNotFoundError: there is no such dataset.
            InvalidFilterError: the filter does not parse; names the position.
            DataCorruptError: a tensor is damaged; names it. The others of its page come before.
        """
        found = self._backend.list_tensors(listing_of(dataset, where, order_by=order_by, limit=limit))
        return of_this_process(intact(found, on_damaged))

    def info(self, dataset: str, id: str) -> TensorInfo:  # noqa: A002 - the field's word
        """Return everything about a tensor but its values.

        Raises:
            DatasetNotFoundError, TensorNotFoundError: there is none.
        """
        for info in headers(self._backend.get(dataset_name(dataset), [tensor_name(id)], None, with_data=False)):
            return info
        raise without_result("read", dataset, id)

    def update_metadata(self, dataset: str, id: str, metadata: Mapping[str, Any]) -> TensorInfo:  # noqa: A002
        """Replace a tensor's metadata, all of it.

        Raises:
            DatasetNotFoundError, TensorNotFoundError: there is none.
        """
        return self._backend.update_metadata(dataset_name(dataset), tensor_name(id), metadata)

    def delete(self, dataset: str, ids: str | Sequence[str]) -> int:
        """Delete one or many tensors by id, and return how many existed.

        Where the connection broke and the call was repeated, ids that are gone count, too: the first attempt may have deleted
        them.

        Raises:
            DatasetNotFoundError: there is no such dataset.
        """
        wanted = [tensor_name(tensor_id) for tensor_id in ([ids] if isinstance(ids, str) else ids)]
        return sum(
            self._backend.delete_tensors(dataset_name(dataset), batch) for batch in batches(wanted, DELETES_PER_CALL)
        )

    def explain(
        self, tensor: object, *, policies: Iterable[Policy | str] | None = None
    ) -> builtins.list[PolicyExplanation]:
        """Return what policies would do to a tensor: size, error and speed of each, measured where it would be stored.

        Nothing is stored. At most 64 MiB are looked at: of a larger tensor, pieces of 1 MiB, evenly spread.

        Args:
            tensor: as of `insert`.
            policies: policies, or names of presets; at most 32. None, or none: every preset.

        Returns:
            The explanations, in the order of the policies.

        Raises:
            InvalidPolicyError: an unknown preset, or a policy that cannot be followed.
        """
        return self._backend.explain(sample_from(tensor), policies_of(policies))

    @property
    def _backend(self) -> Backend:
        if self._closed:
            raise UnavailableError("the client is closed", reason="UNAVAILABLE")
        return self._opened

    def _records(
        self, arrivals: Iterator[Arrival], finish: Callable[[TensorInfo, AnyArray], Record], on_damaged: OnDamaged
    ) -> Iterator[Record]:
        return of_this_process(starmap(finish, self._assembler.assemble(arrivals, on_damaged=on_damaged)))
