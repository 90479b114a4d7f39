"""The backend of the asynchronous client: it drives the same calls as the synchronous one, on an event loop.

Nothing that may take long runs on the event loop: requests are made, and what is given is worked out, on threads, one message
at a time for each call.
"""

from __future__ import annotations

import asyncio
import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import chain
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import grpc
import grpc.aio

from tensorus._grpc import calls, inserts, tracing
from tensorus._grpc.channel import REPLACED_MAX, is_outdated, options_for, require_fork_support
from tensorus._grpc.credentials import credentials_of
from tensorus._grpc.direct import DirectReads
from tensorus._grpc.patience import Patience
from tensorus._grpc.rpc_errors import rpc_error
from tensorus._grpc.servers import Servers
from tensorus._grpc.steps import Ask, AttemptFailedError, Close, Driver, Give, Open, Pause, Read, Send, Work
from tensorus.errors import UnavailableError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterable, Iterator
    from concurrent.futures import Executor
    from typing import Never

    from tensorus._backend import InsertOptions, Upload
    from tensorus._connection import Connection
    from tensorus._grpc.servers import Server
    from tensorus._grpc.steps import Call, Step, Steps
    from tensorus.errors import TensorusError
    from tensorus.types import Progress, TensorInfo

__all__ = ["AsyncRemoteBackend"]

R = TypeVar("R")
T = TypeVar("T")
V = TypeVar("V")
X = TypeVar("X")

_INSERT_THREADS = 3
"""Of each insert: one that makes messages, or waits for credit, one that hears answers, and one for a stream that broke."""


class AsyncRemoteBackend:
    """A channel to each server of one store, of one event loop."""

    def __init__(
        self, connection: Connection, *, timeout_s: float, retry_timeout_s: float, direct_reads: bool = True
    ) -> None:
        """Connect when it is first used. Arguments and errors as of `RemoteBackend`."""
        self.connection = connection
        self.servers = Servers(connection.address)
        self.timeout_s = timeout_s
        self._retry_timeout_s = retry_timeout_s
        self.direct = DirectReads(enabled=direct_reads)
        self.heard = False
        self.closed = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._channels: dict[str, grpc.aio.Channel] = {}
        self._states: dict[str, object] = {}
        self._replaced: dict[str, list[grpc.aio.Channel]] = {}
        """By target."""
        self._closing: set[asyncio.Task[None]] = set()
        self._threads = ThreadPoolExecutor((os.cpu_count() or 1) + 4, thread_name_prefix="tensorus-aio")

    async def call(self, call: Call[T]) -> T:
        """Return what a short call answers."""
        return await self.result(calls.short_call(call))

    async def result(self, steps: Steps[Never, R]) -> R:
        """Return what a call returns that gives nothing on its way."""
        driver = _Driver(self, steps, iter)
        async for _ in driver.values():
            raise AssertionError("it gives nothing")
        return driver.result

    async def insert(
        self,
        dataset: str,
        uploads: Iterable[Upload],
        options: InsertOptions,
        on_progress: Callable[[Progress], None] | None,
    ) -> dict[int, TensorInfo | TensorusError]:
        """Store the uploads, which are iterated on a thread; return what became of each, by position."""
        outcomes: dict[int, TensorInfo | TensorusError] = {}
        threads = ThreadPoolExecutor(_INSERT_THREADS, thread_name_prefix="tensorus-insert")
        try:
            steps = inserts.insert(dataset, uploads, options, on_progress)
            async for results in _Driver(self, steps, iter, threads).values():
                outcomes.update(results)
        finally:
            threads.shutdown(wait=False)
        return outcomes

    def values(
        self, steps: Steps[T, None], take: Callable[[Iterable[T]], Iterator[V]]
    ) -> AsyncGenerator[list[V], None]:
        """Yield what `take` makes of what a call gives, on threads, never on two at once; as much at once as came together."""
        return _Driver(self, steps, take).values()

    async def in_thread(self, function: Callable[..., T], *arguments: object) -> T:
        """Return what `function` does, on a thread.

        Raises:
            UnavailableError: the client is closed.
        """
        if self.closed:
            raise UnavailableError("the client is closed", reason="UNAVAILABLE")
        return await asyncio.get_running_loop().run_in_executor(self._threads, function, *arguments)

    async def close(self) -> None:
        """End all calls. Idempotent."""
        self.closed = True
        self._threads.shutdown(wait=False)
        if self._loop is asyncio.get_running_loop():
            for channel in chain(self._channels.values(), *self._replaced.values()):
                await channel.close()

    async def server(self, key: str) -> Server:
        """Return the server for a call."""
        found = self.servers.pick_at_once(key)
        return await self.in_thread(self.servers.pick, key) if found is None else found

    def channel(self, server: Server) -> grpc.aio.Channel:
        """Return the channel to a server, which connects on first use.

        Raises:
            UnavailableError: the client is closed, or of another event loop, or gRPC cannot work in this process.
        """
        if self.closed:
            raise UnavailableError("the client is closed", reason="UNAVAILABLE")
        loop = asyncio.get_running_loop()
        if self._loop is None:
            require_fork_support()
            self._loop = loop
        elif self._loop is not loop:
            raise UnavailableError(
                "the client is of another event loop, or of the parent of this process: connect in this one",
                reason="UNAVAILABLE",
            )
        channel = self._channels.get(server.target)
        if channel is None:
            channel = self._channels[server.target] = self._new_channel(server)
        return channel

    def failed(self, server: Server, error: TensorusError) -> None:
        """See `steps.Backend`. If certificates have changed, the next call makes a new channel: see `LazyChannel.failed`."""
        self.servers.failed(server, error)
        channel = self._channels.get(server.target)
        if channel is not None and is_outdated(self.connection.tls, self._states.get(server.target), error):
            # Not closed yet: other calls may still be using a connection that it has.
            replaced = self._replaced.setdefault(server.target, [])
            replaced.append(self._channels.pop(server.target))
            if len(replaced) > REPLACED_MAX:
                closing = asyncio.get_running_loop().create_task(replaced.pop(0).close())
                # The loop itself would forget it.
                self._closing.add(closing)
                closing.add_done_callback(self._closing.discard)

    def _new_channel(self, server: Server) -> grpc.aio.Channel:
        options, tls = options_for(server), self.connection.tls
        if tls is None:
            return grpc.aio.insecure_channel(server.target, options, grpc.Compression.NoCompression)
        self._states[server.target] = tls.state()
        return grpc.aio.secure_channel(server.target, credentials_of(tls), options, grpc.Compression.NoCompression)

    def patience(self) -> Patience:
        """Return the patience of a call. It counts once the server has answered: until then, the address may be wrong."""
        return Patience(self._retry_timeout_s)


