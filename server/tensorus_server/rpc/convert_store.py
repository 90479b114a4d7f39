"""Protobuf to the engine's values and back, for calls about the whole store: its damage and its sizes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tensorus_protos.v1 import tensorus_pb2 as pb
from tensorus_server.engine.verify.verification import Target
from tensorus_server.rpc.status import status_of

if TYPE_CHECKING:
    from tensorus_server.engine.store_stats import StoreStats
    from tensorus_server.engine.verify.verification import Progress
    from tensorus_server.errors import EngineError
    from tensorus_server.rpc.calls import Call

__all__ = ["damage_to", "progress_to", "report_to", "store_stats_to", "target_from"]

_TIME_MAX_US = 253_402_300_799_000_000
"""The end of the year 9999, in microseconds since 1970. Source: google/protobuf/timestamp.proto."""


def target_from(request: pb.VerifyRequest) -> Target:
    """Return what a request wants verified."""
    rate = request.max_bytes_per_second if request.HasField("max_bytes_per_second") else None
    return Target(request.dataset, tuple(request.ids), rate)


def damage_to(error: EngineError, call: Call) -> pb.Damage:
    """Convert an error whose facts say what is damaged, and log it."""
    facts = error.facts
    dataset = facts.get("dataset", "")
    return pb.Damage(
        id=facts.get("tensor", dataset),
        generation=int(facts.get("generation", 0)),
        status=status_of(error, call=call),
        dataset=dataset,
        chunk=int(facts["chunk"]) if "chunk" in facts else None,
        file=facts.get("file", ""),
    )


def progress_to(progress: Progress) -> pb.VerifyResponse:
    """Return a response with the counts of a verification."""
    return pb.VerifyResponse(
        verified_tensors=progress.tensors,
        verified_stored_bytes=progress.stored_bytes,
        total_tensors=progress.total_tensors,
        total_stored_bytes=progress.total_stored_bytes,
    )


def report_to(progress: Progress) -> pb.VerifyResponse:
    """Return a response with the counts and the summary of a verification that has ended."""
    response = progress_to(progress)
    summary = pb.VerifySummary(
        damages=progress.damages,
        damaged_tensors=progress.damaged_tensors,
        undecoded_tensors=progress.undecoded_tensors,
        orphans=progress.orphans,
    )
    response.summary.CopyFrom(summary)
    return response


def store_stats_to(stats: StoreStats) -> pb.GetStoreStatsResponse:
    """Convert the sizes of a store."""
    totals, space = stats.totals, stats.space
    shared = totals.shared
    response = pb.GetStoreStatsResponse(
        datasets=totals.datasets,
        tensors=totals.sizes.tensors,
        canonical_bytes=totals.sizes.canonical_bytes,
        stored_bytes=totals.sizes.stored_bytes,
        catalogue_bytes=totals.catalogue_bytes,
        garbage_payloads=totals.garbage_payloads,
        garbage_bytes=stats.garbage_bytes,
        garbage_bytes_estimated=stats.garbage_bytes_estimated,
        quarantined_payloads=stats.quarantined_payloads,
        quarantined_bytes=stats.quarantined_bytes,
        uploads=totals.uploads,
        upload_bytes=totals.upload_bytes,
        disk_free_bytes=None if space is None else space.free_bytes,
        disk_total_bytes=None if space is None else space.total_bytes,
        unique_bytes=shared.unique_bytes,
        unique_stored_bytes=shared.unique_stored_bytes,
        past_tensors=shared.past_tensors,
        past_stored_bytes=shared.past_stored_bytes,
        snapshots=totals.snapshots,
    )
    if totals.garbage_until_us is not None:
        # The rows have no checksum, and a damaged time may be none that the contract can carry.
        response.garbage_until.FromMicroseconds(min(max(totals.garbage_until_us, 0), _TIME_MAX_US))
    if stats.quarantined_until_us is not None:
        response.quarantined_until.FromMicroseconds(stats.quarantined_until_us)
    return response
