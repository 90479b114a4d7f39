"""Snapshots of datasets: named states that stay readable, and the restore of an earlier state."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tensorus_server.engine.paging import take_all
from tensorus_server.errors import UnimplementedError

if TYPE_CHECKING:
    from collections.abc import Callable

    from tensorus_server.errors import DataCorruptError
    from tensorus_server.model import At, Restored, Snapshot

__all__ = ["Snapshots"]


class Snapshots:
    """The snapshots of a store's datasets. Thread-safe."""

    def create(self, dataset: str, name: str) -> Snapshot:
        """Give the dataset's current state a name, so that it stays readable until the snapshot is dropped.

        Raises:
            DatasetNotFoundError: the dataset does not exist.
            InvalidNameError: the name is not allowed; names of datasets have the same rules.
            AlreadyExistsError: the dataset has a snapshot with this name.
        """
        raise UnimplementedError("snapshots are not implemented", dataset=dataset)

    def page(
        self,
        dataset: str,
        *,
        page_size: int = 0,
        page_token: str = "",
        take: Callable[[Snapshot | DataCorruptError], bool] = take_all,
    ) -> tuple[list[Snapshot | DataCorruptError], str]:
        """Return one page of the dataset's snapshots in order of generation, and the token of the next page.

        A damaged snapshot is returned as an error in its place.

        Args:
            page_size: largest number of snapshots; 0: the default.
            take: see `list_page`.

        Raises:
            DatasetNotFoundError: the dataset does not exist.
            InvalidPageTokenError: the token was not issued by this server.
            LimitExceededError: the page is too large.
        """
        raise UnimplementedError("snapshots are not implemented", dataset=dataset)

    def drop(self, dataset: str, name: str) -> None:
        """Drop a snapshot; what only it needed is deleted in the background.

        Raises:
            DatasetNotFoundError: the dataset does not exist.
            SnapshotNotFoundError: the dataset has no snapshot with this name.
        """
        raise UnimplementedError("snapshots are not implemented", dataset=dataset)

    def restore(self, dataset: str, at: At, *, discard_newer: bool = False) -> Restored:
        """Make the dataset's tensors those of an earlier state, in one transaction; a repeated restore changes nothing.

        Tensors that are as in that state keep their generations. Others are brought back with new generations and ordinals.

        Args:
            discard_newer: whether to go on if tensors would be lost that no snapshot and no retention keeps.

        Raises:
            DatasetNotFoundError: the dataset does not exist.
            SnapshotNotFoundError, StateNotKeptError: see `generation_of`.
            NewerTensorsError: tensors would be lost.
            LimitExceededError: more tensors would change than `RESTORED_TENSORS_MAX`.
            DataCorruptError: a tensor of that state is damaged; nothing was changed.
        """
        raise UnimplementedError("snapshots are not implemented", dataset=dataset)

    def generation_of(self, dataset: str, at: At) -> int:
        """Return the generation of a state, so that all reads of one request see the same one.

        Raises:
            DatasetNotFoundError: the dataset does not exist.
            InvalidRequestError: not exactly one field of `at` is set.
            SnapshotNotFoundError: the dataset has no such snapshot.
            StateNotKeptError: the state at that generation or time is not kept.
        """
        raise UnimplementedError("snapshots are not implemented", dataset=dataset)
