"""The calls about snapshots and earlier states of datasets. See `calls.py`."""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING

from tensorus._grpc.calls import PAGE_SIZE, page_of
from tensorus._grpc.convert import damage_from
from tensorus._grpc.convert_history import restored_from, snapshot_from, state_to
from tensorus._grpc.steps import Ask, Call
from tensorus_protos.v1 import tensorus_pb2 as pb

if TYPE_CHECKING:
    from typing import Never

    from tensorus._backend import State
    from tensorus._grpc.steps import Steps
    from tensorus.errors import DataCorruptError
    from tensorus.types import RestoreReport, SnapshotInfo

__all__ = ["create_snapshot", "drop_snapshot", "list_snapshots", "restore"]

_RESTORE_TIMEOUT_S = 600.0
"""A restore may bring back 100,000 tensors, in one transaction."""


def create_snapshot(dataset: str, name: str) -> Call[SnapshotInfo]:
    """See `Backend`."""
    return Call(
        "CreateSnapshot",
        pb.CreateSnapshotRequest(dataset=dataset, name=name),
        pb.CreateSnapshotResponse.FromString,
        lambda response: snapshot_from(response.snapshot),
    )


def list_snapshots(dataset: str) -> Steps[Never, list[SnapshotInfo | DataCorruptError]]:
    """See `Backend.list_snapshots`."""
    found: list[SnapshotInfo | DataCorruptError] = []
    token = ""
    while True:
        request = pb.ListSnapshotsRequest(dataset=dataset, page_token=token, page_size=PAGE_SIZE)
        page = yield Ask(page_of("ListSnapshots", request, pb.ListSnapshotsResponse.FromString))
        found += chain(map(snapshot_from, page.snapshots), map(damage_from, page.damages))
        token = page.next_page_token
        if not token:
            return found


def drop_snapshot(dataset: str, name: str) -> Call[None]:
    """See `Backend`."""
    return Call(
        "DeleteSnapshot",
        pb.DeleteSnapshotRequest(dataset=dataset, name=name),
        pb.DeleteSnapshotResponse.FromString,
        lambda _: None,
    )


def restore(dataset: str, at: State, *, discard_newer: bool) -> Call[RestoreReport]:
    """See `Backend`. It is not repeated: that would undo what others changed meanwhile."""
    return Call(
        "RestoreDataset",
        pb.RestoreDatasetRequest(dataset=dataset, at=state_to(at), discard_newer=discard_newer),
        pb.RestoreDatasetResponse.FromString,
        restored_from,
        timeout_s_min=_RESTORE_TIMEOUT_S,
    )
