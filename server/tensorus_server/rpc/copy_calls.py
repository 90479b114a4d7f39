"""CopyTensors and CopyDataset."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from tensorus_protos.v1 import tensorus_pb2 as pb
from tensorus_server.engine.paging import Answer
from tensorus_server.errors import InvalidRequestError
from tensorus_server.rpc.calls import OK
from tensorus_server.rpc.convert import dataset_to, tensor_to
from tensorus_server.rpc.convert_history import at_from

if TYPE_CHECKING:
    from tensorus_server.engine.copies import Copies
    from tensorus_server.model import Tensor
    from tensorus_server.rpc.calls import Call

__all__ = ["copy_dataset", "copy_tensors", "run_copies"]


def copy_tensors(copies: Copies, request: pb.CopyTensorsRequest, call: Call) -> pb.CopyTensorsResponse:
    """Copy or move tensors."""
    if (budget := call.budget_of(request.dataset or request.source_dataset)) is not None:
        budget.require_room()
    request.request_id = call.caller.session_of(request.request_id)
    copied = run_copies(copies, request)
    call.tensors = len(copied)
    call.note_tensors([(tensor.id, OK) for tensor in copied])
    return pb.CopyTensorsResponse(tensors=map(tensor_to, copied))


def run_copies(copies: Copies, request: pb.CopyTensorsRequest) -> list[Tensor]:
    """Copy or move tensors, and return the copies as a read returns them.

    Raises:
        InvalidRequestError: the request contradicts itself.
        LimitExceededError: the answer would be too large.
    """
    dataset, ids = request.source_dataset, [(tensor.id, tensor.new_id) for tensor in request.tensors]
    take = Answer(tensor_to).take
    if not request.move:
        copied = copies.copy_tensors(
            dataset,
            ids,
            to=request.dataset,
            at=at_from(request.at, dataset=dataset) if request.HasField("at") else None,
            replace=request.replace,
            request_id=request.request_id,
            take=take,
        )
    elif request.HasField("at"):
        raise InvalidRequestError("both `move` and `at` are set; only current tensors can be moved", dataset=dataset)
    else:
        copied = copies.move_tensors(
            dataset, ids, to=request.dataset, replace=request.replace, request_id=request.request_id, take=take
        )
    return [replace(tensor, outcome=None) for tensor in copied]


def copy_dataset(copies: Copies, request: pb.CopyDatasetRequest, call: Call) -> pb.CopyDatasetResponse:
    """Copy a dataset."""
    at = at_from(request.at, dataset=request.name) if request.HasField("at") else None
    request_id = call.caller.session_of(request.request_id)
    copied, tensors = copies.copy_dataset(
        request.name, request.new_name, at=at, request_id=request_id, owner=call.caller.owner
    )
    call.tensors = tensors
    return pb.CopyDatasetResponse(dataset=dataset_to(copied), tensors=tensors)