class _Driver(Driver[AsyncRemoteBackend, T, R], Generic[T, R, V]):
    """Does what a call asks for, in the task of its caller."""

    def __init__(
        self,
        backend: AsyncRemoteBackend,
        steps: Steps[T, R],
        take: Callable[[Iterable[T]], Iterator[V]],
        threads: Executor | None = None,
    ) -> None:
        # Without threads of its own, those of the backend.
        super().__init__(backend, steps)
        self._take = take
        self._threads = threads

    async def values(self) -> AsyncGenerator[list[V], None]:
        """Yield what is made of what the call gives, as much as it gave at once."""
        self.patience = self._backend.patience()
        advance: Callable[[Any], Step[T]] = self._steps.send
        came: Any = None  # `Any`: see `Steps`
        try:
            while True:
                try:
                    step = advance(came)
                    advance, came = self._steps.send, None
                    if isinstance(step, Give):
                        values, came = await self._on_thread(_taken, self._take, step.values)
                        yield values
                        if came is not None:
                            advance = self._steps.throw
                    else:
                        came = await self._do(step)
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

    async def _do(self, step: Step[T]) -> Any:  # `Any`: see `Steps`
        match step:
            case Read():
                return await self._read()
            case Open():
                self._close()
                self._begin(step.path)
                self._stream = await self._open(step)
            case Send():
                self._begin(step.call.path)
                return await self._send(step.call)
            case Ask():
                with tracing.current(self._span):
                    return await self._backend.call(step.call)
            case Pause():
                await asyncio.sleep(self._wait_s(step))
                return self.patience.interruptions
            case Work():
                return await self._on_thread(step.function)
            case Close():
                self._close()
        return None

    async def _on_thread(self, function: Callable[..., X], *arguments: object) -> X:
        if self._threads is None:
            return await self._backend.in_thread(function, *arguments)
        return await asyncio.get_running_loop().run_in_executor(self._threads, function, *arguments)

    @contextmanager
    def _attempt(self) -> Iterator[None]:
        """Turn what gRPC raises into a failed attempt. Nothing but gRPC may run inside."""
        try:
            yield
        except grpc.RpcError as error:
            raise self._failed(rpc_error(error), error) from None
        except asyncio.CancelledError as error:
            # Of this task, or of the call alone: then the client was closed.
            task = asyncio.current_task()
            if self._backend.closed and task is not None and not task.cancelling():
                closed = UnavailableError("the client was closed meanwhile", reason="CANCELLED")
                raise AttemptFailedError(closed, error) from None
            raise
        except grpc.aio.UsageError as error:
            closed = UnavailableError("the client is closed", reason="UNAVAILABLE")
            raise AttemptFailedError(closed, error) from None

    async def _channel(self, key: str) -> grpc.aio.Channel:
        """Return the channel to the server for a call."""
        try:
            server = self._sent_to(await self._backend.server(key))
        except UnavailableError as error:
            raise AttemptFailedError(error, ConnectionError(str(error))) from None
        return self._backend.channel(server)

    async def _open(self, step: Open) -> Any:  # `Any`: see `Driver`
        channel = await self._channel(step.key)
        name, requests, metadata = step.path, step.requests, self._metadata()
        with self._attempt():
            if isinstance(requests, bytes):
                unary: Any = channel.unary_stream(name)
                return unary(requests, metadata=metadata)
            stream: Any = channel.stream_stream(name)
            return stream(self._made(requests), metadata=metadata)

    async def _made(self, requests: Iterator[bytes]) -> AsyncGenerator[bytes, None]:
        while (made := await self._on_thread(next, requests, None)) is not None:
            yield made

    async def _read(self) -> bytes | None:
        with self._attempt():
            read = await self._stream.read()
        if read is grpc.aio.EOF:
            return None
        self._heard()
        raw: bytes = read
        return raw

    async def _send(self, call: Call[Any]) -> bytes:  # `Any`: only its bytes count here
        channel = await self._channel(call.key)
        request = call.request.SerializeToString()
        timeout_s, metadata = call.timeout_s(self._backend.timeout_s), self._metadata()
        with self._attempt():
            method: Any = channel.unary_unary(call.path)
            raw: bytes = await method(request, timeout=timeout_s, metadata=metadata)
        self._heard()
        return raw


def _taken(take: Callable[[Iterable[T]], Iterator[V]], given: Iterable[T]) -> tuple[list[V], Exception | None]:
    """Return what came before an iteration ended, and the error that ended it, if one did."""
    values: list[V] = []
    try:
        for value in take(given):
            values.append(value)  # noqa: PERF402 - not `list`: what came before an error counts
    except Exception as error:  # noqa: BLE001 - the call is told
        return values, error
    return values, None
