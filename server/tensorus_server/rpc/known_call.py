"""InsertKnown: tensors are announced by their checksums, and those whose bytes the store has already are inserted."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, TypeAlias

from google.rpc import status_pb2

from tensorus_codecs.errors import CodecError
from tensorus_protos.v1 import tensorus_pb2 as pb
from tensorus_server.access.rights import Role
from tensorus_server.engine.paging import Answer
from tensorus_server.engine.validate import require_known_count
from tensorus_server.errors import EngineError, reason_of
from tensorus_server.model import NewTensor
from tensorus_server.rpc.calls import OK
from tensorus_server.rpc.convert import new_tensor_from, outcome_to, tensor_to
from tensorus_server.rpc.framing import require_message_size
from tensorus_server.rpc.status import status_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tensorus_server.engine.engine import Engine
    from tensorus_server.model import Tensor
    from tensorus_server.rpc.calls import Call

__all__ = ["insert_known"]

_Result: TypeAlias = "tuple[int, Tensor | Exception]"


def insert_known(engine: Engine, request: pb.InsertKnownRequest, call: Call) -> pb.InsertKnownResponse:
    """Answer a call. What does not fit into the response is not named in it; the client repeats it.

    Only bytes in datasets that the caller may read count as known: who has no more than a checksum must not get the values.

    Tensors that were not named may be visible already. Repeating them is harmless: they are already stored then.
    """
    require_message_size(request.ByteSize(), dataset=request.dataset)
    require_known_count(len(request.tensors), dataset=request.dataset)
    if (budget := call.budget_of(request.dataset)) is not None:
        budget.require_room()
    announced = [_announced(message, request.dataset) for message in request.tensors]
    places = [place for place, new in enumerate(announced) if isinstance(new, NewTensor)]
    outcomes: list[Tensor | Exception | None] = [new if isinstance(new, Exception) else None for new in announced]
    found = engine.insert_known(
        request.dataset,
        [new for new in announced if isinstance(new, NewTensor)],
        is_visible=lambda name: call.may(Role.READER, name),
    )
    for place, outcome in zip(places, found, strict=True):
        outcomes[place] = outcome
    _note(call, request, outcomes)
    answer: Answer[_Result, pb.ItemStatus] = Answer(partial(_to_status, call))
    missing: list[int] = []
    for place, outcome in enumerate(outcomes):
        if outcome is None:
            missing.append(place)
        elif not answer.take((place, outcome)):
            break
    return pb.InsertKnownResponse(results=answer.entries, missing=missing)


def _announced(message: pb.Tensor, dataset: str) -> NewTensor | Exception:
    """Return the announced tensor, or why it is invalid: that concerns only this one."""
    try:
        return new_tensor_from(message, dataset=dataset)
    except (EngineError, CodecError) as error:
        return error


def _note(call: Call, request: pb.InsertKnownRequest, outcomes: Sequence[Tensor | Exception | None]) -> None:
    """Say what became of the tensors, but for those that the client still has to send."""
    named = [
        (message.id, reason_of(outcome)) if isinstance(outcome, Exception) else (outcome.id, OK)
        for message, outcome in zip(request.tensors, outcomes, strict=True)
        if outcome is not None
    ]
    call.tensors = sum(outcome == OK for _, outcome in named)
    call.note_tensors(named)


def _to_status(call: Call, result: _Result) -> pb.ItemStatus:
    place, outcome = result
    if isinstance(outcome, Exception):
        return pb.ItemStatus(item=place, status=status_of(outcome, call=call))
    return pb.ItemStatus(
        item=place,
        status=status_pb2.Status(),
        committed_bytes=outcome.spec.canonical_bytes,
        tensor=tensor_to(outcome),
        outcome=outcome_to(outcome),
    )
