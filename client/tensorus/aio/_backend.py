"""Streams and calls over grpc.aio. What they send and what their answers mean is shared with the synchronous client.

Nothing that may take long runs on the event loop: messages are made, parsed, checked and put together on threads, one message
at a time for each call.
"""

from __future__ import annotations

import asyncio
import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

import grpc
import grpc.aio

from tensorus import _calls
from tensorus._arrivals import GetPlace, QueryPlace, arrivals
from tensorus._channel import require_fork_support
from tensorus._convert import slices_to
from tensorus._insert_stream import InsertSession
from tensorus._patience import Patience
from tensorus._remote import OPTIONS, SERVICE, as_answer, insert_results, require_address, rpc_error, serialize
from tensorus.errors import InternalError, TensorusError, UnavailableError
from tensorus.types import Progress
from tensorus_protos.framing import split
from tensorus_protos.v1 import tensorus_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Sequence
    from concurrent.futures import Executor

    from google.protobuf.message import Message

    from tensorus._backend import Arrival, InsertOptions, Listing, Part, Sample, Upload
    from tensorus._calls import Call
    from tensorus._insert_stream import InsertMessages
    from tensorus.types import Policy, PolicyExplanation, TensorInfo

__all__ = ["AsyncRemoteBackend", "Reader"]

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

_INSERT_THREADS = 3
"""Of each insert: one that makes messages, or waits for credit, one that hears answers, and one for a stream that broke."""

_CANCEL_TIMEOUT_S = 5.0
"""For what a cancelled task still tells the server."""


class Reader(Protocol[T_co]):
    """What becomes of arrivals. Called on threads, never on two at once."""

    @property
    def with_data(self) -> bool:
        """Whether it wants the values."""

    def take(self, arrived: Iterator[Arrival]) -> Iterator[T_co]:
        """Yield what is complete with these."""

    def end(self) -> None:
        """Raise if something is not complete."""


