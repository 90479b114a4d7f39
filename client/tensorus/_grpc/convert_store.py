"""Messages about the whole store into the client's values: its damage, its verification, its sizes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tensorus._grpc.convert import error_of
from tensorus._grpc.convert_values import time_from
from tensorus.types import Damage, StoreStats, VerifyProgress, VerifyReport

if TYPE_CHECKING:
    from tensorus_protos.v1 import tensorus_pb2 as pb

__all__ = ["damage_from", "progress_from", "report_from", "store_stats_from"]


def damage_from(message: pb.Damage) -> Damage:
    """Return the damage that a verification found."""
    error = error_of(message.status)
    # A dataset's own row has no generation, and is named by its dataset.
    of_dataset = not message.generation and message.id == message.dataset
    return Damage(
        dataset=message.dataset,
        id=None if of_dataset else message.id,
        generation=message.generation or None,
        chunk=message.chunk if message.HasField("chunk") else None,
        file=message.file,
        reason=error.reason,
        message=str(error),
    )


def progress_from(message: pb.VerifyResponse, *, damages: int, interruptions: int) -> VerifyProgress:
    """Return the progress of a verification.

    Args:
        damages: how many were found so far.
        interruptions: how often the call was interrupted so far.
    """
    return VerifyProgress(
        tensors=message.verified_tensors,
        stored_bytes=message.verified_stored_bytes,
        total_tensors=message.total_tensors if message.HasField("total_tensors") else None,
        total_stored_bytes=message.total_stored_bytes if message.HasField("total_stored_bytes") else None,
        damages=damages,
        interruptions=interruptions,
    )


def report_from(message: pb.VerifyResponse) -> VerifyReport:
    """Return the report of the last message of a verification, without the damages themselves."""
    summary = message.summary
    return VerifyReport(
        tensors=message.verified_tensors,
        stored_bytes=message.verified_stored_bytes,
        damaged_tensors=summary.damaged_tensors,
        undecoded_tensors=summary.undecoded_tensors,
        orphans=summary.orphans if summary.HasField("orphans") else None,
        damage_count=summary.damages,
    )


def store_stats_from(message: pb.GetStoreStatsResponse) -> StoreStats:
    """Return the sizes of a store."""
    return StoreStats(
        datasets=message.datasets,
        tensors=message.tensors,
        canonical_bytes=message.canonical_bytes,
        stored_bytes=message.stored_bytes,
        catalogue_bytes=message.catalogue_bytes,
        garbage_payloads=message.garbage_payloads,
        garbage_bytes=message.garbage_bytes,
        garbage_bytes_estimated=message.garbage_bytes_estimated,
        garbage_until=time_from(message.garbage_until) if message.HasField("garbage_until") else None,
        quarantined_payloads=message.quarantined_payloads,
        quarantined_bytes=message.quarantined_bytes,
        quarantined_until=time_from(message.quarantined_until) if message.HasField("quarantined_until") else None,
        uploads=message.uploads,
        upload_bytes=message.upload_bytes,
        disk_free_bytes=message.disk_free_bytes if message.HasField("disk_free_bytes") else None,
        disk_total_bytes=message.disk_total_bytes if message.HasField("disk_total_bytes") else None,
    )
