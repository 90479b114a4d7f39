"""The synchronous client. One class serves both backends: a remote server, and an engine in this process."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from tensorus._arguments import (
    DELETES_PER_CALL,
    batches,
    dataset_name,
    inserted_many,
    inserted_one,
    policies_of,
    policy_of,
    progress_of,
    sample_from,
    tensor_name,
    upload_of,
    uploads_of,
)
from tensorus._asking import Asking, require_askable
from tensorus._backend import InsertOptions
from tensorus._edits import append_of, write_of
from tensorus._reading_client import ReadingClient
from tensorus.types import NewTensor

if TYPE_CHECKING:
    import builtins
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from tensorus._backend import Upload
    from tensorus.errors import TensorusError
    from tensorus.types import Base, Index, OnConflict, Policy, PolicyExplanation, Progress, TensorInfo

__all__ = ["Client"]


class Client(ReadingClient):
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
        base: Base | None = None,
        validate_only: bool = False,
        ask_first: bool = False,
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
            base: a stored tensor of the same dtype and shape with nearly the same values, such as that of an earlier
                checkpoint: its id, `(dataset, id)`, `(dataset, id, state)` or `TensorInfo`. The tensor is stored as the
                differences to it where that saves at least a tenth, which is exact. It stays readable whatever becomes of the
                base.
            validate_only: check and measure everything but store nothing; the returned generation is 0.
            ask_first: send a checksum of the values first, and the values only if the store does not have them. Worth it for
                large tensors that may be stored already, under this or another id. Not with `validate_only`.
            on_progress: called repeatedly during the transfer, on the caller's thread.

        Returns:
            A description of the stored tensor, with measured sizes and errors.

        Raises:
            TypeError: `tensor` is not an array.
            DatasetNotFoundError: the dataset does not exist.
            TensorNotFoundError: the base does not exist.
            InvalidBaseError: the base has another dtype or shape.
            AlreadyExistsError: another tensor has this id.
            StoredDifferentlyError: the same values have this id, but with other metadata or less exact than requested.
            GenerationMismatchError: the stored tensor has another generation than `if_generation_match`.
            SchemaMismatchError: the tensor does not fit the dataset's schema.
            StorageFullError: the disk is full.
        """
        new = NewTensor(tensor, id, metadata, policy_of(preset, policy), if_generation_match, base=base)
        upload = upload_of(new, on_conflict)
        options = InsertOptions(validate_only=validate_only)
        require_askable(ask_first=ask_first, validate_only=validate_only)
        return self._insert_one(dataset, upload, options, on_progress, ask_first=ask_first)

    def insert_many(
        self,
        dataset: str,
        tensors: Iterable[object],
        *,
        all_or_nothing: bool = False,
        on_conflict: OnConflict = "error",
        validate_only: bool = False,
        ask_first: bool = False,
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
            ask_first: send checksums of the values first, many at once, and only the values that the store does not have.
                Tensors below 64 KiB are sent at once. Not with `all_or_nothing` or `validate_only`.
            on_progress: called repeatedly with the canonical bytes accepted so far, summed over all tensors.

        Returns:
            Descriptions of the stored tensors, in the order of the input.

        Raises:
            InsertManyError: some tensors were not stored. It lists the failures by position in the input, and what was stored.
        """
        ids: builtins.list[str] = []
        uploads = uploads_of(tensors, on_conflict, ids)
        options = InsertOptions(all_or_nothing, validate_only)
        require_askable(ask_first=ask_first, all_or_nothing=all_or_nothing, validate_only=validate_only)
        if ask_first:
            outcomes = self._insert_asking(dataset, uploads, options, on_progress)
        else:
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
        self, tensor: object, *, policies: Iterable[Policy | str] | None = None, base: Base | None = None
    ) -> builtins.list[PolicyExplanation]:
        """Return the size, error and speed that a tensor would have under each policy, measured where it would be stored.

        Nothing is stored. At most 64 MiB are examined; a larger tensor is sampled in evenly spread pieces of 1 MiB.

        Args:
            tensor: as for `insert`.
            policies: policies or names of presets, at most 32. None or empty: every preset.
            base: a stored tensor to whose values the tensor is compared, as for `insert`, but with its dataset. Of a tensor
                above 64 MiB, the first values are then examined.

        Returns:
            One explanation per policy, in the order of `policies`. With a base, one more at the end: the preset "lossless" with
            the base.

        Raises:
            InvalidPolicyError: a preset is unknown, or a policy is invalid.
            DatasetNotFoundError, TensorNotFoundError: the base does not exist.
            InvalidBaseError: the base has another dtype or shape.
        """
        return self._backend.explain(sample_from(tensor, base), policies_of(policies))

    def _insert_one(
        self,
        dataset: str,
        upload: Upload,
        options: InsertOptions,
        on_progress: Callable[[Progress], None] | None,
        *,
        ask_first: bool = False,
    ) -> TensorInfo:
        report = None if on_progress is None else progress_of(upload, on_progress)
        if ask_first:
            outcomes = self._insert_asking(dataset, [upload], options, report)
        else:
            outcomes = dict(self._backend.insert(dataset_name(dataset), [upload], options, report))
        return inserted_one(dataset, upload, outcomes, report)

    def _insert_asking(
        self,
        dataset: str,
        uploads: Iterable[Upload],
        options: InsertOptions,
        on_progress: Callable[[Progress], None] | None,
    ) -> Mapping[int, TensorInfo | TensorusError]:
        """Insert tensors after asking which ones the store has, and return the outcomes by position."""
        name = dataset_name(dataset)
        asking = Asking(uploads, partial(self._backend.insert_known, name), on_progress)
        if not asking.start():
            return asking.joined({})
        return asking.joined(dict(self._backend.insert(name, asking, options, asking.on_progress)))
