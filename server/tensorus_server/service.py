"""The gRPC service: protobuf in, protobuf out, and no rules of its own.

Insert, Get, Query and ExplainPolicy carry raw bytes: their work is done on the call's own thread, and never in a deserializer,
of which one thread serves all calls.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import grpc

from tensorus_protos.v1 import tensorus_pb2 as pb
from tensorus_server.capabilities import capabilities
from tensorus_server.convert import (
    dataset_to,
    metadata_from,
    policy_from,
    read_from,
    schema_from,
    slices_from,
    stats_to,
    tensor_to,
)
from tensorus_server.convert_filter import filter_from
from tensorus_server.errors import DataCorruptError, UnimplementedError
from tensorus_server.explain_call import explain_policy
from tensorus_server.insert_call import InsertCall, progress_to
from tensorus_server.interceptors import guard_stream, guard_unary, guard_upload
from tensorus_server.limits import EXPLAIN_STREAM_BYTES, INSERT_STREAM_BYTES, READ_STREAM_BYTES
from tensorus_server.query import Query, parse_order
from tensorus_server.read_call import ReadCall
from tensorus_server.status import status_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from tensorus_server.engine import Engine
    from tensorus_server.interceptors import Admission

__all__ = ["SERVICE_NAME", "UNIMPLEMENTED", "TensorService"]

T = TypeVar("T")

SERVICE_NAME = "tensorus.v1.TensorService"

UNIMPLEMENTED = ("Verify",)
"""Calls of the contract that answer UNIMPLEMENTED; docs/PROTOCOL.md lists them, and a test compares the lists."""


class TensorService:
    """The calls of `tensorus.v1.TensorService` on one engine."""

    def __init__(self, engine: Engine, admission: Admission) -> None:
        """Serve `engine` to those whom `admission` lets in."""
        self._engine = engine
        self._admission = admission

    def handler(self) -> grpc.GenericRpcHandler:
        """Return what a gRPC server needs to serve the calls."""
        unary: dict[str, tuple[Any, Any]] = {
            "GetCapabilities": (self.get_capabilities, pb.GetCapabilitiesRequest),
            "CreateDataset": (self.create_dataset, pb.CreateDatasetRequest),
            "GetDataset": (self.get_dataset, pb.GetDatasetRequest),
            "ListDatasets": (self.list_datasets, pb.ListDatasetsRequest),
            "UpdateDataset": (self.update_dataset, pb.UpdateDatasetRequest),
            "DeleteDataset": (self.delete_dataset, pb.DeleteDatasetRequest),
            "GetDatasetStats": (self.get_dataset_stats, pb.GetDatasetStatsRequest),
            "GetInsertStatus": (self.get_insert_status, pb.GetInsertStatusRequest),
            "CancelInsert": (self.cancel_insert, pb.CancelInsertRequest),
            "ListTensors": (self.list_tensors, pb.ListTensorsRequest),
            "UpdateTensor": (self.update_tensor, pb.UpdateTensorRequest),
            "DeleteTensors": (self.delete_tensors, pb.DeleteTensorsRequest),
        }
        handlers = {
            name: grpc.unary_unary_rpc_method_handler(
                guard_unary(name, method, self._admission), request_type.FromString, _serialize
            )
            for name, (method, request_type) in unary.items()
        }
        streams: dict[str, tuple[Any, Any]] = {
            "Get": (self.get, pb.GetRequest),
            "Query": (self.query, pb.QueryRequest),
        }
        for name, (method, request_type) in streams.items():
            guarded = guard_stream(name, method, self._admission, memory_bytes=READ_STREAM_BYTES)
            handlers[name] = grpc.unary_stream_rpc_method_handler(guarded, request_type.FromString)
        insert = guard_stream("Insert", self.insert, self._admission, memory_bytes=INSERT_STREAM_BYTES)
        handlers["Insert"] = grpc.stream_stream_rpc_method_handler(insert)
        explain = guard_upload("ExplainPolicy", explain_policy, self._admission, memory_bytes=EXPLAIN_STREAM_BYTES)
        handlers["ExplainPolicy"] = grpc.stream_unary_rpc_method_handler(explain)
        for name in UNIMPLEMENTED:
            # As a stream of raw bytes both ways it answers whatever the contract says of it.
            guarded = guard_stream(name, _unimplemented(name), self._admission, memory_bytes=0)
            handlers[name] = grpc.stream_stream_rpc_method_handler(guarded)
        return grpc.method_handlers_generic_handler(SERVICE_NAME, handlers)

    def get_capabilities(self, _: pb.GetCapabilitiesRequest) -> pb.GetCapabilitiesResponse:
        """Limits, codecs and presets."""
        return capabilities()

    def create_dataset(self, request: pb.CreateDatasetRequest) -> pb.CreateDatasetResponse:
        """Create a dataset."""
        policy = policy_from(request.policy) if request.HasField("policy") else None
        schema = schema_from(request.schema) if request.HasField("schema") else None
        return pb.CreateDatasetResponse(dataset=dataset_to(self._engine.create_dataset(request.name, policy, schema)))

    def get_dataset(self, request: pb.GetDatasetRequest) -> pb.GetDatasetResponse:
        """Return a dataset."""
        return pb.GetDatasetResponse(dataset=dataset_to(self._engine.get_dataset(request.name)))

    def list_datasets(self, _: pb.ListDatasetsRequest) -> pb.ListDatasetsResponse:
        """Return all datasets."""
        datasets, damages = _apart(self._engine.list_datasets(), call="ListDatasets")
        return pb.ListDatasetsResponse(datasets=map(dataset_to, datasets), damages=damages)

    def update_dataset(self, request: pb.UpdateDatasetRequest) -> pb.UpdateDatasetResponse:
        """Replace a dataset's policy, schema, or both."""
        policy = policy_from(request.policy) if request.HasField("policy") else None
        schema = schema_from(request.schema) if request.HasField("schema") else None
        return pb.UpdateDatasetResponse(dataset=dataset_to(self._engine.update_dataset(request.name, policy, schema)))

    def delete_dataset(self, request: pb.DeleteDatasetRequest) -> pb.DeleteDatasetResponse:
        """Delete a dataset with its tensors."""
        return pb.DeleteDatasetResponse(deleted_tensors=self._engine.delete_dataset(request.name))

    def get_dataset_stats(self, request: pb.GetDatasetStatsRequest) -> pb.GetDatasetStatsResponse:
        """Return sums over a dataset's tensors."""
        stats = self._engine.dataset_stats(request.name)
        response = stats_to(stats)
        response.damages.extend(_apart(stats.damages, call="GetDatasetStats")[1])
        return response

    def insert(self, messages: Iterator[bytes]) -> Iterator[bytes]:
        """Write tensors."""
        return InsertCall(self._engine, messages, lambda: self._admission.draining_s).responses()

    def get_insert_status(self, request: pb.GetInsertStatusRequest) -> pb.GetInsertStatusResponse:
        """Return what of an insert is durable."""
        items, finished = self._engine.insert_status(request.request_id)
        return pb.GetInsertStatusResponse(items=map(progress_to, items), finished=finished)

    def cancel_insert(self, request: pb.CancelInsertRequest) -> pb.CancelInsertResponse:
        """Drop what of an insert is not complete."""
        self._engine.cancel_insert(request.request_id)
        return pb.CancelInsertResponse()

    def get(self, request: pb.GetRequest) -> Iterator[bytes]:
        """Read tensors by id."""
        options = request.options
        call = ReadCall("Get", self._engine.reader, pb.GetResponse, options, fail_fast=request.fail_fast)
        reads = [read_from(read) for read in request.reads]
        found = self._engine.find(request.dataset, reads, with_payloads=not options.headers_only)
        return call.responses((tensor, read.part) for tensor, read in zip(found, reads, strict=True))

    def query(self, request: pb.QueryRequest) -> Iterator[bytes]:
        """Read the tensors that match a filter."""
        options = request.options
        call = ReadCall("Query", self._engine.reader, pb.QueryResponse, options, fail_fast=False)
        part = slices_from(request.slices) if request.HasField("slices") else None
        found = self._engine.select(
            _query_from(request), with_payloads=not options.headers_only, resume_token=request.resume_token
        )
        return call.responses(((tensor, part) for tensor in found), found)

    def list_tensors(self, request: pb.ListTensorsRequest) -> pb.ListTensorsResponse:
        """Return a page of tensors without their bytes."""
        found, next_page_token = self._engine.list_tensors(
            request.dataset,
            filter_from(request.filter if request.HasField("filter") else None, request.filter_text),
            parse_order(request.order_by),
            page_size=request.page_size,
            page_token=request.page_token,
        )
        tensors, damages = _apart(found, call="ListTensors")
        return pb.ListTensorsResponse(tensors=map(tensor_to, tensors), next_page_token=next_page_token, damages=damages)

    def update_tensor(self, request: pb.UpdateTensorRequest) -> pb.UpdateTensorResponse:
        """Replace a tensor's metadata."""
        metadata = metadata_from(request.metadata, dataset=request.dataset, tensor=request.id)
        return pb.UpdateTensorResponse(
            tensor=tensor_to(self._engine.update_metadata(request.dataset, request.id, metadata))
        )

    def delete_tensors(self, request: pb.DeleteTensorsRequest) -> pb.DeleteTensorsResponse:
        """Delete tensors."""
        deleted = set(self._engine.delete_tensors(request.dataset, list(request.ids)))
        missing_ids = dict.fromkeys(tensor_id for tensor_id in request.ids if tensor_id not in deleted)
        return pb.DeleteTensorsResponse(deleted=len(deleted), missing_ids=missing_ids)


