"""How `put` stores tensors: it waits while the server's disk is full, and replaces stored tensors on request."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from tensorus._grpc.patience import Patience
from tensorus.errors import InsertManyError, StorageFullError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    import tensorus
    from tensorus._grpc.patience import Observer
    from tensorus.types import NewTensor, Progress, TensorInfo

__all__ = ["outcome", "store_all"]

_DISK_FULL = frozenset({"STORAGE_FULL"})


def outcome(info: TensorInfo) -> str:
    """Return the outcome of an insert: "stored", or "present" if the same tensor was already stored."""
    return "stored" if info.inserted else "present"


def store_all(
    client: tensorus.Client,
    dataset: str,
    load: Mapping[str, Callable[[], NewTensor]],
    *,
    replaces: bool,
    asks: bool,
    disk_timeout_s: float,
    on_progress: Callable[[Progress], None],
    on_disk_full: Observer,
) -> list[TensorInfo]:
    """Store tensors, and return their descriptions in the same order.

    Args:
        client: client of the store.
        dataset: name of the dataset.
        load: a function for each id that returns the tensor; may be called several times.
        replaces: replace stored tensors that have the same ids.
        asks: ask which tensors the store has before sending them.
        on_progress: called with the progress of all tensors, including those stored before a wait.
        disk_timeout_s: how long to wait for a full disk while nothing can be stored, in seconds.
        on_disk_full: called before each wait.

    Raises:
        InsertManyError: some tensors were not stored.
        StorageFullError: the disk stayed full.
    """
    done: dict[str, TensorInfo] = {}
    patience = Patience(disk_timeout_s, on_disk_full, reasons=_DISK_FULL)
    while True:
        left = [tensor_id for tensor_id in load if tensor_id not in done]
        before_bytes = sum(info.canonical_bytes for info in done.values())

        def show(progress: Progress, before_bytes: int = before_bytes) -> None:
            on_progress(replace(progress, done_bytes=before_bytes + progress.done_bytes))

        try:
            for info in client.insert_many(
                dataset,
                (load[tensor_id]() for tensor_id in left),
                on_progress=show,
                ask_first=asks,
                on_conflict="replace" if replaces else "error",
            ):
                done[info.id] = info
        except InsertManyError as error:
            done |= {info.id: info for info in error.inserted}
            if _all_of(error, _DISK_FULL):
                patience.wait(StorageFullError(str(error), reason=error.reason, facts=error.facts), (len(done),))
            else:
                raise
        except StorageFullError as error:
            patience.wait(error, (len(done),))
        else:
            return [done[tensor_id] for tensor_id in load]


def _all_of(error: InsertManyError, reasons: Collection[str]) -> bool:
    return all(failure.reason in reasons for _, failure in error.failed)
