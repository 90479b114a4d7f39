"""The gRPC service: translates between protobuf and the engine, and adds no rules of its own.

gRPC hands over raw bytes. Each call parses its request on its own thread, because gRPC's deserializers share one thread.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, TypeVar

import grpc
from google.protobuf.message import Message

from tensorus_protos.v1 import tensorus_pb2 as pb
from tensorus_server.access.rights import Role
from tensorus_server.engine.paging import Answer
from tensorus_server.engine.query import Query, parse_order
from tensorus_server.errors import DataCorruptError, DrainingError, UnimplementedError
from tensorus_server.limits import EXPLAIN_STREAM_BYTES, INSERT_STREAM_BYTES, READ_STREAM_BYTES
from tensorus_server.model import At
from tensorus_server.rpc.calls import OK
from tensorus_server.rpc.capabilities import capabilities
from tensorus_server.rpc.convert import dataset_to, metadata_from, policy_from, schema_from, stats_to, tensor_to
from tensorus_server.rpc.convert_filter import filter_from
from tensorus_server.rpc.convert_history import at_from, restored_to, retention_from, snapshot_to
from tensorus_server.rpc.convert_read import read_from, slices_from
from tensorus_server.rpc.convert_store import damage_to, store_stats_to, target_from
from tensorus_server.rpc.copy_calls import copy_dataset, copy_tensors
from tensorus_server.rpc.explain_call import explain_policy
from tensorus_server.rpc.framing import require_message_size
from tensorus_server.rpc.insert_call import InsertCall
from tensorus_server.rpc.insert_outbox import progress_to
from tensorus_server.rpc.interceptors import guard_stream, guard_unary, guard_upload
from tensorus_server.rpc.known_call import insert_known
from tensorus_server.rpc.plan_call import get_plan
from tensorus_server.rpc.read_call import ReadCall
from tensorus_server.rpc.server_status import server_status
from tensorus_server.rpc.verify_call import verify_responses

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from tensorus_server.engine.engine import Engine
    from tensorus_server.rpc.admission import Place
    from tensorus_server.rpc.calls import Call, Gate

__all__ = ["SERVICE_NAME", "UNIMPLEMENTED", "TensorService"]

T = TypeVar("T")
M = TypeVar("M", bound=Message)
Request = TypeVar("Request", bound=Message)

SERVICE_NAME = "tensorus.v1.TensorService"

UNIMPLEMENTED: tuple[str, ...] = ()
"""Calls of the contract that return UNIMPLEMENTED. docs/PROTOCOL.md lists them too; a test compares the two lists."""


class TensorService:
    """The calls of `tensorus.v1.TensorService` on one engine."""

    def __init__(self, engine: Engine, gate: Gate, *, store: str = "") -> None:
        """Serve `engine` to the calls that pass `gate`.

        Args:
            store: where the store is, without passwords, for administrators.
        """
        self._store = store
        self._engine = engine
        self._gate = gate
        self._admission = gate.admission
        self._started_s = time.time()

    def handler(self) -> grpc.GenericRpcHandler:
        """Return the handler that a gRPC server dispatches the calls to."""
        unary: dict[str, tuple[Any, Any]] = {
            "GetCapabilities": (_plain(self.get_capabilities), pb.GetCapabilitiesRequest),
            "GetServerStatus": (self.get_server_status, pb.GetServerStatusRequest),
            "CreateDataset": (self.create_dataset, pb.CreateDatasetRequest),
            "GetDataset": (_plain(self.get_dataset), pb.GetDatasetRequest),
            "ListDatasets": (self.list_datasets, pb.ListDatasetsRequest),
            "UpdateDataset": (_plain(self.update_dataset), pb.UpdateDatasetRequest),
            "DeleteDataset": (_plain(self.delete_dataset), pb.DeleteDatasetRequest),
            "GetDatasetStats": (self.get_dataset_stats, pb.GetDatasetStatsRequest),
            "CreateSnapshot": (_plain(self.create_snapshot), pb.CreateSnapshotRequest),
            "ListSnapshots": (self.list_snapshots, pb.ListSnapshotsRequest),
            "DeleteSnapshot": (_plain(self.delete_snapshot), pb.DeleteSnapshotRequest),
            "RestoreDataset": (_plain(self.restore_dataset), pb.RestoreDatasetRequest),
            "GetStoreStats": (_plain(self.get_store_stats), pb.GetStoreStatsRequest),
            "InsertKnown": (self.insert_known, pb.InsertKnownRequest),
            "GetInsertStatus": (self.get_insert_status, pb.GetInsertStatusRequest),
            "CancelInsert": (self.cancel_insert, pb.CancelInsertRequest),
            "ListTensors": (self.list_tensors, pb.ListTensorsRequest),
            "UpdateTensor": (self.update_tensor, pb.UpdateTensorRequest),
            "DeleteTensors": (self.delete_tensors, pb.DeleteTensorsRequest),
            "CopyTensors": (self.copy_tensors, pb.CopyTensorsRequest),
            "CopyDataset": (self.copy_dataset, pb.CopyDatasetRequest),
            "RenameDataset": (self.rename_dataset, pb.RenameDatasetRequest),
            "GetPlan": (self.get_plan, pb.GetPlanRequest),
        }
        handlers: dict[str, Any] = {
            name: grpc.stream_unary_rpc_method_handler(guard_unary(name, method, request_type, self._gate))
            for name, (method, request_type) in unary.items()
        }
        reads: dict[str, tuple[Any, Any]] = {
            "Get": (self.get, pb.GetRequest),
            "Query": (self.query, pb.QueryRequest),
            "Verify": (self.verify, pb.VerifyRequest),
        }
        for name, (method, request_type) in reads.items():
            guarded_read = guard_stream(name, method, self._gate, request_type)
            handlers[name] = grpc.stream_stream_rpc_method_handler(guarded_read)
        insert = guard_stream("Insert", self.insert, self._gate)
        handlers["Insert"] = grpc.stream_stream_rpc_method_handler(insert)
        explain = guard_upload("ExplainPolicy", self._explain, self._gate, memory_bytes=EXPLAIN_STREAM_BYTES)
        handlers["ExplainPolicy"] = grpc.stream_unary_rpc_method_handler(explain)
        for name in UNIMPLEMENTED:
            # A handler that streams in both directions accepts every kind of call, unary ones included.
            guarded = guard_stream(name, _unimplemented(name), self._gate)
            handlers[name] = grpc.stream_stream_rpc_method_handler(guarded)
        return grpc.method_handlers_generic_handler(SERVICE_NAME, handlers)

    def _explain(self, messages: Iterator[bytes], require_caller: Callable[[], None], call: Call) -> bytes:
        return explain_policy(self._engine, messages, require_caller, call)

    def get_server_status(self, _: pb.GetServerStatusRequest, call: Call) -> pb.GetServerStatusResponse:
        """Return what this process is, and who the caller is to it."""
        return server_status(
            self._engine, self._gate.rights(), call.caller, started_s=self._started_s, store=self._store
        )

    def get_capabilities(self, _: pb.GetCapabilitiesRequest) -> pb.GetCapabilitiesResponse:
        """Return version, limits, codecs, presets and features."""
        return capabilities(direct_reads=self._engine.plans.enabled, read_only=self._engine.read_only)

    def create_dataset(self, request: pb.CreateDatasetRequest, call: Call) -> pb.CreateDatasetResponse:
        """Create a dataset."""
        policy = policy_from(request.policy) if request.HasField("policy") else None
        schema = schema_from(request.schema) if request.HasField("schema") else None
        retention_s = retention_from(request.retention, dataset=request.name)
        created = self._engine.create_dataset(request.name, policy, schema, retention_s, owner=call.caller.owner)
        return pb.CreateDatasetResponse(dataset=dataset_to(created))

    def get_dataset(self, request: pb.GetDatasetRequest) -> pb.GetDatasetResponse:
        """Return a dataset."""
        return pb.GetDatasetResponse(dataset=dataset_to(self._engine.get_dataset(request.name)))

    def list_datasets(self, request: pb.ListDatasetsRequest, call: Call) -> pb.ListDatasetsResponse:
        """Return a page of the datasets that the caller may read."""
        answer = Answer(_or_damage(dataset_to, call))
        _, token = self._engine.list_datasets(
            page_size=request.page_size,
            page_token=request.page_token,
            take=answer.take,
            is_visible=lambda name: call.may(Role.READER, name),
        )
        datasets, damages = _split(answer.entries, pb.Dataset)
        return pb.ListDatasetsResponse(datasets=datasets, damages=damages, next_page_token=token)

    def update_dataset(self, request: pb.UpdateDatasetRequest) -> pb.UpdateDatasetResponse:
        """Replace a dataset's policy, schema and retention, as far as the request has them."""
        policy = policy_from(request.policy) if request.HasField("policy") else None
        schema = schema_from(request.schema) if request.HasField("schema") else None
        retention_s = None
        if request.HasField("retention"):
            retention_s = retention_from(request.retention, dataset=request.name)
        updated = self._engine.update_dataset(request.name, policy, schema, retention_s)
        return pb.UpdateDatasetResponse(dataset=dataset_to(updated))

    def delete_dataset(self, request: pb.DeleteDatasetRequest) -> pb.DeleteDatasetResponse:
        """Delete a dataset with its tensors."""
        deleted = self._engine.delete_dataset(request.name, drop_snapshots=request.drop_snapshots)
        return pb.DeleteDatasetResponse(deleted_tensors=deleted)

    def get_dataset_stats(self, request: pb.GetDatasetStatsRequest, call: Call) -> pb.GetDatasetStatsResponse:
        """Return sums over a dataset's tensors."""
        stats = self._engine.dataset_stats(request.name, _at_of(request, dataset=request.name))
        response = stats_to(stats)
        response.damages.extend(damage_to(damage, call) for damage in stats.damages)
        return response

    def create_snapshot(self, request: pb.CreateSnapshotRequest) -> pb.CreateSnapshotResponse:
        """Give a dataset's current state a name."""
        created = self._engine.snapshots.create(request.dataset, request.name)
        return pb.CreateSnapshotResponse(snapshot=snapshot_to(created))

    def list_snapshots(self, request: pb.ListSnapshotsRequest, call: Call) -> pb.ListSnapshotsResponse:
        """Return a page of a dataset's snapshots."""
        answer = Answer(_or_damage(snapshot_to, call))
        _, token = self._engine.snapshots.page(
            request.dataset, page_size=request.page_size, page_token=request.page_token, take=answer.take
        )
        snapshots, damages = _split(answer.entries, pb.Snapshot)
        return pb.ListSnapshotsResponse(snapshots=snapshots, damages=damages, next_page_token=token)

    def delete_snapshot(self, request: pb.DeleteSnapshotRequest) -> pb.DeleteSnapshotResponse:
        """Delete a snapshot."""
        self._engine.snapshots.drop(request.dataset, request.name)
        return pb.DeleteSnapshotResponse()

    def restore_dataset(self, request: pb.RestoreDatasetRequest) -> pb.RestoreDatasetResponse:
        """Make a dataset's tensors those of an earlier state."""
        at = at_from(request.at, dataset=request.dataset)
        restored = self._engine.snapshots.restore(request.dataset, at, discard_newer=request.discard_newer)
        return restored_to(restored)

    def get_store_stats(self, _: pb.GetStoreStatsRequest) -> pb.GetStoreStatsResponse:
        """Return the sizes of the whole store."""
        return store_stats_to(self._engine.store_stats())

    def insert(self, messages: Iterator[bytes], place: Place, call: Call) -> Iterator[bytes]:
        """Write tensors."""
        # An Insert that waits for its client needs no memory: its chunks are encoded and written.
        place.gives_back = True
        requests = place.requests(messages, INSERT_STREAM_BYTES)
        return InsertCall(self._engine, requests, place, call, lambda: self._admission.draining_s).responses()

    def insert_known(self, request: pb.InsertKnownRequest, call: Call) -> pb.InsertKnownResponse:
        """Insert tensors whose bytes the store has already."""
        return insert_known(self._engine, request, call)

    def get_insert_status(self, request: pb.GetInsertStatusRequest, call: Call) -> pb.GetInsertStatusResponse:
        """Return a page of the items of an insert of the caller, with how much of each is durable."""
        answer = Answer(progress_to)
        _, finished, token = self._engine.insert_status(
            call.caller.session_of(request.request_id), page_token=request.page_token, take=answer.take
        )
        return pb.GetInsertStatusResponse(items=answer.entries, finished=finished, next_page_token=token)

    def cancel_insert(self, request: pb.CancelInsertRequest, call: Call) -> pb.CancelInsertResponse:
        """Drop the unfinished items of an insert of the caller."""
        self._engine.cancel_insert(call.caller.session_of(request.request_id))
        return pb.CancelInsertResponse()

    def get(self, request: pb.GetRequest, place: Place, call: Call) -> Iterator[bytes]:
        """Read tensors by id."""
        options, fail_fast = request.options, request.fail_fast
        reading = ReadCall(call, self._engine.reader, pb.GetResponse, options, borrow=place.borrow, fail_fast=fail_fast)
        if options.until_plan:
            reading.end_at_plan(self._engine.plans)
        reads = [read_from(read) for read in request.reads]
        at = self._pinned(request, reading)
        found = self._engine.find(request.dataset, reads, with_payloads=not options.headers_only, at=at)
        return reading.responses((tensor, read.part) for tensor, read in zip(found, reads, strict=True))

    def query(self, request: pb.QueryRequest, place: Place, call: Call) -> Iterator[bytes]:
        """Read the tensors that match a filter."""
        options = request.options
        reading = ReadCall(call, self._engine.reader, pb.QueryResponse, options, borrow=place.borrow, fail_fast=False)
        part = slices_from(request.slices) if request.HasField("slices") else None
        found = self._engine.select(
            _query_from(request, self._pinned(request, reading)),
            with_payloads=not options.headers_only,
            resume_token=request.resume_token,
        )
        return reading.responses(((tensor, part) for tensor in found), found)

    def get_plan(self, request: pb.GetPlanRequest, call: Call) -> pb.GetPlanResponse:
        """Tell where large tensors are in the object store."""
        return get_plan(self._engine, request, call)

    def verify(self, request: pb.VerifyRequest, place: Place, call: Call) -> Iterator[bytes]:
        """Read stored bytes again and report damage."""
        place.borrow(READ_STREAM_BYTES)

        def has_caller() -> bool:
            if self._admission.draining_s is not None:
                raise DrainingError("the server is about to stop")
            return place.is_active()

        verification = self._engine.verify(target_from(request), request.resume_token)
        return (response.SerializeToString() for response in verify_responses(verification, has_caller, call))

    def list_tensors(self, request: pb.ListTensorsRequest, call: Call) -> pb.ListTensorsResponse:
        """Return a page of tensors without their bytes."""
        answer = Answer(_or_damage(tensor_to, call))
        _, token = self._engine.list_tensors(
            request.dataset,
            filter_from(request.filter if request.HasField("filter") else None, request.filter_text),
            parse_order(request.order_by),
            page_size=request.page_size,
            page_token=request.page_token,
            take=answer.take,
            at=_at_of(request, dataset=request.dataset),
        )
        tensors, damages = _split(answer.entries, pb.Tensor)
        call.tensors = len(tensors)
        return pb.ListTensorsResponse(tensors=tensors, damages=damages, next_page_token=token)

    def update_tensor(self, request: pb.UpdateTensorRequest, call: Call) -> pb.UpdateTensorResponse:
        """Replace a tensor's metadata."""
        metadata = metadata_from(request.metadata, dataset=request.dataset, tensor=request.id)
        updated = self._engine.update_metadata(request.dataset, request.id, metadata)
        call.tensors = 1
        call.note_tensors([(updated.id, OK)])
        return pb.UpdateTensorResponse(tensor=tensor_to(updated))

    def delete_tensors(self, request: pb.DeleteTensorsRequest, call: Call) -> pb.DeleteTensorsResponse:
        """Delete tensors."""
        # The answer may have to repeat every id. It fits into a message if the request does.
        require_message_size(request.ByteSize(), dataset=request.dataset)
        deleted = set(self._engine.delete_tensors(request.dataset, list(request.ids)))
        missing_ids = dict.fromkeys(tensor_id for tensor_id in request.ids if tensor_id not in deleted)
        call.tensors = len(deleted)
        if call.wants_tensors:
            outcomes = {tensor_id: OK if tensor_id in deleted else "TENSOR_NOT_FOUND" for tensor_id in request.ids}
            call.note_tensors(list(outcomes.items()))
        return pb.DeleteTensorsResponse(deleted=len(deleted), missing_ids=missing_ids)

    def copy_tensors(self, request: pb.CopyTensorsRequest, call: Call) -> pb.CopyTensorsResponse:
        """Copy or move tensors."""
        return copy_tensors(self._engine.copies, request, call)

    def copy_dataset(self, request: pb.CopyDatasetRequest, call: Call) -> pb.CopyDatasetResponse:
        """Copy a dataset."""
        return copy_dataset(self._engine.copies, request, call)

    def rename_dataset(self, request: pb.RenameDatasetRequest, call: Call) -> pb.RenameDatasetResponse:
        """Rename a dataset."""
        request_id = call.caller.session_of(request.request_id)
        renamed = self._engine.copies.rename_dataset(request.name, request.new_name, request_id=request_id)
        return pb.RenameDatasetResponse(dataset=dataset_to(renamed))

    def _pinned(self, request: pb.GetRequest | pb.QueryRequest, call: ReadCall) -> At | None:
        """Return the state to read by its generation, which the call's first message reports; None: the current one."""
        at = _at_of(request, dataset=request.dataset)
        if at is None:
            return None
        generation = self._engine.snapshots.generation_of(request.dataset, at)
        call.report_state(generation)
        return At(generation=generation)


