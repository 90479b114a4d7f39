"""The backend that speaks to a server over gRPC."""

from __future__ import annotations

from contextlib import contextmanager, suppress
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any, TypeVar

import grpc

from tensorus import _allocator, _calls
from tensorus._arrivals import GetPlace, QueryPlace, arrivals
from tensorus._backend import Backend
from tensorus._channel import LazyChannel, begun
from tensorus._convert import damage_from, error_of, inserted_from, slices_to, tensor_from
from tensorus._insert_stream import InsertSession
from tensorus._patience import STALL_REASONS, Patience, warn_when_stuck
from tensorus._rpc_errors import as_answer, rpc_error
from tensorus.errors import InternalError, TensorusError, UnavailableError
from tensorus.types import Progress
from tensorus_protos.framing import split
from tensorus_protos.v1 import tensorus_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from google.protobuf.message import Message

    from tensorus._backend import Arrival, InsertOptions, Listing, Part, Sample, Upload
    from tensorus._calls import Call
    from tensorus._insert_stream import InsertMessages
    from tensorus._patience import Observer
    from tensorus.errors import DataCorruptError
    from tensorus.types import DatasetInfo, DatasetStats, Policy, PolicyExplanation, Schema, TensorInfo

__all__ = [
    "OPTIONS",
    "SERVICE",
    "RemoteBackend",
    "answer_of",
    "insert_results",
    "require_address",
    "serialize",
]

T = TypeVar("T")
R = TypeVar("R", pb.GetResponse, pb.QueryResponse)

SERVICE = "/tensorus.v1.TensorService/"

_MESSAGE_BYTES_MAX = 4 * 1024 * 1024
"""Of the contract."""

OPTIONS: tuple[tuple[str, int | str], ...] = (
    ("grpc.max_receive_message_length", _MESSAGE_BYTES_MAX),
    ("grpc.max_send_message_length", _MESSAGE_BYTES_MAX),
    ("grpc.keepalive_time_ms", 60_000),
    # How soon a connection that broke is tried again: `Patience` decides how often.
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.http2.ping_timeout_ms", 20_000),
    # Two clients of one process do not share a connection: each gets its own share of the network.
    ("grpc.use_local_subchannel_pool", 1),
)


