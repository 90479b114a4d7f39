"""What the synchronous client copies, moves and renames."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tensorus._arguments import at_of, copies_of, dataset_name
from tensorus._history_client import HistoryClient

if TYPE_CHECKING:
    import builtins
    from collections.abc import Mapping

    from tensorus.types import At, DatasetInfo, TensorInfo

__all__ = ["CopyingClient"]


class CopyingClient(HistoryClient):
    """The part of `Client` that copies, moves and renames tensors and datasets. A repeated call has no further effect."""

    def copy(
        self,
        dataset: str,
        id: str,  # noqa: A002 - the field's word
        new_id: str | None = None,
        *,
        to: str | None = None,
        at: At | None = None,
        replace: bool = False,
    ) -> TensorInfo:
        """Copy a tensor, and return the copy. It shares the stored bytes, so it takes no time and next to no space.

        The copy has the metadata, the errors and the policy of the tensor, and a new generation. From then on, the two are
        independent: either can be changed or deleted. If an equal tensor is there already, nothing is done.

        Args:
            dataset: name of the dataset.
            id: id of the tensor.
            new_id: id of the copy. None: the same, in another dataset or of an earlier state.
            to: name of the dataset that gets the copy. None: the same.
            at: as for `get`: copy the tensor as it was. With `replace=True` and without `new_id` and `to`, this restores it.
            replace: whether to replace another tensor that has the id.

        Raises:
            DatasetNotFoundError, TensorNotFoundError: a dataset or the tensor does not exist.
            SnapshotNotFoundError, StateNotKeptError: there is no such snapshot, or the state is not kept.
            AlreadyExistsError: another tensor has the id, and `replace` is False.
            StoredDifferentlyError: the same values have the id, but with other metadata or another error.
            SchemaMismatchError: the tensor does not fit the schema of the dataset that gets it.
            InvalidRequestError: the tensor would be its own copy.
        """
        (copied,) = self._backend.copy_tensors(copies_of(dataset, {id: new_id}, to, at=at, replace=replace))
        return copied

    def copy_many(
        self,
        dataset: str,
        ids: Mapping[str, str | None],
        *,
        to: str | None = None,
        at: At | None = None,
        replace: bool = False,
    ) -> builtins.list[TensorInfo]:
        """Copy several tensors, all or none, in one step. All of them are as they were before the call.

        Args:
            dataset: name of the dataset.
            ids: the id of each tensor, and that of its copy, at most 1,000. None: the same.
            to: name of the dataset that gets the copies. None: the same.
            at: as for `copy`.
            replace: as for `copy`.

        Returns:
            The copies, in the order of `ids`.

        Raises:
            LimitExceededError: there are more than 1,000, or their metadata are larger than 2 MiB. The other errors are those
                of `copy`.
        """
        return self._backend.copy_tensors(copies_of(dataset, ids, to, at=at, replace=replace))

    def move(
        self,
        dataset: str,
        id: str,  # noqa: A002 - the field's word
        new_id: str | None = None,
        *,
        to: str | None = None,
        replace: bool = False,
    ) -> TensorInfo:
        """Move a tensor to another id, to another dataset, or both, and return it. Its bytes stay where they are.

        Readers see it in one of the two places. It gets a new generation and ordinal. An edit of the tensor that is not
        complete fails with `TensorNotFoundError`. If an equal tensor is there already, the moved one is deleted.

        Args:
            dataset: name of the dataset.
            id: id of the tensor.
            new_id: its new id. None: the same, in another dataset.
            to: name of the dataset that gets the tensor. None: the same.
            replace: as for `copy`.

        The errors are those of `copy`.
        """
        (moved,) = self._backend.copy_tensors(copies_of(dataset, {id: new_id}, to, replace=replace, move=True))
        return moved

    def move_many(
        self, dataset: str, ids: Mapping[str, str | None], *, to: str | None = None, replace: bool = False
    ) -> builtins.list[TensorInfo]:
        """Move several tensors, all or none, in one step. All leave their places before any arrives, so ids can be exchanged.

        `move_many("weights", {"a": "b", "b": "a"})` swaps two tensors.

        Args:
            dataset: name of the dataset.
            ids: the id of each tensor, and its new one, at most 1,000. None: the same.
            to: name of the dataset that gets the tensors. None: the same.
            replace: as for `copy`.

        Returns:
            The moved tensors, in the order of `ids`.

        The errors are those of `copy_many`.
        """
        return self._backend.copy_tensors(copies_of(dataset, ids, to, replace=replace, move=True))

    def rename(self, dataset: str, id: str, new_id: str) -> TensorInfo:  # noqa: A002 - the field's word
        """Give a tensor another id in its dataset, and return it. See `move`.

        Raises:
            DatasetNotFoundError, TensorNotFoundError: the dataset or tensor does not exist.
            AlreadyExistsError: another tensor has the id.
        """
        (renamed,) = self._backend.copy_tensors(copies_of(dataset, {id: new_id}, None, move=True))
        return renamed

    def copy_dataset(self, name: str, new_name: str, *, at: At | None = None) -> DatasetInfo:
        """Create a dataset with the policy, schema and retention of another one and all of its tensors, in one step.

        The tensors share their stored bytes. Those of up to 64 KiB are copied. 10,000 small tensors take about a second, in
        which nobody else can write.

        Args:
            name: name of the dataset.
            new_name: name of the new dataset. Snapshots of the old one are not copied.
            at: as for `get`: copy the tensors as they were.

        Raises:
            DatasetNotFoundError: the dataset does not exist.
            SnapshotNotFoundError, StateNotKeptError: there is no such snapshot, or the state is not kept.
            AlreadyExistsError: a dataset has the new name.
            LimitExceededError: the dataset has more than 100,000 tensors.
        """
        return self._backend.copy_dataset(dataset_name(name), dataset_name(new_name), at_of(at))

    def rename_dataset(self, name: str, new_name: str) -> DatasetInfo:
        """Give a dataset another name. This takes no longer for many tensors than for few.

        Its tensors, generations and snapshots stay. Inserts in progress are completed under the new name, unless they are
        interrupted: then they fail with `DatasetNotFoundError`.

        Raises:
            DatasetNotFoundError: the dataset does not exist.
            AlreadyExistsError: a dataset has the new name.
        """
        return self._backend.rename_dataset(dataset_name(name), dataset_name(new_name))
