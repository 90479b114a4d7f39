"""The synchronous client. One class serves both backends: a remote server, and an engine in this process."""

from __future__ import annotations

from itertools import chain, starmap
from typing import TYPE_CHECKING, Any

from tensorus._arguments import (
    DELETES_PER_CALL,
    READS_PER_CALL,
    batches,
    dataset_name,
    inserted_many,
    inserted_one,
    listing_of,
    part_of,
    policies_of,
    policy_of,
    precision_of,
    progress_of,
    record_of,
    sample_from,
    selection_of,
    tensor_name,
    upload_of,
    uploads_of,
    without_result,
)
from tensorus._arrays.assemble import headers
from tensorus._backend import InsertOptions
from tensorus._damage import intact
from tensorus._edits import append_of, write_of
from tensorus._forks import of_this_process
from tensorus._store_client import StoreClient
from tensorus.types import NewTensor, Record

if TYPE_CHECKING:
    import builtins
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from tensorus._arrays.canonical import AnyArray
    from tensorus._backend import Arrival, Upload
    from tensorus._damage import OnDamaged
    from tensorus._where import Where
    from tensorus.types import (
        AsArray,
        Index,
        OnConflict,
        Policy,
        PolicyExplanation,
        Precision,
        Progress,
        TensorInfo,
    )

__all__ = ["Client"]


