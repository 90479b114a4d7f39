"""The asynchronous client: what `client.py` is, for asyncio. Arguments, values and errors are the same."""

from __future__ import annotations

import asyncio
import builtins
import threading
from collections import deque
from collections.abc import AsyncIterable
from contextlib import aclosing
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

from tensorus import _calls
from tensorus._arguments import (
    DELETES_PER_CALL,
    READS_PER_CALL,
    array_kind,
    batches,
    dataset_name,
    dataset_taken,
    inserted_many,
    inserted_one,
    listing_of,
    new_tensor,
    policies_of,
    policy_of,
    progress_of,
    sample_from,
    tensor_name,
    upload_of,
    without_result,
)
from tensorus._arrays import from_canonical
from tensorus._backend import Began, Failed, InsertOptions, Part
from tensorus._convert import damage_from, tensor_from
from tensorus._damage import intact, tell
from tensorus._indexing import parse_index
from tensorus._transfer import Assembler
from tensorus.aio._backend import AsyncRemoteBackend
from tensorus.errors import AlreadyExistsError, DataCorruptError, UnavailableError
from tensorus.types import NewTensor, Progress, Record

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
    from concurrent.futures import Future

    from tensorus._arrays import AnyArray
    from tensorus._backend import Arrival, Listing, Upload
    from tensorus._damage import OnDamaged
    from tensorus._transfer import Assembly
    from tensorus._where import Where
    from tensorus.aio._backend import Reader
    from tensorus.types import (
        AsArray,
        DatasetInfo,
        DatasetStats,
        Index,
        OnConflict,
        Policy,
        PolicyExplanation,
        Schema,
        TensorInfo,
    )

__all__ = ["AsyncClient"]

T = TypeVar("T")