class RemoteBackend(Backend):
    """One channel to one server."""

    def __init__(
        self,
        address: str,
        *,
        timeout_s: float,
        retry_timeout_s: float,
        tune_allocator: bool = False,
        on_interruption: Observer = warn_when_stuck,
    ) -> None:
        """Speak to the server at `address`; connects when it is first used.

        Args:
            timeout_s: of each attempt of a short call; streams take as long as they take.
            retry_timeout_s: how long a call is tried again without progress, once the server has answered anything.
            tune_allocator: of this process, and of each that a pickled copy comes to.
            on_interruption: called before a call is tried again; pickled copies have the default.

        Raises:
            UnavailableError: the address is empty, or no text.
        """
        require_address(address)
        self._timeout_s = timeout_s
        self._retry_timeout_s = retry_timeout_s
        self._on_interruption = on_interruption
        self._heard = False
        self._closed = False
        self._copy = partial(
            type(self),
            address,
            timeout_s=timeout_s,
            retry_timeout_s=retry_timeout_s,
            tune_allocator=tune_allocator,
        )
        self._lazy_channel = LazyChannel(address, OPTIONS)
        if tune_allocator:
            _allocator.tune_allocator()

    def __reduce__(self) -> tuple[Callable[[], RemoteBackend], tuple[()]]:
        """Pickle address and settings; what comes out of it connects when it is first used."""
        return self._copy, ()

    def create_dataset(
        self, name: str, policy: Policy | None, schema: Schema | None, *, repeatable: bool
    ) -> DatasetInfo:
        """See `Backend`."""
        return self._call(_calls.create_dataset(name, policy, schema, repeatable=repeatable))

    def get_dataset(self, name: str) -> DatasetInfo:
        """See `Backend`."""
        return self._call(_calls.get_dataset(name))

    def list_datasets(self) -> list[DatasetInfo | DataCorruptError]:
        """See `Backend`."""
        found: list[DatasetInfo | DataCorruptError] = []
        token = ""
        while True:
            page, token = self._call(_calls.list_datasets(token))
            found += page
            if not token:
                return found

    def update_dataset(self, name: str, policy: Policy | None, schema: Schema | None) -> DatasetInfo:
        """See `Backend`."""
        return self._call(_calls.update_dataset(name, policy, schema))

    def delete_dataset(self, name: str) -> int:
        """See `Backend`."""
        return self._call(_calls.delete_dataset(name))

    def dataset_stats(self, name: str) -> DatasetStats:
        """See `Backend`."""
        return self._call(_calls.dataset_stats(name))

    def insert(
        self,
        dataset: str,
        uploads: Iterable[Upload],
        options: InsertOptions,
        on_progress: Callable[[Progress], None] | None,
    ) -> Iterator[tuple[int, TensorInfo | TensorusError]]:
        """See `Backend`. An insert whose stream breaks goes on where the server has it."""
        session = InsertSession(dataset, uploads, options)
        patience = self._patience()
        done = False
        try:
            while True:
                broken = None
                try:
                    yield from self._insert_stream(session, on_progress)
                except _InterruptedError as interruption:
                    broken = interruption.error
                if session.failure is not None:
                    raise session.failure
                if broken is not None:
                    if broken.reason in STALL_REASONS and session.await_source():
                        # There was nothing to send: nobody's patience is asked for.
                        continue
                    self._wait(patience, broken, session.place)
                    if on_progress is not None:
                        on_progress(Progress(None, session.delivered_bytes, None, patience.interruptions))
                elif not session.has_expired:
                    break
            done = True
        finally:
            if not done and session.may_have_left_something:
                with suppress(TensorusError):
                    self._call(_calls.cancel_insert(session.request_id))
        yield from session.unsendable
        if session.is_lost:
            yield from session.abandoned()

    def _insert_stream(
        self, session: InsertSession, on_progress: Callable[[Progress], None] | None
    ) -> Iterator[tuple[int, TensorInfo | TensorusError]]:
        """Yield the results of one stream."""
        messages = session.begin()
        call = self._begin_insert(messages)
        try:
            for raw in self._answers(call):
                with as_answer("Insert"):
                    response = pb.InsertResponse.FromString(raw)
                yield from insert_results(response, session, messages, on_progress)
        finally:
            messages.end()
            call.cancel()
        if session.failure is None and not messages.finished:
            raise InternalError("the server ended the insert before all of it was sent")
        if session.busy is not None:
            raise _InterruptedError(session.busy)

    def _begin_insert(self, messages: InsertMessages) -> Any:  # `Any`: without serializers the stubs cannot tell
        """Return the call that sends these messages; it yields the answers.

        A stream of one message goes as a call of one request: the server sees no difference, and gRPC takes no thread for it.
        """
        requests: Iterator[bytes] = messages
        if messages.session.is_in_hand:
            first = next(messages)
            if messages.finished:
                with _as_tensorus_errors():
                    unary: Any = self._channel.unary_stream(SERVICE + "Insert")
                    return unary(first)
            requests = chain([first], messages)
        with _as_tensorus_errors():
            stream: Any = self._channel.stream_stream(SERVICE + "Insert")
            return begun(partial(stream, requests))

    def get(self, dataset: str, ids: Sequence[str], part: Part | None, *, with_data: bool) -> Iterator[Arrival]:
        """See `Backend`. A get whose stream breaks goes on where it was."""
        slices = None if part is None else slices_to(part)
        reads = [pb.TensorRead(id=tensor_id, slices=slices) for tensor_id in ids]
        options = _calls.read_options(with_data=with_data, dtype=None if part is None else part.dtype)
        place = GetPlace(reads, with_data=with_data)
        patience = self._patience()
        while True:
            request = pb.GetRequest(dataset=dataset, reads=place.remaining(), options=options)
            try:
                for response, payload in self._read("Get", request, pb.GetResponse):
                    yield from place.passed(arrivals(response, payload))
            except _InterruptedError as interruption:
                broken = interruption.error
            else:
                return
            if reads and place.is_complete:
                return
            self._wait(patience, broken, place.reached)

    def query(self, listing: Listing, *, with_data: bool) -> Iterator[Arrival]:
        """See `Backend`."""
        request = _calls.query_request(listing, with_data=with_data)
        place = QueryPlace(with_data=with_data)
        patience = self._patience()
        # A tensor that broke off begins again: only the next one is further.
        reached = -1
        while True:
            request.resume_token = place.token
            try:
                for response, payload in self._read("Query", request, pb.QueryResponse):
                    for arrival in place.passed(arrivals(response, payload)):
                        reached = arrival.item
                        yield arrival
                    place.note(response.resume_token)
            except _InterruptedError as interruption:
                broken = interruption.error
            else:
                return
            self._wait(patience, broken, (reached,))
            place.restart()

    def list_tensors(self, listing: Listing) -> Iterator[TensorInfo | DataCorruptError]:
        """See `Backend`."""
        token, count = "", 0
        while True:
            page = self._call(_calls.list_page(_calls.list_request(listing, token, count)))
            for tensor in page.tensors:
                if listing.limit is not None and count >= listing.limit:
                    return
                count += 1
                yield tensor_from(tensor)
            for damage in page.damages:
                if listing.limit is not None and count >= listing.limit:
                    return
                count += 1
                yield damage_from(damage)
            token = page.next_page_token
            if not token or count == listing.limit:
                return

    def update_metadata(self, dataset: str, tensor_id: str, metadata: Mapping[str, Any]) -> TensorInfo:
        """See `Backend`."""
        return self._call(_calls.update_metadata(dataset, tensor_id, metadata))

    def delete_tensors(self, dataset: str, ids: Sequence[str]) -> int:
        """See `Backend`."""
        return self._call(_calls.delete_tensors(dataset, ids))

    def explain(self, sample: Sample, policies: Sequence[Policy]) -> list[PolicyExplanation]:
        """See `Backend`. A call that breaks begins again."""
        opening = _calls.open_explain(sample, policies)
        patience = self._patience()
        while True:
            try:
                with _as_tensorus_errors():
                    method: Any = self._channel.stream_unary(SERVICE + "ExplainPolicy")
                    call = begun(partial(method.future, _calls.explain_messages(opening, sample)))
                    try:
                        raw = call.result()
                    finally:
                        # Whoever interrupts this wants no answer, and the server would go on for it.
                        call.cancel()
            except TensorusError as error:
                self._wait(patience, error, (0,))
                continue
            self._heard = True
            with as_answer("ExplainPolicy"):
                return _calls.explanations(raw)

    def close(self) -> None:
        """See `Backend`."""
        self._closed = True
        self._lazy_channel.close()

    @property
    def _channel(self) -> grpc.Channel:
        return self._lazy_channel.get()

    def _call(self, call: Call[T]) -> T:
        """Return what a short call answers. One that may be repeated is, while the server cannot be reached."""
        patience = self._patience()
        while True:
            # Where this process must not use gRPC, no other attempt can help.
            channel = self._channel
            try:
                with _as_tensorus_errors():
                    method: Any = channel.unary_unary(SERVICE + call.name, serialize)
                    raw: bytes = method(call.request, timeout=self._timeout_s)
            except TensorusError as error:
                if call.repeat is None:
                    raise
                self._wait(patience, error, (0,))
                continue
            self._heard = True
            # Not by gRPC, to which an answer that does not parse would be a connection that broke.
            with as_answer(call.name):
                return answer_of(call, call.parse(raw), patience)

    def _read(self, name: str, request: Message, response_type: type[R]) -> Iterator[tuple[R, memoryview]]:
        """Yield the answers of a stream that reads."""
        with _as_tensorus_errors():
            call: Any = self._channel.unary_stream(SERVICE + name, serialize)(request)
        try:
            for raw in self._answers(call):
                with as_answer(name):
                    head, payload = split(raw)
                    response = response_type.FromString(head)
                yield response, payload
        finally:
            call.cancel()

    def _answers(self, call: Iterator[bytes]) -> Iterator[bytes]:
        """Yield what a stream answers. What its reader raises meanwhile is no error of the stream's.

        Raises:
            _InterruptedError: it broke, or was refused.
        """
        while True:
            try:
                with _as_tensorus_errors():
                    raw = next(call, None)
            except TensorusError as error:
                raise _InterruptedError(error) from None
            if raw is None:
                return
            self._heard = True
            yield raw

    def _wait(self, patience: Patience, error: TensorusError, place: tuple[int, ...]) -> None:
        """Wait before the next attempt; raise `error` where there is to be none."""
        if self._closed:
            raise error
        patience.wait(error, place)

    def _patience(self) -> Patience:
        """Return the patience of a call: none with a server that has never answered, whose address may be wrong."""
        return Patience(self._retry_timeout_s if self._heard else 0.0, self._on_interruption)


