"""Snapshots of datasets: named states that stay readable, and the restore of an earlier state."""

from __future__ import annotations

from itertools import takewhile
from typing import TYPE_CHECKING

from tensorus_server.engine.paging import checked_page_size, decode_place, encode_token, take_all
from tensorus_server.engine.validate import require_snapshot_name
from tensorus_server.engine.writing import writing
from tensorus_server.errors import InvalidRequestError
from tensorus_server.limits import RESTORED_TENSORS_MAX

if TYPE_CHECKING:
    from collections.abc import Callable

    from tensorus_server.catalogue.abc import Catalogue
    from tensorus_server.errors import DataCorruptError
    from tensorus_server.model import At, Restored, Snapshot

__all__ = ["Snapshots"]


class Snapshots:
    """The snapshots of a store's datasets. Thread-safe."""

    def __init__(self, catalogue: Catalogue, wake_pruning: Callable[[], None]) -> None:
        """Use `catalogue`.

        Args:
            wake_pruning: called after something may no longer be needed.
        """
        self._catalogue = catalogue
        self._wake_pruning = wake_pruning

    @writing
    def create(self, dataset: str, name: str) -> Snapshot:
        """Give the dataset's current state a name, so that it stays readable until the snapshot is dropped.

        Raises:
            DatasetNotFoundError: the dataset does not exist.
            InvalidNameError: the name is not allowed.
            AlreadyExistsError: the dataset has a snapshot with this name.
        """
        require_snapshot_name(name, dataset=dataset)
        return self._catalogue.snapshots.create(dataset, name)

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
        size = checked_page_size(page_size, "snapshots", dataset=dataset)
        after = decode_place(page_token, "snapshots") if page_token else 0
        page = self._catalogue.snapshots.page(dataset, after, size)
        taken = list(takewhile(lambda entry: take(entry[1]), page.snapshots))
        last = taken[-1][0] if len(taken) < len(page.snapshots) else page.next
        return [found for _, found in taken], "" if last is None else encode_token(["snapshots", last])

    @writing
    def drop(self, dataset: str, name: str) -> None:
        """Drop a snapshot; what only it needed is deleted in the background.

        Raises:
            DatasetNotFoundError: the dataset does not exist.
            SnapshotNotFoundError: the dataset has no snapshot with this name.
        """
        self._catalogue.snapshots.drop(dataset, name)
        self._wake_pruning()

    @writing
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
        number = self._catalogue.datasets.get(dataset).number
        generation = self.generation_of(dataset, at)
        return self._catalogue.tensors.restore(
            dataset, generation, limit=RESTORED_TENSORS_MAX, discard_newer=discard_newer, number=number
        )

    def generation_of(self, dataset: str, at: At) -> int:
        """Return the generation of a state, so that all reads of one request see the same one.

        Raises:
            DatasetNotFoundError: the dataset does not exist.
            InvalidRequestError: not exactly one field of `at` is set.
            SnapshotNotFoundError: the dataset has no such snapshot.
            StateNotKeptError: the state at that generation or time is not kept.
        """
        fields = [at.snapshot, at.generation, at.time_us]
        if sum(field is not None for field in fields) != 1:
            raise InvalidRequestError("at must have exactly one of snapshot, generation and time", dataset=dataset)
        return self._catalogue.snapshots.resolve(dataset, at)