class AsyncRemoteBackend:
    """One channel to one server, of one event loop."""

    def __init__(self, address: str, *, timeout_s: float, retry_timeout_s: float) -> None:
        """Connect when it is first used. Arguments and errors as of `RemoteBackend`."""
        require_address(address)
        self._address = address
        self._timeout_s = timeout_s
        self._retry_timeout_s = retry_timeout_s
        self._heard = False
        self._closed = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._channel: grpc.aio.Channel | None = None
        self._threads = ThreadPoolExecutor((os.cpu_count() or 1) + 4, thread_name_prefix="tensorus-aio")

    async def call(self, call: Call[T]) -> T:
        """Return what a short call answers."""
        with self._as_tensorus_errors():
            method: Any = self._connected().unary_unary(SERVICE + call.name, serialize)
            raw: bytes = await method(call.request, timeout=self._timeout_s)
        self._heard = True
        with as_answer(call.name):
            return call.value(call.parse(raw))

    async def insert(
        self,
        dataset: str,
        uploads: Iterable[Upload],
        options: InsertOptions,
        on_progress: Callable[[Progress], None] | None,
    ) -> dict[int, TensorInfo | TensorusError]:
        """Store the uploads, which are iterated on a thread; return what became of each, by position."""
        session = InsertSession(dataset, uploads, options)
        patience = self._patience()
        outcomes: dict[int, TensorInfo | TensorusError] = {}
        threads = ThreadPoolExecutor(_INSERT_THREADS, thread_name_prefix="tensorus-insert")
        done = False
        try:
            while True:
                broken = None
                try:
                    await self._insert_stream(session, threads, outcomes, on_progress)
                except _BrokenError as error:
                    broken = error.error
                if session.failure is not None:
                    raise session.failure
                if broken is not None:
                    await self._wait(patience, broken, session.place)
                    if on_progress is not None:
                        on_progress(Progress(None, session.delivered_bytes, None, patience.interruptions))
                elif not session.has_expired:
                    break
            done = True
        finally:
            threads.shutdown(wait=False)
            if not done and session.may_have_left_something:
                with suppress(TensorusError, TimeoutError):
                    async with asyncio.timeout(_CANCEL_TIMEOUT_S):
                        await self.call(_calls.cancel_insert(session.request_id))
        outcomes.update(session.unsendable)
        if session.is_lost:
            outcomes.update(session.abandoned())
        return outcomes

    async def _insert_stream(
        self,
        session: InsertSession,
        threads: Executor,
        outcomes: dict[int, TensorInfo | TensorusError],
        on_progress: Callable[[Progress], None] | None,
    ) -> None:
        loop = asyncio.get_running_loop()
        messages = await loop.run_in_executor(threads, session.begin)

        async def requests() -> AsyncGenerator[bytes, None]:
            while (made := await loop.run_in_executor(threads, next, messages, None)) is not None:
                yield made

        try:
            with self._as_tensorus_errors():
                method: Any = self._connected().stream_stream(SERVICE + "Insert")
                call = method(requests())
            try:
                async for raw in self._answers(call):
                    heard: list[Progress] = []
                    outcome = await loop.run_in_executor(threads, _hear, raw, session, messages, heard)
                    outcomes.update(outcome.values)
                    if on_progress is not None:
                        for progress in heard:
                            on_progress(progress)
                    outcome.require_no_error()
            finally:
                call.cancel()
        finally:
            messages.end()
        if session.failure is None and not messages.finished:
            raise InternalError("the server ended the insert before all of it was sent")
        if session.busy is not None:
            raise _BrokenError(session.busy)

    async def get(
        self, dataset: str, ids: Sequence[str], part: Part | None, reader: Reader[T]
    ) -> AsyncGenerator[T, None]:
        """Yield what `reader` makes of tensors. A get whose stream breaks goes on where it was."""
        slices = None if part is None else slices_to(part)
        reads = [pb.TensorRead(id=tensor_id, slices=slices) for tensor_id in ids]
        place = GetPlace(reads, with_data=reader.with_data)
        options = _calls.read_options(with_data=reader.with_data, dtype=None if part is None else part.dtype)
        patience = self._patience()

        def take(raw: bytes) -> _Outcome[T]:
            with as_answer("Get"):
                head, payload = split(raw)
                response = pb.GetResponse.FromString(head)
            return _Outcome(reader.take(place.passed(arrivals(response, payload))))

        while True:
            request = pb.GetRequest(dataset=dataset, reads=place.remaining(), options=options)
            try:
                async for value in self._read("Get", request, take):
                    yield value
            except _BrokenError as error:
                broken = error.error
            else:
                break
            if reads and place.is_complete:
                break
            await self._wait(patience, broken, place.reached)
        reader.end()

    async def query(self, listing: Listing, reader: Reader[T]) -> AsyncGenerator[T, None]:
        """Yield what `reader` makes of the tensors of a listing. A query whose stream breaks goes on where it was."""
        request = _calls.query_request(listing, with_data=reader.with_data)
        place = QueryPlace(with_data=reader.with_data)
        patience = self._patience()
        # A tensor that broke off begins again: only the next one is further.
        reached = -1

        def passed(found: Iterator[Arrival]) -> Iterator[Arrival]:
            nonlocal reached
            for arrival in place.passed(found):
                reached = arrival.item
                yield arrival

        def take(raw: bytes) -> _Outcome[T]:
            with as_answer("Query"):
                head, payload = split(raw)
                response = pb.QueryResponse.FromString(head)
            outcome = _Outcome(reader.take(passed(arrivals(response, payload))))
            place.note(response.resume_token)
            return outcome

        while True:
            request.resume_token = place.token
            try:
                async for value in self._read("Query", request, take):
                    yield value
            except _BrokenError as error:
                broken = error.error
            else:
                break
            await self._wait(patience, broken, (reached,))
            place.restart()
        reader.end()

    async def explain(self, sample: Sample, policies: Sequence[Policy]) -> list[PolicyExplanation]:
        """Return what policies would do to a sample. A call that breaks begins again."""
        opening = _calls.open_explain(sample, policies)
        patience = self._patience()

        async def requests(messages: Iterator[bytes]) -> AsyncGenerator[bytes, None]:
            while (made := await self.in_thread(next, messages, None)) is not None:
                yield made

        while True:
            try:
                with self._as_tensorus_errors():
                    method: Any = self._connected().stream_unary(SERVICE + "ExplainPolicy")
                    raw: bytes = await method(requests(_calls.explain_messages(opening, sample)))
            except TensorusError as error:
                await self._wait(patience, error, (0,))
                continue
            self._heard = True
            with as_answer("ExplainPolicy"):
                return _calls.explanations(raw)

    async def in_thread(self, function: Callable[..., T], *arguments: object) -> T:
        """Return what `function` does, on a thread.

        Raises:
            UnavailableError: the client is closed.
        """
        if self._closed:
            raise UnavailableError("the client is closed", reason="UNAVAILABLE")
        return await asyncio.get_running_loop().run_in_executor(self._threads, function, *arguments)

    async def close(self) -> None:
        """End all calls. Idempotent."""
        self._closed = True
        self._threads.shutdown(wait=False)
        if self._channel is not None and self._loop is asyncio.get_running_loop():
            await self._channel.close()

    def _connected(self) -> grpc.aio.Channel:
        if self._closed:
            raise UnavailableError("the client is closed", reason="UNAVAILABLE")
        loop = asyncio.get_running_loop()
        if self._channel is None:
            require_fork_support()
            self._loop = loop
            self._channel = grpc.aio.insecure_channel(
                self._address, options=OPTIONS, compression=grpc.Compression.NoCompression
            )
        elif self._loop is not loop:
            raise UnavailableError(
                "the client is of another event loop, or of the parent of this process: connect in this one",
                reason="UNAVAILABLE",
            )
        return self._channel

    async def _read(self, name: str, request: Message, take: Callable[[bytes], _Outcome[T]]) -> AsyncGenerator[T, None]:
        """Yield what the answers of a stream bring."""
        with self._as_tensorus_errors():
            method: Any = self._connected().unary_stream(SERVICE + name, serialize)
            call = method(request)
        try:
            async for raw in self._answers(call):
                outcome = await self.in_thread(take, raw)
                for value in outcome.values:
                    yield value
                outcome.require_no_error()
        finally:
            call.cancel()

    async def _answers(self, call: Any) -> AsyncGenerator[bytes, None]:  # `Any`: a grpc.aio call, without serializers
        while True:
            try:
                with self._as_tensorus_errors():
                    raw = await call.read()
            except TensorusError as error:
                raise _BrokenError(error) from None
            if raw is grpc.aio.EOF:
                return
            self._heard = True
            yield raw

    async def _wait(self, patience: Patience, error: TensorusError, place: tuple[int, ...]) -> None:
        """Wait before the next attempt; raise `error` where there is to be none."""
        if self._closed:
            raise error
        await asyncio.sleep(patience.wait_s(error, place))

    def _patience(self) -> Patience:
        """Return the patience of a transfer: none with a server that has never answered."""
        return Patience(self._retry_timeout_s if self._heard else 0.0)

    @contextmanager
    def _as_tensorus_errors(self) -> Iterator[None]:
        """Turn what gRPC raises into errors of ours. Nothing but gRPC may run inside."""
        try:
            yield
        except grpc.RpcError as error:
            raise rpc_error(error) from error
        except asyncio.CancelledError as error:
            # Of this task, or of the call alone: then the client was closed.
            task = asyncio.current_task()
            if self._closed and task is not None and not task.cancelling():
                raise UnavailableError("the client was closed meanwhile", reason="CANCELLED") from error
            raise
        except grpc.aio.UsageError as error:
            raise UnavailableError("the client is closed", reason="UNAVAILABLE") from error


class _BrokenError(Exception):
    """A stream broke."""

    def __init__(self, error: TensorusError) -> None:
        super().__init__(str(error))
        self.error = error


class _Outcome(Generic[T]):
    """What an iteration brought before it ended, and the error that ended it, if one did."""

    def __init__(self, found: Iterator[T]) -> None:
        self.values: list[T] = []
        self._error: Exception | None = None
        try:
            # Not `extend`: what came before an error counts.
            for value in found:
                self.values.append(value)
        except Exception as error:  # noqa: BLE001 - raised when the values are used up
            self._error = error

    def require_no_error(self) -> None:
        """Raise what ended it."""
        if self._error is not None:
            raise self._error


def _hear(
    raw: bytes, session: InsertSession, messages: InsertMessages, heard: list[Progress]
) -> _Outcome[tuple[int, TensorInfo | TensorusError]]:
    with as_answer("Insert"):
        response = pb.InsertResponse.FromString(raw)
    return _Outcome(insert_results(response, session, messages, heard.append))
