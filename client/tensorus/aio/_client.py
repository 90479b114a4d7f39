"""The asynchronous client: what `client.py` is, for asyncio. Arguments, values and errors are the same."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable
from contextlib import aclosing
from itertools import starmap
from typing import TYPE_CHECKING, Any, TypeVar

from tensorus._arguments import (
    DELETES_PER_CALL,
    READS_PER_CALL,
    at_of,
    batches,
    dataset_name,
    inserted_many,
    inserted_one,
    listing_of,
    part_of,
    policies_of,
    policy_of,
    precision_of,
    progress_of,
    record_of,
    sample_from,
    selection_of,
    tensor_name,
    upload_of,
    uploads_of,
    without_result,
)
from tensorus._arrays.assemble import headers
from tensorus._asking import Asking, require_askable
from tensorus._backend import InsertOptions
from tensorus._damage import intact
from tensorus._edits import append_of, write_of
from tensorus._grpc import calls, direct, reads
from tensorus._grpc.known import insert_known
from tensorus.aio._copying_client import AsyncCopyingClient
from tensorus.aio._streams import Damages, FromLoop, OnLoop, each
from tensorus.types import NewTensor, Record

if TYPE_CHECKING:
    import builtins
    from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence

    from tensorus._arrays.canonical import AnyArray
    from tensorus._backend import Arrival, Listing, Upload
    from tensorus._damage import OnDamaged
    from tensorus._grpc.aio_remote import AsyncRemoteBackend
    from tensorus._grpc.steps import Steps
    from tensorus._where import Where
    from tensorus.errors import TensorusError
    from tensorus.types import (
        AsArray,
        At,
        Base,
        Index,
        OnConflict,
        Policy,
        PolicyExplanation,
        Precision,
        Progress,
        TensorInfo,
    )

__all__ = ["AsyncClient"]

T = TypeVar("T")


class AsyncClient(AsyncCopyingClient):
    """Made by `tensorus.aio.connect`; an asynchronous context manager. For one event loop, in any number of its tasks.

    Methods, arguments and errors are those of `tensorus.Client`. Callbacks are called on the event loop.
    """

    async def insert(
        self,
        dataset: str,
        tensor: object,
        *,
        id: str | None = None,  # noqa: A002 - the field's word
        metadata: Mapping[str, Any] | None = None,
        preset: str | None = None,
        policy: Policy | None = None,
        if_generation_match: int | None = None,
        on_conflict: OnConflict = "error",
        base: Base | None = None,
        validate_only: bool = False,
        ask_first: bool = False,
        on_progress: Callable[[Progress], None] | None = None,
    ) -> TensorInfo:
        """Store one tensor. See `tensorus.Client.insert`."""
        new = NewTensor(tensor, id, metadata, policy_of(preset, policy), if_generation_match, base=base)
        upload = await self._backend.in_thread(upload_of, new, on_conflict)
        options = InsertOptions(validate_only=validate_only)
        require_askable(ask_first=ask_first, validate_only=validate_only)
        return await self._insert_one(dataset, upload, options, on_progress, ask_first=ask_first)

    async def insert_many(
        self,
        dataset: str,
        tensors: Iterable[object] | AsyncIterable[object],
        *,
        all_or_nothing: bool = False,
        on_conflict: OnConflict = "error",
        validate_only: bool = False,
        ask_first: bool = False,
        on_progress: Callable[[Progress], None] | None = None,
    ) -> builtins.list[TensorInfo]:
        """Store many tensors in one stream. See `tensorus.Client.insert_many`.

        Args:
            tensors: what `tensorus.Client.insert_many` takes, iterated on a thread; or the same as an asynchronous iterable,
                iterated on the event loop.
        """
        source = FromLoop(tensors) if isinstance(tensors, AsyncIterable) else tensors
        ids: builtins.list[str] = []
        uploads = uploads_of(source, on_conflict, ids)
        options = InsertOptions(all_or_nothing, validate_only)
        require_askable(ask_first=ask_first, all_or_nothing=all_or_nothing, validate_only=validate_only)
        insert = self._insert_asking if ask_first else self._backend.insert
        try:
            outcomes = await insert(dataset_name(dataset), uploads, options, on_progress)
        finally:
            if isinstance(source, FromLoop):
                source.close()
        return inserted_many(dataset, ids, outcomes)

    async def append(
        self,
        dataset: str,
        id: str,  # noqa: A002 - the field's word
        values: object,
        *,
        axis: int = 0,
        if_generation_match: int | None = None,
        on_progress: Callable[[Progress], None] | None = None,
    ) -> TensorInfo:
        """Append values to a stored tensor. See `tensorus.Client.append`."""
        upload = await self._backend.in_thread(append_of, tensor_name(id), values, axis, if_generation_match)
        return await self._insert_one(dataset, upload, InsertOptions(), on_progress)

    async def write(
        self,
        dataset: str,
        id: str,  # noqa: A002 - the field's word
        index: Index,
        values: object,
        *,
        if_generation_match: int | None = None,
        on_progress: Callable[[Progress], None] | None = None,
    ) -> TensorInfo:
        """Write values into a part of a stored tensor. See `tensorus.Client.write`."""
        info = await self.info(dataset, id)
        upload = await self._backend.in_thread(write_of, info, index, values, if_generation_match)
        return await self._insert_one(dataset, upload, InsertOptions(), on_progress)

    async def get(
        self,
        dataset: str,
        id: str,  # noqa: A002 - the field's word
        *,
        index: Index | None = None,
        dtype: str | None = None,
        precision: Precision | None = None,
        as_: AsArray | None = None,
        at: At | None = None,
        on_progress: Callable[[Progress], None] | None = None,
    ) -> Any:  # `Any`: a torch tensor or a NumPy array, as asked for
        """Return a tensor, or a part of it. See `tensorus.Client.get`."""
        part, finish = selection_of(index, dtype, as_, precision)
        report = None
        if on_progress is not None:
            loop = asyncio.get_running_loop()

            def report(progress: Progress) -> None:
                loop.call_soon_threadsafe(on_progress, progress)

        own = self._backend.direct
        steps = direct.get(dataset_name(dataset), [tensor_name(id)], part, with_data=True, at=at_of(at), direct=own)
        async with aclosing(self._read(self._backend, [steps], finish, report)) as found:
            async for array in found:
                return array
        raise without_result("read", dataset, id)

    def get_many(
        self,
        dataset: str,
        ids: Iterable[str],
        *,
        precision: Precision | None = None,
        as_: AsArray | None = None,
        at: At | None = None,
        on_damaged: OnDamaged = None,
    ) -> AsyncIterator[Record]:
        """Yield tensors by id, in order, in one stream. See `tensorus.Client.get_many`."""
        name, wanted = dataset_name(dataset), [tensor_name(tensor_id) for tensor_id in ids]
        part, state, own = part_of(precision), at_of(at), self._backend.direct
        steps = (
            direct.get(name, batch, part, with_data=True, at=state, direct=own)
            for batch in batches(wanted, READS_PER_CALL)
        )
        return self._read(self._backend, steps, record_of(as_), on_damaged=on_damaged)

    def query(
        self,
        dataset: str,
        where: Where | None = None,
        *,
        order_by: str | None = None,
        limit: int | None = None,
        sample: int | None = None,
        seed: int | None = None,
        with_data: bool = True,
        precision: Precision | None = None,
        as_: AsArray | None = None,
        at: At | None = None,
        on_damaged: OnDamaged = None,
    ) -> AsyncIterator[Record]:
        """Yield the tensors that match a filter. See `tensorus.Client.query`."""
        listing = listing_of(dataset, where, order_by=order_by, limit=limit, sample=sample, seed=seed, at=at)
        finish = record_of(as_)
        steps = reads.query(listing, with_data=with_data, precision=precision_of(precision))
        if with_data:
            return self._read(self._backend, [steps], finish, on_damaged=on_damaged)
        damages = Damages(on_damaged)
        found = self._backend.values(
            steps, lambda arrived: (Record(info, None) for info in headers(arrived, damages.add))
        )
        return each(found, damages.tell)

    def list(
        self,
        dataset: str,
        where: Where | None = None,
        *,
        order_by: str | None = None,
        limit: int | None = None,
        at: At | None = None,
        on_damaged: OnDamaged = None,
    ) -> AsyncIterator[TensorInfo]:
        """Yield what is stored in a dataset, without the values. See `tensorus.Client.list`."""
        listing = listing_of(dataset, where, order_by=order_by, limit=limit, at=at)
        return self._list(self._backend, listing, on_damaged)

    async def info(
        self,
        dataset: str,
        id: str,  # noqa: A002 - the field's word
        *,
        precision: Precision | None = None,
        at: At | None = None,
    ) -> TensorInfo:
        """Return everything about a tensor but its values. See `tensorus.Client.info`."""
        part, state = part_of(precision), at_of(at)
        steps = reads.get(dataset_name(dataset), [tensor_name(id)], part, with_data=False, at=state)
        async with aclosing(each(self._backend.values(steps, headers))) as found:
            async for info in found:
                return info
        raise without_result("read", dataset, id)

    async def update_metadata(self, dataset: str, id: str, metadata: Mapping[str, Any]) -> TensorInfo:  # noqa: A002
        """Replace a tensor's metadata, all of it. See `tensorus.Client.update_metadata`."""
        backend = self._backend
        return await backend.call(calls.update_metadata(dataset_name(dataset), tensor_name(id), metadata))

    async def delete(self, dataset: str, ids: str | Sequence[str]) -> int:
        """Delete one or many tensors by id. See `tensorus.Client.delete`."""
        wanted = [tensor_name(tensor_id) for tensor_id in ([ids] if isinstance(ids, str) else ids)]
        deleted = 0
        for batch in batches(wanted, DELETES_PER_CALL):
            deleted += await self._backend.call(calls.delete_tensors(dataset_name(dataset), batch))
        return deleted

    async def explain(
        self, tensor: object, *, policies: Iterable[Policy | str] | None = None, base: Base | None = None
    ) -> builtins.list[PolicyExplanation]:
        """Return what policies would do to a tensor. See `tensorus.Client.explain`."""
        sample = await self._backend.in_thread(sample_from, tensor, base)
        return await self._backend.result(calls.explain(sample, policies_of(policies)))

    async def _insert_one(
        self,
        dataset: str,
        upload: Upload,
        options: InsertOptions,
        on_progress: Callable[[Progress], None] | None,
        *,
        ask_first: bool = False,
    ) -> TensorInfo:
        report = None if on_progress is None else progress_of(upload, on_progress)
        insert = self._insert_asking if ask_first else self._backend.insert
        outcomes = await insert(dataset_name(dataset), [upload], options, report)
        return inserted_one(dataset, upload, outcomes, report)

    async def _insert_asking(
        self,
        dataset: str,
        uploads: Iterable[Upload],
        options: InsertOptions,
        on_progress: Callable[[Progress], None] | None,
    ) -> Mapping[int, TensorInfo | TensorusError]:
        """Insert tensors after asking which ones the store has, and return the outcomes by position."""
        backend, loop = self._backend, asyncio.get_running_loop()

        def report(progress: Progress) -> None:
            if on_progress is not None:
                loop.call_soon_threadsafe(on_progress, progress)

        ask = OnLoop(lambda known: backend.result(insert_known(dataset, known)))
        asking = Asking(uploads, ask, None if on_progress is None else report)
        try:
            if not await backend.in_thread(asking.start):
                return asking.joined({})
            return asking.joined(await backend.insert(dataset, asking, options, asking.on_progress))
        finally:
            ask.close()

    async def _read(
        self,
        backend: AsyncRemoteBackend,
        reads: Iterable[Steps[Arrival, None]],
        finish: Callable[[TensorInfo, AnyArray], T],
        on_progress: Callable[[Progress], None] | None = None,
        on_damaged: OnDamaged = None,
    ) -> AsyncGenerator[T, None]:
        """Yield what `finish` makes of each tensor of one read after the other, on a thread."""
        damages = Damages(on_damaged)
        assembly = self._assembler.begin(on_progress, damages.add)

        def take(arrived: Iterable[Arrival]) -> Iterator[T]:
            complete = filter(None, map(assembly.take, arrived))
            return starmap(finish, complete)

        for steps in reads:
            found = backend.values(steps, take)
            async with aclosing(each(found, damages.tell)) as values:
                async for value in values:
                    yield value
        assembly.end()
        damages.tell()

    async def _list(
        self, backend: AsyncRemoteBackend, listing: Listing, on_damaged: OnDamaged
    ) -> AsyncIterator[TensorInfo]:
        async with aclosing(backend.values(calls.list_tensors(listing), iter)) as pages:
            async for page in pages:
                for info in intact(page, on_damaged):
                    yield info
