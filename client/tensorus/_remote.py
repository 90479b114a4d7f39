"""The backend that speaks to a server over gRPC."""

from __future__ import annotations

import json
from collections import deque
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import crc32c
import grpc
from google.protobuf.message import DecodeError, Message
from google.rpc import status_pb2

from tensorus._backend import Backend, Began, Bytes, Failed
from tensorus._convert import (
    dataset_from,
    error_from,
    metadata_to,
    policy_to,
    schema_to,
    slices_to,
    stats_from,
    tensor_from,
)
from tensorus._decode import accepted_codecs
from tensorus._insert_stream import InsertMessages
from tensorus.errors import (
    ChecksumMismatchError,
    InternalError,
    NotImplementedByServerError,
    OverloadedError,
    UnavailableError,
)
from tensorus.types import Progress
from tensorus_protos.framing import MalformedMessageError, split
from tensorus_protos.v1 import tensorus_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from tensorus._backend import Arrival, Listing, Part, Upload
    from tensorus.errors import TensorusError
    from tensorus.types import DatasetInfo, DatasetStats, Policy, Schema, TensorInfo

__all__ = ["RemoteBackend"]

M = TypeVar("M", bound=Message)

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
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.service_config", json.dumps(_SERVICE_CONFIG)),
    # Two clients of one process do not share a connection: each gets its own share of the network.
    ("grpc.use_local_subchannel_pool", 1),
)

_PAGE_SIZE = 500


class RemoteBackend(Backend):
    """One channel to one server."""

    def __init__(self, address: str, *, timeout_s: float) -> None:
        """Speak to the server at `address`; connects when it is first used.

        Args:
            timeout_s: of short calls; streams take as long as they take.

        Raises:
            UnavailableError: the address is empty, or no text.
        """
        if not address or not address.isprintable():
            raise UnavailableError(f"address is {address!r}, must be such as 'localhost:7733'", reason="UNAVAILABLE")
        self._timeout_s = timeout_s
        self._channel = grpc.insecure_channel(address, options=_OPTIONS, compression=grpc.Compression.NoCompression)

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
        self, dataset: str, uploads: Iterable[Upload], on_progress: Callable[[Progress], None] | None
    ) -> Iterator[tuple[int, TensorInfo | TensorusError]]:
        """See `Backend`."""
        messages = InsertMessages(dataset, uploads)
        # No (de)serializers: the stream carries bytes, which `framing` makes and reads.
        # `Any`: without serializers the stubs cannot tell what is sent.
        with _as_tensorus_errors():
            method: Any = self._channel.stream_stream(_SERVICE + "Insert")
            call = method(messages)
        try:
            for raw in _answers(call):
                with _as_answer("Insert"):
                    response = pb.InsertResponse.FromString(raw)
                yield from _results(response, messages, on_progress)
        finally:
            messages.credit.end()
            call.cancel()
        if messages.failure is not None:
            raise messages.failure
        if not messages.finished:
            raise InternalError("the server ended the insert before all of it was sent")
        yield from messages.unsendable

    def get(self, dataset: str, ids: Sequence[str], part: Part | None, *, with_data: bool) -> Iterator[Arrival]:
        """See `Backend`."""
        slices = None if part is None else slices_to(part)
        reads = [pb.TensorRead(id=tensor_id, slices=slices) for tensor_id in ids]
        request = pb.GetRequest(dataset=dataset, reads=reads, options=_options(with_data=with_data))
        return self._read("Get", request, pb.GetResponse)

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
        return self._read("Query", request, pb.QueryResponse)

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
        self._channel.close()

    def _call(self, name: str, request: Message, response_type: type[M]) -> M:
        with _as_tensorus_errors():
            method = self._channel.unary_unary(_SERVICE + name, _serialize, response_type.FromString)
            response: M = method(request, timeout=self._timeout_s)
        return response

    def _read(
        self, name: str, request: Message, response_type: type[pb.GetResponse | pb.QueryResponse]
    ) -> Iterator[Arrival]:
        with _as_tensorus_errors():
            call: Any = self._channel.unary_stream(_SERVICE + name, _serialize)(request)
        try:
            for raw in _answers(call):
                with _as_answer(name):
                    head, payload = split(raw)
                    response = response_type.FromString(head)
                yield from _arrivals(response, payload)
        finally:
            call.cancel()