class AsyncClient:
    """Made by `tensorus.aio.connect`; an asynchronous context manager. For one event loop, in any number of its tasks.

    Methods, arguments and errors are those of `tensorus.Client`. Callbacks are called on the event loop.
    """

    def __init__(self, address: str, *, timeout_s: float, retry_timeout_s: float) -> None:
        """Connect when it is first used."""
        self._opened = AsyncRemoteBackend(address, timeout_s=timeout_s, retry_timeout_s=retry_timeout_s)
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
        exist_ok: bool = False,
    ) -> DatasetInfo:
        """Create a dataset. See `tensorus.Client.create_dataset`."""
        backend = self._backend
        try:
            return await backend.call(
                _calls.create_dataset(dataset_name(name), policy_of(preset, policy), schema, repeatable=exist_ok)
            )
        except AlreadyExistsError as error:
            if not exist_ok:
                raise dataset_taken(error) from None
            return await backend.call(_calls.get_dataset(name))

    async def datasets(self, *, on_damaged: OnDamaged = None) -> builtins.list[DatasetInfo]:
        """Return all datasets in order of creation. See `tensorus.Client.datasets`."""
        backend = self._backend
        found: builtins.list[DatasetInfo | DataCorruptError] = []
        token = ""
        while True:
            page, token = await backend.call(_calls.list_datasets(token))
            found += page
            if not token:
                return [*intact(found, on_damaged)]

    async def dataset(self, name: str) -> DatasetInfo:
        """Return a dataset. See `tensorus.Client.dataset`."""
        return await self._backend.call(_calls.get_dataset(dataset_name(name)))

    async def update_dataset(
        self, name: str, *, preset: str | None = None, policy: Policy | None = None, schema: Schema | None = None
    ) -> DatasetInfo:
        """Replace how later tensors are stored. See `tensorus.Client.update_dataset`."""
        backend = self._backend
        return await backend.call(_calls.update_dataset(dataset_name(name), policy_of(preset, policy), schema))

    async def delete_dataset(self, name: str) -> int:
        """Delete a dataset with all its tensors. See `tensorus.Client.delete_dataset`."""
        return await self._backend.call(_calls.delete_dataset(dataset_name(name)))

    async def stats(self, dataset: str) -> DatasetStats:
        """Return sums over a dataset's tensors. See `tensorus.Client.stats`."""
        return await self._backend.call(_calls.dataset_stats(dataset_name(dataset)))

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
        validate_only: bool = False,
        on_progress: Callable[[Progress], None] | None = None,
    ) -> TensorInfo:
        """Store one tensor. See `tensorus.Client.insert`."""
        new = NewTensor(tensor, id, metadata, policy_of(preset, policy), if_generation_match)
        upload = await self._backend.in_thread(upload_of, new, on_conflict)
        options = InsertOptions(validate_only=validate_only)
        report = None if on_progress is None else progress_of(upload, on_progress)
        outcomes = await self._backend.insert(dataset_name(dataset), [upload], options, report)
        inserted = inserted_one(dataset, upload, outcomes)
        if report is not None:
            report(Progress(upload.id, upload.canonical_bytes, upload.canonical_bytes))
        return inserted

    async def insert_many(
        self,
        dataset: str,
        tensors: Iterable[object] | AsyncIterable[object],
        *,
        all_or_nothing: bool = False,
        on_conflict: OnConflict = "error",
        validate_only: bool = False,
        on_progress: Callable[[Progress], None] | None = None,
    ) -> builtins.list[TensorInfo]:
        """Store many tensors in one stream. See `tensorus.Client.insert_many`.

        Args:
            tensors: what `tensorus.Client.insert_many` takes, iterated on a thread; or the same as an asynchronous iterable,
                iterated on the event loop.
        """
        ids: list[str] = []
        source = _FromLoop(tensors) if isinstance(tensors, AsyncIterable) else None
        found: Iterable[object] = tensors if source is None else source  # type: ignore[assignment]  # not narrowed by `source`

        def uploads() -> Iterator[Upload]:
            for tensor in found:
                upload = upload_of(new_tensor(tensor), on_conflict)
                ids.append(upload.id)
                yield upload

        options = InsertOptions(all_or_nothing, validate_only)
        try:
            outcomes = await self._backend.insert(dataset_name(dataset), uploads(), options, on_progress)
        finally:
            if source is not None:
                source.close()
        return inserted_many(dataset, ids, outcomes)

    async def get(
        self,
        dataset: str,
        id: str,  # noqa: A002 - the field's word
        *,
        index: Index | None = None,
        dtype: str | None = None,
        as_: AsArray | None = None,
        on_progress: Callable[[Progress], None] | None = None,
    ) -> Any:  # `Any`: a torch tensor or a NumPy array, as asked for
        """Return a tensor, or a part of it. See `tensorus.Client.get`."""
        parsed = None if index is None else parse_index(index)
        axes = Part() if parsed is None else Part(parsed.axes, parsed.trailing_axes)
        part = None if parsed is None and dtype is None else replace(axes, dtype=dtype)
        kind = array_kind(as_)

        def finish(info: TensorInfo, array: AnyArray) -> Any:  # `Any`: as above
            return from_canonical(array if parsed is None else parsed.apply(array, info.shape), kind)

        report = None
        if on_progress is not None:
            loop = asyncio.get_running_loop()

            def report(progress: Progress) -> None:
                loop.call_soon_threadsafe(on_progress, progress)

        reader = _Tensors(self._assembler.begin(report), finish)
        async with aclosing(self._backend.get(dataset_name(dataset), [tensor_name(id)], part, reader)) as found:
            async for array in found:
                return array
        raise without_result("read", dataset, id)

    def get_many(
        self, dataset: str, ids: Iterable[str], *, as_: AsArray | None = None, on_damaged: OnDamaged = None
    ) -> AsyncIterator[Record]:
        """Yield tensors by id, in order, in one stream. See `tensorus.Client.get_many`."""
        name, wanted = dataset_name(dataset), [tensor_name(tensor_id) for tensor_id in ids]
        return self._get_many(self._backend, name, wanted, array_kind(as_), on_damaged)

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
        as_: AsArray | None = None,
        on_damaged: OnDamaged = None,
    ) -> AsyncIterator[Record]:
        """Yield the tensors that match a filter. See `tensorus.Client.query`."""
        listing = listing_of(dataset, where, order_by=order_by, limit=limit, sample=sample, seed=seed)
        return self._query(self._backend, listing, array_kind(as_), on_damaged, with_data=with_data)

    def list(
        self,
        dataset: str,
        where: Where | None = None,
        *,
        order_by: str | None = None,
        limit: int | None = None,
        on_damaged: OnDamaged = None,
    ) -> AsyncIterator[TensorInfo]:
        """Yield what is stored in a dataset, without the values. See `tensorus.Client.list`."""
        return self._list(self._backend, listing_of(dataset, where, order_by=order_by, limit=limit), on_damaged)

    async def info(self, dataset: str, id: str) -> TensorInfo:  # noqa: A002 - the field's word
        """Return everything about a tensor but its values. See `tensorus.Client.info`."""
        reads = self._backend.get(dataset_name(dataset), [tensor_name(id)], None, _Headers())
        async with aclosing(reads) as found:
            async for record in found:
                return record.info
        raise without_result("read", dataset, id)

    async def update_metadata(self, dataset: str, id: str, metadata: Mapping[str, Any]) -> TensorInfo:  # noqa: A002
        """Replace a tensor's metadata, all of it. See `tensorus.Client.update_metadata`."""
        backend = self._backend
        return await backend.call(_calls.update_metadata(dataset_name(dataset), tensor_name(id), metadata))

    async def delete(self, dataset: str, ids: str | Sequence[str]) -> int:
        """Delete one or many tensors by id. See `tensorus.Client.delete`."""
        wanted = [tensor_name(tensor_id) for tensor_id in ([ids] if isinstance(ids, str) else ids)]
        deleted = 0
        for batch in batches(wanted, DELETES_PER_CALL):
            deleted += await self._backend.call(_calls.delete_tensors(dataset_name(dataset), batch))
        return deleted

    async def explain(
        self, tensor: object, *, policies: Iterable[Policy | str] | None = None
    ) -> builtins.list[PolicyExplanation]:
        """Return what policies would do to a tensor. See `tensorus.Client.explain`."""
        sample = await self._backend.in_thread(sample_from, tensor)
        return await self._backend.explain(sample, policies_of(policies))

    @property
    def _backend(self) -> AsyncRemoteBackend:
        if self._closed:
            raise UnavailableError("the client is closed", reason="UNAVAILABLE")
        return self._opened

    def _records(self, kind: AsArray, on_damaged: OnDamaged) -> Reader[Record]:
        def finish(info: TensorInfo, array: AnyArray) -> Record:
            return Record(info, from_canonical(array, kind))

        return _Tensors(self._assembler.begin(on_damaged=on_damaged), finish)

    async def _get_many(
        self,
        backend: AsyncRemoteBackend,
        dataset: str,
        ids: builtins.list[str],
        kind: AsArray,
        on_damaged: OnDamaged,
    ) -> AsyncIterator[Record]:
        damages = _Damages(on_damaged)
        for batch in batches(ids, READS_PER_CALL):
            async with aclosing(backend.get(dataset, batch, None, self._records(kind, damages.add))) as found:
                async for record in damages.told_before(found):
                    yield record

    async def _query(
        self, backend: AsyncRemoteBackend, listing: Listing, kind: AsArray, on_damaged: OnDamaged, *, with_data: bool
    ) -> AsyncIterator[Record]:
        damages = _Damages(on_damaged)
        reader = self._records(kind, damages.add) if with_data else _Headers(damages.add)
        async with aclosing(backend.query(listing, reader)) as found:
            async for record in damages.told_before(found):
                yield record

    async def _list(
        self, backend: AsyncRemoteBackend, listing: Listing, on_damaged: OnDamaged
    ) -> AsyncIterator[TensorInfo]:
        token, count = "", 0
        while True:
            page = await backend.call(_calls.list_page(_calls.list_request(listing, token, count)))
            left = len(page.tensors) if listing.limit is None else listing.limit - count
            wanted: builtins.list[TensorInfo] = await backend.in_thread(
                builtins.list, map(tensor_from, page.tensors[:left])
            )
            for info in wanted:
                yield info
            count += len(wanted)
            left = len(page.damages) if listing.limit is None else listing.limit - count
            for damage in page.damages[:left]:
                tell(damage_from(damage), on_damaged)
            count += len(page.damages[:left])
            token = page.next_page_token
            if not token or count == listing.limit:
                return


