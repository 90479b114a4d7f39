"""The engine's values as users get them. Only `embedded.py` uses this.

Datasets, statistics, explanations and verifications are converted through the messages of the contract, as a server and its
client do it: that costs 8 to 29 us a call, and leaves one set of rules. A tensor is converted directly. Through messages it
would take 22 us more for each tensor read, and 43 us if all of its fields are used, where reading a small tensor takes about
100 us in all.
"""

from __future__ import annotations

from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from tensorus._grpc.convert_dataset import dataset_from, explanation_from, stats_from
from tensorus._grpc.convert_history import restored_from, snapshot_from
from tensorus._grpc.convert_store import progress_from, report_from, store_stats_from
from tensorus._grpc.tensor_info import described, measured
from tensorus.types import Damage, EncodingShare, ValueSummary
from tensorus_server import model
from tensorus_server.errors import reason_of
from tensorus_server.rpc.convert import dataset_to, explanation_to, stats_to
from tensorus_server.rpc.convert_history import restored_to, snapshot_to
from tensorus_server.rpc.convert_store import progress_to, report_to, store_stats_to

if TYPE_CHECKING:
    from tensorus.types import (
        DatasetInfo,
        DatasetStats,
        PolicyExplanation,
        RestoreReport,
        SnapshotInfo,
        StoreStats,
        TensorInfo,
        VerifyProgress,
        VerifyReport,
    )
    from tensorus_codecs.summary import ValueSummary as EngineValueSummary
    from tensorus_server.engine.explain import Explanation
    from tensorus_server.engine.store_stats import StoreStats as EngineStoreStats
    from tensorus_server.engine.verify.verification import Progress
    from tensorus_server.errors import EngineError

__all__ = [
    "damage_info",
    "dataset_info",
    "explanation_info",
    "progress_info",
    "report_info",
    "restore_info",
    "snapshot_info",
    "stats_info",
    "store_stats_info",
    "tensor_info",
]

_STORED = frozenset({model.Outcome.INSERTED, model.Outcome.REPLACED, model.Outcome.CHANGED})

_ENGINE_NAMES = {"min": "minimum", "max": "maximum"}
_summary_of = attrgetter(*(_ENGINE_NAMES.get(field.name, field.name) for field in fields(ValueSummary)))
"""Takes the arguments of a `ValueSummary` from the engine's."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def dataset_info(dataset: model.Dataset) -> DatasetInfo:
    """Return a dataset, converted as a server and its client would."""
    return dataset_from(dataset_to(dataset))


def stats_info(stats: model.DatasetStats) -> DatasetStats:
    """Return a dataset's sums, converted as a server and its client would."""
    damaged_ids = tuple(damage.facts["tensor"] for damage in stats.damages)
    return replace(stats_from(stats_to(stats)), damaged_ids=damaged_ids)


def snapshot_info(snapshot: model.Snapshot) -> SnapshotInfo:
    """Return a snapshot, converted as a server and its client would."""
    return snapshot_from(snapshot_to(snapshot))


def restore_info(restored: model.Restored) -> RestoreReport:
    """Return the result of a restore, converted as a server and its client would."""
    return restored_from(restored_to(restored))


def explanation_info(explanation: Explanation) -> PolicyExplanation:
    """Return what a policy would do, converted as a server and its client would."""
    return explanation_from(explanation_to(explanation))


def store_stats_info(stats: EngineStoreStats) -> StoreStats:
    """Return the sizes of a store, converted as a server and its client would."""
    return store_stats_from(store_stats_to(stats))


def damage_info(error: EngineError) -> Damage:
    """Return the damage that a verification found. Not by way of a status, which servers write to their log."""
    facts = error.facts
    generation = int(facts.get("generation", 0)) or None
    return Damage(
        dataset=facts.get("dataset", ""),
        id=facts.get("tensor"),
        generation=generation,
        chunk=int(facts["chunk"]) if "chunk" in facts else None,
        file=facts.get("file", ""),
        reason=reason_of(error),
        message=str(error),
    )


def progress_info(progress: Progress) -> VerifyProgress:
    """Return the progress of a verification, converted as a server and its client would."""
    return progress_from(progress_to(progress), damages=progress.damages, interruptions=0)


def report_info(progress: Progress) -> VerifyReport:
    """Return the report of a verification that has ended, converted likewise, without the damages themselves."""
    return report_from(report_to(progress))


def tensor_info(tensor: model.Tensor, *, coarse_error: float = 0.0) -> TensorInfo:
    """Return what is known of a tensor; most of it is only worked out when it is asked for.

    Args:
        coarse_error: see `TensorInfo`.
    """
    # Not the tensor itself, which may have its payload.
    checksums = tensor.source_checksum.value, tensor.value_checksum.value
    return described(
        tensor,
        dtype=tensor.spec.dtype.name,
        shape=tensor.spec.shape,
        metadata=tensor.metadata,
        inserted=tensor.outcome in _STORED,
        coarse_error=coarse_error,
        rest=partial(_measured, tensor.storage, tensor.values, *checksums, tensor.created_us),
    )


def _measured(
    storage: model.StorageReport,
    values: EngineValueSummary | None,
    source_checksum: bytes,
    value_checksum: bytes,
    created_us: int,
) -> dict[str, Any]:
    return measured(
        storage,
        None if values is None else ValueSummary(*_summary_of(values)),
        source_checksum=source_checksum,
        value_checksum=value_checksum,
        created=_time(created_us),
        share_from=_encoding_share,
    )


def _encoding_share(share: model.EncodingShare) -> EncodingShare:
    codecs = tuple(step["id"] for step in share.encoding)
    return EncodingShare(codecs, share.chunks, share.canonical_bytes, share.stored_bytes)


def _time(time_us: int) -> datetime:
    return _EPOCH + timedelta(microseconds=time_us)
