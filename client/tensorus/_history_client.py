"""What the synchronous client does with snapshots and earlier states of datasets."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tensorus._arguments import dataset_name, restored_state, snapshot_name
from tensorus._damage import intact
from tensorus._store_client import StoreClient

if TYPE_CHECKING:
    import builtins

    from tensorus._damage import OnDamaged
    from tensorus.types import At, RestoreReport, SnapshotInfo

__all__ = ["HistoryClient"]


class HistoryClient(StoreClient):
    """The part of `Client` that makes snapshots and goes back to earlier states."""

    def snapshot(self, dataset: str, name: str) -> SnapshotInfo:
        """Give the current state of a dataset a name. It stays readable until the snapshot is dropped.

        This copies nothing, and takes as long for many tensors as for few. Later changes of the dataset take space, since what
        they replace and delete is kept.

        Args:
            dataset: name of the dataset.
            name: 1 to 128 bytes without "@", "/" and control characters. It must not be all digits or look like a time, so
                that it can be told from a generation and a time.

        Raises:
            DatasetNotFoundError: the dataset does not exist.
            AlreadyExistsError: the dataset has a snapshot of this name.
            InvalidNameError: the name is not allowed.
        """
        return self._backend.create_snapshot(dataset_name(dataset), snapshot_name(name))

    def snapshots(self, dataset: str, *, on_damaged: OnDamaged = None) -> builtins.list[SnapshotInfo]:
        """Return the snapshots of a dataset, oldest first.

        Args:
            dataset: name of the dataset.
            on_damaged: called with the error of each damaged snapshot; the others are still returned. None: the first error is
                raised.

        Raises:
            DatasetNotFoundError: the dataset does not exist.
        """
        return [*intact(self._backend.list_snapshots(dataset_name(dataset)), on_damaged)]

    def drop_snapshot(self, dataset: str, name: str) -> None:
        """Drop a snapshot. What only it needed is deleted for good, and its space becomes free.

        Raises:
            DatasetNotFoundError: the dataset does not exist.
            SnapshotNotFoundError: the dataset has no snapshot of this name.
        """
        self._backend.drop_snapshot(dataset_name(dataset), snapshot_name(name))

    def restore(self, dataset: str, at: At, *, discard_newer: bool = False) -> RestoreReport:
        """Make the tensors of a dataset those of an earlier state, all at once.

        Tensors that are as in that state stay. Others are brought back with their values and metadata, under new generations
        and without copying their values. Tensors that the state does not have are deleted. Policy, schema, retention and
        snapshots of the dataset stay as they are.

        Args:
            dataset: name of the dataset.
            at: as for `get`.
            discard_newer: also restore if that loses tensors that no snapshot and no retention keeps.

        Raises:
            DatasetNotFoundError: the dataset does not exist.
            SnapshotNotFoundError, StateNotKeptError: there is no such snapshot, or the state is not kept.
            NewerTensorsError: tensors would be lost. Make a snapshot first, or pass `discard_newer`.
            LimitExceededError: more than 100,000 tensors would change.
        """
        return self._backend.restore(dataset_name(dataset), restored_state(at), discard_newer=discard_newer)
