"""Every limit of the contract on the wire: a request at it is taken, one beyond it is refused with its reason."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any

import grpc
import pytest
from google.protobuf import duration_pb2

from support.wire import announced, call_error, insert, insert_message, item_error, open_insert
from tensorus_protos.v1 import tensorus_pb2 as pb
from tensorus_protos.v1.tensorus_pb2_grpc import TensorServiceStub
from tensorus_server import limits

Action = Callable[[TensorServiceStub, str, int], None]
"""Does with a dataset what a limit allows or refuses, of a size."""

DATA = b"abcd"


class RefusedError(Exception):
    """An item was refused."""


def send(stub: TensorServiceStub, messages: Iterable[pb.InsertRequest]) -> None:
    for status in insert(stub, messages):
        if status.status.code:
            raise RefusedError(item_error(status).reason)


def send_tensor(stub: TensorServiceStub, dataset: str, data: bytes = DATA, **fields: Any) -> None:
    """Insert one tensor of bytes."""
    tensor = announced(**{"tensor_id": "t", "shape": [len(data)], **fields})
    send(stub, [open_insert(dataset), insert_message(data, tensor=tensor)])


def payload(stub: TensorServiceStub, dataset: str, size: int) -> None:
    send_tensor(stub, dataset, bytes(size))


def message(stub: TensorServiceStub, dataset: str, size: int) -> None:
    """Send a message of exactly so many bytes: heads with metadata, and a payload."""

    def build(text_bytes: int) -> pb.InsertRequest:
        texts = [60_000] * (text_bytes // 60_000) + [text_bytes % 60_000]
        tensors = [announced(f"t{n}", metadata={"text": pb.Value(text="x" * text)}) for n, text in enumerate(texts)]
        segments = [
            pb.Segment(item=n, tensor=tensor, decoded_length=4, payload_length=4, last=True)
            for n, tensor in enumerate(tensors)
        ]
        return pb.InsertRequest(segments=segments, payload=DATA * len(tensors))

    text_bytes = size - 10_000
    while build(text_bytes).ByteSize() < size:
        text_bytes += size - build(text_bytes).ByteSize()
    assert build(text_bytes).ByteSize() == size
    send(stub, [open_insert(dataset), build(text_bytes)])


def segments(stub: TensorServiceStub, dataset: str, count: int) -> None:
    tensors = [announced(f"t{n}", shape=[0]) for n in range(count)]
    send(
        stub,
        [
            open_insert(dataset),
            pb.InsertRequest(segments=[pb.Segment(item=n, tensor=t, last=True) for n, t in enumerate(tensors)]),
        ],
    )


def copies(stub: TensorServiceStub, dataset: str, count: int) -> None:
    segments(stub, dataset, count)
    wanted = [pb.CopiedTensor(id=f"t{n}", new_id=f"copy {n}") for n in range(count)]
    stub.CopyTensors(pb.CopyTensorsRequest(source_dataset=dataset, tensors=wanted))


def open_items(stub: TensorServiceStub, dataset: str, count: int) -> None:
    begun = [insert_message(b"a", item=n, tensor=announced(f"t{n}"), last=False) for n in range(count)]
    ended = [insert_message(b"bcd", item=n, offset=1) for n in range(count)]
    send(stub, [open_insert(dataset), *begun, *ended])


def items_together(stub: TensorServiceStub, dataset: str, count: int) -> None:
    packed = []
    for start in range(0, count, 1000):
        numbers = range(start, min(start + 1000, count))
        packed.append(
            pb.InsertRequest(
                segments=[pb.Segment(item=n, tensor=announced(f"t{n}", shape=[0]), last=True) for n in numbers]
            )
        )
    send(stub, [open_insert(dataset, all_or_nothing=True), *packed])


def tensor_bytes(stub: TensorServiceStub, dataset: str, size: int) -> None:
    """Announce a tensor, and send nothing of it: that is refused, too, for another reason."""
    try:
        send_tensor(stub, dataset, b"", shape=[size])
    except RefusedError as error:
        if str(error) != "SIZE_MISMATCH":
            raise


def metadata(stub: TensorServiceStub, dataset: str, size: int) -> None:
    text = "x" * (size - len(json.dumps({"a": ""}, separators=(",", ":"))))
    send_tensor(stub, dataset, metadata={"a": pb.Value(text=text)})


def metadata_depth(stub: TensorServiceStub, dataset: str, depth: int) -> None:
    value = pb.Value(integer=1)
    # The metadata itself is the first level.
    for _ in range(depth - 1):
        value = pb.Value(list=pb.ListValue(values=[value]))
    send_tensor(stub, dataset, metadata={"a": value})


def chunk_bytes(stub: TensorServiceStub, dataset: str, size: int) -> None:
    send_tensor(stub, dataset, policy=pb.StoragePolicy(chunk_bytes=size))


def get(stub: TensorServiceStub, dataset: str, **fields: Any) -> None:
    list(stub.Get(pb.GetRequest(dataset=dataset, **fields), timeout=60))


def query(stub: TensorServiceStub, dataset: str, **fields: Any) -> None:
    list(stub.Query(pb.QueryRequest(dataset=dataset, **fields), timeout=60))


def condition() -> pb.Filter:
    return pb.Filter(exists=pb.Exists(field=pb.Field(key="a")))


def explain(stub: TensorServiceStub, size: int, candidates: int = 1) -> None:
    """Announce a sample, and send nothing of it: that is refused, too, for another reason."""
    opening = pb.OpenExplain(spec=pb.TensorSpec(dtype=pb.DATA_TYPE_UINT8, shape=[size]))
    opening.candidates.extend([pb.StoragePolicy(preset="none")] * candidates)
    try:
        stub.ExplainPolicy(iter([pb.ExplainPolicyRequest(open=opening)]), timeout=60)
    except grpc.RpcError as error:
        if call_error(error).reason != "SIZE_MISMATCH":
            raise


def nested(depth: int) -> pb.Filter:
    """Return a filter of so many levels, the condition included."""
    found = condition()
    for _ in range(depth - 1):
        found = pb.Filter(negated=found)
    return found


def one_of(*counts: int) -> pb.Filter:
    """Return conditions with so many values each."""
    filters = [
        pb.Filter(one_of=pb.OneOf(field=pb.Field(key="a"), values=[pb.Value(integer=n) for n in range(count)]))
        for count in counts
    ]
    return pb.Filter(all_of=pb.FilterList(filters=filters))


def values_total(count: int) -> pb.Filter:
    return one_of(*[1000] * (count // 1000), count % 1000)


def plans(stub: TensorServiceStub, dataset: str, count: int) -> None:
    """Ask for plans, which a server on a local store has not: it says so after it has counted."""
    try:
        stub.GetPlan(pb.GetPlanRequest(dataset=dataset, reads=[pb.TensorRead(id="none")] * count))
    except grpc.RpcError as error:
        if call_error(error).reason != "NOT_IMPLEMENTED":
            raise


MAXIMA: dict[str, tuple[str, Action]] = {
    "PAYLOAD_BYTES_MAX": ("PAYLOAD_TOO_LARGE", payload),
    "MESSAGE_BYTES_MAX": ("PAYLOAD_TOO_LARGE", message),
    "SEGMENTS_PER_MESSAGE_MAX": ("INVALID_REQUEST", segments),
    "OPEN_ITEMS_MAX": ("LIMIT_EXCEEDED", open_items),
    "ITEMS_TOGETHER_MAX": ("LIMIT_EXCEEDED", items_together),
    "TENSOR_BYTES_MAX": ("INVALID_SHAPE", tensor_bytes),
    "RANK_MAX": ("INVALID_SHAPE", lambda stub, name, rank: send_tensor(stub, name, shape=[1] * (rank - 1) + [4])),
    "ID_BYTES_MAX": ("INVALID_NAME", lambda stub, name, size: send_tensor(stub, name, tensor_id="x" * size)),
    "REQUEST_ID_BYTES_MAX": (
        "INVALID_NAME",
        lambda stub, name, size: send(stub, [open_insert(name, request_id=name.ljust(size, "x"))]),
    ),
    "DATASET_NAME_BYTES_MAX": (
        "INVALID_NAME",
        lambda stub, name, size: stub.CreateDataset(pb.CreateDatasetRequest(name=name.ljust(size, "x"))),
    ),
    "METADATA_BYTES_MAX": ("LIMIT_EXCEEDED", metadata),
    "METADATA_DEPTH_MAX": ("LIMIT_EXCEEDED", metadata_depth),
    "METADATA_KEY_BYTES_MAX": (
        "LIMIT_EXCEEDED",
        lambda stub, name, size: send_tensor(stub, name, metadata={"k" * size: pb.Value(integer=1)}),
    ),
    "CHUNK_BYTES_MAX": ("INVALID_POLICY", chunk_bytes),
    "FILTER_TEXT_BYTES_MAX": (
        "LIMIT_EXCEEDED",
        lambda stub, name, size: query(stub, name, filter_text="a = 1".ljust(size)),
    ),
    "FILTER_DEPTH_MAX": ("LIMIT_EXCEEDED", lambda stub, name, depth: query(stub, name, filter=nested(depth))),
    "FILTER_CONDITIONS_MAX": (
        "LIMIT_EXCEEDED",
        lambda stub, name, count: query(
            stub, name, filter=pb.Filter(any_of=pb.FilterList(filters=[condition()] * count))
        ),
    ),
    "FILTER_VALUES_MAX": ("LIMIT_EXCEEDED", lambda stub, name, count: query(stub, name, filter=one_of(count))),
    "FILTER_VALUES_TOTAL_MAX": (
        "LIMIT_EXCEEDED",
        lambda stub, name, count: query(stub, name, filter=values_total(count)),
    ),
    "SAMPLE_MAX": ("LIMIT_EXCEEDED", lambda stub, name, count: query(stub, name, sample=count)),
    "EXPLAIN_BYTES_MAX": ("LIMIT_EXCEEDED", lambda stub, _, size: explain(stub, size)),
    "EXPLAIN_CANDIDATES_MAX": ("LIMIT_EXCEEDED", lambda stub, _, count: explain(stub, 0, count)),
    "KNOWN_PER_INSERT_MAX": (
        "LIMIT_EXCEEDED",
        lambda stub, name, count: stub.InsertKnown(pb.InsertKnownRequest(dataset=name, tensors=[pb.Tensor()] * count)),
    ),
    "PLANS_PER_CALL_MAX": ("LIMIT_EXCEEDED", plans),
    "PAGE_SIZE_MAX": (
        "LIMIT_EXCEEDED",
        lambda stub, name, size: stub.ListTensors(pb.ListTensorsRequest(dataset=name, page_size=size)),
    ),
    "READS_PER_GET_MAX": (
        "LIMIT_EXCEEDED",
        lambda stub, name, count: get(stub, name, reads=[pb.TensorRead(id="none")] * count),
    ),
    "IDS_PER_DELETE_MAX": (
        "LIMIT_EXCEEDED",
        lambda stub, name, count: stub.DeleteTensors(pb.DeleteTensorsRequest(dataset=name, ids=["none"] * count)),
    ),
    "COPIES_PER_CALL_MAX": ("LIMIT_EXCEEDED", copies),
    "SNAPSHOT_NAME_BYTES_MAX": (
        "INVALID_NAME",
        lambda stub, name, size: stub.CreateSnapshot(pb.CreateSnapshotRequest(dataset=name, name="s" * size)),
    ),
    "RETENTION_S_MAX": (
        "LIMIT_EXCEEDED",
        lambda stub, name, seconds: stub.UpdateDataset(
            pb.UpdateDatasetRequest(name=name, retention=duration_pb2.Duration(seconds=seconds))
        ),
    ),
}

STEPS = {"CHUNK_BYTES_MAX": 16, "CHUNK_BYTES_MIN": 16}
"""What one more is, where it is not 1."""

MINIMA: dict[str, tuple[str, Action]] = {
    "CHUNK_BYTES_MIN": ("INVALID_POLICY", chunk_bytes),
    "PAYLOAD_BYTES_MIN": (
        "INVALID_REQUEST",
        lambda stub, name, size: get(stub, name, options=pb.ReadOptions(max_payload_bytes=size)),
    ),
}

ELSEWHERE = {
    "CHUNK_BYTES_DEFAULT": "a default",
    "DATASET_COPY_TENSORS_MAX": "so many take long: tests of the engine, with fewer",
    "INDEXED_TEXT_BYTES_MAX": "a longer text is kept, and only compared with nothing: tests of filters",
    "RESTORED_TENSORS_MAX": "too many to insert here: the contract of catalogues",
    "RESUMABLE_BYTES_MIN": "a promise, not a refusal: tests of resuming",
    "UNACKNOWLEDGED_BYTES_MAX": "the sender's to keep: tests of the client's credit",
}


def outcome(action: Action, stub: TensorServiceStub, dataset: str, size: int) -> str:
    """Return the reason why it was refused; empty: it was not."""
    try:
        action(stub, dataset, size)
    except grpc.RpcError as error:
        return call_error(error).reason
    except RefusedError as error:
        return str(error)
    return ""


@pytest.fixture
def created(stub: TensorServiceStub, dataset: str) -> str:
    stub.CreateDataset(pb.CreateDatasetRequest(name=dataset))
    return dataset


def delete_all(stub: TensorServiceStub, dataset: str) -> None:
    """Delete what an action inserted, so that the next may insert the same."""
    while listed := stub.ListTensors(pb.ListTensorsRequest(dataset=dataset, page_size=1000)).tensors:
        stub.DeleteTensors(pb.DeleteTensorsRequest(dataset=dataset, ids=[tensor.id for tensor in listed]))


@pytest.mark.parametrize("name", MAXIMA)
def test_a_maximum_is_the_last_that_is_taken(stub: TensorServiceStub, created: str, name: str) -> None:
    reason, action = MAXIMA[name]
    limit, step = getattr(limits, name), STEPS.get(name, 1)
    found = []
    for size in (limit, limit + step):
        found.append(outcome(action, stub, created, size))
        delete_all(stub, created)
    assert found == ["", reason]


@pytest.mark.parametrize("name", MINIMA)
def test_a_minimum_is_the_first_that_is_taken(stub: TensorServiceStub, created: str, name: str) -> None:
    reason, action = MINIMA[name]
    limit, step = getattr(limits, name), STEPS.get(name, 1)
    found = []
    for size in (limit - step, limit):
        found.append(outcome(action, stub, created, size))
        delete_all(stub, created)
    assert found == [reason, ""]


def test_every_limit_that_is_announced_is_among_these() -> None:
    announced_names = {
        name.upper() if name.endswith(("_min", "_max", "_default")) else f"{name.upper()}_MAX"
        for name in pb.Limits.DESCRIPTOR.fields_by_name
    }
    assert announced_names == MAXIMA.keys() | MINIMA.keys() | ELSEWHERE.keys()
