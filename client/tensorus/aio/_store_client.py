"""What the asynchronous client does with datasets and with the store as a whole, and its life."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import TYPE_CHECKING, Self

from tensorus._arguments import at_of, dataset_name, dataset_taken, policy_of, retention_of, verified_part
from tensorus._arrays.assemble import Assembler
from tensorus._damage import intact
from tensorus._grpc import calls, calls_access
from tensorus._grpc.aio_remote import AsyncRemoteBackend
from tensorus._grpc.verify import verify
from tensorus._verifying import Verifying
from tensorus.aio._streams import each
from tensorus.errors import AlreadyExistsError, UnavailableError

if TYPE_CHECKING:
    import builtins
    from collections.abc import Iterable
    from datetime import timedelta

    from tensorus._connection import Connection
    from tensorus._damage import OnDamaged
    from tensorus._verifying import OnDamage, OnVerifyProgress
    from tensorus.access import ServerStatus
    from tensorus.aio._access import AsyncAccess
    from tensorus.types import At, DatasetInfo, DatasetStats, Policy, Schema, StoreStats, VerifyReport

__all__ = ["AsyncStoreClient"]


class AsyncStoreClient:
    """The part of `AsyncClient` that reads and writes no tensors."""

    def __init__(
        self, connection: Connection, *, timeout_s: float, retry_timeout_s: float, direct_reads: bool = True
    ) -> None:
        """Connect when it is first used."""
        self._opened = AsyncRemoteBackend(
            connection, timeout_s=timeout_s, retry_timeout_s=retry_timeout_s, direct_reads=direct_reads
        )
        self._closed = False
        self._assembler = Assembler()

    async def __aenter__(self) -> Self:
        """Return the client."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close it."""
        await self.close()

    async def close(self) -> None:
        """End all use. Idempotent."""
        self._closed = True
        await self._opened.close()
        await asyncio.to_thread(self._assembler.close)

    async def create_dataset(
        self,
        name: str,
        *,
        preset: str | None = None,
        policy: Policy | None = None,
        schema: Schema | None = None,
        retention: timedelta | None = None,
        exist_ok: bool = False,
    ) -> DatasetInfo:
        """Create a dataset. See `tensorus.Client.create_dataset`."""
        backend = self._backend
        wanted = policy_of(preset, policy)
        try:
            return await backend.call(
                calls.create_dataset(dataset_name(name), wanted, schema, retention_of(retention), repeatable=exist_ok)
            )
        except AlreadyExistsError as error:
            if not exist_ok:
                raise dataset_taken(error) from None
            return await backend.call(calls.get_dataset(name))

    async def datasets(self, *, on_damaged: OnDamaged = None) -> builtins.list[DatasetInfo]:
        """Return all datasets in order of creation. See `tensorus.Client.datasets`."""
        return [*intact(await self._backend.result(calls.list_datasets()), on_damaged)]

    async def dataset(self, name: str) -> DatasetInfo:
        """Return a dataset. See `tensorus.Client.dataset`."""
        return await self._backend.call(calls.get_dataset(dataset_name(name)))

    async def update_dataset(
        self,
        name: str,
        *,
        preset: str | None = None,
        policy: Policy | None = None,
        schema: Schema | None = None,
        retention: timedelta | None = None,
    ) -> DatasetInfo:
        """Replace how later tensors are stored, and how long past ones are kept. See `tensorus.Client.update_dataset`."""
        backend = self._backend
        wanted = policy_of(preset, policy)
        return await backend.call(calls.update_dataset(dataset_name(name), wanted, schema, retention_of(retention)))

    async def delete_dataset(self, name: str, *, drop_snapshots: bool = False) -> int:
        """Delete a dataset with all its tensors. See `tensorus.Client.delete_dataset`."""
        return await self._backend.call(calls.delete_dataset(dataset_name(name), drop_snapshots=drop_snapshots))

    async def stats(self, dataset: str, *, at: At | None = None) -> DatasetStats:
        """Return sums over a dataset's tensors. See `tensorus.Client.stats`."""
        return await self._backend.call(calls.dataset_stats(dataset_name(dataset), at_of(at)))

    @property
    def access(self) -> AsyncAccess:
        """Tokens, rights and quotas, for administrators. See `tensorus.Client.access`."""
        from tensorus.aio._access import AsyncAccess  # noqa: PLC0415 - few programs need it

        return AsyncAccess(self._backend)

    async def server_status(self) -> ServerStatus:
        """Return what serves the store. See `tensorus.Client.server_status`."""
        return await self._backend.call(calls_access.server_status())

    async def store_stats(self) -> StoreStats:
        """Return the sizes of the whole store. See `tensorus.Client.store_stats`."""
        return await self._backend.call(calls.store_stats())

    async def verify(
        self,
        dataset: str | None = None,
        ids: str | Iterable[str] | None = None,
        *,
        max_bytes_per_second: int | None = None,
        on_damage: OnDamage = None,
        on_progress: OnVerifyProgress = None,
    ) -> VerifyReport:
        """Verify every checksum of what is stored, and report all damage. See `tensorus.Client.verify`."""
        found = Verifying(on_damage, on_progress)
        steps = verify(*verified_part(dataset, ids, max_bytes_per_second))
        async with aclosing(each(self._backend.values(steps, iter))) as findings:
            async for finding in findings:
                found.take(finding)
        return found.report

    @property
    def _backend(self) -> AsyncRemoteBackend:
        if self._closed:
            raise UnavailableError("the client is closed", reason="UNAVAILABLE")
        return self._opened
