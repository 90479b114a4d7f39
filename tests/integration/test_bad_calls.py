"""Bad calls from a stranger, all but inserts: a specific code, reason and message; nothing becomes visible, nothing breaks.

The stranger has the generated stub and messages, and nothing of ours.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import grpc
import pytest
from google.protobuf import duration_pb2, timestamp_pb2

from support.wire import (
    bytes_of,
    call_error,
    item_error,
)
from tensorus_protos.v1 import tensorus_pb2 as pb
from tensorus_protos.v1.tensorus_pb2_grpc import TensorServiceStub
from tensorus_server.engine.paging import encode_token

DATA = bytes_of(4)

CALLS: dict[str, tuple[Callable[[TensorServiceStub, str], Any], tuple[str, str, str]]] = {
    "a dataset name that leaves its folder": (
        lambda stub, _: stub.CreateDataset(pb.CreateDatasetRequest(name="../../etc")),
        ("INVALID_ARGUMENT", "INVALID_NAME", r"name of a dataset is '../../etc': a part between slashes must not be"),
    ),
    "an empty dataset name": (
        lambda stub, _: stub.CreateDataset(pb.CreateDatasetRequest(name="")),
        ("INVALID_ARGUMENT", "INVALID_NAME", r"must be 1 to 255 bytes"),
    ),
    "a dataset that exists": (
        lambda stub, name: stub.CreateDataset(pb.CreateDatasetRequest(name=name)),
        ("ALREADY_EXISTS", "ALREADY_EXISTS", r"a dataset of this name exists already \[dataset="),
    ),
    "a preset of a dataset that is unknown": (
        lambda stub, _: stub.CreateDataset(
            pb.CreateDatasetRequest(name="new", policy=pb.StoragePolicy(preset="ultra"))
        ),
        ("INVALID_ARGUMENT", "INVALID_POLICY", r"preset 'ultra' is not one of"),
    ),
    "a contract that is negative": (
        lambda stub, _: stub.CreateDataset(
            pb.CreateDatasetRequest(name="new", policy=pb.StoragePolicy(max_relative_error=-1.0))
        ),
        (
            "INVALID_ARGUMENT",
            "INVALID_POLICY",
            r"max_relative_error of a policy is -1.0, must be finite and not negative",
        ),
    ),
    "chunks above their limit": (
        lambda stub, _: stub.CreateDataset(
            pb.CreateDatasetRequest(name="new", policy=pb.StoragePolicy(chunk_bytes=4 * 1024 * 1024))
        ),
        ("INVALID_ARGUMENT", "INVALID_POLICY", r"chunk_bytes of a policy is 4194304, must be a multiple of 16"),
    ),
    "a schema with an unknown dtype": (
        lambda stub, _: stub.CreateDataset(pb.CreateDatasetRequest(name="new", schema=pb.DatasetSchema(dtype=99))),
        ("INVALID_ARGUMENT", "UNSUPPORTED_DTYPE", r"dtype of the schema is number 99"),
    ),
    "stats of an unknown dataset": (
        lambda stub, _: stub.GetDatasetStats(pb.GetDatasetStatsRequest(name="nowhere")),
        ("NOT_FOUND", "DATASET_NOT_FOUND", r"there is no such dataset \[dataset=nowhere\]"),
    ),
    "known tensors of an unknown dataset": (
        lambda stub, _: stub.InsertKnown(pb.InsertKnownRequest(dataset="nowhere")),
        ("NOT_FOUND", "DATASET_NOT_FOUND", r"there is no such dataset \[dataset=nowhere\]"),
    ),
    "more known tensors than are answered": (
        lambda stub, name: stub.InsertKnown(pb.InsertKnownRequest(dataset=name, tensors=[pb.Tensor()] * 1001)),
        ("INVALID_ARGUMENT", "LIMIT_EXCEEDED", r"number of tensors is 1001, limit is 1000 \(known_per_insert_max\)"),
    ),
    "a plan where direct reads are off": (
        lambda stub, name: stub.GetPlan(pb.GetPlanRequest(dataset=name, reads=[pb.TensorRead(id="kept")])),
        ("UNIMPLEMENTED", "NOT_IMPLEMENTED", r"direct reads are not offered: the server has them off"),
    ),
    "an unknown id": (
        lambda stub, name: list(stub.Get(get_request(name, pb.TensorRead(id="nobody")))),
        ("NOT_FOUND", "TENSOR_NOT_FOUND", r"there is no such tensor \[dataset=\S+, tensor=nobody\]"),
    ),
    "a generation that is gone": (
        lambda stub, name: list(stub.Get(get_request(name, pb.TensorRead(id="kept", generation=10**15)))),
        ("FAILED_PRECONDITION", "GENERATION_MISMATCH", r"the request asks for 1000000000000000"),
    ),
    "a byte range beyond the end": (
        lambda stub, name: list(
            stub.Get(get_request(name, pb.TensorRead(id="kept", bytes=pb.ByteRange(offset=90, length=11))))
        ),
        ("INVALID_ARGUMENT", "INVALID_SLICE", r"byte range is 90 to 101, the tensor has 100 bytes"),
    ),
    "a byte range whose end overflows 64 bits": (
        lambda stub, name: list(
            stub.Get(
                get_request(name, pb.TensorRead(id="kept", bytes=pb.ByteRange(offset=2**64 - 1, length=2**64 - 1)))
            )
        ),
        ("INVALID_ARGUMENT", "INVALID_SLICE", r"the tensor has 100 bytes"),
    ),
    "more slices than axes": (
        lambda stub, name: list(stub.Get(get_request(name, sliced(pb.Slice(), pb.Slice())))),
        ("INVALID_ARGUMENT", "INVALID_SLICE", r"number of slices is 2, the tensor has 1 axes"),
    ),
    "a step of zero": (
        lambda stub, name: list(stub.Get(get_request(name, sliced(pb.Slice(step=0))))),
        ("INVALID_ARGUMENT", "INVALID_SLICE", r"step of axis 0 is 0, must not be 0"),
    ),
    "messages that are too small": (
        lambda stub, name: list(stub.Get(pb.GetRequest(dataset=name, options=pb.ReadOptions(max_payload_bytes=1)))),
        ("INVALID_ARGUMENT", "INVALID_REQUEST", r"max_payload_bytes is 1, must be at least 65536 bytes"),
    ),
    "a cast to a dtype that is not known": (
        lambda stub, name: list(stub.Get(pb.GetRequest(dataset=name, options=pb.ReadOptions(as_dtype=99)))),
        ("INVALID_ARGUMENT", "UNSUPPORTED_DTYPE", r"as_dtype is 99, which this server does not know"),
    ),
    "a cast to integers": (
        lambda stub, name: list(
            stub.Get(
                pb.GetRequest(
                    dataset=name,
                    reads=[pb.TensorRead(id="kept")],
                    options=pb.ReadOptions(as_dtype=pb.DATA_TYPE_INT8),
                    fail_fast=True,
                )
            )
        ),
        ("INVALID_ARGUMENT", "INVALID_REQUEST", r"as_dtype is int8, the tensor is"),
    ),
    "a precision that is not known": (
        lambda stub, name: list(stub.Get(pb.GetRequest(dataset=name, options=pb.ReadOptions(precision=99)))),
        ("INVALID_ARGUMENT", "INVALID_REQUEST", r"precision is number 99, which this server does not know"),
    ),
    "a query at a precision that is not known": (
        lambda stub, name: list(stub.Query(pb.QueryRequest(dataset=name, options=pb.ReadOptions(precision=99)))),
        ("INVALID_ARGUMENT", "INVALID_REQUEST", r"precision is number 99, which this server does not know"),
    ),
    "bytes at a precision": (
        lambda stub, name: list(
            stub.Get(
                pb.GetRequest(
                    dataset=name,
                    reads=[pb.TensorRead(id="kept", bytes=pb.ByteRange(offset=0))],
                    options=pb.ReadOptions(precision=pb.PRECISION_BF16),
                    fail_fast=True,
                )
            )
        ),
        ("INVALID_ARGUMENT", "INVALID_REQUEST", r"precision does not apply to a byte range"),
    ),
    "a filter that does not parse": (
        lambda stub, name: list(stub.Query(pb.QueryRequest(dataset=name, filter_text="layer >> 3"))),
        ("INVALID_ARGUMENT", "INVALID_FILTER", r"filter does not parse at character 7: found '>', expected a number"),
    ),
    "two filters": (
        lambda stub, name: list(
            stub.Query(pb.QueryRequest(dataset=name, filter_text="a = 1", filter=pb.Filter(all_of=pb.FilterList())))
        ),
        ("INVALID_ARGUMENT", "INVALID_FILTER", r"has both a filter and a filter_text"),
    ),
    "a filter without a node": (
        lambda stub, name: list(stub.Query(pb.QueryRequest(dataset=name, filter=pb.Filter()))),
        (
            "INVALID_ARGUMENT",
            "INVALID_FILTER",
            r"node of a filter is missing, or of a kind that this server does not know",
        ),
    ),
    "a filter with too many values": (
        lambda stub, name: list(
            stub.Query(
                pb.QueryRequest(
                    dataset=name,
                    filter=pb.Filter(
                        one_of=pb.OneOf(field=pb.Field(key="a"), values=[pb.Value(integer=n) for n in range(1001)])
                    ),
                )
            )
        ),
        ("INVALID_ARGUMENT", "LIMIT_EXCEEDED", r"number of values of a one_of is 1001, limit is 1000"),
    ),
    "an order that does not exist": (
        lambda stub, name: list(stub.Query(pb.QueryRequest(dataset=name, order_by="size"))),
        (
            "INVALID_ARGUMENT",
            "INVALID_REQUEST",
            r"order_by is 'size', must be one of created, id, nbytes, stored_bytes",
        ),
    ),
    "a page that is too large": (
        lambda stub, name: stub.ListTensors(pb.ListTensorsRequest(dataset=name, page_size=1001)),
        ("INVALID_ARGUMENT", "LIMIT_EXCEEDED", r"page_size is 1001, limit is 1000 tensors"),
    ),
    "a page token of somebody else's": (
        lambda stub, name: stub.ListTensors(pb.ListTensorsRequest(dataset=name, page_token="next please")),
        ("INVALID_ARGUMENT", "INVALID_PAGE_TOKEN", r"page_token was not issued by this server"),
    ),
    "metadata of an unknown tensor": (
        lambda stub, name: stub.UpdateTensor(pb.UpdateTensorRequest(dataset=name, id="nobody")),
        ("NOT_FOUND", "TENSOR_NOT_FOUND", r"there is no such tensor"),
    ),
    "metadata without a kind": (
        lambda stub, name: stub.UpdateTensor(
            pb.UpdateTensorRequest(dataset=name, id="kept", metadata={"a": pb.Value()})
        ),
        ("INVALID_ARGUMENT", "INVALID_METADATA", r"a metadata value has no kind"),
    ),
    "too many ids to delete": (
        lambda stub, name: stub.DeleteTensors(pb.DeleteTensorsRequest(dataset=name, ids=["x"] * 10_001)),
        ("INVALID_ARGUMENT", "LIMIT_EXCEEDED", r"number of ids is 10001, limit is 10000"),
    ),
    "the status of an insert that never was": (
        lambda stub, _: stub.GetInsertStatus(pb.GetInsertStatusRequest(request_id="x")),
        ("NOT_FOUND", "SESSION_EXPIRED", r"nothing is known of insert x"),
    ),
    "a sample without an opening": (
        lambda stub, _: stub.ExplainPolicy(iter([pb.ExplainPolicyRequest(payload=DATA)])),
        ("INVALID_ARGUMENT", "INVALID_REQUEST", r"first message of the stream does not open it"),
    ),
    "a sample that is too short": (
        lambda stub, _: stub.ExplainPolicy(iter([explain_request(5), pb.ExplainPolicyRequest(payload=DATA)])),
        ("INVALID_ARGUMENT", "SIZE_MISMATCH", r"4 bytes were sent, uint8 of shape \[5\] has 5 bytes$"),
    ),
    "a sample that is too long": (
        lambda stub, _: stub.ExplainPolicy(iter([explain_request(3), pb.ExplainPolicyRequest(payload=DATA)])),
        ("INVALID_ARGUMENT", "SIZE_MISMATCH", r"at least 4 bytes were sent, uint8 of shape \[3\] has 3 bytes$"),
    ),
    "a sample that is too large": (
        lambda stub, _: stub.ExplainPolicy(iter([explain_request(2**30)])),
        ("INVALID_ARGUMENT", "LIMIT_EXCEEDED", r"sample is 1073741824 bytes, limit is 67108864 bytes"),
    ),
    "a candidate that is unknown": (
        lambda stub, _: stub.ExplainPolicy(iter([explain_request(0, pb.StoragePolicy(preset="ultra"))])),
        ("INVALID_ARGUMENT", "INVALID_POLICY", r"preset 'ultra' is not one of"),
    ),
    "a state of no kind": (
        lambda stub, name: list(stub.Query(pb.QueryRequest(dataset=name, at=pb.At()))),
        ("INVALID_ARGUMENT", "INVALID_REQUEST", r"`at` has no kind that this server knows \[dataset="),
    ),
    "a state at a time that is none": (
        lambda stub, name: stub.GetDatasetStats(
            pb.GetDatasetStatsRequest(name=name, at=pb.At(time=timestamp_pb2.Timestamp(nanos=-1)))
        ),
        ("INVALID_ARGUMENT", "INVALID_REQUEST", r"time of `at` is 0 s and -1 ns, must be in the years 1 to 9999"),
    ),
    "a state beyond every generation": (
        lambda stub, name: stub.ListTensors(pb.ListTensorsRequest(dataset=name, at=pb.At(generation=2**64 - 1))),
        ("NOT_FOUND", "STATE_NOT_KEPT", r"there is no state at generation 9223372036854775807 yet"),
    ),
    "a snapshot that is not there": (
        lambda stub, name: list(stub.Get(pb.GetRequest(dataset=name, at=pb.At(snapshot="")))),
        ("NOT_FOUND", "SNAPSHOT_NOT_FOUND", r"there is no snapshot of the name '' \[dataset="),
    ),
    "a snapshot without a name": (
        lambda stub, name: stub.CreateSnapshot(pb.CreateSnapshotRequest(dataset=name)),
        ("INVALID_ARGUMENT", "INVALID_NAME", r"name of a snapshot is '', 0 bytes of UTF-8; must be 1 to 128 bytes"),
    ),
    "a deletion of a snapshot that is not there": (
        lambda stub, name: stub.DeleteSnapshot(pb.DeleteSnapshotRequest(dataset=name, name="x" * 300)),
        ("NOT_FOUND", "SNAPSHOT_NOT_FOUND", r"there is no snapshot of the name 'x"),
    ),
    "a page of snapshots after something else": (
        lambda stub, name: stub.ListSnapshots(
            pb.ListSnapshotsRequest(dataset=name, page_token=encode_token(["datasets", 1]))
        ),
        ("INVALID_ARGUMENT", "INVALID_PAGE_TOKEN", r"page_token was not issued by this server"),
    ),
    "a page of too many snapshots": (
        lambda stub, name: stub.ListSnapshots(pb.ListSnapshotsRequest(dataset=name, page_size=1001)),
        ("INVALID_ARGUMENT", "LIMIT_EXCEEDED", r"page_size is 1001, limit is 1000 snapshots"),
    ),
    "a restore of no state": (
        lambda stub, name: stub.RestoreDataset(pb.RestoreDatasetRequest(dataset=name)),
        ("INVALID_ARGUMENT", "INVALID_REQUEST", r"`at` has no kind that this server knows"),
    ),
    "a retention with nanoseconds": (
        lambda stub, name: stub.UpdateDataset(
            pb.UpdateDatasetRequest(name=name, retention=duration_pb2.Duration(seconds=1, nanos=1))
        ),
        ("INVALID_ARGUMENT", "INVALID_REQUEST", r"retention is 1 s and 1 ns, must be whole seconds"),
    ),
    "a retention that is too long": (
        lambda stub, _: stub.CreateDataset(
            pb.CreateDatasetRequest(name="new", retention=duration_pb2.Duration(seconds=2**62))
        ),
        ("INVALID_ARGUMENT", "LIMIT_EXCEEDED", r"retention is 4611686018427387904 s, limit is 3162240000 s"),
    ),
    "a verification of ids of no dataset": (
        lambda stub, _: list(stub.Verify(pb.VerifyRequest(ids=["kept"]))),
        ("INVALID_ARGUMENT", "INVALID_REQUEST", r"the request has ids but no dataset"),
    ),
}


def get_request(dataset: str, read: pb.TensorRead) -> pb.GetRequest:
    return pb.GetRequest(dataset=dataset, reads=[read], fail_fast=True)


def explain_request(size: int, *candidates: pb.StoragePolicy) -> pb.ExplainPolicyRequest:
    spec = pb.TensorSpec(dtype=pb.DATA_TYPE_UINT8, shape=[size])
    return pb.ExplainPolicyRequest(open=pb.OpenExplain(spec=spec, candidates=candidates))


def sliced(*axes: pb.Slice) -> pb.TensorRead:
    return pb.TensorRead(id="kept", slices=pb.SliceSet(axes=axes))


@pytest.mark.parametrize("case", CALLS, ids=str)
def test_a_bad_call_is_refused_with_its_reason(stub: TensorServiceStub, kept: str, case: str) -> None:
    call, expected = CALLS[case]
    with pytest.raises(grpc.RpcError) as raised:
        call(stub, kept)
    found = call_error(raised.value)
    assert (found.code, found.reason) == expected[:2]
    assert re.search(expected[2], found.message)


def test_a_get_reports_what_fails_in_band_and_goes_on(stub: TensorServiceStub, kept: str) -> None:
    reads = [pb.TensorRead(id="nobody"), pb.TensorRead(id="kept"), sliced(pb.Slice(), pb.Slice())]
    statuses, items = [], []
    for response in stub.Get(pb.GetRequest(dataset=kept, reads=reads)):
        statuses += response.statuses
        items += [segment.item for segment in response.segments]
    assert [(status.item, item_error(status).reason) for status in statuses] == [
        (0, "TENSOR_NOT_FOUND"),
        (2, "INVALID_SLICE"),
    ]
    assert items == [1]
