"""Copies, moves and new names of tensors and datasets. Copies share payloads with their sources, so no payload is copied.

An edit of a tensor that is moved meanwhile fails as if the tensor had been deleted, and an insert into a dataset that is
renamed meanwhile goes on: the catalogue decides both when they are committed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tensorus_server.catalogue.abc import TensorCopies
from tensorus_server.engine.paging import take_all
from tensorus_server.engine.validate import (
    require_dataset_name,
    require_id,
    require_request_id,
    require_schema_fit,
)
from tensorus_server.engine.writing import writing
from tensorus_server.errors import InvalidRequestError, LimitExceededError
from tensorus_server.limits import ANSWER_BYTES_MAX, COPIES_PER_CALL_MAX, DATASET_COPY_TENSORS_MAX
from tensorus_server.model import Outcome

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tensorus_server.catalogue.abc import Catalogue
    from tensorus_server.engine.snapshots import Snapshots
    from tensorus_server.model import At, Dataset, Tensor

__all__ = ["Copies"]


class Copies:
    """Copies the tensors and datasets of a store. Thread-safe.

    Every method is one transaction, and takes a request id. A call that is repeated with the same one, within the time in which
    an insert can be resumed, changes nothing and returns what it made before.
    """

    def __init__(self, catalogue: Catalogue, snapshots: Snapshots) -> None:
        """Use the catalogue; `snapshots` knows its earlier states."""
        self._catalogue = catalogue
        self._snapshots = snapshots

    @writing
    def copy_tensors(
        self,
        dataset: str,
        ids: Sequence[tuple[str, str]],
        *,
        to: str = "",
        at: At | None = None,
        replace: bool = False,
        request_id: str = "",
        take: Callable[[Tensor], bool] = take_all,
    ) -> list[Tensor]:
        """Copy tensors of a dataset, all or none, and return the copies in order.

        Args:
            ids: the id of each tensor, and that of its copy; empty: the same.
            to: name of the dataset that gets them; empty: the same.
            at: the state of the dataset; None: the current one.
            replace: whether to replace other tensors that have the new ids.
            take: called with each copy before the commit; returns whether the answer has room for it.

        Raises:
            DatasetNotFoundError, TensorNotFoundError: a dataset or a tensor does not exist.
            SnapshotNotFoundError, StateNotKeptError: see `Snapshots.generation_of`.
            AlreadyExistsError: another tensor has a new id, and must not be replaced.
            StoredDifferentlyError: a tensor with the same values, but other metadata, has a new id.
            SchemaMismatchError: a tensor does not fit the schema of the dataset that gets it.
            InvalidRequestError: a copy would be its own source, or two would have one id.
            LimitExceededError: there are too many, or their metadata are too large for an answer.
            DataCorruptError: the row of a tensor or of a dataset is damaged.
        """
        generation = None if at is None else self._snapshots.generation_of(dataset, at)
        copies = TensorCopies(
            dataset, to or dataset, _completed(ids), at=generation, replace=replace, request_id=request_id
        )
        return self._run(copies, take)

    @writing
    def move_tensors(
        self,
        dataset: str,
        ids: Sequence[tuple[str, str]],
        *,
        to: str = "",
        replace: bool = False,
        request_id: str = "",
        take: Callable[[Tensor], bool] = take_all,
    ) -> list[Tensor]:
        """Move tensors of a dataset, all or none: copy them and delete them, so that no reader sees both or neither.

        All tensors leave their places before any arrives, so ids can be exchanged. A tensor whose new place has an equal one is
        deleted. Arguments and errors as of `copy_tensors`.
        """
        copies = TensorCopies(
            dataset, to or dataset, _completed(ids), replace=replace, move=True, request_id=request_id
        )
        return self._run(copies, take)

    @writing
    def copy_dataset(
        self, name: str, new_name: str, *, at: At | None = None, request_id: str = "", owner: str = ""
    ) -> tuple[Dataset, int]:
        """Create a dataset with the policy, schema and retention of another one and all of its tensors.

        Args:
            at: the state of the tensors; None: the current one.

        Returns:
            The new dataset, and its number of tensors.

        Raises:
            DatasetNotFoundError: there is no dataset `name`.
            SnapshotNotFoundError, StateNotKeptError: see `Snapshots.generation_of`.
            AlreadyExistsError: the new name is taken.
            InvalidNameError: the new name is not allowed.
            LimitExceededError: it has too many tensors.
            DataCorruptError: the row of a tensor or of the dataset is damaged.
        """
        require_dataset_name(new_name)
        require_request_id(request_id or "-", dataset=name)
        generation = None if at is None else self._snapshots.generation_of(name, at)
        copied = self._catalogue.copies.copy_dataset(
            name, new_name, at=generation, tensors_max=DATASET_COPY_TENSORS_MAX, request_id=request_id, owner=owner
        )
        self._catalogue.maintain(idle=False)
        return copied

    @writing
    def rename_dataset(self, name: str, new_name: str, *, request_id: str = "") -> Dataset:
        """Give a dataset another name. Its tensors, snapshots and inserts in progress stay with it.

        Raises:
            DatasetNotFoundError: there is no dataset `name`.
            AlreadyExistsError: the new name is taken.
            InvalidNameError: the new name is not allowed.
            DataCorruptError: its row is damaged.
        """
        require_dataset_name(new_name)
        require_request_id(request_id or "-", dataset=name)
        return self._catalogue.copies.rename_dataset(name, new_name, request_id=request_id)

    def _run(self, copies: TensorCopies, take: Callable[[Tensor], bool]) -> list[Tensor]:
        _require_copies(copies)
        copied = self._catalogue.copies.copy_tensors(copies, lambda to, tensors: _check(to, tensors, take))
        self._catalogue.maintain(idle=False)
        return copied


def _completed(ids: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    return [(tensor_id, new_id or tensor_id) for tensor_id, new_id in ids]


def _require_copies(copies: TensorCopies) -> None:
    """Refuse copies whose places contradict each other.

    Raises:
        InvalidNameError, InvalidRequestError, LimitExceededError: says what is wrong.
    """
    require_request_id(copies.request_id or "-", dataset=copies.source)
    if len(copies.ids) > COPIES_PER_CALL_MAX:
        raise LimitExceededError(
            f"number of tensors is {len(copies.ids)}, limit is {COPIES_PER_CALL_MAX} (copies_per_call_max)",
            dataset=copies.source,
            limit=COPIES_PER_CALL_MAX,
        )
    sources: set[str] = set()
    places: set[str] = set()
    for tensor_id, new_id in copies.ids:
        require_id(new_id, dataset=copies.destination)
        if new_id in places:
            raise InvalidRequestError("two tensors would get the same id", dataset=copies.destination, tensor=new_id)
        if copies.move and tensor_id in sources:
            raise InvalidRequestError("the tensor would move to two places", dataset=copies.source, tensor=tensor_id)
        # A copy of an earlier state can take the place of the current tensor.
        if copies.source == copies.destination and tensor_id == new_id and copies.at is None:
            what = "stay where it is" if copies.move else "be its own copy"
            raise InvalidRequestError(
                f"the tensor would {what}; give another id, or another dataset",
                dataset=copies.source,
                tensor=tensor_id,
            )
        sources.add(tensor_id)
        places.add(new_id)


def _check(destination: Dataset, tensors: Sequence[Tensor], take: Callable[[Tensor], bool]) -> None:
    """Refuse copies that do not fit the dataset that gets them, or the answer."""
    for tensor in tensors:
        if tensor.outcome is not Outcome.ALREADY_STORED:
            require_schema_fit(tensor.id, tensor.spec, tensor.metadata, destination.schema, dataset=destination.name)
        if not take(tensor):
            raise LimitExceededError(
                f"the metadata of {len(tensors)} tensors is too large for one answer, limit is {ANSWER_BYTES_MAX} bytes "
                "(answer_bytes_max); copy fewer at once",
                dataset=destination.name,
                limit=ANSWER_BYTES_MAX,
            )
