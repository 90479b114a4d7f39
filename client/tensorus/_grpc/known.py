"""InsertKnown: which tensors a server has already. No I/O: see `steps.py`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tensorus._grpc.convert import error_of, inserted_from, upload_to
from tensorus._grpc.steps import Ask, Call
from tensorus.errors import InternalError, TensorusError
from tensorus_protos.v1 import tensorus_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Never

    from tensorus._backend import Known
    from tensorus._grpc.steps import Steps
    from tensorus.types import TensorInfo

__all__ = ["insert_known"]

_REQUEST_BYTES = 2 * 1024 * 1024
"""Of the announcements of one call; a server takes 4 MiB."""

_REQUEST_TENSORS = 1000
"""Likewise: `Limits.known_per_insert`."""


def insert_known(dataset: str, announced: Sequence[Known]) -> Steps[Never, dict[int, TensorInfo | TensorusError]]:
    """See `Backend.insert_known`."""
    outcomes: dict[int, TensorInfo | TensorusError] = {}
    rest = [(place, message) for place, known in enumerate(announced) if (message := _message(known)) is not None]
    while rest:
        messages = _first(rest)
        response = yield Ask(_call(dataset, messages))
        named = [result.item for result in response.results] + list(response.missing)
        if not named or max(named) >= len(messages):
            raise InternalError("an answer of InsertKnown names none of its tensors, or others")
        for result in response.results:
            place, _ = rest[result.item]
            outcomes[place] = error_of(result.status) if result.status.code else inserted_from(result)
        # What did not fit into the answer is asked again.
        del rest[: max(named) + 1]
    return outcomes


def _message(known: Known) -> pb.Tensor | None:
    """Return how a tensor is announced; None if it cannot be: its insert then raises the error."""
    upload, checksum = known
    try:
        message = upload_to(upload)
    except TensorusError:
        return None
    message.source_checksum.algorithm, message.source_checksum.value = "xxh3_128", checksum
    return message


def _first(rest: Sequence[tuple[int, pb.Tensor]]) -> list[pb.Tensor]:
    """Return as many messages as one request takes, at least one."""
    messages: list[pb.Tensor] = []
    size = 0
    for _, message in rest[:_REQUEST_TENSORS]:
        size += message.ByteSize()
        if messages and size > _REQUEST_BYTES:
            break
        messages.append(message)
    return messages


def _call(dataset: str, messages: Sequence[pb.Tensor]) -> Call[pb.InsertKnownResponse]:
    request = pb.InsertKnownRequest(dataset=dataset, tensors=messages)
    # Repeated, it finds what it has inserted.
    return Call("InsertKnown", request, pb.InsertKnownResponse.FromString, _as_it_is, repeat=_as_it_is)


def _as_it_is(response: pb.InsertKnownResponse) -> pb.InsertKnownResponse:
    return response
