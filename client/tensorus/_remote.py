"""The backend that speaks to a server over gRPC."""

from __future__ import annotations

import json
from contextlib import contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import grpc
from google.protobuf.message import DecodeError, Message
from google.rpc import status_pb2

from tensorus import _allocator
from tensorus._arrivals import GetPlace, QueryPlace, arrivals
from tensorus._backend import Backend
from tensorus._channel import LazyChannel
from tensorus._convert import (
    dataset_from,
    error_from,
    error_of,
    metadata_to,
    policy_to,
    schema_to,
    slices_to,
    stats_from,
    tensor_from,
)
from tensorus._decode import accepted_codecs
from tensorus._insert_stream import InsertSession
from tensorus._patience import Patience
from tensorus.errors import (
    InternalError,
    NotImplementedByServerError,
    OverloadedError,
    TensorusError,
    UnavailableError,
)
from tensorus.types import Progress
from tensorus_protos.framing import MalformedMessageError, split
from tensorus_protos.v1 import tensorus_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from tensorus._backend import Arrival, InsertOptions, Listing, Part, Upload
    from tensorus._insert_stream import InsertMessages
    from tensorus.types import DatasetInfo, DatasetStats, Policy, Schema, TensorInfo

__all__ = ["RemoteBackend"]

M = TypeVar("M", bound=Message)
R = TypeVar("R", pb.GetResponse, pb.QueryResponse)

_SERVICE = "/tensorus.v1.TensorService/"
_DETAILS_KEY = "grpc-status-details-bin"

_READ_CALLS = ("GetCapabilities", "GetDataset", "ListDatasets", "GetDatasetStats", "ListTensors")
"""Short calls that change nothing, and so may be repeated by gRPC itself when the server cannot be reached."""

_SERVICE_CONFIG = {
    "methodConfig": [
        {
            "name": [{"service": "tensorus.v1.TensorService", "method": name} for name in _READ_CALLS],
            "retryPolicy": {
                "maxAttempts": 4,
                "initialBackoff": "0.1s",
                "maxBackoff": "2s",
                "backoffMultiplier": 2,
                "retryableStatusCodes": ["UNAVAILABLE"],
            },
        }
    ]
}

_MESSAGE_BYTES_MAX = 4 * 1024 * 1024
"""Of the contract."""

_OPTIONS = (
    ("grpc.max_receive_message_length", _MESSAGE_BYTES_MAX),
    ("grpc.max_send_message_length", _MESSAGE_BYTES_MAX),
    ("grpc.keepalive_time_ms", 60_000),
    # How soon a connection that broke is tried again: `Patience` decides how often.
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.service_config", json.dumps(_SERVICE_CONFIG)),
    # Two clients of one process do not share a connection: each gets its own share of the network.
    ("grpc.use_local_subchannel_pool", 1),
)

_PAGE_SIZE = 500


