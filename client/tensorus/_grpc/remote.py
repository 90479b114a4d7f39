"""The backend that speaks to a server over gRPC: it drives calls on their callers' threads."""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import grpc

from tensorus import _allocator
from tensorus._backend import Backend
from tensorus._grpc import calls, calls_access, calls_copies, calls_history, direct, inserts, reads, tracing
from tensorus._grpc.channel import LazyChannel, begun
from tensorus._grpc.known import insert_known
from tensorus._grpc.patience import Patience, warn_when_stuck
from tensorus._grpc.rpc_errors import rpc_error
from tensorus._grpc.servers import Servers
from tensorus._grpc.steps import Ask, AttemptFailedError, Close, Driver, Give, Open, Pause, Read, Send, Work
from tensorus._grpc.verify import verify
from tensorus.errors import UnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from datetime import timedelta
    from typing import Never

    from tensorus._backend import (
        Arrival,
        Copies,
        Finding,
        InsertOptions,
        Known,
        Listing,
        Part,
        Sample,
        State,
        Upload,
    )
    from tensorus._connection import Connection
    from tensorus._grpc.patience import Observer
    from tensorus._grpc.servers import Server
    from tensorus._grpc.steps import Call, Step, Steps
    from tensorus.access import ServerStatus
    from tensorus.errors import DataCorruptError, TensorusError
    from tensorus.types import (
        DatasetInfo,
        DatasetStats,
        Policy,
        PolicyExplanation,
        Progress,
        RestoreReport,
        Schema,
        SnapshotInfo,
        StoreStats,
        TensorInfo,
    )

__all__ = ["RemoteBackend"]

T = TypeVar("T")
R = TypeVar("R")


