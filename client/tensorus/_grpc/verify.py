"""The life of a Verify: what its answers bring, and where it goes on after its stream broke. No I/O: see `steps.py`."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from tensorus._grpc.convert_store import damage_from, progress_from, report_from
from tensorus._grpc.steps import AttemptFailedError, Give, Open, Pause, Read, as_answer
from tensorus.errors import InternalError
from tensorus_protos.v1 import tensorus_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tensorus._backend import Finding
    from tensorus._grpc.steps import Steps
    from tensorus.types import VerifyProgress

__all__ = ["verify"]


def verify(dataset: str | None, ids: Sequence[str], bytes_per_second: int | None) -> Steps[Finding, None]:
    """See `Backend.verify`. A call that breaks goes on after the last answer, so that no damage is given twice."""
    request = pb.VerifyRequest(dataset=dataset or "", ids=ids, max_bytes_per_second=bytes_per_second)
    damages = interruptions = 0
    progress: VerifyProgress | None = None
    while True:
        try:
            yield Open("Verify", request.SerializeToString(), request.dataset)
            while (raw := (yield Read())) is not None:
                with as_answer("Verify"):
                    answer = pb.VerifyResponse.FromString(raw)
                request.resume_token = answer.resume_token
                damages += len(answer.damages)
                progress = progress_from(answer, damages=damages, interruptions=interruptions)
                yield Give([*map(damage_from, answer.damages), progress])
                if answer.HasField("summary"):
                    yield Give([report_from(answer)])
                    return
        except AttemptFailedError as failed:
            broken = failed.error
        else:
            raise InternalError("the server ended Verify without a summary")
        reached = (-1, -1) if progress is None else (progress.tensors, progress.stored_bytes)
        interruptions = yield Pause(broken, reached)
        if progress is not None:
            yield Give([replace(progress, interruptions=interruptions)])
