"""GetPlan: where large tensors are in the object store."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tensorus_protos.v1 import tensorus_pb2 as pb
from tensorus_server.engine.read.plans import PLAN_EXPIRY_S
from tensorus_server.errors import InvalidRequestError, LimitExceededError, UnimplementedError
from tensorus_server.limits import PLANS_PER_CALL_MAX
from tensorus_server.rpc.convert import tensor_to
from tensorus_server.rpc.convert_history import at_from
from tensorus_server.rpc.convert_read import read_from

if TYPE_CHECKING:
    from tensorus_server.engine.engine import Engine
    from tensorus_server.engine.read.plans import StoredPlan
    from tensorus_server.rpc.calls import Call

__all__ = ["get_plan"]

_ANSWER_BYTES_MAX = 1024 * 1024
"""Size of an answer above which it gets no further plan."""

_SPARE_S = 30.0
"""How much earlier the ranges expire for the client, so that it does not begin what the store would end."""


def get_plan(engine: Engine, request: pb.GetPlanRequest, call: Call) -> pb.GetPlanResponse:
    """Answer a call: plans for the first tensors, up to the first one that the server has to read.

    Raises:
        UnimplementedError: direct reads are not offered here.
        InvalidRequestError: a part of a tensor was requested.
        LimitExceededError: there are too many tensors.
    """
    if len(request.reads) > PLANS_PER_CALL_MAX:
        raise LimitExceededError(
            f"number of reads is {len(request.reads)}, limit is {PLANS_PER_CALL_MAX} (plans_per_call_max)",
            dataset=request.dataset,
            limit=PLANS_PER_CALL_MAX,
        )
    if not engine.plans.enabled:
        raise UnimplementedError(
            "direct reads are not offered: the server has them off, or its chunk store cannot presign requests"
        )
    reads = [read_from(read) for read in request.reads]
    if any(read.part is not None for read in reads):
        raise InvalidRequestError("there are plans only of whole tensors", dataset=request.dataset)
    accepted = frozenset(request.accepted_codecs)
    at = at_from(request.at, dataset=request.dataset) if request.HasField("at") else None
    response = pb.GetPlanResponse()
    response.valid_for.FromMilliseconds(int(1000 * (PLAN_EXPIRY_S - _SPARE_S)))
    answer_bytes, first_chunk = 0, request.first_chunk
    for found in engine.find(request.dataset, reads, with_payloads=True, at=at):
        # What fails is read with Get, which says why.
        plan = None if isinstance(found, Exception) else engine.plans.of(found, accepted, first_chunk)
        if plan is None:
            break
        message = _plan_to(plan)
        answer_bytes += message.ByteSize()
        if response.plans and answer_bytes > _ANSWER_BYTES_MAX:
            break
        response.plans.append(message)
        first_chunk = 0
        if plan.next_chunk:
            break
    call.tensors = len(response.plans)
    return response


def _plan_to(plan: StoredPlan) -> pb.TensorPlan:
    return pb.TensorPlan(
        tensor=tensor_to(plan.tensor),
        next_chunk=plan.next_chunk,
        spans=[
            pb.ChunkSpan(
                first_chunk=span.first_chunk,
                record_bytes=[record.length for record in span.records],
                record_crc32c=[record.crc32c for record in span.records],
                ranges=[
                    pb.StoredRange(url=piece.url, offset=piece.offset, length=piece.length) for piece in span.ranges
                ],
            )
            for span in plan.spans
        ],
    )