class RemoteBackend(Backend):
    """A channel to each server of one store."""

    def __init__(
        self,
        connection: Connection,
        *,
        timeout_s: float,
        retry_timeout_s: float,
        tune_allocator: bool = False,
        direct_reads: bool = True,
        on_interruption: Observer = warn_when_stuck,
    ) -> None:
        """Speak to the server, or the servers, that a connection leads to; connects when it is first used.

        Args:
            timeout_s: of each attempt of a short call; streams take as long as they take.
            retry_timeout_s: how long a call is tried again without progress, once the server has answered anything.
            tune_allocator: of this process, and of each that a pickled copy comes to.
            direct_reads: whether large tensors are read from the object store itself, if the server offers it.
            on_interruption: called before a call is tried again; pickled copies have the default.

        Raises:
            UnavailableError: the address is empty, or no text.
        """
        self.connection = connection
        self.servers = Servers(connection.address)
        self.timeout_s = timeout_s
        self._retry_timeout_s = retry_timeout_s
        self._on_interruption = on_interruption
        self.heard = False
        self.closed = False
        self._copy = partial(
            type(self),
            connection,
            timeout_s=timeout_s,
            retry_timeout_s=retry_timeout_s,
            tune_allocator=tune_allocator,
            direct_reads=direct_reads,
        )
        self._channels: dict[str, LazyChannel] = {}
        self.direct = direct.DirectReads(enabled=direct_reads)
        if tune_allocator:
            _allocator.tune_allocator()

    def __reduce__(self) -> tuple[Callable[[], RemoteBackend], tuple[()]]:
        """Pickle connection and settings; what comes out of it connects when it is first used."""
        return self._copy, ()

    def create_dataset(
        self,
        name: str,
        policy: Policy | None,
        schema: Schema | None,
        retention: timedelta | None,
        *,
        repeatable: bool,
    ) -> DatasetInfo:
        """See `Backend`."""
        return self.call(calls.create_dataset(name, policy, schema, retention, repeatable=repeatable))

    def get_dataset(self, name: str) -> DatasetInfo:
        """See `Backend`."""
        return self.call(calls.get_dataset(name))

    def list_datasets(self) -> list[DatasetInfo | DataCorruptError]:
        """See `Backend`."""
        return self._result(calls.list_datasets())

    def update_dataset(
        self, name: str, policy: Policy | None, schema: Schema | None, retention: timedelta | None
    ) -> DatasetInfo:
        """See `Backend`."""
        return self.call(calls.update_dataset(name, policy, schema, retention))

    def delete_dataset(self, name: str, *, drop_snapshots: bool) -> int:
        """See `Backend`."""
        return self.call(calls.delete_dataset(name, drop_snapshots=drop_snapshots))

    def dataset_stats(self, name: str, at: State | None) -> DatasetStats:
        """See `Backend`."""
        return self.call(calls.dataset_stats(name, at))

    def create_snapshot(self, dataset: str, name: str) -> SnapshotInfo:
        """See `Backend`."""
        return self.call(calls_history.create_snapshot(dataset, name))

    def list_snapshots(self, dataset: str) -> list[SnapshotInfo | DataCorruptError]:
        """See `Backend`."""
        return self._result(calls_history.list_snapshots(dataset))

    def drop_snapshot(self, dataset: str, name: str) -> None:
        """See `Backend`."""
        self.call(calls_history.drop_snapshot(dataset, name))

    def restore(self, dataset: str, at: State, *, discard_newer: bool) -> RestoreReport:
        """See `Backend`."""
        return self.call(calls_history.restore(dataset, at, discard_newer=discard_newer))

    def insert(
        self,
        dataset: str,
        uploads: Iterable[Upload],
        options: InsertOptions,
        on_progress: Callable[[Progress], None] | None,
    ) -> Iterator[tuple[int, TensorInfo | TensorusError]]:
        """See `Backend`."""
        return self._values(inserts.insert(dataset, uploads, options, on_progress))

    def insert_known(self, dataset: str, announced: Sequence[Known]) -> Mapping[int, TensorInfo | TensorusError]:
        """See `Backend`."""
        return self._result(insert_known(dataset, announced))

    def get(
        self, dataset: str, ids: Sequence[str], part: Part | None, *, with_data: bool, at: State | None = None
    ) -> Iterator[Arrival]:
        """See `Backend`."""
        return self._values(direct.get(dataset, ids, part, with_data=with_data, at=at, direct=self.direct))

    def query(self, listing: Listing, *, with_data: bool, precision: str | None = None) -> Iterator[Arrival]:
        """See `Backend`."""
        return self._values(reads.query(listing, with_data=with_data, precision=precision))

    def list_tensors(self, listing: Listing) -> Iterator[TensorInfo | DataCorruptError]:
        """See `Backend`."""
        return self._values(calls.list_tensors(listing))

    def update_metadata(self, dataset: str, tensor_id: str, metadata: Mapping[str, Any]) -> TensorInfo:
        """See `Backend`."""
        return self.call(calls.update_metadata(dataset, tensor_id, metadata))

    def delete_tensors(self, dataset: str, ids: Sequence[str]) -> int:
        """See `Backend`."""
        return self.call(calls.delete_tensors(dataset, ids))

    def copy_tensors(self, copies: Copies) -> list[TensorInfo]:
        """See `Backend`."""
        return self.call(calls_copies.copy_tensors(copies))

    def copy_dataset(self, name: str, new_name: str, at: State | None) -> DatasetInfo:
        """See `Backend`."""
        return self.call(calls_copies.copy_dataset(name, new_name, at))

    def rename_dataset(self, name: str, new_name: str) -> DatasetInfo:
        """See `Backend`."""
        return self.call(calls_copies.rename_dataset(name, new_name))

    def explain(self, sample: Sample, policies: Sequence[Policy]) -> list[PolicyExplanation]:
        """See `Backend`."""
        return self._result(calls.explain(sample, policies))

    def server_status(self) -> ServerStatus:
        """See `Backend`."""
        return self.call(calls_access.server_status())

    def ask_access(self, call: Call[T]) -> T:
        """See `Backend`."""
        return self.call(call)

    def store_stats(self) -> StoreStats:
        """See `Backend`."""
        return self.call(calls.store_stats())

    def verify(self, dataset: str | None, ids: Sequence[str], bytes_per_second: int | None) -> Iterator[Finding]:
        """See `Backend`."""
        return self._values(verify(dataset, ids, bytes_per_second))

    def close(self) -> None:
        """See `Backend`."""
        self.closed = True
        for channel in tuple(self._channels.values()):
            channel.close()

    def channel(self, server: Server) -> grpc.Channel:
        """Return the channel to a server, which connects on first use.

        Raises:
            UnavailableError: the client is closed, or gRPC cannot work in this process.
        """
        if self.closed:
            raise UnavailableError("the client is closed", reason="UNAVAILABLE")
        channel = self._channels.get(server.target)
        if channel is None:
            channel = self._channels.setdefault(server.target, LazyChannel(server, self.connection.tls))
        return channel.get()

    def failed(self, server: Server, error: TensorusError) -> None:
        """See `steps.Backend`."""
        self.servers.failed(server, error)
        if (channel := self._channels.get(server.target)) is not None:
            channel.failed(error)

    def patience(self) -> Patience:
        """Return the patience of a call. It counts once the server has answered: until then, the address may be wrong."""
        return Patience(self._retry_timeout_s, self._on_interruption)

    def call(self, call: Call[T]) -> T:
        """Return what a short call answers."""
        return self._result(calls.short_call(call))

    def _result(self, steps: Steps[Never, R]) -> R:
        driver = _Driver(self, steps)
        for _ in driver.values():
            raise AssertionError("it gives nothing")
        return driver.result

    def _values(self, steps: Steps[T, None]) -> Iterator[T]:
        return _Driver(self, steps).values()