class Client(StoreClient):
    """A client of one store. `tensorus.connect` and `tensorus.open` create it; it is a context manager and thread-safe.

    A client of a server can be pickled, and used after a fork: each process opens its own connection. An iterator works only in
    the process that created it.

    Every method can raise `tensorus.errors.TensorusError`; the docstrings list the errors that a caller may want to handle.
    """

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
        """Store one tensor. Once this returns, the tensor survives a crash and a power cut.

        An interrupted transfer to a server resumes by itself; see `tensorus.connect`.

        Inserting is idempotent: inserting the same tensor again under the same id stores nothing, and `TensorInfo.inserted` is
        False. It is an error if the stored tensor has other metadata, or is less exact than the new policy requires.

        Args:
            dataset: name of the dataset.
            tensor: a torch tensor, a NumPy array, or any object with `__array__` or `__dlpack__`. It is sent in blocks, without
                a copy of the whole.
            id: unique within the dataset. None: a random id.
            metadata: a dict of None, bool, int, float, str, and lists and dicts of these. Queries can filter on it.
            preset: the name of a storage policy. None: the dataset's policy.
            policy: the storage policy in detail.
            if_generation_match: replace the stored tensor only if it has this generation (`TensorInfo.generation`). 0: fail if
                the id exists. None: `on_conflict` decides.
            on_conflict: what to do if another tensor has this id: "error" or "replace".
            validate_only: check and measure everything but store nothing; the returned generation is 0.
            on_progress: called repeatedly during the transfer, on the caller's thread.

        Returns:
            A description of the stored tensor, with measured sizes and errors.

        Raises:
            TypeError: `tensor` is not an array.
            DatasetNotFoundError: the dataset does not exist.
            AlreadyExistsError: another tensor has this id.
            StoredDifferentlyError: the same values have this id, but with other metadata or less exact than requested.
            GenerationMismatchError: the stored tensor has another generation than `if_generation_match`.
            SchemaMismatchError: the tensor does not fit the dataset's schema.
            StorageFullError: the disk is full.
        """
        new = NewTensor(tensor, id, metadata, policy_of(preset, policy), if_generation_match)
        upload = upload_of(new, on_conflict)
        options = InsertOptions(validate_only=validate_only)
        return self._insert_one(dataset, upload, options, on_progress)

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
        """Store many tensors in one stream. For small tensors this is much faster than single inserts.

        Args:
            dataset: name of the dataset.
            tensors: arrays, `(id, array)` pairs such as `state_dict.items()`, or `NewTensor` objects. The iterable is consumed
                while sending, so the tensors need not be in memory at the same time.
            all_or_nothing: make all tensors visible in one step at the end, or none if one of them fails; at most 4096 tensors.
            on_conflict: as for `insert`; applies to tensors that set none of their own.
            validate_only: check and measure everything but store nothing; the returned generations are 0.
            on_progress: called repeatedly with the canonical bytes accepted so far, summed over all tensors.

        Returns:
            Descriptions of the stored tensors, in the order of the input.

        Raises:
            InsertManyError: some tensors were not stored. It lists the failures by position in the input, and what was stored.
        """
        ids: builtins.list[str] = []
        uploads = uploads_of(tensors, on_conflict, ids)
        options = InsertOptions(all_or_nothing, validate_only)
        outcomes = dict(self._backend.insert(dataset_name(dataset), uploads, options, on_progress))
        return inserted_many(dataset, ids, outcomes)

    def append(
        self,
        dataset: str,
        id: str,  # noqa: A002 - the field's word
        values: object,
        *,
        axis: int = 0,
        if_generation_match: int | None = None,
        on_progress: Callable[[Progress], None] | None = None,
    ) -> TensorInfo:
        """Append values to a stored tensor. It takes little longer than to insert the values, however large the tensor is.

        Several clients can append to one tensor at the same time: their values follow each other in the order in which they are
        committed. Reads of the old generation that have begun finish undisturbed. A repeated transfer appends once.

        Old values keep every bit. A chunk that is filled up is stored losslessly if the policy is lossy and would alter its old
        values, so append whole chunks (`TensorInfo.chunk_bytes`) to a quantized tensor.

        Args:
            dataset: name of the dataset.
            id: id of the tensor.
            values: an array of the tensor's dtype. All its axes but `axis` have the tensor's sizes.
            axis: the axis that grows. All axes before it must have size 1.
            if_generation_match: append only if the tensor has this generation. None: to any.
            on_progress: called repeatedly during the transfer, on the caller's thread.

        Returns:
            A description of the new generation.

        Raises:
            TypeError: `values` is not an array.
            DatasetNotFoundError, TensorNotFoundError: the dataset or tensor does not exist.
            InvalidShapeError: the axis does not exist, or dtype or shape do not fit.
            GenerationMismatchError: the tensor has another generation than `if_generation_match`.
            SchemaMismatchError: the tensor would not fit the dataset's schema.
            StorageFullError: the disk is full.
        """
        upload = append_of(tensor_name(id), values, axis, if_generation_match)
        return self._insert_one(dataset, upload, InsertOptions(), on_progress)

    def write(
        self,
        dataset: str,
        id: str,  # noqa: A002 - the field's word
        index: Index,
        values: object,
        *,
        if_generation_match: int | None = None,
        on_progress: Callable[[Progress], None] | None = None,
    ) -> TensorInfo:
        """Write values into a part of a stored tensor. Only the chunks that the index touches are stored anew.

        The write is atomic. Values outside of the index keep every bit: a chunk that changes in part is stored losslessly if
        the policy is lossy and would alter them.

        Args:
            dataset: name of the dataset.
            id: id of the tensor.
            index: NumPy basic indexing, as for `get`. It must not go beyond the end of an axis.
            values: an array of the tensor's dtype, or a number. It is broadcast to the shape of the index.
            if_generation_match: write only if the tensor has this generation. None: into any.
            on_progress: called repeatedly during the transfer, on the caller's thread.

        Returns:
            A description of the new generation.

        Raises:
            TypeError: `values` is neither an array nor a number, or the index is invalid.
            IndexError: the index does not fit the tensor's shape.
            ValueError: the values cannot be broadcast to the shape of the index.
            DatasetNotFoundError, TensorNotFoundError: the dataset or tensor does not exist.
            InvalidSliceError: a slice goes beyond the end of an axis.
            InvalidShapeError: the dtype is another one, or the tensor's shape changed meanwhile.
            GenerationMismatchError: the tensor has another generation than `if_generation_match`.
            StorageFullError: the disk is full.
        """
        upload = write_of(self.info(dataset, id), index, values, if_generation_match)
        return self._insert_one(dataset, upload, InsertOptions(), on_progress)

    def get(
        self,
        dataset: str,
        id: str,  # noqa: A002 - the field's word
        *,
        index: Index | None = None,
        dtype: str | None = None,
        precision: Precision | None = None,
        as_: AsArray | None = None,
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
            on_progress: called as bytes arrive, on the caller's thread.

        Returns:
            A new array. With `index`, it has the shape and values of the same index in NumPy.

        Raises:
            DatasetNotFoundError, TensorNotFoundError: the dataset or tensor does not exist.
            IndexError: an integer is out of bounds.
            UnsupportedDTypeError, InvalidRequestError: the dtype or precision is unknown, or the cast is not supported.
            DataCorruptError: the stored data is damaged.
        """
        part, finish = selection_of(index, dtype, as_, precision)
        arrivals = self._backend.get(dataset_name(dataset), [tensor_name(id)], part, with_data=True)
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
        on_damaged: OnDamaged = None,
    ) -> Iterator[Record]:
        """Yield tensors by id, in the given order, in one stream.

        Args:
            dataset: name of the dataset.
            ids: ids of the tensors.
            precision: as for `get`.
            as_: "torch" or "numpy". None: torch if it is installed, else NumPy.
            on_damaged: called with the error of each damaged tensor; the others are still yielded. None: the first error is
                raised.

        Raises:
            TensorNotFoundError: an id does not exist; raised when the iteration reaches it.
            DataCorruptError: a tensor is damaged; raised when the iteration reaches it.
        """
        name, wanted, backend = dataset_name(dataset), [tensor_name(tensor_id) for tensor_id in ids], self._backend
        part = part_of(precision)
        reads = (backend.get(name, batch, part, with_data=True) for batch in batches(wanted, READS_PER_CALL))
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
            on_damaged: called with the error of each damaged tensor; the others are still yielded. None: the first error is
                raised.

        Raises:
            DatasetNotFoundError: the dataset does not exist.
            InvalidFilterError: the filter does not parse; the message names the position.
            DataCorruptError: a tensor is damaged; raised when the iteration reaches it.
        """
        listing = listing_of(dataset, where, order_by=order_by, limit=limit, sample=sample, seed=seed)
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
        on_damaged: OnDamaged = None,
    ) -> Iterator[TensorInfo]:
        """Yield descriptions of a dataset's tensors without their values, fetched page by page. Arguments as for `query`.

        Raises:
            DatasetNotFoundError: the dataset does not exist.
            InvalidFilterError: the filter does not parse; the message names the position.
            DataCorruptError: a tensor is damaged; the message names it. The intact tensors of its page are yielded first.
        """
        found = self._backend.list_tensors(listing_of(dataset, where, order_by=order_by, limit=limit))
        return of_this_process(intact(found, on_damaged))

    def info(
        self,
        dataset: str,
        id: str,  # noqa: A002 - the field's word
        *,
        precision: Precision | None = None,
    ) -> TensorInfo:
        """Return the description of a tensor: everything except its values.

        Args:
            dataset: name of the dataset.
            id: id of the tensor.
            precision: as for `get`; `TensorInfo.coarse_error` then is the bound of the error of such a read.

        Raises:
            DatasetNotFoundError, TensorNotFoundError: the dataset or tensor does not exist.
        """
        part = part_of(precision)
        for info in headers(self._backend.get(dataset_name(dataset), [tensor_name(id)], part, with_data=False)):
            return info
        raise without_result("read", dataset, id)

    def update_metadata(self, dataset: str, id: str, metadata: Mapping[str, Any]) -> TensorInfo:  # noqa: A002
        """Replace all metadata of a tensor; keys that are not in `metadata` are removed.

        Raises:
            DatasetNotFoundError, TensorNotFoundError: the dataset or tensor does not exist.
        """
        return self._backend.update_metadata(dataset_name(dataset), tensor_name(id), metadata)

    def delete(self, dataset: str, ids: str | Sequence[str]) -> int:
        """Delete one or many tensors by id, and return how many existed.

        If the connection breaks and the call is repeated, ids that no longer exist count too: the first attempt may have
        deleted them.

        Raises:
            DatasetNotFoundError: the dataset does not exist.
        """
        wanted = [tensor_name(tensor_id) for tensor_id in ([ids] if isinstance(ids, str) else ids)]
        return sum(
            self._backend.delete_tensors(dataset_name(dataset), batch) for batch in batches(wanted, DELETES_PER_CALL)
        )

    def explain(
        self, tensor: object, *, policies: Iterable[Policy | str] | None = None
    ) -> builtins.list[PolicyExplanation]:
        """Return the size, error and speed that a tensor would have under each policy, measured where it would be stored.

        Nothing is stored. At most 64 MiB are examined; a larger tensor is sampled in evenly spread pieces of 1 MiB.

        Args:
            tensor: as for `insert`.
            policies: policies or names of presets, at most 32. None or empty: every preset.

        Returns:
            One explanation per policy, in the order of `policies`.

        Raises:
            InvalidPolicyError: a preset is unknown, or a policy is invalid.
        """
        return self._backend.explain(sample_from(tensor), policies_of(policies))

    def _insert_one(
        self,
        dataset: str,
        upload: Upload,
        options: InsertOptions,
        on_progress: Callable[[Progress], None] | None,
    ) -> TensorInfo:
        report = None if on_progress is None else progress_of(upload, on_progress)
        outcomes = dict(self._backend.insert(dataset_name(dataset), [upload], options, report))
        return inserted_one(dataset, upload, outcomes, report)

    def _records(
        self, arrivals: Iterator[Arrival], finish: Callable[[TensorInfo, AnyArray], Record], on_damaged: OnDamaged
    ) -> Iterator[Record]:
        return of_this_process(starmap(finish, self._assembler.assemble(arrivals, on_damaged=on_damaged)))
