"""One Verify call: turns what a verification finds into response messages."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING

from tensorus_server.limits import ANSWER_BYTES_MAX
from tensorus_server.rpc.convert_store import damage_to, progress_to, report_to

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tensorus_protos.v1 import tensorus_pb2 as pb
    from tensorus_server.engine.verify.verification import Verification
    from tensorus_server.rpc.calls import Call

__all__ = ["verify_responses"]

_SEND_EVERY_S = 0.5
"""A client shows progress, and knows that the server is at work. Fewer messages would also delay damages."""

_TAG_AND_LENGTH_BYTES = 3
"""Of a damage within its message."""


def verify_responses(
    verification: Verification, has_caller: Callable[[], bool], call: Call
) -> Iterator[pb.VerifyResponse]:
    """Yield the call's responses: the first one at once, the others every `_SEND_EVERY_S`, or when they are full.

    Args:
        has_caller: called after every check; returns whether the caller still wants answers.
    """
    damages: list[pb.Damage] = []
    size = 0
    sent_s = -math.inf
    for damage in verification:
        if not has_caller():
            return
        if damage is not None:
            found = damage_to(damage, call)
            damages.append(found)
            # A damage is below 4 KiB, so the message stays far below the limit even if the last one exceeds the size.
            size += found.ByteSize() + _TAG_AND_LENGTH_BYTES
        if size >= ANSWER_BYTES_MAX or time.monotonic() - sent_s >= _SEND_EVERY_S:
            yield _complete(progress_to(verification.progress), damages, verification)
            damages, size = [], 0
            sent_s = time.monotonic()
    call.tensors = verification.progress.tensors
    yield _complete(report_to(verification.progress), damages, verification)


def _complete(response: pb.VerifyResponse, damages: list[pb.Damage], verification: Verification) -> pb.VerifyResponse:
    response.damages.extend(damages)
    response.resume_token = verification.token()
    return response
