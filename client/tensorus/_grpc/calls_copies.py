"""The calls that copy, move and rename. See `calls.py`.

Each has a request id, under which the server records that it was done. So a call whose answer was lost is repeated.
"""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

from tensorus._grpc.convert import tensor_from
from tensorus._grpc.convert_dataset import dataset_from
from tensorus._grpc.convert_history import state_to
from tensorus._grpc.steps import Call
from tensorus_protos.v1 import tensorus_pb2 as pb

if TYPE_CHECKING:
    from tensorus._backend import Copies, State
    from tensorus.types import DatasetInfo, TensorInfo

__all__ = ["copies_request", "copy_dataset", "copy_tensors", "rename_dataset"]

_COPY_TIMEOUT_S = 600.0
"""A copy of a dataset may have 100,000 tensors, in one transaction."""


def copies_request(copies: Copies) -> pb.CopyTensorsRequest:
    """Return the request without its id."""
    return pb.CopyTensorsRequest(
        source_dataset=copies.dataset,
        at=None if copies.at is None else state_to(copies.at),
        dataset=copies.to,
        tensors=(pb.CopiedTensor(id=tensor_id, new_id=new_id) for tensor_id, new_id in copies.ids),
        replace=copies.replace,
        move=copies.move,
    )


def copy_tensors(copies: Copies) -> Call[list[TensorInfo]]:
    """See `Backend`."""
    request = copies_request(copies)
    request.request_id = uuid.uuid4().hex
    return Call("CopyTensors", request, pb.CopyTensorsResponse.FromString, _tensors, _tensors)


def copy_dataset(name: str, new_name: str, at: State | None) -> Call[DatasetInfo]:
    """See `Backend`."""
    request = pb.CopyDatasetRequest(
        name=name, new_name=new_name, at=None if at is None else state_to(at), request_id=uuid.uuid4().hex
    )
    parse = pb.CopyDatasetResponse.FromString
    return Call("CopyDataset", request, parse, _dataset, _dataset, timeout_s_min=_COPY_TIMEOUT_S)


def rename_dataset(name: str, new_name: str) -> Call[DatasetInfo]:
    """See `Backend`."""
    request = pb.RenameDatasetRequest(name=name, new_name=new_name, request_id=uuid.uuid4().hex)
    return Call("RenameDataset", request, pb.RenameDatasetResponse.FromString, _dataset, _dataset)


def _tensors(response: pb.CopyTensorsResponse) -> list[TensorInfo]:
    return list(map(tensor_from, response.tensors))


def _dataset(response: Any) -> DatasetInfo:  # `Any`: each call has a message of its own
    return dataset_from(response.dataset)
