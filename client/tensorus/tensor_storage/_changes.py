"""The uncommitted changes of a transaction in memory: inserted, updated and deleted records.

A commit proceeds in this order: inserts, with one all-or-nothing insert per dataset; then metadata; then deletes. If a step
fails, the earlier steps are undone. Up to 4096 inserts into one dataset are atomic by themselves; if the process is killed
between two steps, the earlier ones stay.
"""

from __future__ import annotations

import logging
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from tensorus import errors
from tensorus.tensor_storage._errors import record_missing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from tensorus.client import Client
    from tensorus.types import Metadata, NewTensor, TensorInfo

__all__ = ["Changes", "Inserted", "commit", "insert_together"]

_TOGETHER_MAX = 4096
"""Maximum tensors of an all-or-nothing insert; a limit of the contract."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Inserted:
    """A record to insert."""

    new: NewTensor
    """The tensor with its id; its values are a private copy."""
    info: TensorInfo
    """Its description, from an insert with `validate_only`."""


@dataclass
class Changes:
    """The changes to one dataset."""

    inserted: dict[str, Inserted] = field(default_factory=dict)
    """By id, in order."""
    metadata: dict[str, tuple[Metadata, Metadata]] = field(default_factory=dict)
    """By id of a stored record: its metadata before and after."""
    deleted: dict[str, TensorInfo] = field(default_factory=dict)
    """By id of a stored record."""

    def __bool__(self) -> bool:
        """Return whether there are any changes."""
        return bool(self.inserted or self.metadata or self.deleted)

    def copy(self) -> Changes:
        """Return a copy of the changes so far."""
        return Changes(dict(self.inserted), dict(self.metadata), dict(self.deleted))

    def applied(self, info: TensorInfo) -> TensorInfo:
        """Return the description of a stored record after the changes."""
        changed = self.metadata.get(info.id)
        return info if changed is None else replace(info, metadata=changed[1])

    def require_not_deleted(self, dataset: str, record_id: str) -> None:
        """Raise `TensorNotFoundError` if the record is deleted."""
        if record_id in self.deleted:
            raise record_missing(dataset, record_id)

    def insert(self, inserted: Inserted) -> None:
        """Insert a record whose id is free, or is freed by these changes."""
        record_id = inserted.info.id
        replaced = self.deleted.pop(record_id, None)
        if replaced is not None:
            new = replace(inserted.new, if_generation_match=replaced.generation)
            inserted = replace(inserted, new=new)
        self.inserted[record_id] = inserted

    def update(self, info: TensorInfo, metadata: Metadata) -> None:
        """Replace a record's metadata."""
        inserted = self.inserted.get(info.id)
        if inserted is None:
            before = self.metadata[info.id][0] if info.id in self.metadata else info.metadata
            self.metadata[info.id] = (before, metadata)
        else:
            self.inserted[info.id] = Inserted(
                replace(inserted.new, metadata=metadata), replace(inserted.info, metadata=metadata)
            )

    def delete(self, info: TensorInfo) -> None:
        """Delete a record."""
        self.metadata.pop(info.id, None)
        inserted = self.inserted.pop(info.id, None)
        if inserted is None or inserted.new.if_generation_match is not None:
            generation = info.generation if inserted is None else inserted.new.if_generation_match
            self.deleted[info.id] = replace(info, generation=generation or 0)


def commit(client: Client, changes: Mapping[str, Changes]) -> None:
    """Store all changes; if one fails, undo the earlier ones.

    Raises:
        TensorusError: the error of the change that failed.
    """
    with ExitStack() as undo:
        for dataset, changed in changes.items():
            _insert(client, dataset, [inserted.new for inserted in changed.inserted.values()], undo)
        for dataset, changed in changes.items():
            for record_id, (before, after) in changed.metadata.items():
                client.update_metadata(dataset, record_id, after)
                undo.callback(_undo, client.update_metadata, dataset, record_id, before)
        for dataset, changed in changes.items():
            if changed.deleted:
                client.delete(dataset, list(changed.deleted))
        undo.pop_all()


def insert_together(client: Client, dataset: str, tensors: Sequence[NewTensor]) -> None:
    """Store all of these tensors, or none if one fails."""
    with ExitStack() as undo:
        _insert(client, dataset, tensors, undo)
        undo.pop_all()


def _insert(client: Client, dataset: str, tensors: Sequence[NewTensor], undo: ExitStack) -> None:
    for group in _groups(tensors):
        inserted = client.insert_many(dataset, group, all_or_nothing=True)
        # Undoing a replacement only deletes the new record; the replaced one is lost.
        undo.callback(_undo, client.delete, dataset, [info.id for info in inserted])


def _groups(tensors: Sequence[NewTensor]) -> Iterator[Sequence[NewTensor]]:
    for start in range(0, len(tensors), _TOGETHER_MAX):
        yield tensors[start : start + _TOGETHER_MAX]


def _undo(step: Callable[..., object], *arguments: Any) -> None:  # `Any`: of the step
    """Undo a step. An error is only logged, since the caller raises the error that made this necessary."""
    try:
        step(*arguments)
    except errors.TensorusError:
        _log.exception("a step of a transaction that failed could not be undone: %r", arguments)
