"""Messages about snapshots and earlier states into the client's values, and back."""

from __future__ import annotations

from typing import TYPE_CHECKING

from google.protobuf import duration_pb2

from tensorus._grpc.convert_values import time_from
from tensorus.types import RestoreReport, SnapshotInfo
from tensorus_protos.v1 import tensorus_pb2 as pb

if TYPE_CHECKING:
    from datetime import timedelta

    from tensorus._backend import Reference, State

__all__ = ["reference_to", "restored_from", "retention_to", "snapshot_from", "state_to"]


def state_to(state: State) -> pb.At:
    """Return a state of a dataset."""
    if state.time_us is None:
        return pb.At(snapshot=state.snapshot, generation=state.generation)
    message = pb.At()
    message.time.seconds, rest_us = divmod(state.time_us, 1_000_000)
    message.time.nanos = 1000 * rest_us
    return message


def reference_to(reference: Reference) -> pb.TensorReference:
    """Return a reference to a stored tensor.

    Raises:
        InvalidNameError: its id is not Unicode text.
    """
    at = None if reference.at is None else state_to(reference.at)
    return pb.TensorReference(dataset=reference.dataset, id=reference.id, at=at)


def retention_to(retention: timedelta) -> duration_pb2.Duration:
    """Return a retention."""
    message = duration_pb2.Duration()
    message.FromTimedelta(retention)
    return message


def snapshot_from(message: pb.Snapshot) -> SnapshotInfo:
    """Return a snapshot."""
    return SnapshotInfo(
        name=message.name,
        dataset=message.dataset,
        generation=message.generation,
        created=time_from(message.create_time),
    )


def restored_from(message: pb.RestoreDatasetResponse) -> RestoreReport:
    """Return the result of a restore."""
    return RestoreReport(
        restored=message.restored,
        deleted=message.deleted,
        unchanged=message.unchanged,
        generation=message.generation,
    )
