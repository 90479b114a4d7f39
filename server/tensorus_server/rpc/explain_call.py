"""One ExplainPolicy call: receives a sample in pieces and returns one answer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tensorus_protos.v1 import tensorus_pb2 as pb
from tensorus_server.engine.explain import Explainer
from tensorus_server.errors import InvalidRequestError
from tensorus_server.rpc.convert import explain_from, explanation_to
from tensorus_server.rpc.framing import read_explain_message

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = ["explain_policy"]


def explain_policy(messages: Iterable[bytes], require_caller: Callable[[], None]) -> bytes:
    """Return the answer to the messages of a call.

    Args:
        require_caller: called between chunks; raises if the caller no longer waits for the answer.

    Raises:
        InvalidRequestError: the first message does not open the call, or a later one opens it again.
        PayloadTooLargeError, SizeMismatchError, LimitExceededError: the sample has too many or too few bytes, or the request
            has too many candidates.
        InvalidPolicyError, UnsupportedCodecError, UnsupportedDTypeError, InvalidShapeError: a candidate or the sample is
            invalid.
    """
    explainer: Explainer | None = None
    for message in messages:
        head, payload = read_explain_message(message)
        if explainer is None:
            if not head.HasField("open"):
                raise InvalidRequestError("first message of the stream does not open it")
            explainer = Explainer(*explain_from(head.open))
        elif head.HasField("open"):
            raise InvalidRequestError("a message opens the stream a second time")
        explainer.write(payload)
    if explainer is None:
        raise InvalidRequestError("the stream ended before it was opened")
    explanations = map(explanation_to, explainer.explanations(require_caller))
    return pb.ExplainPolicyResponse(explanations=explanations).SerializeToString()
