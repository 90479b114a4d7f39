"""One Verify call: turns what a verification finds into response messages."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING

from tensorus_protos.v1 import tensorus_pb2 as pb
from tensorus_server.limits import ANSWER_BYTES_MAX
from tensorus_server.rpc.convert_store import damage_to, fill_progress, summary_to

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tensorus_server.engine.verify.verification import Verification

__all__ = ["verify_responses"]

_SEND_EVERY_S = 0.5
"""A client shows progress, and knows that the server is at work. Fewer messages would also delay damages."""

_TAG_AND_LENGTH_BYTES = 3
"""Of a damage within its message."""


def verify_responses(verification: Verification, has_caller: Callable[[], bool]) -> Iterator[pb.VerifyResponse]:
    """Yield the call's responses: the first one at once, the others every `_SEND_EVERY_S`, or when they are full.

    Args:
        has_caller: called after every check; returns whether the caller still wants answers.
    """
    response, size = pb.VerifyResponse(), 0
    sent_s = -math.inf
    for damage in verification:
        if not has_caller():
            return
        if damage is not None:
            found = damage_to(damage, "Verify")
            response.damages.append(found)
            # A damage is below 4 KiB, so the message stays far below the limit even if the last one exceeds the size.
            size += found.ByteSize() + _TAG_AND_LENGTH_BYTES
        if size >= ANSWER_BYTES_MAX or time.monotonic() - sent_s >= _SEND_EVERY_S:
            yield _complete(response, verification)
            response, size = pb.VerifyResponse(), 0
            sent_s = time.monotonic()
    response.summary.CopyFrom(summary_to(verification.progress))
    yield _complete(response, verification)


def _complete(response: pb.VerifyResponse, verification: Verification) -> pb.VerifyResponse:
    fill_progress(response, verification.progress)
    response.resume_token = verification.token()
    return response
