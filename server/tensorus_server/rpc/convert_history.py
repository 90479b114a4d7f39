"""Converts snapshots, earlier states and retentions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from google.protobuf import duration_pb2

from tensorus_protos.v1 import tensorus_pb2 as pb
from tensorus_server.errors import InvalidRequestError
from tensorus_server.model import At, TensorReference

if TYPE_CHECKING:
    from tensorus_server.model import Restored, Snapshot

__all__ = ["at_from", "reference_from", "restored_to", "retention_from", "retention_to", "snapshot_to"]

_SECONDS_MIN, _SECONDS_MAX = -62_135_596_800, 253_402_300_799
"""The years 1 to 9999, in seconds since 1970. Source: google/protobuf/timestamp.proto."""

_GENERATION_MAX = 2**63 - 1
"""Generations are rowids of SQLite, which are signed."""


def at_from(message: pb.At, *, dataset: str) -> At:
    """Convert a state of a dataset.

    Raises:
        InvalidRequestError: it has no kind that this version knows, or a time that is no time.
    """
    match message.WhichOneof("kind"):
        case "snapshot":
            return At(snapshot=message.snapshot)
        case "generation":
            # A larger one is not reached, either.
            return At(generation=min(message.generation, _GENERATION_MAX))
        case "time":
            seconds, nanos = message.time.seconds, message.time.nanos
            if not (_SECONDS_MIN <= seconds <= _SECONDS_MAX and 0 <= nanos < 1_000_000_000):
                raise InvalidRequestError(
                    f"time of `at` is {seconds} s and {nanos} ns, must be in the years 1 to 9999", dataset=dataset
                )
            return At(time_us=1_000_000 * seconds + nanos // 1000)
    raise InvalidRequestError("`at` has no kind that this server knows", dataset=dataset)


def reference_from(message: pb.TensorReference, *, dataset: str) -> TensorReference:
    """Convert a reference to a stored tensor. Raises as `at_from`."""
    at = at_from(message.at, dataset=message.dataset or dataset) if message.HasField("at") else None
    return TensorReference(message.dataset, message.id, at)


def retention_from(message: duration_pb2.Duration, *, dataset: str) -> int:
    """Convert a retention to seconds.

    Raises:
        InvalidRequestError: it is no whole number of seconds.
    """
    if message.nanos:
        raise InvalidRequestError(
            f"retention is {message.seconds} s and {message.nanos} ns, must be whole seconds", dataset=dataset
        )
    return message.seconds


def retention_to(retention_s: int) -> duration_pb2.Duration | None:
    """Convert a retention; None if nothing is kept."""
    return duration_pb2.Duration(seconds=retention_s) if retention_s else None


def snapshot_to(snapshot: Snapshot) -> pb.Snapshot:
    """Convert a snapshot."""
    message = pb.Snapshot(dataset=snapshot.dataset, name=snapshot.name, generation=snapshot.generation)
    message.create_time.FromMicroseconds(snapshot.created_us)
    return message


def restored_to(restored: Restored) -> pb.RestoreDatasetResponse:
    """Convert the result of a restore."""
    return pb.RestoreDatasetResponse(
        generation=restored.generation,
        restored=restored.restored,
        deleted=restored.deleted,
        unchanged=restored.unchanged,
    )