class _Driver(Driver[RemoteBackend, T, R]):
    """Does what a call asks for, on the thread of its caller."""

    def __init__(self, backend: RemoteBackend, steps: Steps[T, R]) -> None:
        super().__init__(backend, steps)
        self._attempt = _Attempt(self._failed)

    def values(self) -> Iterator[T]:
        """Yield what the call gives, as it is asked for."""
        self.patience = self._backend.patience()
        advance, came = self._steps.send, None
        try:
            while True:
                try:
                    # The inner loop is for Ctrl-C, which may come between any two steps.
                    while True:
                        step = advance(came)
                        advance, came = self._steps.send, None
                        if isinstance(step, Give):
                            yield from step.values
                        else:
                            came = self._do(step)
                except BaseException as error:
                    # Nothing here may keep the error, whose traceback keeps all of this, until a garbage collection.
                    came = None
                    if self._has_ended:
                        if not isinstance(error, StopIteration):
                            raise
                        self.result = error.value
                        return
                    advance, came = self._steps.throw, error
        finally:
            self._end()

    def _do(self, step: Step[T]) -> Any:  # `Any`: see `Steps`
        match step:
            case Read():
                return self._read()
            case Open():
                self._close()
                self._begin(step.path)
                self._stream = self._open(step)
            case Send():
                self._begin(step.call.path)
                return self._send(step.call)
            case Ask():
                with tracing.current(self._span):
                    return self._backend.call(step.call)
            case Pause():
                time.sleep(self._wait_s(step))
                return self.patience.interruptions
            case Work():
                return step.function()
            case Close():
                self._close()
        return None

    def _close(self) -> None:
        """End the stream, and free it.

        A call that is received on this thread is freed, and its connection with it, when its last event has been taken. Nobody
        else takes it, and gRPC has no public way to do so after a cancel.
        """
        stream = self._stream
        super()._close()
        take_event = getattr(stream, "_consume_next_event", None)
        while take_event is not None and stream._state.due:  # noqa: SLF001
            # Waits for nobody: the call is cancelled here.
            take_event()

    def _channel(self, key: str) -> grpc.Channel:
        """Return the channel to the server for a call."""
        try:
            server = self._sent_to(self._backend.servers.pick(key))
        except UnavailableError as error:
            raise AttemptFailedError(error, ConnectionError(str(error))) from None
        return self._backend.channel(server)

    def _open(self, step: Open) -> Any:  # `Any`: see `Driver`
        channel = self._channel(step.key)
        name, requests, metadata = step.path, step.requests, self._metadata()
        with self._attempt:
            if isinstance(requests, bytes):
                unary: Any = channel.unary_stream(name)
                return unary(requests, metadata=metadata)
            stream: Any = channel.stream_stream(name)
            return begun(partial(stream, requests, metadata=metadata))

    def _read(self) -> bytes | None:
        with self._attempt:
            raw: bytes | None = next(self._stream, None)
        if raw is not None:
            self._heard()
        return raw

    def _send(self, call: Call[Any]) -> bytes:  # `Any`: only its bytes count here
        channel = self._channel(call.key)
        request = call.request.SerializeToString()
        timeout_s, metadata = call.timeout_s(self._backend.timeout_s), self._metadata()
        with self._attempt:
            method: Any = channel.unary_unary(call.path)
            raw: bytes = method(request, timeout=timeout_s, metadata=metadata)
        self._heard()
        return raw


class _Attempt:
    """Turns what gRPC raises into a failed attempt. Nothing but gRPC may run inside."""

    def __init__(self, failed: Callable[[TensorusError, BaseException], AttemptFailedError]) -> None:
        self._failed = failed

    def __enter__(self) -> None:
        pass

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if error is None:
            return
        if isinstance(error, grpc.RpcError):
            raise self._failed(rpc_error(error), error) from None
        if isinstance(error, ValueError):
            # gRPC has no other name for it.
            closed = UnavailableError("the client is closed", reason="UNAVAILABLE")
            raise AttemptFailedError(closed, error) from None