class RemoteBackend(Backend):
    """One channel to one server."""

    def __init__(self, address: str, *, timeout_s: float, retry_timeout_s: float, tune_allocator: bool = False) -> None:
        """Speak to the server at `address`; connects when it is first used.

        Args:
            timeout_s: of short calls; streams take as long as they take.
            retry_timeout_s: how long a transfer is tried again without progress, once the server has answered anything.
            tune_allocator: of this process, and of each that a pickled copy comes to.

        Raises:
            UnavailableError: the address is empty, or no text.
        """
        if not address or not address.isprintable():
            raise UnavailableError(f"address is {address!r}, must be such as 'localhost:7733'", reason="UNAVAILABLE")
        self._timeout_s = timeout_s
        self._retry_timeout_s = retry_timeout_s
        self._heard = False
        self._closed = False
        self._copy = partial(
            type(self),
            address,
            timeout_s=timeout_s,
            retry_timeout_s=retry_timeout_s,
            tune_allocator=tune_allocator,
        )
        self._lazy_channel = LazyChannel(address, _OPTIONS)
        if tune_allocator:
            _allocator.tune_allocator()

    def __reduce__(self) -> tuple[Callable[[], RemoteBackend], tuple[()]]:
        """Pickle address and settings; what comes out of it connects when it is first used."""
        return self._copy, ()

    def create_dataset(self, name: str, policy: Policy | None, schema: Schema | None) -> DatasetInfo:
        """See `Backend`."""
        request = pb.CreateDatasetRequest(name=name, policy=_policy(policy), schema=_schema(schema))
        return dataset_from(self._call("CreateDataset", request, pb.CreateDatasetResponse).dataset)

    def get_dataset(self, name: str) -> DatasetInfo:
        """See `Backend`."""
        return dataset_from(self._call("GetDataset", pb.GetDatasetRequest(name=name), pb.GetDatasetResponse).dataset)

    def list_datasets(self) -> list[DatasetInfo]:
        """See `Backend`."""
        response = self._call("ListDatasets", pb.ListDatasetsRequest(), pb.ListDatasetsResponse)
        return [dataset_from(dataset) for dataset in response.datasets]

    def update_dataset(self, name: str, policy: Policy | None, schema: Schema | None) -> DatasetInfo:
        """See `Backend`."""
        request = pb.UpdateDatasetRequest(name=name, policy=_policy(policy), schema=_schema(schema))
        return dataset_from(self._call("UpdateDataset", request, pb.UpdateDatasetResponse).dataset)

    def delete_dataset(self, name: str) -> int:
        """See `Backend`."""
        request = pb.DeleteDatasetRequest(name=name)
        return self._call("DeleteDataset", request, pb.DeleteDatasetResponse).deleted_tensors

    def dataset_stats(self, name: str) -> DatasetStats:
        """See `Backend`."""
        request = pb.GetDatasetStatsRequest(name=name)
        return stats_from(self._call("GetDatasetStats", request, pb.GetDatasetStatsResponse))

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
                    yield from self._insert_stream(session, patience, on_progress)
                except _InterruptedError as interruption:
                    broken = interruption.error
                if session.failure is not None:
                    raise session.failure
                if broken is not None:
                    self._wait(patience, broken)
                    if on_progress is not None:
                        on_progress(Progress(None, session.delivered_bytes, None, patience.interruptions))
                elif not session.has_expired:
                    break
            done = True
        finally:
            if not done and session.may_have_left_something:
                with suppress(TensorusError):
                    self._call(
                        "CancelInsert", pb.CancelInsertRequest(request_id=session.request_id), pb.CancelInsertResponse
                    )
        yield from session.unsendable

    def _insert_stream(
        self, session: InsertSession, patience: Patience, on_progress: Callable[[Progress], None] | None
    ) -> Iterator[tuple[int, TensorInfo | TensorusError]]:
        """Yield the results of one stream."""
        messages = session.begin()
        # No (de)serializers: the stream carries bytes, which `framing` makes and reads.
        # `Any`: without serializers the stubs cannot tell what is sent.
        with _as_tensorus_errors():
            method: Any = self._channel.stream_stream(_SERVICE + "Insert")
            call = method(messages)
        try:
            for raw in self._answers(call, patience):
                with _as_answer("Insert"):
                    response = pb.InsertResponse.FromString(raw)
                yield from _results(response, session, messages, on_progress)
        finally:
            messages.end()
            call.cancel()
        if session.failure is None and not messages.finished:
            raise InternalError("the server ended the insert before all of it was sent")

    def get(self, dataset: str, ids: Sequence[str], part: Part | None, *, with_data: bool) -> Iterator[Arrival]:
        """See `Backend`. A get whose stream breaks goes on where it was."""
        slices = None if part is None else slices_to(part)
        reads = [pb.TensorRead(id=tensor_id, slices=slices) for tensor_id in ids]
        place = GetPlace(reads, with_data=with_data)
        patience = self._patience()
        while True:
            request = pb.GetRequest(dataset=dataset, reads=place.remaining(), options=_options(with_data=with_data))
            try:
                for response, payload in self._read("Get", request, pb.GetResponse, patience):
                    yield from place.passed(arrivals(response, payload))
            except _InterruptedError as interruption:
                broken = interruption.error
            else:
                return
            if reads and place.is_complete:
                return
            self._wait(patience, broken)

    def query(self, listing: Listing, *, with_data: bool) -> Iterator[Arrival]:
        """See `Backend`."""
        request = pb.QueryRequest(
            dataset=listing.dataset,
            filter_text=listing.where,
            order_by=listing.order_by,
            limit=listing.limit,
            sample=listing.sample,
            seed=listing.seed,
            options=_options(with_data=with_data),
        )
        place = QueryPlace(with_data=with_data)
        patience = self._patience()
        while True:
            request.resume_token = place.token
            try:
                for response, payload in self._read("Query", request, pb.QueryResponse, patience):
                    yield from place.passed(arrivals(response, payload))
                    place.note(response.resume_token)
            except _InterruptedError as interruption:
                broken = interruption.error
            else:
                return
            self._wait(patience, broken)
            place.restart()

    def list_tensors(self, listing: Listing) -> Iterator[TensorInfo]:
        """See `Backend`."""
        request = pb.ListTensorsRequest(
            dataset=listing.dataset, filter_text=listing.where, order_by=listing.order_by, page_size=_PAGE_SIZE
        )
        count = 0
        while True:
            page = self._call("ListTensors", request, pb.ListTensorsResponse)
            for tensor in page.tensors:
                if listing.limit is not None and count >= listing.limit:
                    return
                count += 1
                yield tensor_from(tensor)
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    def update_metadata(self, dataset: str, tensor_id: str, metadata: Mapping[str, Any]) -> TensorInfo:
        """See `Backend`."""
        request = pb.UpdateTensorRequest(dataset=dataset, id=tensor_id, metadata=metadata_to(metadata))
        return tensor_from(self._call("UpdateTensor", request, pb.UpdateTensorResponse).tensor)

    def delete_tensors(self, dataset: str, ids: Sequence[str]) -> int:
        """See `Backend`."""
        request = pb.DeleteTensorsRequest(dataset=dataset, ids=ids)
        return self._call("DeleteTensors", request, pb.DeleteTensorsResponse).deleted

    def close(self) -> None:
        """See `Backend`."""
        self._closed = True
        self._lazy_channel.close()

    @property
    def _channel(self) -> grpc.Channel:
        return self._lazy_channel.get()

    def _call(self, name: str, request: Message, response_type: type[M]) -> M:
        with _as_tensorus_errors():
            method = self._channel.unary_unary(_SERVICE + name, _serialize, response_type.FromString)
            response: M = method(request, timeout=self._timeout_s)
        self._heard = True
        return response

    def _read(
        self, name: str, request: Message, response_type: type[R], patience: Patience
    ) -> Iterator[tuple[R, memoryview]]:
        """Yield the answers of a stream that reads."""
        with _as_tensorus_errors():
            call: Any = self._channel.unary_stream(_SERVICE + name, _serialize)(request)
        try:
            for raw in self._answers(call, patience):
                with _as_answer(name):
                    head, payload = split(raw)
                    response = response_type.FromString(head)
                yield response, payload
        finally:
            call.cancel()

    def _answers(self, call: Iterator[bytes], patience: Patience) -> Iterator[bytes]:
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
            patience.progress()
            yield raw

    def _wait(self, patience: Patience, error: TensorusError) -> None:
        """Wait before the next attempt; raise `error` where there is to be none."""
        if self._closed:
            raise error
        patience.wait(error)

    def _patience(self) -> Patience:
        """Return the patience of a transfer: none with a server that has never answered."""
        return Patience(self._retry_timeout_s if self._heard else 0.0)