class _Tensors(Generic[T]):
    """Reads whole tensors."""

    with_data = True

    def __init__(self, assembly: Assembly, finish: Callable[[TensorInfo, AnyArray], T]) -> None:
        self._assembly = assembly
        self._finish = finish

    def take(self, arrived: Iterator[Arrival]) -> Iterator[T]:
        for arrival in arrived:
            complete = self._assembly.take(arrival)
            if complete is not None:
                yield self._finish(*complete)

    def end(self) -> None:
        self._assembly.end()


class _Damages:
    """The damaged tensors of a read: threads find them, and the task that reads tells of them, on the event loop."""

    def __init__(self, on_damaged: OnDamaged) -> None:
        self._on_damaged = on_damaged
        self._found: deque[DataCorruptError] = deque()
        self.add: OnDamaged = None if on_damaged is None else self._found.append

    async def told_before(self, records: AsyncIterator[Record]) -> AsyncIterator[Record]:
        """Yield the records, and tell of what was found before each; what `on_damaged` raises ends the read."""
        async for record in records:
            self._tell()
            yield record
        self._tell()

    def _tell(self) -> None:
        while self._found:
            tell(self._found.popleft(), self._on_damaged)


class _Headers:
    """Reads what is said of tensors."""

    with_data = False

    def __init__(self, on_damaged: OnDamaged = None) -> None:
        self._on_damaged = on_damaged

    def take(self, arrived: Iterator[Arrival]) -> Iterator[Record]:
        for arrival in arrived:
            if isinstance(arrival, Failed):
                if not isinstance(arrival.error, DataCorruptError):
                    raise arrival.error
                tell(arrival.error, self._on_damaged)
            if isinstance(arrival, Began):
                yield Record(arrival.info, None)

    def end(self) -> None:
        """Nothing is left over."""


class _FromLoop:
    """An asynchronous iterable for the thread that makes messages; iterated on the event loop that it was made on."""

    def __init__(self, source: AsyncIterable[object]) -> None:
        self._source = aiter(source)
        self._loop = asyncio.get_running_loop()
        self._lock = threading.Lock()
        self._asked: Future[object] | None = None
        self._closed = False

    def __iter__(self) -> Iterator[object]:
        while True:
            with self._lock:
                # Together: `close` cancels what was asked for before it, and nothing is asked for after it.
                if self._closed:
                    return
                asked = self._asked = asyncio.run_coroutine_threadsafe(self._next(), self._loop)
            found = asked.result()
            if found is self:
                return
            yield found

    def close(self) -> None:
        """Let the thread go: nobody wants the rest."""
        with self._lock:
            self._closed = True
            asked = self._asked
        if asked is not None:
            asked.cancel()

    async def _next(self) -> object:
        # `self` says that there is no more: no source has it.
        return await anext(self._source, self)
