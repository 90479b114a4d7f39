"""One ExplainPolicy call: receives a sample in pieces and returns one answer."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

from tensorus_protos.v1 import tensorus_pb2 as pb
from tensorus_server.access.rights import Role
from tensorus_server.engine.explain import explainer
from tensorus_server.errors import InvalidRequestError
from tensorus_server.rpc.convert import explain_from, explanation_to
from tensorus_server.rpc.convert_history import reference_from
from tensorus_server.rpc.framing import read_explain_message

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from tensorus_server.engine.engine import Engine
    from tensorus_server.engine.explain import Explainer
    from tensorus_server.rpc.calls import Call

__all__ = ["explain_policy"]


def explain_policy(engine: Engine, messages: Iterable[bytes], require_caller: Callable[[], None], call: Call) -> bytes:
    """Return the answer to the messages of a call.

    Args:
        engine: has the base, if the call names one.
        require_caller: called between chunks; raises if the caller no longer waits for the answer.
        call: who asks, for the right to read the base.

    Raises:
        InvalidRequestError: the first message does not open the call, or a later one opens it again.
        PayloadTooLargeError, SizeMismatchError, LimitExceededError: the sample has too many or too few bytes, or the request
            has too many candidates.
        PermissionDeniedError: the caller may not read the base.
        InvalidPolicyError, UnsupportedCodecError, UnsupportedDTypeError, InvalidShapeError: a candidate or the sample is
            invalid.
        NotFoundError, DataCorruptError, InvalidBaseError, StoreUnavailableError: see `explainer`.
    """
    opened: Explainer | None = None
    with ExitStack() as stack:
        for message in messages:
            head, payload = read_explain_message(message)
            if opened is None:
                if not head.HasField("open"):
                    raise InvalidRequestError("first message of the stream does not open it")
                base = reference_from(head.open.base, dataset="") if head.open.HasField("base") else None
                if base is not None:
                    call.dataset = base.dataset
                    call.require(Role.READER, base.dataset)
                opened = stack.enter_context(explainer(engine, *explain_from(head.open), base))
            elif head.HasField("open"):
                raise InvalidRequestError("a message opens the stream a second time")
            opened.write(payload)
        if opened is None:
            raise InvalidRequestError("the stream ended before it was opened")
        explanations = map(explanation_to, opened.explanations(require_caller))
        return pb.ExplainPolicyResponse(explanations=explanations).SerializeToString()
