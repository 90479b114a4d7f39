"""How `put` stores tensors: it waits while the server's disk is full, and replaces what is there where it is asked to."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from tensorus._arguments import batches
from tensorus._patience import Patience
from tensorus.errors import InsertManyError, StorageFullError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping

    import tensorus
    from tensorus._patience import Observer
    from tensorus.types import NewTensor, Progress, TensorInfo

__all__ = ["outcome", "store_all", "stored"]

_DISK_FULL = frozenset({"STORAGE_FULL"})

_REPLACED_MEANWHILE = frozenset({"GENERATION_MISMATCH", "ALREADY_EXISTS", "TENSOR_NOT_FOUND"})
"""Of tensors that were to be replaced: somebody else replaced, stored or deleted them since they were looked up."""

_RACES_MAX = 10
"""Attempts to replace what others replace, too."""

_IDS_PER_FILTER = 40
"""With ids of the largest size, a filter of so many is below the 64 KiB that a server takes."""


def outcome(info: TensorInfo) -> str:
    """Return what an insert did: "stored", or "present" where the same tensor was there already."""
    return "stored" if getattr(info, "inserted", True) else "present"


def stored(client: tensorus.Client, dataset: str, ids: Iterable[str]) -> dict[str, TensorInfo]:
    """Return what is stored under these ids, by id; without those under which there is nothing."""
    found: dict[str, TensorInfo] = {}
    for batch in batches(list(dict.fromkeys(ids)), _IDS_PER_FILTER):
        if batch:
            found |= {info.id: info for info in client.list(dataset, {"@id": batch})}
    return found


def store_all(
    client: tensorus.Client,
    dataset: str,
    load: Mapping[str, Callable[[], NewTensor]],
    *,
    replaces: bool,
    disk_timeout_s: float,
    on_progress: Callable[[Progress], None],
    on_disk_full: Observer,
) -> list[TensorInfo]:
    """Store tensors, and return what is stored, in their order.

    Args:
        load: each returns a tensor, as often as it is called; by id.
        replaces: whether a tensor takes the place of another one of its id.
        disk_timeout_s: how long to wait for a disk that is full, without storing anything, in seconds.
        on_disk_full: called before each wait for it.

    Raises:
        InsertManyError: some were not stored.
        StorageFullError: the disk stayed full.
    """
    done: dict[str, TensorInfo] = {}
    patience = Patience(disk_timeout_s, on_disk_full, reasons=_DISK_FULL)
    races = 0
    while True:
        left = [tensor_id for tensor_id in load if tensor_id not in done]
        try:
            for info in client.insert_many(
                dataset, _tensors(client, dataset, load, left, replaces=replaces), on_progress=on_progress
            ):
                done[info.id] = info
        except InsertManyError as error:
            done |= {info.id: info for info in error.inserted}
            if _all_of(error, _DISK_FULL):
                patience.wait(StorageFullError(str(error), reason=error.reason, facts=error.facts), (len(done),))
            elif replaces and races < _RACES_MAX and _all_of(error, _DISK_FULL | _REPLACED_MEANWHILE):
                races += 1
            else:
                raise
        except StorageFullError as error:
            patience.wait(error, (len(done),))
        else:
            return [done[tensor_id] for tensor_id in load]


def _all_of(error: InsertManyError, reasons: Collection[str]) -> bool:
    return all(failure.reason in reasons for _, failure in error.failed)


def _tensors(
    client: tensorus.Client,
    dataset: str,
    load: Mapping[str, Callable[[], NewTensor]],
    ids: Collection[str],
    *,
    replaces: bool,
) -> Iterator[NewTensor]:
    """Yield tensors; where they are to replace others, with the generation of what is there."""
    there = stored(client, dataset, ids) if replaces else {}
    for tensor_id in ids:
        new = load[tensor_id]()
        found = there.get(tensor_id)
        yield new if found is None else replace(new, if_generation_match=found.generation)