class _InterruptedError(Exception):
    """A stream broke."""

    def __init__(self, error: TensorusError) -> None:
        super().__init__(str(error))
        self.error = error


def _results(
    response: pb.InsertResponse,
    session: InsertSession,
    messages: InsertMessages,
    on_progress: Callable[[Progress], None] | None,
) -> Iterator[tuple[int, TensorInfo | TensorusError]]:
    if response.HasField("opened"):
        for left in response.opened.items:
            # Complete before the stream opened, and not heard of then.
            if left.tensor.generation and session.resolve(left.item):
                yield left.item, tensor_from(left.tensor)
        session.resumed({left.item: left.committed_bytes for left in response.opened.items})
        messages.credit.set_limit(response.opened.max_unacknowledged_bytes)
        messages.opened.set()
    if response.HasField("progress") and response.progress.acknowledged_payload_bytes:
        acknowledged_bytes = response.progress.acknowledged_payload_bytes
        messages.credit.acknowledge(acknowledged_bytes)
        if on_progress is not None:
            on_progress(Progress(None, session.delivered_bytes + acknowledged_bytes, None))
    for result in response.results:
        if not result.status.code:
            outcome: TensorInfo | TensorusError = tensor_from(result.tensor)
        else:
            outcome = error_of(result.status)
            if outcome.reason == "SESSION_EXPIRED" and session.expired(result.item):
                continue
        if session.resolve(result.item):
            yield result.item, outcome


def _options(*, with_data: bool) -> pb.ReadOptions:
    return pb.ReadOptions(accepted_codecs=accepted_codecs(), headers_only=not with_data)


def _policy(policy: Policy | None) -> pb.StoragePolicy | None:
    return None if policy is None else policy_to(policy)


def _schema(schema: Schema | None) -> pb.DatasetSchema | None:
    return None if schema is None else schema_to(schema)


def _serialize(message: Any) -> bytes:  # `Any`: a message of any type
    serialized: bytes = message.SerializeToString()
    return serialized


@contextmanager
def _as_tensorus_errors() -> Iterator[None]:
    """Turn what gRPC raises into errors of ours. Nothing but gRPC may run inside."""
    try:
        yield
    except grpc.RpcError as error:
        raise _rpc_error(error) from error
    except ValueError as error:
        # gRPC has no other name for it.
        raise UnavailableError("the client is closed", reason="UNAVAILABLE") from error


@contextmanager
def _as_answer(call: str) -> Iterator[None]:
    """Turn what parsing an answer raises into an error of ours."""
    try:
        yield
    except (MalformedMessageError, DecodeError) as error:
        raise InternalError(f"an answer of {call} is no message of the contract: {error}") from error


def _rpc_error(error: Any) -> TensorusError:  # `Any`: a grpc.RpcError that is also a grpc.Call, which no type says
    for key, value in error.trailing_metadata() or ():
        if key == _DETAILS_KEY:
            found = _details_error(value)
            if found is not None:
                return found
    return _error_by_code(error.code(), f"{error.code().name}: {error.details()}")


def _details_error(details: bytes) -> TensorusError | None:
    """Return the error that the trailers carry; None where they are not ours, and the code has to do."""
    try:
        return error_from(status_pb2.Status.FromString(details))
    except DecodeError:
        return None


def _error_by_code(code: grpc.StatusCode, message: str) -> TensorusError:
    """Return the error of a call that did not reach the service, or was ended by the transport."""
    if code in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED}:
        return UnavailableError(message, reason=code.name)
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        return OverloadedError(message, reason=code.name)
    if code is grpc.StatusCode.UNIMPLEMENTED:
        return NotImplementedByServerError(message, reason=code.name)
    return InternalError(message, reason=code.name)
