"""Every metric of a server, except those of its processes: names, meaning, labels. docs/METRICS.md has the same table.

Labels have few values, all of which are known in advance: never a dataset, a tensor, a principal or an address. So the number
of series has a bound, and whoever may see the metrics learns no name.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from itertools import product
from typing import TYPE_CHECKING

from tensorus_protos.v1 import access_pb2, tensorus_pb2

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["FAMILIES", "METHODS", "OTHER", "REASONS", "REQUESTS", "Family", "Kind"]


class Kind(Enum):
    """What the values of a metric are, and how those of several processes are put together."""

    COUNTER = "counter"
    """Only grows. Added up, also over processes that have ended."""
    HISTOGRAM = "histogram"
    """Durations in seconds, by bucket. Likewise."""
    GAUGE = "gauge"
    """A value of now. Added up over the living processes."""
    SHARED = "shared"
    """A gauge that is about the store, or for which the largest value counts. The largest of the living processes."""


@dataclass(frozen=True)
class Family:
    """One metric."""

    name: str
    """With the suffix of a counter, without those of a histogram."""
    kind: Kind
    help: str
    """What it counts or measures, and in which unit."""
    labels: tuple[str, ...] = ()
    """Names of the labels."""
    values: tuple[tuple[str, ...], ...] = ((),)
    """Values of the labels, of every series."""


OTHER = "other"
"""The label's value for a method or a reason that is not in the contract. No call has it today."""

METHODS = (
    *(
        method.name
        for contract, service in ((tensorus_pb2, "TensorService"), (access_pb2, "AccessService"))
        for method in contract.DESCRIPTOR.services_by_name[service].methods
    ),
    OTHER,
)

REASONS = (
    *(
        name.removeprefix("ERROR_REASON_")
        for name in tensorus_pb2.ErrorReason.keys()  # noqa: SIM118 - a wrapper of the enum, no dict
        if not name.endswith("_UNSPECIFIED")
    ),
    OTHER,
)

_BY_METHOD = tuple((method,) for method in METHODS)
REQUESTS = ("put", "get", "list", "delete", "head", "sign")


def _counter(name: str, text: str) -> Family:
    return Family(name, Kind.COUNTER, text)


def _gauge(name: str, text: str) -> Family:
    return Family(name, Kind.GAUGE, text)


def _shared(name: str, text: str) -> Family:
    return Family(name, Kind.SHARED, text)


def _timings(name: str, text: str) -> Family:
    return Family(name, Kind.HISTOGRAM, text)


def _labelled(name: str, kind: Kind, text: str, labels: str, values: Iterable[tuple[str, ...]]) -> Family:
    return Family(name, kind, text, tuple(labels.split()), tuple(values))


_CALLS = (
    _labelled(
        "tensorus_calls_total",
        Kind.COUNTER,
        "Calls that ended, by the reason of their error. OK: without one; CANCELLED: the client went away.",
        "method reason",
        product(METHODS, ("OK", "CANCELLED", *REASONS)),
    ),
    _labelled(
        "tensorus_errors_total",
        Kind.COUNTER,
        "Errors that clients were told, of whole calls and of single tensors.",
        "method reason",
        product(METHODS, REASONS),
    ),
    _labelled(
        "tensorus_call_duration_seconds",
        Kind.HISTOGRAM,
        "Seconds from the arrival of a call to its end. A transfer is one call.",
        "method",
        _BY_METHOD,
    ),
    _labelled("tensorus_open_calls", Kind.GAUGE, "Calls in progress.", "method", _BY_METHOD),
    _labelled(
        "tensorus_received_bytes_total",
        Kind.COUNTER,
        "Bytes of messages that arrived, without gRPC's own framing.",
        "method",
        _BY_METHOD,
    ),
    _labelled(
        "tensorus_sent_bytes_total",
        Kind.COUNTER,
        "Bytes of messages that were sent, without gRPC's own framing.",
        "method",
        _BY_METHOD,
    ),
    _counter("tensorus_inserted_bytes_total", "Canonical bytes of the values that Insert received."),
    _counter(
        "tensorus_read_bytes_total", "Canonical bytes of the values that Get and Query sent, after slices and casts."
    ),
)

_STREAMS = (
    _gauge("tensorus_streams", "Streams that have a place."),
    _gauge("tensorus_streams_max", "Places for streams."),
    _gauge("tensorus_memory_used_bytes", "Bytes of the memory budget that streams have reserved."),
    _gauge("tensorus_memory_budget_bytes", "Bytes of memory that all streams share."),
    _gauge("tensorus_memory_waiting_streams", "Streams that wait for memory."),
    _timings("tensorus_memory_wait_seconds", "Seconds that streams waited for memory until they had it."),
    _shared("tensorus_draining", "1 while the server finishes its calls before it stops, otherwise 0."),
    _shared(
        "tensorus_healthy",
        "1 while the store takes writes, otherwise 0. With several workers: whether any of them does.",
    ),
)