def _arrivals(response: pb.GetResponse | pb.QueryResponse, payload: memoryview) -> Iterator[Arrival]:
    lengths = sum(segment.payload_length for segment in response.segments)
    if lengths != payload.nbytes:
        raise InternalError(f"segments of an answer add up to {lengths} bytes, its payload is {payload.nbytes} bytes")
    position = 0
    failed = deque(Failed(status.item, _error(status.status)) for status in response.statuses)
    for segment in response.segments:
        data = payload[position : position + segment.payload_length]
        position += segment.payload_length
        # Statuses stand apart from segments, and both are in the order of their items.
        while failed and failed[0].item < segment.item:
            yield failed.popleft()
        if segment.HasField("tensor"):
            spec = segment.part if segment.HasField("part") else segment.tensor.spec
            yield Began(segment.item, tensor_from(segment.tensor), tuple(spec.shape))
        if segment.decoded_length == 0:
            continue
        if segment.HasField("crc32c"):
            found = crc32c.crc32c(data)
            if found != segment.crc32c:
                raise ChecksumMismatchError(
                    f"CRC32C of the bytes at offset {segment.offset} is {found:#010x}, expected {segment.crc32c:#010x}",
                    reason="CHECKSUM_MISMATCH",
                )
        yield Bytes(segment.item, segment.offset, data, segment.encoding != 0, segment.decoded_length)
    yield from failed


def _results(
    response: pb.InsertResponse, messages: InsertMessages, on_progress: Callable[[Progress], None] | None
) -> Iterator[tuple[int, TensorInfo | TensorusError]]:
    if response.HasField("opened"):
        messages.credit.set_limit(response.opened.max_unacknowledged_bytes)
    if response.HasField("progress"):
        acknowledged_bytes = response.progress.acknowledged_payload_bytes
        messages.credit.acknowledge(acknowledged_bytes)
        if on_progress is not None:
            on_progress(Progress(None, acknowledged_bytes, None))
    for result in response.results:
        if result.status.code:
            yield result.item, _error(result.status)
        else:
            yield result.item, tensor_from(result.tensor)


def _options(*, with_data: bool) -> pb.ReadOptions:
    return pb.ReadOptions(accepted_codecs=accepted_codecs(), headers_only=not with_data)


def _policy(policy: Policy | None) -> pb.StoragePolicy | None:
    return None if policy is None else policy_to(policy)


def _schema(schema: Schema | None) -> pb.DatasetSchema | None:
    return None if schema is None else schema_to(schema)


def _serialize(message: Any) -> bytes:  # `Any`: a message of any type
    serialized: bytes = message.SerializeToString()
    return serialized


def _answers(call: Iterator[bytes]) -> Iterator[bytes]:
    """Yield what a stream answers. What its reader raises meanwhile is no error of the stream's."""
    while True:
        with _as_tensorus_errors():
            raw = next(call, None)
        if raw is None:
            return
        yield raw


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


def _error(status: status_pb2.Status) -> TensorusError:
    return error_from(status) or InternalError(status.message)


def _error_by_code(code: grpc.StatusCode, message: str) -> TensorusError:
    """Return the error of a call that did not reach the service, or was ended by the transport."""
    if code in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED}:
        return UnavailableError(message, reason=code.name)
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        return OverloadedError(message, reason=code.name)
    if code is grpc.StatusCode.UNIMPLEMENTED:
        return NotImplementedByServerError(message, reason=code.name)
    return InternalError(message, reason=code.name)
