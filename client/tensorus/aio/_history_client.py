"""What the asynchronous client does with snapshots and earlier states of datasets."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tensorus._arguments import dataset_name, restored_state, snapshot_name
from tensorus._damage import intact
from tensorus._grpc import calls_history
from tensorus.aio._store_client import AsyncStoreClient

if TYPE_CHECKING:
    import builtins

    from tensorus._damage import OnDamaged
    from tensorus.types import At, RestoreReport, SnapshotInfo

__all__ = ["AsyncHistoryClient"]


class AsyncHistoryClient(AsyncStoreClient):
    """The part of `AsyncClient` that makes snapshots and goes back to earlier states."""

    async def snapshot(self, dataset: str, name: str) -> SnapshotInfo:
        """Give the current state of a dataset a name. See `tensorus.Client.snapshot`."""
        return await self._backend.call(calls_history.create_snapshot(dataset_name(dataset), snapshot_name(name)))

    async def snapshots(self, dataset: str, *, on_damaged: OnDamaged = None) -> builtins.list[SnapshotInfo]:
        """Return the snapshots of a dataset, oldest first. See `tensorus.Client.snapshots`."""
        found = await self._backend.result(calls_history.list_snapshots(dataset_name(dataset)))
        return [*intact(found, on_damaged)]

    async def drop_snapshot(self, dataset: str, name: str) -> None:
        """Drop a snapshot. See `tensorus.Client.drop_snapshot`."""
        await self._backend.call(calls_history.drop_snapshot(dataset_name(dataset), snapshot_name(name)))

    async def restore(self, dataset: str, at: At, *, discard_newer: bool = False) -> RestoreReport:
        """Make the tensors of a dataset those of an earlier state. See `tensorus.Client.restore`."""
        name, state = dataset_name(dataset), restored_state(at)
        return await self._backend.call(calls_history.restore(name, state, discard_newer=discard_newer))