class _InterruptedError(Exception):
    """A stream broke."""

    def __init__(self, error: TensorusError) -> None:
        super().__init__(str(error))
        self.error = error


def require_address(address: str) -> None:
    """Refuse what gRPC would try to resolve for ever.

    Raises:
        UnavailableError: the address is empty, or no text.
    """
    if not address or not address.isprintable():
        raise UnavailableError(f"address is {address!r}, must be such as 'localhost:7733'", reason="UNAVAILABLE")


def answer_of(call: Call[T], response: Any, patience: Patience) -> T:  # `Any`: see `Call.parse`
    """Return what the answer to a call says, after as many interruptions as its patience counted."""
    if patience.interruptions and call.repeat is not None:
        return call.repeat(response)
    return call.value(response)


def insert_results(
    response: pb.InsertResponse,
    session: InsertSession,
    messages: InsertMessages,
    on_progress: Callable[[Progress], None] | None,
) -> Iterator[tuple[int, TensorInfo | TensorusError]]:
    """Yield the results in an answer of Insert, and let session and messages know what it says."""
    if response.HasField("opened"):
        yield from _take_opened(response.opened, session, messages)
    if response.HasField("progress"):
        acknowledged_bytes = response.progress.acknowledged_payload_bytes
        messages.credit.acknowledge(acknowledged_bytes)
        session.acknowledged_bytes = acknowledged_bytes
        if on_progress is not None:
            on_progress(Progress(None, session.delivered_bytes + acknowledged_bytes, None))
    for result in response.results:
        if not result.status.code:
            outcome: TensorInfo | TensorusError = inserted_from(result)
        else:
            outcome = error_of(result.status)
            if not session.failed(result.item, outcome):
                continue
        if session.resolve(result.item):
            yield result.item, outcome


def _take_opened(
    opened: pb.InsertOpened, session: InsertSession, messages: InsertMessages
) -> Iterator[tuple[int, TensorInfo]]:
    """Yield what was complete before the stream opened, and not heard of then; let the rest go on after its last message."""
    for left in opened.items:
        if left.tensor.generation and session.resolve(left.item):
            yield left.item, inserted_from(left)
    messages.left.update((left.item, left.committed_bytes) for left in opened.items)
    if not opened.more:
        session.resumed(messages.left)
        messages.credit.set_limit(opened.max_unacknowledged_bytes)
        messages.opened.set()


def serialize(message: Any) -> bytes:  # `Any`: a message of any type
    """Return a message as bytes."""
    serialized: bytes = message.SerializeToString()
    return serialized


@contextmanager
def _as_tensorus_errors() -> Iterator[None]:
    """Turn what gRPC raises into errors of ours. Nothing but gRPC may run inside."""
    try:
        yield
    except grpc.RpcError as error:
        raise rpc_error(error) from error
    except ValueError as error:
        # gRPC has no other name for it.
        raise UnavailableError("the client is closed", reason="UNAVAILABLE") from error