def _apart(found: Iterable[T | DataCorruptError], *, call: str) -> tuple[list[T], list[pb.Damage]]:
    """Return what is intact, and what is not as it travels."""
    intact: list[T] = []
    damages: list[pb.Damage] = []
    for one in found:
        if isinstance(one, DataCorruptError):
            facts = one.facts
            named, generation = facts.get("tensor", facts.get("dataset", "")), int(facts.get("generation", 0))
            damages.append(pb.Damage(id=named, generation=generation, status=status_of(one, call=call)))
        else:
            intact.append(one)
    return intact, damages


def _query_from(request: pb.QueryRequest) -> Query:
    return Query(
        dataset=request.dataset,
        filter=filter_from(request.filter if request.HasField("filter") else None, request.filter_text),
        order=parse_order(request.order_by) if request.order_by else None,
        limit=request.limit if request.HasField("limit") else None,
        sample=request.sample if request.HasField("sample") else None,
        seed=request.seed if request.HasField("seed") else None,
    )


def _serialize(message: Any) -> bytes:  # `Any`: a message of any type; anything but bytes would hang the call
    serialized: bytes = message.SerializeToString()
    return serialized


def _unimplemented(name: str) -> Any:  # `Any`: it stands in for methods of every shape
    def method(_: object) -> Iterator[bytes]:
        raise UnimplementedError(f"{name} is not implemented by this version")

    return method
