"""What the asynchronous client copies, moves and renames."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tensorus._arguments import at_of, copies_of, dataset_name
from tensorus._grpc import calls_copies
from tensorus.aio._history_client import AsyncHistoryClient

if TYPE_CHECKING:
    import builtins
    from collections.abc import Mapping

    from tensorus.types import At, DatasetInfo, TensorInfo

__all__ = ["AsyncCopyingClient"]


class AsyncCopyingClient(AsyncHistoryClient):
    """The part of `AsyncClient` that copies, moves and renames tensors and datasets."""

    async def copy(
        self,
        dataset: str,
        id: str,  # noqa: A002 - the field's word
        new_id: str | None = None,
        *,
        to: str | None = None,
        at: At | None = None,
        replace: bool = False,
    ) -> TensorInfo:
        """Copy a tensor, and return the copy. See `tensorus.Client.copy`."""
        copies = copies_of(dataset, {id: new_id}, to, at=at, replace=replace)
        (copied,) = await self._backend.call(calls_copies.copy_tensors(copies))
        return copied

    async def copy_many(
        self,
        dataset: str,
        ids: Mapping[str, str | None],
        *,
        to: str | None = None,
        at: At | None = None,
        replace: bool = False,
    ) -> builtins.list[TensorInfo]:
        """Copy several tensors, all or none. See `tensorus.Client.copy_many`."""
        copies = copies_of(dataset, ids, to, at=at, replace=replace)
        return await self._backend.call(calls_copies.copy_tensors(copies))

    async def move(
        self,
        dataset: str,
        id: str,  # noqa: A002 - the field's word
        new_id: str | None = None,
        *,
        to: str | None = None,
        replace: bool = False,
    ) -> TensorInfo:
        """Move a tensor, and return it. See `tensorus.Client.move`."""
        copies = copies_of(dataset, {id: new_id}, to, replace=replace, move=True)
        (moved,) = await self._backend.call(calls_copies.copy_tensors(copies))
        return moved

    async def move_many(
        self, dataset: str, ids: Mapping[str, str | None], *, to: str | None = None, replace: bool = False
    ) -> builtins.list[TensorInfo]:
        """Move several tensors, all or none. See `tensorus.Client.move_many`."""
        copies = copies_of(dataset, ids, to, replace=replace, move=True)
        return await self._backend.call(calls_copies.copy_tensors(copies))

    async def rename(self, dataset: str, id: str, new_id: str) -> TensorInfo:  # noqa: A002 - the field's word
        """Give a tensor another id in its dataset. See `tensorus.Client.rename`."""
        copies = copies_of(dataset, {id: new_id}, None, move=True)
        (renamed,) = await self._backend.call(calls_copies.copy_tensors(copies))
        return renamed

    async def copy_dataset(self, name: str, new_name: str, *, at: At | None = None) -> DatasetInfo:
        """Create a dataset with all tensors of another one. See `tensorus.Client.copy_dataset`."""
        call = calls_copies.copy_dataset(dataset_name(name), dataset_name(new_name), at_of(at))
        return await self._backend.call(call)

    async def rename_dataset(self, name: str, new_name: str) -> DatasetInfo:
        """Give a dataset another name. See `tensorus.Client.rename_dataset`."""
        return await self._backend.call(calls_copies.rename_dataset(dataset_name(name), dataset_name(new_name)))