_WRITES = (
    _timings("tensorus_commit_duration_seconds", "Seconds that commits of the catalogue took, each with its syncs."),
    _counter("tensorus_committed_tensors_total", "Tensors that were in these commits."),
    _gauge("tensorus_commit_queue", "Requests that wait for the next commit."),
    _timings("tensorus_sync_duration_seconds", "Seconds that syncs of payloads to the disk took."),
    _counter(
        "tensorus_damage_found_total", "Damaged tensors or rows that a read, a listing or a verification came upon."
    ),
)

_STORE = (
    _shared("tensorus_store_datasets", "Datasets."),
    _shared("tensorus_store_snapshots", "Snapshots of datasets."),
    _shared("tensorus_store_tensors", "Current tensors of all datasets."),
    _shared("tensorus_store_canonical_bytes", "Canonical bytes of the current tensors."),
    _shared("tensorus_store_stored_bytes", "Bytes that the current tensors take in the store, shared payloads once."),
    _shared("tensorus_store_past_tensors", "Replaced and deleted tensors that are kept, by a snapshot or a retention."),
    _shared("tensorus_store_past_bytes", "Bytes that only past tensors take in the store."),
    _shared("tensorus_store_catalogue_bytes", "Bytes of the catalogue, with its log."),
    _shared("tensorus_store_garbage_payloads", "Payloads that wait for their deletion."),
    _shared("tensorus_store_garbage_bytes", "Bytes of these payloads, estimated if there are many."),
    _shared("tensorus_store_quarantined_payloads", "Payloads in quarantine, to which no row refers."),
    _shared("tensorus_store_quarantined_bytes", "Bytes of the payloads in quarantine."),
    _shared("tensorus_store_uploads", "Tensors of which a part is stored, and whose insert has not ended."),
    _shared("tensorus_store_upload_bytes", "Bytes of these parts."),
    _shared(
        "tensorus_store_look_timestamp_seconds",
        "When the sizes of the store were last looked up, in seconds since 1970.",
    ),
    _shared("tensorus_disk_free_bytes", "Bytes that are free on the disk of the payloads, the reserve included."),
    _shared("tensorus_disk_size_bytes", "Bytes of the disk of the payloads."),
)

_SWEEP = (
    _timings("tensorus_sweep_duration_seconds", "Seconds that rounds of the sweep took that ended without an error."),
    _counter("tensorus_sweep_failures_total", "Rounds of the sweep that failed."),
    _shared(
        "tensorus_sweep_last_success_timestamp_seconds",
        "When a round of the sweep last ended without an error, in seconds since 1970; at first, when the server started.",
    ),
)

_FAR_STORES = (
    _counter("tensorus_cache_hits_total", "Blocks of payloads that were in the cache."),
    _counter("tensorus_cache_misses_total", "Blocks of payloads that were not in the cache."),
    _counter("tensorus_cache_hit_bytes_total", "Bytes that were read from the cache."),
    _counter("tensorus_cache_miss_bytes_total", "Bytes that were read from the object store instead."),
    _counter("tensorus_cache_evictions_total", "Blocks that made room for others."),
    _counter("tensorus_cache_damaged_blocks_total", "Blocks that were damaged on the cache's disk, and read again."),
    _counter("tensorus_cache_faults_total", "Operations that the cache's disk refused."),
    _gauge("tensorus_cache_stored_bytes", "Bytes that the cache holds."),
    *(
        _labelled(name, Kind.COUNTER, text, "request", ((request,) for request in REQUESTS))
        for name, text in (
            ("tensorus_object_store_requests_total", "Attempts of requests to the object store."),
            ("tensorus_object_store_retries_total", "Attempts that repeated one that had failed."),
            ("tensorus_object_store_failures_total", "Requests that failed after their last attempt."),
        )
    ),
    _gauge("tensorus_postgres_connections_used", "Connections to PostgreSQL that a transaction uses."),
    _gauge("tensorus_postgres_connections_idle", "Connections to PostgreSQL that are open and unused."),
    _gauge(
        "tensorus_postgres_connections_max", "Largest number of connections to PostgreSQL that transactions may use."
    ),
)

_PROCESS = (
    _shared(
        "tensorus_certificate_expiry_timestamp_seconds",
        "When the certificate of the server expires, in seconds since 1970. Absent without TLS.",
    ),
    _shared("tensorus_start_timestamp_seconds", "When the newest process began to serve, in seconds since 1970."),
)

FAMILIES: tuple[Family, ...] = (*_CALLS, *_STREAMS, *_WRITES, *_STORE, *_SWEEP, *_FAR_STORES, *_PROCESS)
"""In the order in which they are shown."""