def _at_of(
    request: pb.GetRequest | pb.QueryRequest | pb.ListTensorsRequest | pb.GetDatasetStatsRequest, *, dataset: str
) -> At | None:
    return at_from(request.at, dataset=dataset) if request.HasField("at") else None


def _plain(method: Callable[[Request], M]) -> Callable[[Request, Call], M]:
    """Return a method that is the same for every caller as one that takes the call, too."""
    return lambda request, _: method(request)


def _or_damage(convert: Callable[[T], M], call: Call) -> Callable[[T | DataCorruptError], M | pb.Damage]:
    """Return a function that converts an entry with `convert`, or to a Damage if it could not be read."""

    def converted(found: T | DataCorruptError) -> M | pb.Damage:
        return damage_to(found, call) if isinstance(found, DataCorruptError) else convert(found)

    return converted


def _split(entries: Iterable[Message], kind: type[M]) -> tuple[list[M], list[pb.Damage]]:
    """Split entries into messages of this kind and Damage messages."""
    messages = list(entries)
    intact = [message for message in messages if isinstance(message, kind)]
    return intact, [message for message in messages if isinstance(message, pb.Damage)]


def _query_from(request: pb.QueryRequest, at: At | None) -> Query:
    return Query(
        dataset=request.dataset,
        filter=filter_from(request.filter if request.HasField("filter") else None, request.filter_text),
        order=parse_order(request.order_by) if request.order_by else None,
        limit=request.limit if request.HasField("limit") else None,
        sample=request.sample if request.HasField("sample") else None,
        seed=request.seed if request.HasField("seed") else None,
        at=at,
    )


def _unimplemented(name: str) -> Any:  # `Any`: it replaces methods with different signatures
    def method(*_: object) -> Iterator[bytes]:
        raise UnimplementedError(f"{name} is not implemented by this version")

    return method
