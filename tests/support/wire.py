"""Requests as a stranger builds them, from the generated messages alone, and the errors that come back."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import grpc
import numpy as np
from google.rpc import error_details_pb2, status_pb2

from tensorus_protos.v1 import tensorus_pb2 as pb


@dataclass(frozen=True)
class WireError:
    """What a client of any language can read from a failure."""

    code: str
    reason: str
    message: str
    facts: dict[str, str]


_requests = itertools.count(1)


def open_insert(dataset: str, **fields: Any) -> pb.InsertRequest:
    """Return the first message of an insert; each is a request of its own unless told otherwise."""
    options = {"request_id": f"a stranger's {next(_requests)}", **fields}
    return pb.InsertRequest(open=pb.OpenInsert(dataset=dataset, **options))


def insert_message(data: bytes, **segment: Any) -> pb.InsertRequest:
    """Return a message with one segment; fields that are not given follow from the data."""
    filled = {"decoded_length": len(data), "payload_length": len(data), "last": True, **segment}
    return pb.InsertRequest(segments=[pb.Segment(**filled)], payload=data)


def announced(tensor_id: str, shape: Iterable[int] = (4,), dtype: Any = pb.DATA_TYPE_UINT8, **fields: Any) -> pb.Tensor:
    """Return what a first segment says of its tensor."""
    return pb.Tensor(id=tensor_id, spec=pb.TensorSpec(dtype=dtype, shape=list(shape)), **fields)


def insert(stub: Any, messages: Iterable[pb.InsertRequest]) -> list[pb.ItemStatus]:
    """Send an insert with a finish at its end, and return what became of each item."""

    def all_messages() -> Iterator[pb.InsertRequest]:
        yield from messages
        yield pb.InsertRequest(finish=True)

    results: list[pb.ItemStatus] = []
    for response in stub.Insert(all_messages(), timeout=60):
        results.extend(response.results)
    return results


def item_error(status: pb.ItemStatus) -> WireError:
    """Return the error of one item."""
    return _wire_error(grpc_code(status.status.code), status.status)


def call_error(error: grpc.RpcError) -> WireError:
    """Return the error of a whole call."""
    call: Any = error
    details = dict(call.trailing_metadata() or ()).get("grpc-status-details-bin")
    status = status_pb2.Status.FromString(details) if details else status_pb2.Status(message=call.details())
    return _wire_error(call.code().name, status)


def grpc_code(number: int) -> str:
    """Return the name of a canonical code."""
    return next(code.name for code in grpc.StatusCode if code.value[0] == number)


def read_all(stub: Any, dataset: str, tensor_id: str, **options: Any) -> bytes:
    """Return a tensor's canonical bytes, as a thin client in any language reads them."""
    request = pb.GetRequest(
        dataset=dataset, reads=[pb.TensorRead(id=tensor_id)], options=pb.ReadOptions(**options), fail_fast=True
    )
    parts: dict[int, bytes] = {}
    for response in stub.Get(request, timeout=60):
        position = 0
        for segment in response.segments:
            parts[segment.offset] = response.payload[position : position + segment.payload_length]
            position += segment.payload_length
    return b"".join(parts[offset] for offset in sorted(parts))


def bytes_of(count: int, seed: int = 0) -> bytes:
    """Return random bytes."""
    return np.random.default_rng(seed).bytes(count)


KEPT = bytes_of(100)
"""Of the tensor in the dataset that the fixture `kept` makes."""


def _wire_error(code: str, status: status_pb2.Status) -> WireError:
    for detail in status.details:
        info = error_details_pb2.ErrorInfo()
        if detail.Unpack(info):
            assert info.domain == "tensorus"
            return WireError(code, info.reason, status.message, dict(info.metadata))
    return WireError(code, "", status.message, {})
