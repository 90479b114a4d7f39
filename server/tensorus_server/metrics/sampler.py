"""The thread that writes the values of one process to its board: every second what is at hand, now and then the store's sizes.

Nobody who asks for metrics waits for the catalogue or the disk: what takes time is done here, at most once a minute, and in at
most a fiftieth of the time.
"""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING

from tensorus_server.background import join_all
from tensorus_server.errors import EngineError, StoreUnavailableError
from tensorus_server.metrics.families import METHODS, OTHER, REASONS, REQUESTS
from tensorus_server.rpc.status import TOLD

if TYPE_CHECKING:
    from collections.abc import Callable

    from tensorus_server.engine.engine import Engine
    from tensorus_server.metrics.board import Board
    from tensorus_server.metrics.call_meters import CallMeters
    from tensorus_server.rpc.admission import Admission

__all__ = ["Sampler"]

_EVERY_S = 1.0
_LOOK_EVERY_S = 60.0
_LOOK_SHARE = 50
"""After a look at the store's sizes that took so long, the next one begins this many times as much later, at the earliest."""

_CLOSE_S = 5.0

_log = logging.getLogger(__name__)


class Sampler:
    """See the module's description."""

    def __init__(
        self,
        board: Board,
        calls: CallMeters,
        engine: Engine,
        admission: Admission,
        *,
        certificate_expires_s: Callable[[], float | None] = lambda: None,
    ) -> None:
        """Start no thread yet.

        Args:
            certificate_expires_s: returns when the certificate of the server expires, in seconds since 1970; None: it has none.
        """
        self._board = board
        self._calls = calls
        self._engine = engine
        self._admission = admission
        self._certificate_expires_s = certificate_expires_s
        self._started_s = time.time()
        self._next_look_s = 0.0
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        """Sample now, and then on threads until `close`."""
        self._board.put("tensorus_start_timestamp_seconds", self._started_s)
        self.sample()
        # The sizes are looked up on another thread: if the disk hangs, so does this, and the other values are wanted then.
        for work in (self.sample, self._look_if_due) if self._board.looks else (self.sample,):
            thread = threading.Thread(target=self._run, args=(work,), name="tensorus-metrics", daemon=True)
            self._threads.append(thread)
            thread.start()

    def close(self) -> None:
        """Sample for the last time. The engine must still be open; a look at its sizes is not waited for long. Idempotent."""
        if self._closing.is_set():
            return
        self._closing.set()
        join_all(self._threads, _CLOSE_S)
        self.sample()

    def sample(self) -> None:
        """Write what is at hand."""
        with self._lock:
            self._calls.sample()
            self._sample_streams()
            self._sample_writes()
            self._sample_sweep()
            self._sample_far_stores()
            self._board.put("tensorus_certificate_expiry_timestamp_seconds", self._certificate_expires_s())

    def _run(self, work: Callable[[], None]) -> None:
        while not self._closing.wait(_EVERY_S):
            try:
                work()
            except Exception:  # noqa: BLE001 - logged with its cause
                # The metrics must not end with one error, nor may an error in them end the server.
                _log.exception("the metrics could not be sampled")

    def _sample_streams(self) -> None:
        board, now, limits = self._board, self._admission.occupancy(), self._admission.limits
        board.put("tensorus_streams", now.streams)
        board.put("tensorus_streams_max", limits.streams_max)
        board.put("tensorus_memory_used_bytes", now.memory_used_bytes)
        board.put("tensorus_memory_budget_bytes", limits.memory_budget_bytes)
        board.put("tensorus_memory_waiting_streams", now.waiting)
        board.put_timings("tensorus_memory_wait_seconds", *self._admission.memory_waits.read())
        board.put("tensorus_draining", float(self._admission.draining_s is not None))
        try:
            self._engine.check_writable()
        except StoreUnavailableError:
            board.put("tensorus_healthy", 0.0)
        else:
            board.put("tensorus_healthy", 1.0)

    def _sample_writes(self) -> None:
        board, meters = self._board, self._engine.meters
        board.put_timings("tensorus_commit_duration_seconds", *meters.commits.commits.read())
        board.put("tensorus_committed_tensors_total", meters.commits.tensors)
        board.put("tensorus_commit_queue", meters.waiting_commits)
        board.put_timings("tensorus_sync_duration_seconds", *meters.chunk_store.syncs.read())
        damage = 0
        for (method, reason), count in TOLD.read().items():
            method_shown, reason_shown = _one_of(METHODS, method), _one_of(REASONS, reason)
            board.put("tensorus_errors_total", count, method_shown, reason_shown)
            damage += count * (reason == "DATA_CORRUPT")
        board.put("tensorus_damage_found_total", damage)

    def _sample_sweep(self) -> None:
        board, sweeps = self._board, self._engine.meters.sweeps
        board.put_timings("tensorus_sweep_duration_seconds", *sweeps.runs.read())
        board.put("tensorus_sweep_failures_total", sweeps.failures)
        last_s = self._started_s if sweeps.last_success_s is None else sweeps.last_success_s
        # A process that does not sweep, since its store is read-only, must not look like one that fails to.
        board.put("tensorus_sweep_last_success_timestamp_seconds", last_s if sweeps.is_on else None)

    def _sample_far_stores(self) -> None:
        board, meters = self._board, self._engine.meters
        for request in REQUESTS:
            board.put("tensorus_object_store_requests_total", meters.chunk_store.requests.get(request, 0), request)
            board.put("tensorus_object_store_retries_total", meters.chunk_store.retries.get(request, 0), request)
            board.put("tensorus_object_store_failures_total", meters.chunk_store.failures.get(request, 0), request)
        if (cache := meters.cache) is not None:
            board.put("tensorus_cache_hits_total", cache.hits)
            board.put("tensorus_cache_misses_total", cache.misses)
            board.put("tensorus_cache_hit_bytes_total", cache.hit_bytes)
            board.put("tensorus_cache_miss_bytes_total", cache.miss_bytes)
            board.put("tensorus_cache_evictions_total", cache.evictions)
            board.put("tensorus_cache_damaged_blocks_total", cache.rotten)
            board.put("tensorus_cache_faults_total", cache.faults)
            board.put("tensorus_cache_stored_bytes", cache.stored_bytes)
        if (connections := meters.connections) is not None:
            board.put("tensorus_postgres_connections_used", connections.used)
            board.put("tensorus_postgres_connections_idle", connections.idle)
            board.put("tensorus_postgres_connections_max", connections.limit)

    def _look_if_due(self) -> None:
        if time.monotonic() >= self._next_look_s:
            self._look()

    def _look(self) -> None:
        """Look up the sizes of the store."""
        begun_s = time.monotonic()
        try:
            stats = self._engine.store_stats()
        except EngineError as error:
            _log.info("the sizes of the store are not known for now: %s", error)
        else:
            board, totals = self._board, stats.totals
            board.put("tensorus_store_datasets", totals.datasets)
            board.put("tensorus_store_snapshots", totals.snapshots)
            board.put("tensorus_store_tensors", totals.sizes.tensors)
            board.put("tensorus_store_canonical_bytes", totals.sizes.canonical_bytes)
            board.put("tensorus_store_stored_bytes", totals.shared.unique_stored_bytes)
            board.put("tensorus_store_past_tensors", totals.shared.past_tensors)
            board.put("tensorus_store_past_bytes", totals.shared.past_stored_bytes)
            board.put("tensorus_store_catalogue_bytes", totals.catalogue_bytes)
            board.put("tensorus_store_garbage_payloads", totals.garbage_payloads)
            board.put("tensorus_store_garbage_bytes", stats.garbage_bytes)
            board.put("tensorus_store_quarantined_payloads", stats.quarantined_payloads)
            board.put("tensorus_store_quarantined_bytes", stats.quarantined_bytes)
            board.put("tensorus_store_uploads", totals.uploads)
            board.put("tensorus_store_upload_bytes", totals.upload_bytes)
            board.put("tensorus_store_look_timestamp_seconds", time.time())
            if stats.space is not None:
                board.put("tensorus_disk_free_bytes", stats.space.free_bytes)
                board.put("tensorus_disk_size_bytes", stats.space.total_bytes)
        finally:
            now_s = time.monotonic()
            self._next_look_s = now_s + max(_LOOK_EVERY_S, _LOOK_SHARE * (now_s - begun_s))


def _one_of(known: tuple[str, ...], value: str) -> str:
    return value if value in known else OTHER
